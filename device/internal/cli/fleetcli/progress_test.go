package fleetcli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
)

// rows returns what a terminal of that width shows of the output, one string per row: it wraps as
// terminals do, and knows \r, \n and the erasing of a row's rest.
func rows(out string, width int) []string {
	screen := [][]rune{{}}
	x, y := 0, 0
	for text := []rune(out); len(text) > 0; text = text[1:] {
		switch r := text[0]; {
		case r == '\r':
			x = 0
		case r == '\n':
			x, y, screen = 0, y+1, append(screen, nil)
		case strings.HasPrefix(string(text[:min(len(text), len(eraseRest))]), eraseRest):
			screen[y] = screen[y][:min(x, len(screen[y]))]
			text = text[len([]rune(eraseRest))-1:]
		default:
			if x == width {
				x, y, screen = 0, y+1, append(screen, nil)
			}
			screen[y] = append(screen[y][:x], append([]rune{r}, screen[y][min(x+1, len(screen[y])):]...)...)
			x++
		}
	}
	var list []string
	for _, row := range screen {
		list = append(list, string(row))
	}
	return list
}

func TestProgressTakesOneRowPerPhase(t *testing.T) {
	for _, width := range []int{1, 20, 40, 60, 80, 88, 200} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			var out bytes.Buffer
			console := &cli.Console{Streams: term.Streams{Err: &out, Terminal: true}}
			p := newProgress(console)
			p.width = func() int { return width }
			for done := range 300 {
				p.show(fleet.Progress{Phase: fleet.PhaseEnroll, Devices: 1_000_000, Done: done * 3000, Failed: done, Elapsed: time.Duration(done) * time.Second})
			}
			for held := range 300 {
				p.show(fleet.Progress{Phase: fleet.PhaseHold, Devices: 1_000_000, Done: 897_000, Held: held * 3000})
			}
			p.end()
			got := rows(out.String(), width)
			if len(got) != 3 || got[2] != "" {
				t.Errorf("%d rows: %q", len(got), got)
			}
			if want := "897000/1000000"; width >= 40 && !strings.Contains(got[0], "897299/1000000") && !strings.Contains(got[0], want) {
				t.Errorf("the row is %q", got[0])
			}
		})
	}
}

func TestCommandLineHasNoSecret(t *testing.T) {
	for name, args := range map[string][]string{
		"setting":            {"enroll", "--set", "server.proxy=http://user:hunter2@proxy:3128"},
		"one word":           {"enroll", "--set=server.proxy=http://user:hunter2@proxy:3128"},
		"no scheme":          {"enroll", "--set", "server.proxy=user:hunter2@proxy:3128"},
		"another case":       {"enroll", "--set", "Server.PROXY=user:hunter2@proxy"},
		"nested":             {"enroll", "--set", "server={proxy: 'user:hunter2@proxy'}"},
		"another flag":       {"cleanup", "r.json", "--endpoint-url", "http://user:hunter2@host/"},
		"a slash in it":      {"enroll", "--set", "server.proxy=http://user:a/hunter2@proxy"},
		"at sign in it":      {"cleanup", "--endpoint-url", "http://user:a@hunter2@host/"},
		"user info has both": {"cleanup", "--endpoint-url=https://user@x:a/hunter2@host/"},
	} {
		if got := commandLine(args); strings.Contains(got, "hunter2") {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got, want := commandLine([]string{"enroll", "-n", "5", "--author", "A B"}), `iot_fleet enroll -n 5 --author "A B"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
