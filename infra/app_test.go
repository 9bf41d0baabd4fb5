package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/jsii-runtime-go"
	"github.com/google/go-cmp/cmp"
)

const certificateARN = "arn:aws:iot:us-east-1:123456789012:cert/57c92eba56f4a8a5bf4d2bb4b2f5a9b5ea9ad4ecf0b5e7ec0f3fdd9d3ca32f10"

func TestMain(m *testing.M) {
	code := m.Run()
	jsii.Close()
	os.Exit(code)
}

// checkout copies what is deployed to a new folder and returns its infra/, with the installed CDK
// command line in it.
func checkout(t *testing.T) string {
	t.Helper()
	installed, err := filepath.Abs("node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(installed, "aws-cdk")); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("the CDK command line is not installed: run npm ci in infra/")
		}
		t.Skip("the CDK command line is not installed: run npm ci in infra/")
	}
	root := t.TempDir()
	for _, part := range []string{"hook", "templates", "scripts"} {
		if err := os.CopyFS(filepath.Join(root, part), os.DirFS(filepath.Join("..", part))); err != nil {
			t.Fatal(err)
		}
	}
	infra := filepath.Join(root, "infra")
	for _, name := range []string{"go.mod", "go.sum", "cdk.json", "package.json", "main.go"} {
		copyFile(t, name, filepath.Join(infra, name))
	}
	if err := os.CopyFS(filepath.Join(infra, "stack"), os.DirFS("stack")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(installed, filepath.Join(infra, "node_modules")); err != nil {
		t.Fatal(err)
	}
	return infra
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// cdkSynth runs what a person types, away from the network and from AWS.
func cdkSynth(t *testing.T, infra string, args ...string) (output string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute) // it compiles the CDK, and the hook for Lambda, where no cache has them
	defer cancel()
	cdk := exec.CommandContext(ctx, filepath.Join("node_modules", ".bin", "cdk"), append([]string{"synth", "--quiet", "--no-notices"}, args...)...)
	cdk.Dir = infra
	temporary := t.TempDir()
	cdk.Env = append(os.Environ(), "TMPDIR="+temporary, "AWS_EC2_METADATA_DISABLED=true", "CDK_DISABLE_CLI_TELEMETRY=true")
	said, err := cdk.CombinedOutput()
	if left, _ := filepath.Glob(filepath.Join(temporary, "*")); left != nil {
		t.Errorf("temporary files are left behind: %v", left)
	}
	return string(said), err
}

// TestSynthFromCleanCopiesBuildsTheHook: each copy has the hook as its recipe builds it, and what
// one machine has deployed is no change to another, down to the hash of the hook. The second one has
// an environment so large that the CDK command line puts the options into a file.
func TestSynthFromCleanCopiesBuildsTheHook(t *testing.T) {
	var first map[string]string
	for range 2 {
		infra := checkout(t)
		if output, err := cdkSynth(t, infra, "-c", "certificateArn="+certificateARN); err != nil {
			t.Fatalf("cdk synth: %v\n%s", err, output)
		}
		folder := hookAsset(t, filepath.Join(infra, "cdk.out"))
		checkHookAsset(t, folder)
		assembly := map[string]string{"asset": filepath.Base(folder)}
		for _, name := range []string{"GoFleetProvisioning.template.json", "GoFleetProvisioning.assets.json"} {
			assembly[name] = string(readFile(t, filepath.Join(infra, "cdk.out", name)))
		}
		if first == nil {
			first = assembly
			for _, name := range []string{"LARGE", "ALSO_LARGE"} {
				t.Setenv(name, strings.Repeat("x", 1<<16))
			}
		} else if diff := cmp.Diff(first, assembly); diff != "" {
			t.Errorf("two folders give two assemblies (-first +second):\n%s", diff)
		}
	}
}

