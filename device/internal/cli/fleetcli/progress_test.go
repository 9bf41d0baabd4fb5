package fleetcli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/spf13/cobra"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
)

// rows returns what a terminal of that width shows of the output, one string per row.
func rows(out string, width int) []string {
	screen := [][]rune{{}}
	x, y, wraps := 0, 0, true
	for out != "" {
		switch {
		case strings.HasPrefix(out, "\x1b[K"):
			screen[y] = screen[y][:min(x, len(screen[y]))]
			out = out[len("\x1b[K"):]
			continue
		case strings.HasPrefix(out, "\x1b[?7"):
			wraps = out[len("\x1b[?7")] == 'h'
			out = out[len("\x1b[?7h"):]
			continue
		}
		r, size := utf8.DecodeRuneInString(out)
		out = out[size:]
		switch r {
		case '\r':
			x = 0
		case '\n':
			x, y, screen = 0, y+1, append(screen, nil)
		default:
			switch {
			case x < width:
			case wraps:
				x, y, screen = 0, y+1, append(screen, nil)
			default:
				x--
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
			run := func(console *cli.Console) {
				p := progress{console: console}
				for done := range 300 {
					p.show(fleet.Progress{Phase: fleet.PhaseEnroll, Devices: 1_000_000, Done: done * 3000, Failed: done, Elapsed: time.Duration(done) * time.Second})
				}
				for held := range 300 {
					p.show(fleet.Progress{Phase: fleet.PhaseHold, Devices: 1_000_000, Done: 897_000, Held: held * 3000})
				}
				p.end()
			}
			code := cli.Main(cli.Program{Name: "p", Commands: func(console *cli.Console) []*cobra.Command {
				return []*cobra.Command{{Use: "run", Run: func(*cobra.Command, []string) { run(console) }}}
			}}, []string{"run"}, term.Streams{Out: new(bytes.Buffer), Err: &out, Terminal: true})
			got := rows(out.String(), width)
			if code != 0 || len(got) != 3 || got[2] != "" {
				t.Errorf("exit code %d, %d rows: %q", code, len(got), got)
			}
			if width >= 40 && (!strings.Contains(got[0], "897299/1000000") || !strings.Contains(got[1], "897000/897000")) {
				t.Errorf("the rows are %q", got)
			}
		})
	}
}

// Where no device is done, its attempts are repeated for minutes: the reason is there from the first.
func TestProgressSaysWhyNoDeviceIsDone(t *testing.T) {
	for done, want := range map[int]bool{0: true, 1: false} {
		var out bytes.Buffer
		cli.Main(cli.Program{Name: "p", Commands: func(console *cli.Console) []*cobra.Command {
			return []*cobra.Command{{Use: "run", Run: func(*cobra.Command, []string) {
				p := progress{console: console}
				p.show(fleet.Progress{Phase: fleet.PhaseEnroll, Devices: 2, Done: done, Latest: &fleet.Failure{Stage: fleet.StageDial, Cause: "connection refused"}})
			}}}
		}}, []string{"run"}, term.Streams{Out: new(bytes.Buffer), Err: &out, Terminal: true})
		if got := strings.Contains(out.String(), "dial: connection refused"); got != want {
			t.Errorf("%d done: %q", done, out.String())
		}
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
	if got, want := commandLine([]string{"enroll", "-n", "5", "--author", "A's $HOME"}), `iot_fleet enroll -n 5 --author 'A'\''s $HOME'`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestReportThatCannotBeWrittenIsPrinted has a directory that is removed during the launch, or a disk
// that becomes full: the machine's failure, and no reason to lose the results of hours.
func TestReportThatCannotBeWrittenIsPrinted(t *testing.T) {
	for _, o := range []output{{}, {json: true}} {
		o.report = filepath.Join(t.TempDir(), "none", "r.json")
		var out bytes.Buffer
		err := o.write(&cli.Console{Streams: term.Streams{Out: &out}}, &fleet.Report{Endpoint: "localhost"})
		if code := explain(err).Code; err == nil || code != cli.ExitFailed || !strings.Contains(out.String(), "localhost") {
			t.Errorf("%v, exit code %d\n%s", err, code, out.String())
		}
	}
}

// TestReportTakesNoPlaceOfAnEarlierOne has a folder in the place of the earlier report's new name.
func TestReportTakesNoPlaceOfAnEarlierOne(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.json")
	if err := os.Mkdir(filepath.Join(dir, "r-19700101T000007.000Z.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	console := &cli.Console{Streams: term.Streams{Out: io.Discard, Err: io.Discard}}
	for _, endpoint := range []string{"earlier", "later"} {
		o := output{report: path}
		r := &fleet.Report{FormatVersion: fleet.ReportVersion, Command: "enroll", Endpoint: endpoint, Started: time.Unix(int64(len(endpoint)), 0)}
		if err := o.keepEarlier(console, r); (err != nil) != (endpoint == "later") || err != nil && !strings.Contains(err.Error(), o.report) {
			t.Errorf("%s report: %v", endpoint, err)
		}
		if err := o.write(console, r); err != nil {
			t.Fatal(err)
		}
		if got, err := readFile(o.report, fleet.ReadReport); err != nil || got.Endpoint != endpoint {
			t.Errorf("%s report: %+v, %v", endpoint, got, err)
		}
	}
	if got, err := readFile(path, fleet.ReadReport); err != nil || got.Endpoint != "earlier" {
		t.Errorf("the earlier report is %+v, %v", got, err)
	}
}

// TestReportWhoseNameIsTooLongIsRejectedBeforeTheRun tries every length of a name.
func TestReportWhoseNameIsTooLongIsRejectedBeforeTheRun(t *testing.T) {
	dir := t.TempDir()
	for n := range 260 {
		o := output{report: filepath.Join(dir, strings.Repeat("r", n)+".json")}
		checked := o.check()
		if err := o.write(&cli.Console{Streams: term.Streams{Out: io.Discard}}, &fleet.Report{}); (checked == nil) != (err == nil) {
			t.Fatalf("a name of %d characters: check %v, write %v", n+5, checked, err)
		}
	}
}

// TestSilentServerIsNotWaitedForEver looks at the clients of AWS and of an emulator.
func TestSilentServerIsNotWaitedForEver(t *testing.T) {
	for name, value := range map[string]string{"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"} {
		t.Setenv(name, value)
	}
	for _, url := range []string{"", "http://127.0.0.1:8480"} {
		o := controlOptions{endpointURL: url}
		client, _, err := o.client(t.Context(), &cli.Console{}, "")
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := client.Options().HTTPClient.(*awshttp.BuildableClient); !ok || c.GetTimeout() <= 0 {
			t.Errorf("the client of %q waits for ever", url)
		}
	}
}

func TestReportSaysWhichShardsItHas(t *testing.T) {
	for want, plan := range map[string]fleet.Plan{
		"":        {Shards: []fleet.Shard{{Index: 1, Of: 2}, {Index: 2, Of: 2}}},
		"2 of 3;": {Shards: []fleet.Shard{{Index: 1, Of: 3}, {Index: 3, Of: 3}}},
	} {
		if got := summary(&fleet.Report{Plan: plan})[2][1]; !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
