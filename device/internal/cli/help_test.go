package cli_test

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
)

// A stranger learns the programs from their help alone, so no command may go without a description
// and an example, and none be wider than a terminal.
func TestEveryCommandIsDescribedWithAnExample(t *testing.T) {
	t.Parallel()
	for _, binary := range []string{"iot_device", "iot_core_local", "iot_fleet"} {
		seen := walkHelp(t, binary)
		if seen < 5 {
			t.Errorf("%s: help names %d commands only", binary, seen)
		}
	}
}

func walkHelp(t *testing.T, binary string, path ...string) (seen int) {
	t.Helper()
	name := strings.Join(append([]string{binary}, path...), " ")
	var stdout, stderr strings.Builder
	if code := cli.Main(programs[binary](), append(path, "--help"), term.New(strings.NewReader(""), &stdout, &stderr, os.Environ())); code != 0 || stderr.Len() > 0 {
		t.Fatalf("%s --help: exit code %d\n%s", name, code, &stderr)
	}
	help := stdout.String()
	for line := range strings.Lines(help) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%s --help has a line of %d columns: %s", name, n, line)
		}
	}
	long, _, isCommand := strings.Cut(help, "Usage:\n")
	if len(strings.Fields(long)) < 10 {
		t.Errorf("%s: the description is too short: %q", name, long)
	}
	if isCommand && !strings.Contains(help, "Examples:\n  ") {
		t.Errorf("%s has no example", name)
	}
	for line := range strings.Lines(section(help, "Available Commands:\n") + "\n" + section(help, "Additional help topics:\n")) {
		line = strings.TrimPrefix(strings.TrimSpace(line), name+" ")
		if line == "" {
			continue
		}
		command, short, _ := strings.Cut(line, " ")
		if strings.TrimSpace(short) == "" {
			t.Errorf("%s %s has no short description", name, command)
		}
		seen++
		if command != "help" { // cobra's own
			seen += walkHelp(t, binary, append(path, command)...)
		}
	}
	return seen
}

func section(help, heading string) string {
	_, rest, _ := strings.Cut(help, heading)
	body, _, _ := strings.Cut(rest, "\n\n")
	return body
}

// TestHelpThatCannotBeWrittenIsAnError has standard output on a full disk.
func TestHelpThatCannotBeWrittenIsAnError(t *testing.T) {
	t.Parallel()
	full := writerFunc(func([]byte) (int, error) { return 0, syscall.ENOSPC })
	for name, program := range programs {
		for _, args := range [][]string{nil, {"--help"}, {"help"}, {"help", "version"}, {"help", "exit-codes"}, {"--version"}, {"version"}, {"completion", "bash"}} {
			var stderr strings.Builder
			code := cli.Main(program(), args, term.New(strings.NewReader(""), full, &stderr, []string{"LANG=C"}))
			if code != cli.ExitFailed || !strings.Contains(stderr.String(), syscall.ENOSPC.Error()) || strings.Contains(stderr.String(), "usage:") {
				t.Errorf("%s %s: exit code %d\n%s", name, args, code, &stderr)
			}
		}
	}
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }
