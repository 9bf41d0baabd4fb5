package e2e

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

// releasedVersion is the newest version in the changelog, 0.0.0 before the first.
func releasedVersion(t *testing.T) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^## \[?v?(\d+\.\d+\.\d+)`).FindStringSubmatch(readText(t, "../../CHANGELOG.md"))
	if m == nil {
		return "0.0.0"
	}
	return m[1]
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// installed are the files of packages by their path, with the name in
// device/packaging and the mode: what a format's package has but manual pages,
// completions and licenses.
func installed(t *testing.T, format string) map[string]string {
	t.Helper()
	var config struct {
		Contents []struct {
			Source   string `yaml:"src"`
			Path     string `yaml:"dst"`
			Packager string
			Info     struct{ Mode int } `yaml:"file_info"`
		}
	}
	if err := yaml.UnmarshalWithOptions([]byte(readText(t, "../packaging/nfpm/iot_device.yaml")), &config, yaml.AllowDuplicateMapKey()); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, c := range config.Contents {
		if (c.Packager == "" || c.Packager == format) && !regexp.MustCompile(`^/usr/share/`).MatchString(c.Path) {
			name := strings.NewReplacer("${BINARY}", "iot_device").Replace(filepath.Base(c.Source))
			files[c.Path] = fmt.Sprintf("%s %04o", name, c.Info.Mode)
		}
	}
	if len(files) < 4 {
		t.Fatalf("packages of %s have %v", format, files)
	}
	return files
}

// commandsInstall returns what commands of the form install -D -m MODE FILE PATH do.
func commandsInstall(text string, replace ...string) map[string]string {
	text = strings.NewReplacer(replace...).Replace(strings.ReplaceAll(text, "\\\n", ""))
	files := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)install\)? -D -m (\d+)\s+(\S+)\s+(\S+)$`).FindAllStringSubmatch(text, -1) {
		files[m[3]] = filepath.Base(m[2]) + " " + m[1]
	}
	return files
}

// A Yocto image gets what a package for systemd has, under the license of this
// repository and in its version.
func TestYoctoRecipeAgreesWithThePackages(t *testing.T) {
	t.Parallel()
	recipe := readText(t, "../packaging/yocto/iot-device.bb")
	license := readText(t, "../../LICENSE")
	for _, want := range []string{
		`PV = "` + releasedVersion(t) + `"`, fmt.Sprintf("LICENSE;md5=%x\"", md5.Sum([]byte(license))), `LICENSE = "Apache-2.0"`,
		"./cmd/iot_device\n", "./internal/cli/manual iot_device ", "device/internal/cli.version=",
	} {
		if !strings.Contains(recipe, want) {
			t.Errorf("the recipe has no %q", want)
		}
	}
	got := commandsInstall(recipe, "${D}", "", "${bindir}", "/usr/bin", "${sysconfdir}", "/etc", "${systemd_system_unitdir}", "/usr/lib/systemd/system",
		"${systemd_unitdir}", "/usr/lib/systemd", "${nonarch_libdir}", "/usr/lib", "${PACKAGING}", "../packaging")
	if diff := cmp.Diff(installed(t, "deb"), got); diff != "" {
		t.Errorf("files (-.deb +recipe):\n%s", diff)
	}
	checkSources(t, got)
	// Each line is a comment, an assignment, a directive, or within a function.
	line := regexp.MustCompile(`^(#.*|export \w+ = ".*"|[\w:${}\[\]-]+ (\+=|\?=|=) ".*"|inherit [a-z -]+|do_\w+\(\) \{|    .*|\})?$`)
	for i, text := range strings.Split(recipe, "\n") {
		if !line.MatchString(text) {
			t.Errorf("line %d is not BitBake's: %s", i+1, text)
		}
	}
	// The shell of the functions.
	for _, f := range regexp.MustCompile(`(?ms)^do_\w+\(\) \{$(.*?)^\}$`).FindAllStringSubmatch(recipe, -1) {
		cmd := exec.CommandContext(t.Context(), "sh", "-n")
		cmd.Stdin = strings.NewReader(f[1])
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s%s", err, out, f[1])
		}
	}
}

// checkSources fails for files that device/packaging does not have.
func checkSources(t *testing.T, files map[string]string) {
	t.Helper()
	for path, file := range files {
		name, _, _ := strings.Cut(file, " ")
		if name == "iot_device" || name == "config.yaml" { // are built
			continue
		}
		found, err := filepath.Glob("../packaging/" + name)
		own, err2 := filepath.Glob("../packaging/buildroot/iot-device/" + name)
		if err != nil || err2 != nil || len(found)+len(own) != 1 {
			t.Errorf("%s: there is no %s", path, name)
		}
	}
}

