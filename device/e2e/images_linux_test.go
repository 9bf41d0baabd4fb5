package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// An ociBlob is a descriptor of the OCI image format.
// https://github.com/opencontainers/image-spec/blob/main/descriptor.md
type ociBlob struct {
	Digest   string
	Size     int64
	Platform struct{ OS, Architecture string }
}

// An ociImage is the configuration of an image whose layers are unpacked in root.
type ociImage struct {
	Config struct {
		User, WorkingDir string
		Entrypoint, Cmd  []string
		Labels           map[string]string
	}
	root string
}

// layoutDir is an OCI layout.
type layoutDir string

// blob reads a blob, and verifies it, into v where v is not nil.
func (dir layoutDir) blob(t *testing.T, b ociBlob, v any) (path string) {
	t.Helper()
	path = filepath.Join(string(dir), "blobs", strings.Replace(b.Digest, ":", "/", 1))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if digest := fmt.Sprintf("sha256:%x", sha256.Sum256(data)); digest != b.Digest || int64(len(data)) != b.Size {
		t.Fatalf("%s has %d bytes of %s", path, len(data), digest)
	}
	if v != nil {
		if err := json.Unmarshal(data, v); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return path
}

// image unpacks the image for this machine's processor.
func (dir layoutDir) image(t *testing.T) *ociImage {
	t.Helper()
	var outer, index struct{ Manifests []ociBlob }
	data, err := os.ReadFile(filepath.Join(string(dir), "index.json"))
	if err == nil {
		err = json.Unmarshal(data, &outer)
	}
	if err != nil || len(outer.Manifests) != 1 {
		t.Fatalf("%v, index %s; run make images", err, data)
	}
	dir.blob(t, outer.Manifests[0], &index)
	var platforms []string
	image := &ociImage{root: t.TempDir()}
	for _, m := range index.Manifests {
		platforms = append(platforms, m.Platform.OS+"/"+m.Platform.Architecture)
		var manifest struct {
			Config ociBlob
			Layers []ociBlob
		}
		dir.blob(t, m, &manifest)
		for _, layer := range manifest.Layers {
			path := dir.blob(t, layer, nil)
			if m.Platform.Architecture == runtime.GOARCH {
				command(t, "tar", "-C", image.root, "-xpzf", path, "--numeric-owner")
			}
		}
		if m.Platform.Architecture == runtime.GOARCH {
			dir.blob(t, manifest.Config, image)
		}
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}
	return image
}

// A device and a fleet enroll with the emulator, all run as their images say, with
// no right to write but where an image has a folder for it.
func TestImagesProvisionAgainstEachOther(t *testing.T) {
	needPackages(t, "chroot", "unshare", "ip", "mount")
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("chroot needs root")
		}
		t.Skip("chroot needs root")
	}
	images := map[string]*ociImage{}
	run := map[string]string{} // what a shell runs
	for _, name := range []string{"iot_core_local", "iot_device", "iot_fleet"} {
		image := layoutDir(filepath.Join("..", "..", "dist", "images", name)).image(t)
		if image.Config.User != "65532:65532" {
			t.Errorf("%s runs as %q", name, image.Config.User)
		}
		if image.Config.Labels["org.opencontainers.image.title"] != name || image.Config.Labels["org.opencontainers.image.version"] == "" {
			t.Errorf("%s has the labels %v", name, image.Config.Labels)
		}
		images[name] = image
		run[name] = "chroot --userspec=" + image.Config.User + " " + image.root + " " + image.Config.Entrypoint[0]
	}
	core, device, fleet := images["iot_core_local"].root, images["iot_device"].root, images["iot_fleet"].root
	dir := t.TempDir()
	// The images share a network, as in compose.yaml, and it is theirs alone: the
	// ports are those of the image.
	script := strings.NewReplacer(
		"CORE", core, "DEVICE", device, "FLEET", fleet, "DIR", dir,
		"SERVE", run["iot_core_local"]+" "+strings.Join(images["iot_core_local"].Config.Cmd, " "),
		"BOOTSTRAP", run["iot_device"]+" "+strings.Join(images["iot_device"].Config.Cmd, " "),
		"FLY", run["iot_fleet"],
	).Replace(`set -e
ip link set lo up
for root in CORE DEVICE FLEET; do # as a container engine does
	echo "127.0.0.1 localhost" >$root/etc/hosts
	mkdir $root/dev $root/proc
	mount --bind /dev $root/dev
	mount -t proc proc $root/proc
done
mkfifo DIR/ready
SERVE >DIR/ready 2>DIR/log &
core=$!
trap 'cat DIR/log >&2; kill $core' EXIT
read -r line <DIR/ready
cp CORE/credentials/* DEVICE/var/lib/iot_device/
chown -R 65532:65532 DEVICE/var/lib/iot_device
BOOTSTRAP --timeout 1m --json --config /var/lib/iot_device/device.yaml >DIR/device.json
cp -a CORE/credentials FLEET/credentials
FLY enroll --devices 5 --config /credentials/device.yaml --report /reports/report.json
trap - EXIT
kill $core
wait $core || true
`)
	cmd := exec.CommandContext(t.Context(), "unshare", "--net", "--mount", "sh", "-c", script)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	var result struct {
		ThingName   string
		Provisioned bool
	}
	var report struct{ Counts struct{ Enrolled int } }
	for path, v := range map[string]any{filepath.Join(dir, "device.json"): &result, filepath.Join(fleet, "reports", "report.json"): &report} {
		data, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(data, v)
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	if !result.Provisioned || !strings.HasPrefix(result.ThingName, "fleety_") {
		t.Errorf("the device: %+v", result)
	}
	if report.Counts.Enrolled != 5 {
		t.Errorf("the fleet: %+v", report)
	}
}
