package scripttest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// hostile are texts that make or a shell would run, split or expand.
var hostile = []string{
	"x; touch pwned; false #", "'; touch pwned; '", `"; touch pwned; "`, "$(touch pwned)", "`touch pwned`", "$(shell touch pwned)",
	"$$(touch pwned)", "x && touch pwned", "x | touch pwned", "x\ntouch pwned", "${x:-$(touch pwned)}", "*",
}

// makeTarget runs make with variables in a folder in which all programs are doubles, and returns the
// name and arguments of the one that ran last, and the environment's ARN. It fails when something of
// the variables was run.
func makeTarget(t *testing.T, target string, variables ...string) (arguments []string, arn string) {
	t.Helper()
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is not installed")
	}
	makefile, err := os.ReadFile(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	const recorder = "#!/bin/sh\nfor a in \"${0##*/}\" \"$@\"; do printf '%s\\0' \"$a\"; done >\"$RECORD\"\nprintf %s \"$CERTIFICATE_ARN\" >\"$RECORD.arn\"\n"
	for name, content := range map[string]string{
		"Makefile": string(makefile), "scripts/deploy.sh": recorder, "scripts/rehearse.sh": recorder, "scripts/build-hook.sh": recorder,
		"scripts/fuzz.sh": recorder, "scripts/release.sh": recorder, "iot_core_local": recorder, "bin/npx": recorder, "bin/go": recorder,
		"infra/package.json": "{}", "infra/package-lock.json": "{}", "infra/node_modules/x": "", "device/x": "",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	record := filepath.Join(t.TempDir(), "record")
	without := []string{"-o", "infra/node_modules", "-o", ".ci/tools/cyclonedx-gomod", "-o", ".ci/tools/notices"}
	if target == "rehearse" {
		without = append(without, "-o", "device", "-o", "local")
	}
	command := exec.CommandContext(t.Context(), "make", slices.Concat(without, []string{target, "BINARIES="}, variables)...)
	command.Dir = root
	command.Env = append(os.Environ(), "PATH="+filepath.Join(root, "bin")+":"+os.Getenv("PATH"), "RECORD="+record, "MAKEFLAGS=")
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for _, dir := range []string{"", "infra", "device"} {
		if _, err := os.Stat(filepath.Join(root, dir, "pwned")); err == nil {
			t.Error("it ran what it was given")
		}
	}
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	environment, err := os.ReadFile(record + ".arn")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"), string(environment)
}

// TestMakeRunsNothingOfWhatItIsGiven: the ARN and the options may come from somebody else's message
// or pipeline.
func TestMakeRunsNothingOfWhatItIsGiven(t *testing.T) {
	for _, hostile := range hostile {
		for target, want := range map[string][]string{
			"deploy":   {"deploy.sh", hostile, "-c"},
			"destroy":  {"deploy.sh", "--destroy", hostile, "-c"},
			"rehearse": {"rehearse.sh"},
			"synth":    {"npx", "--no-install", "cdk", "synth", "-c", "certificateArn=" + hostile, "-c"},
		} {
			t.Run(target+" "+hostile, func(t *testing.T) {
				t.Parallel()
				options := "-c alarmEmail=" + hostile
				got, arn := makeTarget(t, target, "CERTIFICATE_ARN="+hostile, "CDK_ARGS="+options)
				if len(want) > 1 {
					want = append(want, strings.Fields(options)[1:]...) // split at white space, and nothing else
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("arguments differ (-want +got):\n%s", diff)
				}
				if arn != hostile {
					t.Errorf("CERTIFICATE_ARN is %q", arn)
				}
			})
		}
	}
}

// TestMakePassesVariablesAsTheyAre: each of the other variables, and the version, which is a tag that
// anybody may have pushed, is one argument, or words where it has several.
func TestMakePassesVariablesAsTheyAre(t *testing.T) {
	for _, hostile := range hostile {
		for variable, on := range map[string]struct {
			target string
			want   []string // the end of the arguments
		}{
			"DEVICE":    {"device", []string{"-o", hostile, "./cmd/iot_device"}},
			"HOOK_ARCH": {"hook", []string{"hook/dist/bootstrap", hostile}},
			"FUZZTIME":  {"fuzz", []string{hostile}},
			"VERSION":   {"release", []string{"release.sh", hostile}},
			"ENDPOINT":  {"conformance", []string{"conformance", "--endpoint", hostile}},
			"API":       {"conformance", []string{"conformance", "--api", hostile}},
			"ROOT":      {"conformance", []string{"conformance", "--root", hostile}},
			"ARGS":      {"conformance", append([]string{"conformance"}, strings.Fields(hostile)...)},
		} {
			t.Run(variable+" "+hostile, func(t *testing.T) {
				t.Parallel()
				got, _ := makeTarget(t, on.target, variable+"="+hostile)
				if diff := cmp.Diff(on.want, got[max(0, len(got)-len(on.want)):]); diff != "" {
					t.Errorf("arguments differ (-want +got):\n%s", diff)
				}
			})
		}
	}
	t.Run("VERSION in a link", func(t *testing.T) {
		makeTarget(t, "device", "VERSION='; touch pwned; '")
	})
}

// TestInterruptedInstallationIsDoneAgain: what an interrupt has left of node_modules is newer than
// the list of what belongs there.
func TestInterruptedInstallationIsDoneAgain(t *testing.T) {
	makefile, err := filepath.Abs(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, test := range []struct {
		file    string // made last
		install bool
	}{
		{"infra/package.json", true}, {"infra/package-lock.json", true},
		{"infra/node_modules/aws-cdk/package.json", true}, {"infra/node_modules/.package-lock.json", false},
	} {
		path := filepath.Join(root, test.file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if test.file == "infra/package.json" {
			continue
		}
		for _, target := range []string{"infra/node_modules", "synth"} {
			command := exec.CommandContext(t.Context(), "make", "-n", "-C", root, "-f", makefile, target)
			command.Env = append(os.Environ(), "MAKEFLAGS=")
			output, err := command.CombinedOutput()
			if err != nil || strings.Contains(string(output), "npm ci") != test.install {
				t.Errorf("%s after %s: %v\n%s", target, test.file, err, output)
			}
		}
	}
}

// TestMakeNamesTheToolThatIsMissing: a person who begins may have neither Go nor Node.js.
func TestMakeNamesTheToolThatIsMissing(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for targets, want := range map[string]string{
		"demo": "https://go.dev/dl/", "device": "https://go.dev/dl/", "clean test": "https://go.dev/dl/", "deploy": "https://go.dev/dl/",
		"GO=true deploy": "https://nodejs.org", "GO=true synth": "https://nodejs.org", "GO=true destroy": "https://nodejs.org", "": "", "help": "", "clean": "",
	} {
		p := newPlace(t, "make", "awk", "touch")
		for name, content := range map[string]string{"Makefile": string(makefile), "infra/package.json": "{}", "infra/package-lock.json": "{}"} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(p.path(name)), 0o755), os.WriteFile(p.path(name), []byte(content), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		p.tool(t, "bin/true", "exit 0")
		command := exec.CommandContext(t.Context(), filepath.Join(p.bin, "make"), append([]string{"-C", p.root, "-s"}, strings.Fields(targets)...)...)
		command.Env = []string{"PATH=" + p.bin}
		output, err := command.CombinedOutput()
		if (err == nil) != (want == "") || !strings.Contains(string(output), want) || strings.Contains(string(output), "not found") || strings.Contains(string(output), "o such file") {
			t.Errorf("make %s: %v\n%s", targets, err, output)
		}
	}
}

// TestDemoRunsWhereItIsBuilt: a person who builds for devices has their processor in the environment.
func TestDemoRunsWhereItIsBuilt(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for name, content := range map[string]string{
		"Makefile": string(makefile), "bin/go": "#!/bin/sh\necho \"build for <$GOARCH>\"\n", "device/x": "",
		"scripts/demo.sh": "#!/bin/sh\n", "scripts/build-hook.sh": "#!/bin/sh\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), "make", "-C", root, "demo")
	command.Env = append(os.Environ(), "PATH="+filepath.Join(root, "bin")+":"+os.Getenv("PATH"), "GOARCH=riscv64", "MAKEFLAGS=")
	if output, err := command.CombinedOutput(); err != nil || strings.Count(string(output), "build for <>\n") != 2 {
		t.Errorf("%v\n%s", err, output)
	}
}

// TestFormatIsCheckedWithoutGit: an archive of a release has no list of its files.
func TestFormatIsCheckedWithoutGit(t *testing.T) {
	makefile, err := filepath.Abs(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for content, formatted := range map[string]bool{"package x\n": true, "package  x\n": false} {
		if err := os.WriteFile(filepath.Join(root, "x.go"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		command := exec.CommandContext(t.Context(), "make", "-C", root, "-f", makefile, "fmt")
		command.Env = append(os.Environ(), "MAKEFLAGS=")
		if output, err := command.CombinedOutput(); (err == nil) != formatted {
			t.Errorf("%q: %v\n%s", content, err, output)
		}
	}
}

// TestMakeLeavesOutWhatBreaksBuilds: git fails in the clone of another user, which go build would
// report, and a workspace takes no -mod=mod or -modfile and has nothing for -mod=vendor; and DEVICE is
// somebody's serial port.
func TestMakeLeavesOutWhatBreaksBuilds(t *testing.T) {
	for _, flag := range []string{"-mod=mod", "-mod=vendor", "-modfile=other.mod"} {
		command := exec.CommandContext(t.Context(), "make", "-s", "-C", filepath.Join("..", ".."), `--eval=show:;@echo "$$GOFLAGS $$DEVICE"`, "show")
		command.Env = append(os.Environ(), "GOFLAGS="+flag+" -buildvcs=true -tags=x -trimpath -gcflags=github.com/aws/...=-l", "DEVICE=/dev/ttyUSB0", "MAKEFLAGS=")
		output, err := command.CombinedOutput()
		if want := "-tags=x -trimpath -buildvcs=false -gcflags=github.com/aws/...=-l ../iot_device\n"; err != nil || string(output) != want {
			t.Errorf("%s: GOFLAGS and DEVICE %q %v, want %q", flag, output, err, want)
		}
	}
}
