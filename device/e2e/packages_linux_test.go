package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A package is made of a release's binary, so only make packages and make torture
// ask for these tests.
var packages = flag.Bool("packages", false, "run the tests of packages and of the release")

// needPackages skips unless the tests of packages were asked for and the programs
// are here. On a CI machine, where .ci/run installs them, they must be.
func needPackages(t *testing.T, programs ...string) {
	t.Helper()
	if !*packages {
		t.Skip("takes minutes: make packages, or -packages")
	}
	for _, name := range append(programs, "make", "git") {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// makePackages makes the packages of iot_device for this machine's processor, in
// the folder of a repository, and returns their paths by format. The variables are
// those of the binary's build.
func makePackages(t *testing.T, repository, version string, env ...string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = repository, append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
	}
	run("make", "-s", "release/iot_device/linux/"+runtime.GOARCH)
	env = nil
	run("make", "-s", ".ci/tools/nfpm", ".ci/tools/notices")
	args := []string{version, dir}
	formats := []string{"deb", "rpm", "apk", "ipk"}
	for _, format := range formats {
		args = append(args, "iot_device/"+format+"/"+runtime.GOARCH)
	}
	run("scripts/packages.sh", args...)
	paths := map[string]string{}
	for _, format := range formats {
		found, err := filepath.Glob(filepath.Join(dir, "*."+format))
		if err != nil || len(found) != 1 {
			t.Fatalf(".%s packages: %v %v", format, found, err)
		}
		paths[format] = found[0]
	}
	return paths
}

// A device that installs, upgrades and removes the package keeps its configuration
// and its identity; a purge removes both.
func TestDebianPackageKeepsConfigurationAndIdentityUntilPurged(t *testing.T) {
	needPackages(t, "dpkg-deb", "chroot", "debootstrap")
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("chroot needs root")
		}
		t.Skip("chroot needs root")
	}
	source := repository(t)
	command(t, filepath.Join(source, "scripts", "torture-root.sh"))
	c := startCloud(t)
	d := debian{t: t, root: filepath.Join(t.TempDir(), "root")}
	command(t, "cp", "-a", rootDir, d.root)
	writeFile(t, d.path("etc/hosts"), "127.0.0.1 localhost\n", 0o644)
	older := makePackages(t, source, "v1.2.3")["deb"]
	newer := changedConfiguration(t, makePackages(t, source, "v1.2.3-4-gabcdef")["deb"])

	d.must("dpkg", "-i", d.add(older))
	d.wantMode("var/lib/iot_device", "700 iot_device iot_device")
	d.wantMode("var/lib/iot_device/claim", "700 iot_device iot_device")
	d.wantMode("etc/iot_device/config.yaml", "640 root iot_device")
	d.wantEnabled("enabled")
	if out, err := d.run("iot_device", "status"); err == nil || !strings.Contains(out, "server.endpoint") {
		t.Errorf("without configuration: %v\n%s", err, out)
	}

	_, port := c.Endpoint()
	for _, name := range []string{"fleet-provisioning.private.key", "fleet-provisioning.certificate.pem"} {
		copyFile(t, filepath.Join(c.credentials, name), d.path(name), 0o600)
	}
	d.must("sh", "-ec", configureCommands(t))
	d.must("sed", "-i", "-e", `s/^  endpoint:.*/  endpoint: localhost/`, "-e", fmt.Sprintf("s/^  port:.*/  port: %d/", port),
		"-e", `s/^  # cacertificatepath: /  cacertificatepath: /`, "/etc/iot_device/config.yaml")
	d.wantMode("etc/iot_device/config.yaml", "640 root iot_device")
	copyFile(t, filepath.Join(c.credentials, "root.ca.bundle.pem"), d.path("etc/iot_device/root.ca.bundle.pem"), 0o644)
	command(t, "chroot", "--userspec=iot_device", d.root, "iot_device", "bootstrap", "--timeout", "1m")
	if active := c.active(t, "fleety_2974685"); len(active) != 1 {
		t.Fatalf("ACTIVE certificates: %v", active)
	}
	kept := d.files("etc/iot_device", "var/lib/iot_device")

	// A service manager that fails, as one does that has no memory left, holds up neither.
	writeFile(t, d.path("usr/sbin/systemctl"), "#!/bin/sh\ncase $* in *is-enabled*) ;; *) exit 1 ;; esac\n", 0o755)
	d.must("mkdir", "-p", "/run/systemd/system")
	d.must("dpkg", "-i", "--force-confold", d.add(newer))
	d.must("dpkg", "-r", "iot-device")
	d.must("dpkg", "-i", "--force-confold", d.add(newer))
	d.must("rm", "-r", "/usr/sbin/systemctl", "/run/systemd/system")
	d.wantFiles(kept, "upgrade")
	d.wantEnabled("enabled")
	d.must("systemctl", "disable", "iot_device.service")
	d.must("dpkg", "-i", "--force-confold", d.add(newer))
	d.wantEnabled("disabled")

	d.must("dpkg", "-r", "iot-device")
	d.wantFiles(kept, "removal")
	if _, err := os.Stat(d.path("usr/bin/iot_device")); err == nil {
		t.Error("the program is still there after the removal")
	}
	d.must("dpkg", "-i", "--force-confold", d.add(older))
	d.wantFiles(kept, "new installation")
	if out := d.must("iot_device", "status", "--json"); !strings.Contains(out, `"state":"provisioned"`) {
		t.Errorf("status after the new installation: %s", out)
	}
	d.must("dpkg", "-P", "iot-device")
	if left := d.files("var/lib/iot_device"); len(left) > 0 {
		t.Errorf("after the purge: %v", left)
	}
	if _, err := os.Stat(d.path("etc/iot_device/config.yaml")); err == nil {
		t.Error("the configuration is still there after the purge")
	}
}

