// Command images makes container images without a container engine: for each program an OCI layout
// of an index of linux/amd64 and linux/arm64. An image has the static program, the licences, the
// root certificates of Mozilla, and a user that is not root. The same binaries give the same bytes.
//
//	usage: images VERSION COMMIT TIME FROM TO
//
// TIME is that of the image, in seconds since 1970. FROM has the binaries of a release, or some of
// them, as PROGRAM_linux_ARCHITECTURE; PROGRAM_THIRD_PARTY_NOTICES.txt; and hook_amd64 and
// hook_arm64, the pre-provisioning hook that the emulator runs. The layouts are made in TO.
package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is nonroot, with the number that the distroless images have made customary.
const user = 65532

// A program is what its image has beside the binary.
type program struct {
	name, title string
	args        []string
	folders     []string // that the user may write to, for volumes
	ports       map[string]struct{}
	hook        bool
}

func (p program) home() string { return "/" + strings.TrimSuffix(p.folders[0], "/") }

var programs = []program{
	{
		name: "iot_device", title: "Provisions a device with AWS IoT Core",
		args: []string{"bootstrap"}, folders: []string{"var/lib/iot_device/"},
	},
	{
		name: "iot_core_local", title: "Local emulator of AWS IoT Core",
		// A port can be published only when it listens beyond the container.
		args: []string{
			"serve", "--listen", "0.0.0.0:8883", "--api", "0.0.0.0:8480", "--unsafe-allow-any-address",
			"--hook", "/usr/lib/iot_core_local/hook", "--credentials", "/credentials",
		},
		folders: []string{"credentials/", "state/"}, ports: map[string]struct{}{"8883/tcp": {}, "8480/tcp": {}}, hook: true,
	},
	{
		name: "iot_fleet", title: "Enrolls thousands of simulated devices in AWS IoT Core",
		args: []string{"--help"}, folders: []string{"reports/"},
	},
}

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: images VERSION COMMIT TIME FROM TO")
		os.Exit(2)
	}
	seconds, err := strconv.ParseInt(os.Args[3], 10, 64)
	if err == nil {
		err = release{os.Args[1], os.Args[2], os.Args[4], time.Unix(seconds, 0).UTC()}.write(os.Args[5])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "images: error:", err)
		os.Exit(1)
	}
}

type release struct {
	version, commit, from string
	time                  time.Time
}

// write makes the layout of each program that the release has.
func (r release) write(to string) error {
	for _, p := range programs {
		var images []mutate.IndexAddendum
		for _, arch := range []string{"amd64", "arm64"} {
			if _, err := os.Stat(filepath.Join(r.from, p.name+"_linux_"+arch)); errors.Is(err, fs.ErrNotExist) {
				continue
			}
			image, err := r.image(p, arch)
			if err != nil {
				return fmt.Errorf("%s for %s: %w", p.name, arch, err)
			}
			platform := v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}
			images = append(images, mutate.IndexAddendum{Add: image, Descriptor: platform})
		}
		if images == nil {
			continue
		}
		path, err := layout.Write(filepath.Join(to, p.name), empty.Index)
		if err != nil {
			return err
		}
		index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), images...)
		if err := path.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": r.version})); err != nil {
			return err
		}
	}
	return nil
}

func (r release) image(p program, arch string) (v1.Image, error) {
	files, err := r.files(p, arch)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.ConfigFile(base, &v1.ConfigFile{
		Created: v1.Time{Time: r.time}, OS: "linux", Architecture: arch, RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User:         fmt.Sprintf("%d:%[1]d", user),
			WorkingDir:   p.home(),
			Entrypoint:   []string{"/usr/bin/" + p.name},
			Cmd:          p.args,
			ExposedPorts: p.ports,
			Labels: map[string]string{
				"org.opencontainers.image.title":    p.name,
				"org.opencontainers.image.version":  r.version,
				"org.opencontainers.image.revision": r.commit,
				"org.opencontainers.image.created":  r.time.Format(time.RFC3339),
				"org.opencontainers.image.licenses": "Apache-2.0",

				"org.opencontainers.image.description": p.title,
			},
		},
	})
	if err != nil {
		return nil, err
	}
	return mutate.Append(image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: r.time}, CreatedBy: "images " + r.version},
	})
}

// files returns the image's file system as a tar archive.
func (r release) files(p program, arch string) ([]byte, error) {
	var buffer bytes.Buffer
	var failed error // the first
	archive := tar.NewWriter(&buffer)
	add := func(name string, mode int64, owner int, data []byte) {
		header := &tar.Header{Name: name, Mode: mode, Uid: owner, Gid: owner, Size: int64(len(data)), ModTime: r.time, Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			header.Typeflag = tar.TypeDir
		}
		err := archive.WriteHeader(header)
		if err == nil {
			_, err = archive.Write(data)
		}
		failed = cmp.Or(failed, err)
	}
	copied := func(name string, mode int64, from string) {
		data, err := os.ReadFile(filepath.Join(r.from, from))
		failed = cmp.Or(failed, err)
		add(name, mode, 0, data)
	}
	copied("usr/bin/"+p.name, 0o755, p.name+"_linux_"+arch)
	copied("usr/share/doc/"+p.name+"/THIRD_PARTY_NOTICES.txt", 0o644, p.name+"_THIRD_PARTY_NOTICES.txt")
	if p.hook {
		copied("usr/lib/"+p.name+"/hook", 0o755, "hook_"+arch)
	}
	var roots []byte
	for root := range bundle.Roots() {
		if root.Constraint == nil { // else not to be trusted for all that it signs, which PEM cannot say
			roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})...)
		}
	}
	add("etc/ssl/certs/ca-certificates.crt", 0o644, 0, roots)
	passwd := fmt.Sprintf("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:%d:%[1]d:nonroot:%s:/sbin/nologin\n", user, p.home())
	add("etc/passwd", 0o644, 0, []byte(passwd))
	add("tmp/", 0o1777, 0, nil)
	for _, folder := range p.folders {
		add(folder, 0o700, user, nil)
	}
	err := archive.Close()
	return buffer.Bytes(), cmp.Or(failed, err)
}