// A Buildroot image gets what the packages for its init system have. GNU make reads
// the makefile, with Buildroot's macro as a stub.
func TestBuildrootPackageAgreesWithThePackages(t *testing.T) {
	t.Parallel()
	dir := "../packaging/buildroot/iot-device"
	script := "golang-package =\nINSTALL = install\nHOST_GO_HOST_ENV =\nGO_BIN = go\nIOT_DEVICE_SOURCE = archive\n.PHONY: show\ninclude " + dir + "/iot-device.mk\nshow:\n"
	variables := []string{"IOT_DEVICE_VERSION", "IOT_DEVICE_LICENSE", "IOT_DEVICE_SUBDIR", "IOT_DEVICE_GOMOD", "IOT_DEVICE_BUILD_TARGETS", "IOT_DEVICE_LDFLAGS",
		"IOT_DEVICE_CONFIGURATION", "IOT_DEVICE_INSTALL_INIT_SYSTEMD", "IOT_DEVICE_INSTALL_INIT_SYSV", "IOT_DEVICE_INSTALL_INIT_OPENRC", "IOT_DEVICE_USERS", "IOT_DEVICE_PERMISSIONS", "BR_NO_CHECK_HASH_FOR"}
	for _, name := range variables {
		script += "\t$(info =" + name + "=$(" + name + "))\n"
	}
	cmd := exec.CommandContext(t.Context(), "make", "-s", "-f", "-", "TARGET_DIR=", "IOT_DEVICE_PKGDIR="+dir)
	cmd.Stdin = strings.NewReader(script)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	value := map[string]string{}
	for _, part := range strings.Split("\n"+string(out), "\n=") {
		name, text, _ := strings.Cut(part, "=")
		value[name] = strings.TrimRight(text, "\n")
	}
	for name, want := range map[string]string{
		"IOT_DEVICE_VERSION": "v" + releasedVersion(t), "IOT_DEVICE_LICENSE": "Apache-2.0", "IOT_DEVICE_SUBDIR": "device", "IOT_DEVICE_BUILD_TARGETS": "cmd/iot_device",
		"IOT_DEVICE_GOMOD":     strings.TrimSuffix(module, "/") + "/device",
		"IOT_DEVICE_LDFLAGS":   "-s -w -X " + module + "device/internal/cli.version=v" + releasedVersion(t),
		"BR_NO_CHECK_HASH_FOR": "archive", // or a hash of it, without which Buildroot ends
	} {
		if value[name] != want {
			t.Errorf("%s = %q, want %q", name, value[name], want)
		}
	}
	if hash := readText(t, dir+"/iot-device.hash"); !strings.Contains(hash, fmt.Sprintf("\nsha256  %x  LICENSE\n", sha256.Sum256([]byte(readText(t, "../../LICENSE"))))) {
		t.Errorf("another license than that of this repository:\n%s", hash)
	}
	if !strings.Contains(readText(t, dir+"/Config.in"), "\nconfig BR2_PACKAGE_IOT_DEVICE\n") && !strings.HasPrefix(readText(t, dir+"/Config.in"), "config BR2_PACKAGE_IOT_DEVICE\n") {
		t.Error("Config.in has no BR2_PACKAGE_IOT_DEVICE")
	}
	always := commandsInstall(value["IOT_DEVICE_CONFIGURATION"])
	always["/usr/bin/iot_device"] = "iot_device 0755" // by the macro
	for init, format := range map[string]string{"SYSTEMD": "deb", "OPENRC": "apk"} {
		got := commandsInstall(value["IOT_DEVICE_INSTALL_INIT_"+init])
		maps.Copy(got, always)
		if diff := cmp.Diff(installed(t, format), got); diff != "" {
			t.Errorf("files with %s (-.%s +Buildroot):\n%s", init, format, diff)
		}
		checkSources(t, got)
	}
	sysv := commandsInstall(value["IOT_DEVICE_INSTALL_INIT_SYSV"])
	if paths := slices.Sorted(maps.Keys(sysv)); !slices.Equal(paths, []string{"/etc/init.d/S95iot-device", "/usr/lib/iot_device/retry.sh"}) {
		t.Errorf("files with SysV init: %v", sysv)
	}
	checkSources(t, sysv)
	if out, err := exec.CommandContext(t.Context(), "sh", "-n", dir+"/S95iot-device").CombinedOutput(); err != nil {
		t.Errorf("S95iot-device: %v\n%s", err, out)
	}
}