// configureCommands are those of docs/device.md.
func configureCommands(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/device.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range strings.Split(string(page), "```") {
		if i%2 == 1 && strings.HasPrefix(part, "sh\ninstall ") {
			return strings.TrimPrefix(part, "sh\n")
		}
	}
	t.Fatal("docs/device.md does not say how to configure the device")
	return ""
}

// changedConfiguration returns the package with another default in its
// configuration file, which is when an upgrade has two to choose from.
func changedConfiguration(t *testing.T, deb string) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	command(t, "dpkg-deb", "-R", deb, tree)
	command(t, "sh", "-c", `echo "# a later default" >>"$0"`, filepath.Join(tree, "etc", "iot_device", "config.yaml"))
	command(t, "dpkg-deb", "-Znone", "-b", tree, deb)
	return deb
}

// debian is a Debian in a folder.
type debian struct {
	t    *testing.T
	root string
}

func (d debian) path(name string) string { return filepath.Join(d.root, filepath.FromSlash(name)) }

// add makes a package visible to the commands and returns its path there.
func (d debian) add(deb string) string {
	d.t.Helper()
	name := "/tmp/" + filepath.Base(deb)
	copyFile(d.t, deb, d.path(name), 0o644)
	return name
}

func (d debian) run(args ...string) (string, error) {
	cmd := exec.CommandContext(d.t.Context(), "chroot", append([]string{d.root}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (d debian) must(args ...string) string {
	d.t.Helper()
	out, err := d.run(args...)
	if err != nil {
		d.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

func (d debian) wantMode(name, want string) {
	d.t.Helper()
	if got := strings.TrimSpace(d.must("stat", "-c", "%a %U %G", "/"+name)); got != want {
		d.t.Errorf("%s is %s, want %s", name, got, want)
	}
}

func (d debian) wantEnabled(want string) {
	d.t.Helper()
	if out, _ := d.run("systemctl", "is-enabled", "iot_device.service"); strings.TrimSpace(out) != want {
		d.t.Errorf("iot_device.service is %s, want %s", out, want)
	}
}

func (d debian) files(dirs ...string) map[string]string {
	d.t.Helper()
	found := map[string]string{}
	for _, dir := range dirs {
		if _, err := os.Stat(d.path(dir)); err == nil {
			maps.Copy(found, hashes(d.t, d.path(dir), dir))
		}
	}
	return found
}

func (d debian) wantFiles(want map[string]string, after string) {
	d.t.Helper()
	got := d.files("etc/iot_device", "var/lib/iot_device")
	maps.DeleteFunc(got, func(name, _ string) bool { return strings.HasSuffix(name, ".dpkg-dist") })
	if diff := cmp.Diff(want, got); diff != "" {
		d.t.Errorf("after the %s (-want +got):\n%s", after, diff)
	}
}

// hashes returns mode and SHA-256 of the files under a folder by their path, which
// begins with prefix.
func hashes(t *testing.T, dir, prefix string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		found[filepath.ToSlash(filepath.Join(prefix, name))] = fmt.Sprintf("%v %x", info.Mode().Perm(), sha256.Sum256(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Every format installs the same files, but for those of the init system and the
// folder of zsh.
func TestPackagesInstallTheSameFiles(t *testing.T) {
	needPackages(t, "dpkg-deb", "rpm2cpio", "cpio", "tar")
	paths := makePackages(t, repository(t), "v1.2.3")
	unpack := map[string]string{
		"deb": `dpkg-deb -x "$0" .`,
		"rpm": `rpm2cpio "$0" | cpio -id --quiet --no-absolute-filenames`,
		"apk": `tar -xzf "$0" && rm -f .PKGINFO .p*`,
		"ipk": `tar -xzOf "$0" ./data.tar.gz | tar -xz`,
	}
	own := map[string][]string{
		"systemd": {"usr/lib/systemd/system/iot_device.service", "usr/lib/systemd/system/iot_device-bootstrap.service",
			"usr/lib/systemd/system-preset/50-iot_device.preset", "usr/lib/sysusers.d/iot_device.conf", "usr/lib/tmpfiles.d/iot_device.conf"},
		"init": {"etc/init.d/iot_device", "usr/lib/iot_device/retry.sh"},
	}
	common := map[string]map[string]string{}
	for format, path := range paths {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "sh", "-c", unpack[format], path)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("unpacking .%s: %v\n%s", format, err, out)
		}
		files := hashes(t, dir, "")
		kind := "systemd"
		if format == "apk" || format == "ipk" {
			kind = "init"
		}
		names := own[kind]
		if format == "ipk" {
			names = append(slices.Clone(names), "lib/upgrade/keep.d/iot-device")
		}
		for _, name := range names {
			if files[name] == "" {
				t.Errorf(".%s has no %s", format, name)
			}
			delete(files, name)
		}
		maps.DeleteFunc(files, func(name, _ string) bool { return strings.HasPrefix(name, "usr/share/zsh/") })
		common[format] = files
	}
	for _, format := range []string{"rpm", "apk", "ipk"} {
		if diff := cmp.Diff(common["deb"], common[format]); diff != "" {
			t.Errorf(".deb and .%s (-deb +%[1]s):\n%s", format, diff)
		}
	}
	for _, name := range []string{
		"etc/iot_device/config.yaml", "usr/bin/iot_device", "usr/share/man/man1/iot_device-bootstrap.1.gz",
		"usr/share/bash-completion/completions/iot_device", "usr/share/doc/iot-device/copyright",
	} {
		if common["deb"][name] == "" {
			t.Errorf("no package has %s: %v", name, slices.Sorted(maps.Keys(common["deb"])))
		}
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `dpkg-deb --ctrl-tarfile "$0" | tar -xO ./conffiles`, paths["deb"]).Output()
	if want := "/etc/iot_device/config.yaml\n"; err != nil || string(out) != want {
		t.Errorf("configuration files of the .deb: %q %v, want %q", out, err, want)
	}
}

// Who installs the emulator's package has no sources to build the hook from, and needs none.
func TestPackageOfTheEmulatorBringsItsHook(t *testing.T) {
	needPackages(t, "dpkg-deb")
	dir, root := t.TempDir(), t.TempDir()
	for _, args := range [][]string{
		{"make", "-s", "release/iot_core_local/linux/" + runtime.GOARCH, ".ci/tools/nfpm", ".ci/tools/notices"},
		{"scripts/packages.sh", "v1.2.3", dir, "iot_core_local/deb/" + runtime.GOARCH},
		{"sh", "-c", `dpkg-deb -x "$0"/*.deb "$1"`, dir, root},
	} {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir = repository(t)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	startWithItsHook(t, filepath.Join(root, "usr/bin/iot_core_local"))
}

func TestEmulatorFindsTheHookOfItsPackage(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	command(t, "mkdir", "-p", filepath.Join(root, "bin"), filepath.Join(root, "lib/iot_core_local"))
	copyFile(t, build(t, localCore), filepath.Join(root, "bin/iot_core_local"), 0o755)
	copyFile(t, build(t, hook), filepath.Join(root, "lib/iot_core_local/hook"), 0o755)
	startWithItsHook(t, filepath.Join(root, "bin/iot_core_local"))
}

// startWithItsHook starts an emulator in a folder without sources until devices can connect.
func startWithItsHook(t *testing.T, binary string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, "serve", "--json", "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0")
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stderr = t.TempDir(), &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	_ = cmd.Process.Kill() // it may have ended
	_ = cmd.Wait()
	if err != nil || !strings.Contains(line, `"credentials"`) {
		t.Errorf("it is not ready: %q %v\n%s", line, err, &stderr)
	}
}

// The same commit gives the same bytes, whatever the folder and the cache.
func TestReleaseIsReproducible(t *testing.T) {
	needPackages(t)
	contents := func(folder string, env ...string) map[string]string {
		clone := filepath.Join(t.TempDir(), folder)
		command(t, "git", "clone", "-q", repository(t), clone)
		paths := makePackages(t, clone, "v1.2.3", env...)
		cmd := exec.CommandContext(t.Context(), "sh", "-c", `make -s .ci/tools/cyclonedx-gomod && .ci/tools/cyclonedx-gomod bin -json -std -licenses -noserial -notimestamp -output sbom.json dist/iot_device_*`)
		cmd.Dir = clone
		var stderr bytes.Buffer
		if cmd.Stderr = &stderr; cmd.Run() != nil {
			t.Fatalf("SBOM: %s", &stderr)
		}
		binaries, err := filepath.Glob(filepath.Join(clone, "dist", "iot_device_*"))
		if err != nil || len(binaries) != 1 {
			t.Fatalf("binaries: %v %v", binaries, err)
		}
		found := map[string]string{}
		for _, path := range append(slices.Collect(maps.Values(paths)), binaries[0], filepath.Join(clone, "sbom.json")) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			found[filepath.Base(path)] = fmt.Sprintf("%x", sha256.Sum256(data))
		}
		return found
	}
	first := contents("one")
	second := contents("another folder", "GOCACHE="+t.TempDir(), "GOAMD64=v2", "GOARM64=v8.1")
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("two builds of one commit differ (-first +second):\n%s", diff)
	}
}

// The user of the agent owns its state: what that user puts in the place of a folder does not give
// away what a link leads to, nor does it keep the package from being upgraded.
func TestUpgradeGivesAwayNothingThatALinkLeadsTo(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("giving a folder to a user needs root")
	}
	for name, place := range map[string]func(claim, victim string) error{
		"a link to a folder": func(claim, victim string) error { return os.Symlink(victim, claim) },
		"a link to a file":   func(claim, victim string) error { return os.Symlink(filepath.Join(victim, "passwd"), claim) },
		"a dangling link":    func(claim, victim string) error { return os.Symlink(filepath.Join(victim, "nothing"), claim) },
		"a file":             func(claim, _ string) error { return os.WriteFile(claim, nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			etc, state := filepath.Join(root, "etc"), filepath.Join(root, "var", "lib", "iot_device")
			for _, folder := range []string{filepath.Join(etc, "iot_device"), state} {
				if err := os.MkdirAll(folder, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			writeFile(t, filepath.Join(etc, "passwd"), "iot_device:x:65536:65537::/var/lib/iot_device:/bin/false\n", 0o644)
			writeFile(t, filepath.Join(etc, "iot_device", "config.yaml"), "", 0o640)
			if err := place(filepath.Join(state, "claim"), etc); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "sh", filepath.Join("..", "packaging", "postinstall.sh"), "configure")
			bin := t.TempDir()
			writeFile(t, filepath.Join(bin, "deb-systemd-helper"), "#!/bin/sh\n", 0o755)
			cmd.Env = []string{"PATH=" + bin + ":/usr/sbin:/usr/bin:/sbin:/bin", "IPKG_INSTROOT=" + root}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			out, err := exec.CommandContext(t.Context(), "stat", "-c", "%a %u %g", etc, filepath.Join(etc, "passwd"), state).Output()
			if want := "755 0 0\n644 0 0\n700 65536 65537\n"; err != nil || string(out) != want {
				t.Errorf("modes and owners %q %v, want %q", out, err, want)
			}
			if entries, _ := os.ReadDir(etc); len(entries) != 2 {
				t.Errorf("in etc are %v", entries)
			}
		})
	}
}

// A configuration that an administrator has removed or put elsewhere, a state that is mounted later,
// and a masked unit keep no package half-installed.
func TestInstallationTakesTheSystemAsItIs(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("giving a folder to a user needs root")
	}
	for name, place := range map[string]func(config, state string) error{
		"no configuration":            func(config, _ string) error { return os.Remove(config) },
		"a configuration not mounted": func(config, _ string) error { return errors.Join(os.Remove(config), os.Symlink("nothing", config)) },
		"a state that is not mounted": func(_, state string) error { return os.Symlink("nothing", state) },
		"a state that is a link": func(_, state string) error {
			return errors.Join(os.Mkdir(state+"2", 0o755), os.Symlink(state+"2", state))
		},
		"all of it, and a masked unit": func(string, string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			config, state := filepath.Join(root, "etc", "iot_device", "config.yaml"), filepath.Join(root, "var", "lib", "iot_device")
			for _, folder := range []string{filepath.Dir(config), filepath.Dir(state)} {
				if err := os.MkdirAll(folder, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			writeFile(t, filepath.Join(root, "etc", "passwd"), "iot_device:x:65536:65537::/var/lib/iot_device:/bin/false\n", 0o644)
			writeFile(t, config, "", 0o640)
			if err := place(config, state); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "sh", filepath.Join("..", "packaging", "postinstall.sh"), "1")
			bin := t.TempDir()
			writeFile(t, filepath.Join(bin, "systemctl"), "#!/bin/sh\nexit 1\n", 0o755)
			for _, tool := range []string{"sh", "cat", "chgrp", "chmod", "chown", "grep", "mkdir", "sed"} {
				path, err := exec.LookPath(tool)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(path, filepath.Join(bin, tool)); err != nil {
					t.Fatal(err)
				}
			}
			cmd.Env = []string{"PATH=" + bin, "IPKG_INSTROOT=" + root}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if got, err := os.Stat(filepath.Join(state, "claim")); name != "a state that is not mounted" && (err != nil || got.Mode().Perm() != 0o700) {
				t.Errorf("the claim's folder: %v %v", got, err)
			}
		})
	}
}

// retryScript returns a folder with the loop of machines without systemd, whose
// iot_device is the given script.
func retryScript(t *testing.T, device string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	script, err := os.ReadFile("../packaging/retry.sh")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "retry.sh"), strings.ReplaceAll(string(script), "/var/lib/iot_device", dir), 0o755)
	writeFile(t, filepath.Join(dir, "iot_device"), "#!/bin/sh\n"+device+"\n", 0o755)
	return dir
}

// What a machine without systemd runs in place of the unit's restarts: every
// failure is retried, slower and slower, up to once an hour.
func TestLoopRetriesSlowerAndSlower(t *testing.T) {
	t.Parallel()
	// Ten failures, then success.
	dir := retryScript(t, `[ "$1" = bootstrap ] && [ -e sleeps ] && [ $(wc -l <sleeps) -ge 10 ]`)
	writeFile(t, filepath.Join(dir, "sleep"), "#!/bin/sh\necho \"$1\" >>sleeps\n", 0o755)
	cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(dir, "retry.sh"), "bootstrap")
	cmd.Env = []string{"PATH=" + dir + ":/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(dir, "sleeps"))
	if want := "30\n60\n120\n240\n480\n960\n1920\n3600\n3600\n3600\n"; err != nil || string(got) != want {
		t.Errorf("delays %q %v, want %q", got, err, want)
	}
}

// The state can be on a file system that is mounted after the loop has begun.
func TestLoopOutlivesAMissingStateFolder(t *testing.T) {
	t.Parallel()
	dir := retryScript(t, `[ "$PWD" != / ] && pwd -P >where`)
	state := filepath.Join(dir, "state")
	script, err := os.ReadFile(filepath.Join(dir, "retry.sh"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "retry.sh"), strings.ReplaceAll(string(script), "cd "+dir, "cd "+state), 0o755)
	writeFile(t, filepath.Join(dir, "sleep"), "#!/bin/sh\nmkdir "+state+"\n", 0o755)
	cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(dir, "retry.sh"), "run")
	cmd.Env = []string{"PATH=" + dir + ":/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if where, err := os.ReadFile(filepath.Join(state, "where")); err != nil || !strings.HasSuffix(string(where), "/state\n") {
		t.Errorf("it ran in %q %v", where, err)
	}
}

