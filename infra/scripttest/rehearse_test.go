package scripttest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// notInTheTable are the options that every rehearsal has.
var notInTheTable = []string{"certificateArn", "hookArchitecture"}

// TestEveryOptionIsRehearsed compares the table of rehearse.sh with the options that the app reads,
// and rehearses each of its lines, in the environment of a person who works with AWS and devices.
func TestEveryOptionIsRehearsed(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(filepath.Join(root, "scripts", "rehearse.sh"))
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(root, "infra", "stack", "options.go"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(script), "\nrehearsals='\n")
	table, _, _ = strings.Cut(table, "'\n")
	got, want := slices.Clone(notInTheTable), []string{}
	for _, option := range strings.Fields(table) {
		name, _, _ := strings.Cut(option, "=")
		got = append(got, name)
	}
	for _, m := range regexp.MustCompile(`r\.[a-zA-Z]+\("([a-zA-Z]+)"`).FindAllStringSubmatch(string(source), -1) {
		want = append(want, m[1])
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
		t.Fatalf("options (-read by the app +rehearsed):\n%s", diff)
	}

	if _, err := os.Stat(filepath.Join(root, "infra", "node_modules", "dynalite")); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("the CDK command line and dynalite are not installed: run npm ci in infra/")
		}
		t.Skip("the CDK command line and dynalite are not installed: run npm ci in infra/")
	}
	bin := t.TempDir()
	rehearsal := exec.CommandContext(t.Context(), filepath.Join(root, "scripts", "rehearse.sh"), "--every-option")
	rehearsal.Dir = bin
	rehearsal.Env = append(os.Environ(), "CERTIFICATE_ARN=", "AWS_PROFILE=expired", "CDPATH="+root, "GOARCH=riscv64",
		"IOT_DEVICE_SERVER_ENDPOINT=abc-ats.iot.us-east-1.amazonaws.com")
	for variable, program := range map[string]string{"IOT_DEVICE": "iot_device", "IOT_CORE_LOCAL": "iot_core_local"} {
		path := filepath.Join(bin, program)
		build := exec.CommandContext(t.Context(), "go", "-C", filepath.Join(root, "device"), "build", "-o", path, "./cmd/"+program)
		if output, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", program, err, output)
		}
		rehearsal.Env = append(rehearsal.Env, variable+"=./"+program)
	}
	if output, err := rehearsal.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

// The CDK warns of an option without a value, in a log that nobody sees, and synthesizes the stack
// without it.
func TestNoStackIsRehearsedWithoutAnOption(t *testing.T) {
	p := newPlace(t)
	p.tool(t, "bin/go", "echo amd64")
	p.tool(t, "infra/node_modules/.bin/cdk", `mkdir "${0%/*}/out"; echo 'Context argument is not an assignment (key=value): minimalRole'`)
	if r := p.run(t, "rehearse.sh", "-c", "minimalRole"); r.code != 1 || !strings.Contains(r.stderr, "(key=value): minimalRole") || !strings.Contains(r.stderr, "-c NAME=VALUE") {
		t.Errorf("%+v", r)
	}
}
