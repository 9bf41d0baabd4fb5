package e2e

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// copyRepository copies what git has of this repository, as it is on disk, into a
// repository of its own.
func copyRepository(t *testing.T) (root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "copy")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	inCopy(t, root, nil, "sh", "-c", `cd "$0" && git ls-files -z | tar --null -T - -c | tar -xC "$1"`, repository(t), root)
	inCopy(t, root, nil, "git", "init", "-q")
	inCopy(t, root, nil, "git", "add", "-A")
	return root
}

// inCopy runs a command in a folder, away from the workspace, and returns its output. What make has
// compiled is not compiled again.
func inCopy(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, append(append(os.Environ(), "GOWORK=off", "GOFLAGS="+cmp.Or(os.Getenv("GOFLAGS"), "-trimpath"), "CGO_ENABLED=0"), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

// A customer's module path reaches every place: the modules build under it, and
// another renaming brings every byte back.
func TestRenamedModulesBuild(t *testing.T) {
	t.Parallel()
	root := copyRepository(t)
	rename := filepath.Join("scripts", "rename-module.sh")
	own := strings.Join([]string{"github.com", "acme", "fleet-2"}, "/") // in no file, this one included
	writeFile(t, filepath.Join(root, "notes.before"), "the user's own", 0o644)
	inCopy(t, root, nil, rename, own)
	if left, _ := exec.CommandContext(t.Context(), "git", "-C", root, "grep", "-l", "example.com/fleety").Output(); len(left) > 0 {
		t.Errorf("the former path is still in %s", left)
	}
	if unformatted := inCopy(t, root, nil, "sh", "-c", "git ls-files '*.go' | xargs gofmt -l"); unformatted != "" {
		t.Errorf("gofmt would change %s", unformatted)
	}
	for module, pkg := range map[string]string{"device": "./localcore/provisioning", "hook": "./admit", "infra": "./stack"} {
		// This compiles the tests, too, and links nothing. What go vet finds does not depend on the path.
		inCopy(t, filepath.Join(root, module), nil, "go", "list", "-export", "-test", pkg)
		if got, want := inCopy(t, filepath.Join(root, module), nil, "go", "list", "-m"), own+"/"+module+"\n"; got != want {
			t.Errorf("module %q, want %q", got, want)
		}
	}
	// Versions of the programs are set by name when they are linked.
	if text, err := os.ReadFile(filepath.Join(root, "Makefile")); err != nil || !strings.Contains(string(text), "-X "+own+"/device/internal/cli.") {
		t.Errorf("the Makefile sets versions of another module: %v", err)
	}
	if extra := inCopy(t, root, nil, "git", "ls-files", "-o"); extra != "notes.before\n" {
		t.Errorf("of what git does not know there is now:\n%s", extra)
	}
	inCopy(t, root, nil, rename, "example.com/fleety")
	if diff := inCopy(t, root, nil, "git", "diff", "--stat"); diff != "" {
		t.Errorf("renamed and back:\n%s", diff)
	}
}

func TestRenamingRejectsWhatIsNoModulePath(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"fleet"}, {"acme/fleet"}, {"https://github.com/acme/fleet"}, {"github.com/acme/fleet#1"}, {"github.com/acme/../fleet"},
		{"github.com/acme/fleet/device"}, {"-x"}, {"github.com/a", "b"}, {"/github.com/acme"}} {
		cmd := exec.CommandContext(t.Context(), filepath.Join("..", "..", "scripts", "rename-module.sh"), args...)
		if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != 2 {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
}