// A stopped loop stops the agent, waits until it has ended, and starts no other.
func TestLoopThatIsStoppedStopsTheAgent(t *testing.T) {
	t.Parallel()
	for name, device := range map[string]string{
		"while it runs":  `trap 'echo ended; exit 0' TERM; echo started; while :; do sleep 0.1; done`,
		"between two":    `echo started; exit 4`,
		"and it exits 1": `trap 'echo ended; exit 1' TERM; echo started; while :; do sleep 0.1; done`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := retryScript(t, device)
			cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(dir, "retry.sh"), "run")
			cmd.Env = []string{"PATH=" + dir + ":/usr/bin:/bin"}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(stdout)
			if line, err := lines.ReadString('\n'); line != "started\n" {
				t.Fatalf("%q %v", line, err)
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(lines) // until every process has ended
			want := "ended\n"
			if name == "between two" {
				want = ""
			}
			if string(rest) != want || err != nil {
				t.Errorf("after the signal: %q %v, want %q", rest, err, want)
			}
			cmd.Wait()
		})
	}
}

// The init script of Buildroot starts no other agent before the one that it has stopped is gone,
// whichever start-stop-daemon the image has.
func TestInitScriptWaitsForTheAgentToEnd(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("../packaging/buildroot/iot-device/S95iot-device")
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range map[string]string{"BusyBox": "busybox", "dpkg": "start-stop-daemon"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found, err := exec.LookPath(program)
			if err != nil {
				t.Skip(err)
			}
			dir := t.TempDir()
			if err := os.Symlink(found, filepath.Join(dir, "start-stop-daemon")); err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(dir, "init"), strings.ReplaceAll(string(script), "/var/run/", dir+"/"), 0o755)
			agent := exec.CommandContext(t.Context(), "sh", "-c", `trap 'sleep 0.2; exit' TERM; echo started; while :; do sleep 0.1; done`)
			stdout, err := agent.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := agent.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(stdout, make([]byte, len("started\n"))); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = agent.Wait()
			}()
			writeFile(t, filepath.Join(dir, "iot-device.pid"), fmt.Sprintln(agent.Process.Pid), 0o644)
			stop := exec.CommandContext(t.Context(), filepath.Join(dir, "init"), "stop")
			stop.Env = []string{"PATH=" + dir + ":/usr/bin:/bin"}
			if out, err := stop.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if err := syscall.Kill(agent.Process.Pid, 0); err == nil {
				t.Error("the agent still runs")
			}
			<-ended
		})
	}
}

