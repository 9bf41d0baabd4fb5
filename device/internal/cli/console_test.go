package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
)

// The text of an error may come from a server, so only a list of errors is printed on several
// lines.
func TestLineBreaksInAnErrorForgeNoSecondLine(t *testing.T) {
	forged := errors.New("denied\niot_device: error: disk \u202edamaged\u009b2J")
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"one error":                    {forged, "p: error: denied iot_device: error: disk \uFFFDdamaged\uFFFD2J\n"},
		"wrapped":                      {fmt.Errorf("registering thing: %w", forged), "p: error: registering thing: denied iot_device: error: disk \uFFFDdamaged\uFFFD2J\n"},
		"a sentence about two errors":  {fmt.Errorf("%w (%w)", errors.New("a"), errors.New("b")), "p: error: a (b)\n"},
		"a list":                       {errors.Join(errors.New("a"), forged), "p: error: a\np: error: denied iot_device: error: disk \uFFFDdamaged\uFFFD2J\n"},
		"a wrapped list":               {fmt.Errorf("starting: %w", errors.Join(errors.New("a"), errors.New("b"))), "p: error: starting: a\np: error: b\n"},
		"a list with several lines in": {errors.Join(errors.New("a\nb"), errors.New("c")), "p: error: a b\np: error: c\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			code := cli.Main(cli.Program{Name: "p", Commands: func(*cli.Console) []*cobra.Command {
				return []*cobra.Command{{Use: "fail", RunE: func(*cobra.Command, []string) error { return tt.err }}}
			}, Explain: func(error) cli.Explanation { return cli.Explanation{Code: cli.ExitFailed} }}, []string{"fail"}, term.Streams{Out: new(bytes.Buffer), Err: &stderr})
			if diff := cmp.Diff(tt.want, stderr.String()); diff != "" || code != cli.ExitFailed {
				t.Errorf("code %d, stderr (-want +got):\n%s", code, diff)
			}
		})
	}
}

// Neither closing a terminal nor a deadline ends a read of it.
func TestInputEndsWithItsContext(t *testing.T) {
	t.Parallel()
	in, typing := io.Pipe()
	t.Cleanup(func() { typing.Close() })
	c := &cli.Console{Streams: term.Streams{In: in}}
	ctx, interrupt := context.WithCancel(t.Context())
	lines := bufio.NewScanner(c.Input(ctx))
	if _, err := typing.Write([]byte("first\nsec")); err != nil || !lines.Scan() || lines.Text() != "first" {
		t.Fatalf("%q, %v", lines.Text(), err)
	}
	interrupt()
	for lines.Scan() {
	}
	if err := lines.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("the input ended with %v", err)
	}
}
