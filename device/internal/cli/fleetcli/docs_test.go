package fleetcli

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"example.com/fleety/device/internal/cli"
)

// TestCommandsInDocsAndHelpParse has every command of the documentation and of the
// examples in help: each must be one, with flags that it has.
func TestCommandsInDocsAndHelpParse(t *testing.T) {
	doc, err := os.ReadFile("../../../../docs/fleet.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(doc)
	for _, cmd := range newRootCmd(new(cli.Console), nil).Commands() {
		text += cmd.Example + "\n"
	}
	commands := regexp.MustCompile(`(?m)(?:^|\./|exec |[$`+"`"+`] ?)iot_fleet ([a-z][^#`+"`"+`\n]*)`).FindAllStringSubmatch(text, -1)
	if len(commands) < 20 {
		t.Errorf("found only %d commands", len(commands))
	}
	for _, command := range commands {
		args := strings.Fields(strings.ReplaceAll(command[1], "$((JOB_COMPLETION_INDEX + 1))", "1"))
		root := newRootCmd(new(cli.Console), nil)
		cmd, rest, err := root.Find(args)
		if err == nil {
			err = cmd.ParseFlags(rest)
		}
		if err == nil && cmd != root {
			if cmd.Args != nil {
				err = cmd.Args(cmd, cmd.Flags().Args())
			}
		}
		if err != nil || cmd == root {
			t.Errorf("iot_fleet %s: %v", command[1], err)
		}
	}
}