// OpenWrt has /var in memory, unless an image is built otherwise.
func TestStateOutlivesABootOfOpenWrt(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("giving a folder to a user needs root")
	}
	for _, persistent := range []bool{false, true} {
		root := t.TempDir()
		for _, folder := range []string{"etc/init.d", "etc/iot_device", "tmp"} {
			if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		memory, state := filepath.Join(root, "tmp"), "etc/iot_device/state"
		if persistent {
			memory, state = filepath.Join(root, "none"), "var/lib/iot_device"
		} else if err := os.Symlink("tmp", filepath.Join(root, "var")); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(root, "etc/rc.common"), "", 0o644)
		writeFile(t, filepath.Join(root, "etc/init.d/iot_device"), "#!/bin/sh\n", 0o755)
		writeFile(t, filepath.Join(root, "etc/passwd"), "iot_device:x:65536:65537::/var/lib/iot_device:/bin/false\n", 0o644)
		install := exec.CommandContext(t.Context(), "sh", "../packaging/postinstall.sh", "configure")
		install.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "IPKG_INSTROOT=" + root}
		if out, err := install.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		writeFile(t, filepath.Join(root, state, "identity"), "", 0o600)
		init, err := os.ReadFile("../packaging/iot_device.procd")
		if err != nil {
			t.Fatal(err)
		}
		here := regexp.MustCompile(` /(var|etc|run|sys)\b`).ReplaceAllString(string(init), " "+root+"/$1")
		writeFile(t, filepath.Join(root, "init"), here+"\nstart_service\n", 0o644)
		for range 2 { // boots
			if err := os.RemoveAll(memory); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(memory, 0o755); err != nil {
				t.Fatal(err)
			}
			start := exec.CommandContext(t.Context(), "sh", "-c", `procd_open_instance() { :; }
procd_set_param() { :; }
procd_close_instance() { :; }
chown() { :; }
. "$0"`, filepath.Join(root, "init"))
			if out, err := start.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if _, err := os.Stat(filepath.Join(root, "var/lib/iot_device/identity")); err != nil {
				t.Errorf("persistent %t: %v", persistent, err)
			}
		}
	}
}