func checkHookAsset(t *testing.T, folder string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != "bootstrap" {
		t.Fatalf("the asset holds %v, want bootstrap alone", entries)
	}
	info, err := entries[0].Info()
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode()&0o111 != 0o111 {
		t.Errorf("bootstrap has mode %v: Lambda could not run it", info.Mode())
	}
	if want := builtHook(t); string(readFile(t, filepath.Join(folder, "bootstrap"))) != string(want) {
		t.Error("the asset is not what scripts/build-hook.sh builds")
	}
}

// hookAsset finds the folder that the function's code is zipped from.
func hookAsset(t *testing.T, assembly string) string {
	t.Helper()
	var assets struct {
		Files map[string]struct {
			DisplayName string
			Source      struct{ Path, Packaging string }
		}
	}
	data := readFile(t, filepath.Join(assembly, "GoFleetProvisioning.assets.json"))
	if err := json.Unmarshal(data, &assets); err != nil {
		t.Fatal(err)
	}
	for _, file := range assets.Files {
		if file.Source.Packaging == "zip" && file.DisplayName == "Hook/Code" {
			return filepath.Join(assembly, file.Source.Path)
		}
	}
	t.Fatalf("no zip of the hook among the assets:\n%s", data)
	return ""
}

// builtHook is the hook built here, by the one recipe.
func builtHook(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "bootstrap")
	if output, err := exec.CommandContext(t.Context(), filepath.Join("..", "scripts", "build-hook.sh"), out, "arm64").CombinedOutput(); err != nil {
		t.Fatalf("building the hook: %v\n%s", err, output)
	}
	return readFile(t, out)
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSynthRejectsInOneLineAndWritesNothing(t *testing.T) {
	infra := checkout(t)
	broken := checkout(t)
	if err := os.WriteFile(filepath.Join(broken, "..", "hook", "main.go"), []byte("package main\n\nfunc main() { undefined() }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		infra string
		args  []string
		want  string
	}{
		"no certificate":      {infra, nil, "certificateArn is missing; scripts/create-keys-and-cert.sh"},
		"hook does not build": {broken, []string{"-c", "certificateArn=" + certificateARN}, "undefined: undefined"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			output, err := cdkSynth(t, test.infra, test.args...)
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
				t.Errorf("cdk synth: %v, want exit status 1", err)
			}
			if !strings.Contains(output, test.want) || strings.Count(output, "infra: error:") != 1 {
				t.Errorf("want one error with %q:\n%s", test.want, output)
			}
			if strings.Contains(output, "goroutine") || strings.Contains(output, "panic") {
				t.Errorf("a Go trace shows:\n%s", output)
			}
			if entries, _ := os.ReadDir(filepath.Join(test.infra, "cdk.out")); len(entries) != 0 {
				t.Errorf("cdk.out is half-made: %v", entries)
			}
		})
	}
}

// The CDK command line leaves the last options out of a large environment.
func TestOptionsBesideALargeEnvironmentAreRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "context-overflow.json")
	if err := os.WriteFile(file, []byte(`{"serialRegistry": "listed", "serialPrefix": 297468000000000000000}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for inEnvironment, want := range map[string]map[string]any{
		`{"name": "Second"}`: {"name": "Second", "serialRegistry": "listed", "serialPrefix": json.Number("297468000000000000000")},
		"":                   {"serialRegistry": "listed", "serialPrefix": json.Number("297468000000000000000")},
	} {
		t.Setenv("CDK_CONTEXT_JSON", inEnvironment)
		t.Setenv("CONTEXT_OVERFLOW_LOCATION_ENV", file)
		got, err := cdkContext()
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v, the context differs (-want +got):\n%s", err, diff)
		}
	}
}

func TestRunByHandSaysHowToRunIt(t *testing.T) {
	t.Setenv("CDK_CONTEXT_JSON", "") // has it put back after the test
	os.Unsetenv("CDK_CONTEXT_JSON")
	if err := run(t.Context()); err == nil || !strings.Contains(err.Error(), "npx cdk synth") {
		t.Errorf("error %v does not say how to run the app", err)
	}
}
