// Package scripttest tests the scripts of scripts/, which come before a deployment: each runs as a
// process in a copy of the folders that it works in.
package scripttest

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// A place is a copy of the scripts with an empty certs/ beside it, and the tools that a script can
// find there.
type place struct {
	root, bin string
	env       []string
}

// newPlace has the standard tools that the scripts are allowed to need, and the further ones given.
func newPlace(t *testing.T, tools ...string) *place {
	t.Helper()
	root := t.TempDir()
	p := &place{root: root, bin: filepath.Join(root, "bin")}
	if err := os.CopyFS(filepath.Join(root, "scripts"), os.DirFS(filepath.Join("..", "..", "scripts"))); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{p.bin, p.path("certs")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	standard := []string{"sh", "base64", "cat", "chmod", "cut", "dirname", "fold", "grep", "mkdir", "mktemp", "mv", "rm", "sed", "sha256sum", "tr"}
	for _, tool := range append(standard, tools...) {
		found, err := exec.LookPath(tool)
		if err != nil {
			t.Skipf("%s is not installed", tool)
		}
		if err := os.Symlink(found, filepath.Join(p.bin, tool)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p *place) path(name string) string { return filepath.Join(p.root, name) }

// A result is what a script left for its caller.
type result struct {
	stdout, stderr string
	code           int
}

func (p *place) command(t *testing.T, script string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), p.path(filepath.Join("scripts", script)), args...)
	cmd.Dir = t.TempDir() // scripts work from any folder
	cmd.Env = append([]string{"PATH=" + p.bin, "HOME=" + cmd.Dir}, p.env...)
	return cmd
}

func (p *place) run(t *testing.T, script string, args ...string) result {
	t.Helper()
	cmd := p.command(t, script, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatalf("running %s: %v", script, err)
	}
	if entries, err := os.ReadDir(cmd.Dir); err != nil || len(entries) != 0 {
		t.Errorf("%s wrote to the current folder: %v %v", script, entries, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// fails checks a refusal: the exit code, one error with a reason, an empty stdout.
func (r result) fails(t *testing.T, code int, want string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	if r.stdout != "" {
		t.Errorf("stdout of a failure: %q", r.stdout)
	}
	if !strings.Contains(r.stderr, want) {
		t.Errorf("stderr does not say %q:\n%s", want, r.stderr)
	}
}

// put writes a file into certs/, as an earlier run would have left it.
func (p *place) put(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(p.path(filepath.Join("certs", name)), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certs reads all of certs/, hidden files too: nothing else may be left there.
func (p *place) certs(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(p.path("certs"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == p.path("certs") {
			return err
		}
		if entry.IsDir() {
			files[entry.Name()+"/"] = ""
			return nil
		}
		data, err := os.ReadFile(path)
		files[entry.Name()] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func (p *place) hasCerts(t *testing.T, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, p.certs(t)); diff != "" {
		t.Errorf("certs/ differs (-want +got):\n%s", diff)
	}
}

func (p *place) mode(t *testing.T, name string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(p.path(filepath.Join("certs", name)))
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

// interrupt runs a script until ready, then sends a signal to it and all it started, as a terminal
// does, and waits for its end.
func (p *place) interrupt(t *testing.T, by syscall.Signal, ready <-chan struct{}, script string) (code int) {
	t.Helper()
	// A process started in the background may ignore the signal, and its children with it, unless
	// it asks for it.
	unused := make(chan os.Signal, 1)
	signal.Notify(unused, by)
	defer signal.Stop(unused)

	cmd := p.command(t, script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-ready
	if err := syscall.Kill(-cmd.Process.Pid, by); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the exit code says it all
	return cmd.ProcessState.ExitCode()
}

func TestScriptsPassShellcheck(t *testing.T) {
	shellcheck, err := exec.LookPath("shellcheck")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("shellcheck is not installed")
		}
		t.Skip("shellcheck is not installed")
	}
	scripts, err := filepath.Glob(filepath.Join("..", "..", "scripts", "*.sh"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	if output, err := exec.CommandContext(t.Context(), shellcheck, scripts...).CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v\n%s", err, output)
	}
}

func TestScriptsExplainThemselves(t *testing.T) {
	p := newPlace(t)
	scripts, err := os.ReadDir(p.path("scripts"))
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range scripts {
		if filepath.Ext(script.Name()) != ".sh" {
			continue
		}
		t.Run(script.Name(), func(t *testing.T) {
			help := p.run(t, script.Name(), "--help")
			if help.code != 0 || help.stderr != "" || !strings.Contains(help.stdout, "usage: "+script.Name()) {
				t.Errorf("--help: %+v", help)
			}
			for line := range strings.Lines(help.stdout) {
				if utf8.RuneCountInString(strings.ReplaceAll(strings.TrimSpace(line), "\t", "        ")) > 80 {
					t.Errorf("a terminal is narrower than: %s", line)
				}
			}
		})
	}
	for _, script := range []string{"create-root-ca-bundle.sh", "create-keys-and-cert.sh", "build-hook.sh", "preflight.sh", "deploy.sh", "rename-module.sh"} {
		t.Run("wrong usage of "+script, func(t *testing.T) {
			wrong := p.run(t, script, "--frobnicate", "2", "3", "4")
			wrong.fails(t, 2, "usage: ")
		})
	}
	p.hasCerts(t, map[string]string{})
}

// TestScriptsGuardAgainstTheirSurroundings: where CDPATH is set, cd can lead to another folder and
// prints it; a shell that a signal ends does not always remove its temporary files; and the aws
// command line asks back where a person has configured it so.
func TestScriptsGuardAgainstTheirSurroundings(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join("..", "..", "scripts", "*.sh"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range append(scripts, filepath.Join("..", "..", ".ci", "run")) {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "cd ") && !strings.Contains(string(text), "\nunset CDPATH") {
			t.Errorf("%s changes the folder without unset CDPATH", script)
		}
		if strings.Contains(string(text), "=$(aws ") && !strings.Contains(string(text), "\nexport AWS_CLI_AUTO_PROMPT=off") {
			t.Errorf("%s runs aws with prompts", script)
		}
		for _, signal := range []string{"HUP", "INT", "TERM"} {
			trapped := regexp.MustCompile(`(?m)^\s*trap 'exit 1\d\d'.* ` + signal + `\b`).Match(text)
			if strings.Contains(string(text), "mktemp") && !trapped {
				t.Errorf("%s leaves its temporary files after SIG%s", script, signal)
			}
		}
	}
}

// TestFunctionsAreReadableByLambda: Lambda is another user than the one who deploys, whose umask is in
// the file's mode, and the CDK uploads no file again whose mode alone has changed.
func TestFunctionsAreReadableByLambda(t *testing.T) {
	p := newPlace(t, "env")
	if err := os.Mkdir(p.path("hook"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.tool(t, "bin/go", `while [ "$1" != -o ]; do shift; done; echo built >"$2" && chmod +x "$2"`) // as far as the umask allows
	p.tool(t, "scripts/private.sh", `umask 077; exec "$@"`)
	for _, function := range []string{".", "./cmd/retire"} {
		if r := p.run(t, "private.sh", p.path("scripts/build-hook.sh"), p.path("certs/bootstrap"), "arm64", function); r != (result{}) {
			t.Fatalf("%+v", r)
		}
		if mode := p.mode(t, "bootstrap"); mode != 0o755 {
			t.Errorf("%s has mode %v", function, mode)
		}
	}
}

func TestRepositoryShipsExecutableScripts(t *testing.T) {
	for _, script := range []string{"create-root-ca-bundle.sh", "create-keys-and-cert.sh", "build-hook.sh", "preflight.sh", "deploy.sh"} {
		info, err := os.Stat(filepath.Join("..", "..", "scripts", script))
		if err != nil {
			t.Error(err)
		} else if info.Mode()&0o111 != 0o111 {
			t.Errorf("%s has mode %v", script, info.Mode())
		}
	}
}