// OpenWrt's image builder runs the scripts of a package on the build machine: they
// change the image and nothing else.
func TestPackageScriptsChangeTheImageAlone(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("giving a folder to a user needs root")
	}
	dir := t.TempDir()
	root, host := filepath.Join(dir, "root"), filepath.Join(dir, "host")
	for _, folder := range []string{host, filepath.Join(root, "etc", "init.d"), filepath.Join(root, "etc", "iot_device"), filepath.Join(root, "lib")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	calls := filepath.Join(dir, "calls")
	for _, name := range []string{"deb-systemd-helper", "systemctl", "systemd-sysusers", "useradd", "addgroup", "adduser", "rc-update", "rc-service", "iot_device"} {
		writeFile(t, filepath.Join(host, name), "#!/bin/sh\necho "+name+" >>"+calls+"\n", 0o755)
	}
	writeFile(t, filepath.Join(root, "etc", "passwd"), "root:x:0:0:root:/root:/bin/ash\n", 0o644)
	writeFile(t, filepath.Join(root, "etc", "iot_device", "config.yaml"), "", 0o640)
	writeFile(t, filepath.Join(root, "etc", "init.d", "iot_device"), "#!/bin/sh\necho \"$IPKG_INSTROOT $1\" >>"+filepath.Join(dir, "init")+"\n", 0o755)
	run := func(script string) error {
		cmd := exec.CommandContext(t.Context(), "sh", filepath.Join("..", "packaging", script), "configure")
		cmd.Env = []string{"PATH=" + host + ":/usr/sbin:/usr/bin:/sbin:/bin", "IPKG_INSTROOT=" + root}
		out, err := cmd.CombinedOutput()
		t.Logf("%s: %s", script, out)
		return err
	}
	if run("postinstall.sh") == nil {
		t.Error("installed without a user")
	}
	writeFile(t, filepath.Join(root, "etc", "rc.common"), "", 0o644)
	writeFile(t, filepath.Join(root, "lib", "functions.sh"), `group_add_next() { echo 65537; }
user_add() { echo "$1:x:65536:$3:$4:$5:$6" >>"$IPKG_INSTROOT/etc/passwd"; }
`, 0o644)
	for _, script := range []string{"postinstall.sh", "preremove.sh", "postremove.sh"} {
		if err := run(script); err != nil {
			t.Errorf("%s: %v", script, err)
		}
	}
	if called, err := os.ReadFile(calls); err == nil {
		t.Errorf("on the build machine: %s", called)
	}
	if init, err := os.ReadFile(filepath.Join(dir, "init")); string(init) != root+" enable\n" {
		t.Errorf("the service: %q %v", init, err)
	}
	for path, want := range map[string]string{"var/lib/iot_device": "700 65536 65537", "var/lib/iot_device/claim": "700 65536 65537", "etc/iot_device/config.yaml": "640 0 65537"} {
		out, err := exec.CommandContext(t.Context(), "stat", "-c", "%a %u %g", filepath.Join(root, path)).Output()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s is %s %v, want %s", path, out, err, want)
		}
	}
}
