package term_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/internal/term"
)

func TestStepsAreRewrittenInPlaceOnlyOnATerminal(t *testing.T) {
	tests := map[string]struct {
		streams term.Streams
		want    string
	}{
		"file": {
			term.Streams{},
			"  connect\n  subscribe\na log line\n✗ subscribe: no answer\n  wait\n",
		},
		"terminal without colors": {
			term.Streams{Terminal: true},
			"\x1b[?7l· connect\x1b[?7h\r\x1b[K✓ connect  5ms, 3 round trips\n\x1b[?7l· subscribe\x1b[?7h\na log line\n\x1b[?7l✗ subscribe: no answer\x1b[?7h\n\x1b[?7l· wait\x1b[?7h\nlast\n",
		},
		"terminal": {
			term.Streams{Terminal: true, Color: true},
			"\x1b[?7l\x1b[2m·\x1b[0m connect\x1b[?7h\r\x1b[K\x1b[32m✓\x1b[0m connect  \x1b[2m5ms, 3 round trips\x1b[0m\n" +
				"\x1b[?7l\x1b[2m·\x1b[0m subscribe\x1b[?7h\na log line\n\x1b[?7l\x1b[31m✗\x1b[0m subscribe: no answer\x1b[?7h\n\x1b[?7l\x1b[2m·\x1b[0m wait\x1b[?7h\nlast\n",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			tt.streams.Err = &out
			s := term.NewSteps(tt.streams)
			s.Begin("connect", false)
			s.Done("connect", term.Cost(5*time.Millisecond, 3))
			s.Begin("subscribe", false)
			fmt.Fprintln(s, "a log line")
			s.Failed("subscribe", errors.New("no answer"))
			s.Begin("wait", false)
			if tt.streams.Terminal {
				fmt.Fprintln(s, "last")
			}
			if diff := cmp.Diff(tt.want, out.String()); diff != "" {
				t.Errorf("progress (-want +got):\n%s", diff)
			}
		})
	}
}

// An attempt that fails again and again leaves one line on a terminal.
func TestRepeatedFailureIsOneLineOnATerminal(t *testing.T) {
	var out bytes.Buffer
	s := term.NewSteps(term.Streams{Terminal: true, Err: &out})
	for range 3 {
		s.Begin("connect", false)
		s.Failed("connect", errors.New("no answer"))
		s.Begin("retry (1s)", true)
		s.Done("retry", "1s")
	}
	s.Begin("connect", false)
	s.Done("connect", "")
	if got, want := screen(out.String()), []string{"✗ 3 times, last: connect: no answer", "✓ connect", ""}; !slices.Equal(got, want) {
		t.Errorf("the terminal shows %q, want %q", got, want)
	}
}

// screen is what a terminal shows after output with the commands of package term.
func screen(output string) []string {
	rows, row := []string{""}, 0
	output = strings.NewReplacer("\x1b[?7l", "", "\x1b[?7h", "").Replace(output)
	for output != "" {
		switch {
		case strings.HasPrefix(output, "\r\x1b[K"):
			rows[row], output = "", output[4:]
		case strings.HasPrefix(output, "\x1b[1A"):
			row, output = row-1, output[4:]
		case output[0] == '\n':
			if row++; row == len(rows) {
				rows = append(rows, "")
			}
			output = output[1:]
		default:
			rows[row], output = rows[row]+output[:1], output[1:]
		}
	}
	return rows
}

func TestNilStepsShowNothing(t *testing.T) {
	var s *term.Steps
	s.Begin("a", false)
	s.Begin("a", true)
	s.Done("a", "")
	s.Failed("a", errors.New("b"))
}

func TestCleanLeavesNoControlCharacters(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"plain":           {"Straße 5", "Straße 5"},
		"escape sequence": {"\x1b[2Jhello\x07", "\uFFFD[2Jhello\uFFFD"},
		"lines":           {"a\r\nb\tc", "a  b c"},
		"C1 controls":     {"\u009b31m", "\uFFFD31m"},
		"reversed text":   {"abc\u202egnp", "abc\uFFFDgnp"},
		"invalid bytes":   {"a\xff", "a\uFFFD"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := term.Clean(tt.in); got != tt.want {
				t.Errorf("Clean(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestCostNamesRoundTripsWhereThereAreAny(t *testing.T) {
	for trips, want := range map[int]string{0: "1.235s", 1: "1.235s, 1 round trip", 2: "1.235s, 2 round trips"} {
		if got := term.Cost(1234567*time.Microsecond, trips); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestGetenvTakesTheLastValue(t *testing.T) {
	s := term.Streams{Environ: []string{"A=1", "AB=2", "A=3=4"}}
	if got := s.Getenv("A"); got != "3=4" {
		t.Errorf("got %q", got)
	}
	if got := s.Getenv("B"); got != "" {
		t.Errorf("got %q", got)
	}
}

// JSON leaves C1 controls and bidirectional characters as they are.
func TestJSONHasNoControlCharacters(t *testing.T) {
	var out bytes.Buffer
	in := map[string]string{"a": "Straße \u009b31m \u202egnp \x7f \U000E0001 \x1b", "b\u0085": "…"}
	if err := json.NewEncoder(term.JSON(&out)).Encode(in); err != nil {
		t.Fatal(err)
	}
	if text := strings.TrimSuffix(out.String(), "\n"); term.Clean(text) != text || !strings.Contains(text, "Straße") {
		t.Errorf("got %q", text)
	}
	var back map[string]string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || !maps.Equal(in, back) {
		t.Errorf("%v; read back %q", err, back)
	}
}

func TestSymbolsAreASCIIWithoutAUTF8Locale(t *testing.T) {
	for name, tt := range map[string]struct {
		environ []string
		want    string
	}{
		"none":      {nil, "x step: a ... Straße"},
		"C":         {[]string{"LANG=C"}, "x step: a ... Straße"},
		"UTF-8":     {[]string{"LANG=de_DE.UTF-8"}, "✗ step: a … Straße"},
		"LC_ALL":    {[]string{"LANG=de_DE.UTF-8", "LC_ALL=POSIX"}, "x step: a ... Straße"},
		"LC_CTYPE":  {[]string{"LANG=C", "LC_CTYPE=C.utf8"}, "✗ step: a … Straße"},
		"euro sign": {[]string{"LANG=de_DE@euro"}, "x step: a ... Straße"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			term.NewSteps(term.New(nil, nil, &out, tt.environ)).Failed("step", errors.New("a … Straße"))
			if got := strings.TrimSpace(out.String()); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestOnlyATerminalIsColored(t *testing.T) {
	if s := term.New(nil, nil, &bytes.Buffer{}, nil); s.Terminal || s.Color {
		t.Errorf("a buffer counts as a terminal: %+v", s)
	}
}
