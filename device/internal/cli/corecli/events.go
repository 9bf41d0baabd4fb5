package corecli

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
	"example.com/fleety/device/localcore"
	"github.com/spf13/cobra"
)

// answerWithin bounds the wait for the beginning of the stream.
const answerWithin = 10 * time.Second

type eventsOptions struct {
	api  string
	past bool
	json bool
}

func newEventsCmd(console *cli.Console) *cobra.Command {
	var o eventsOptions
	cmd := &cobra.Command{
		Use:   "events [flags]",
		Short: "Follow the events of a running emulator",
		Long: `Events follows a running iot_core_local until it is interrupted, one line per
event: who connected, subscribed, published, was provisioned, or was rejected,
and why. Times are local; with --json they are UTC, and names are complete.

It ends with exit code 130 when it is interrupted, and 4 when the emulator does
not run or ends.`,
		Example: `  $ iot_core_local events

  # The reasons of all rejections so far, and of those to come
  $ iot_core_local events --past --json | jq -r 'select(.type == "rejected") | .reason'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runEvents(cmd.Context(), console, o) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.api, "api", "http://127.0.0.1:8480", "control API of the emulator: `URL`")
	flags.BoolVar(&o.past, "past", false, "begin with the events that the emulator still keeps")
	flags.BoolVar(&o.json, "json", false, "print each event as one JSON object in a line")
	return cmd
}

// The emulator does not run, or has ended.
var (
	errAbsent = errors.New("no emulator answers")
	errEnded  = errors.New("the emulator has ended")
)

// runEvents always returns an error: events end when someone ends them.
func runEvents(ctx context.Context, console *cli.Console, o eventsOptions) error {
	stream, err := openEvents(ctx, o)
	if err != nil {
		return err
	}
	defer stream.Close()
	console.Note(fmt.Sprintf("following the events of %s until interrupted", o.api))
	for lines := bufio.NewReader(stream); ; {
		line, err := lines.ReadBytes('\n')
		if ctx.Err() != nil {
			return cli.Reported(cli.ExitInterrupted) // as announced: no error
		}
		if err != nil {
			return fmt.Errorf("following the events of %s: %w", o.api, errEnded)
		}
		if err := printEvent(console, line, o.json); err != nil {
			return err
		}
	}
}

// localURL returns the URL of an endpoint of the emulator's own.
func localURL(api, name string) (*url.URL, error) {
	base, err := url.Parse(api)
	if err != nil || base.Host == "" {
		return nil, &cli.UsageError{Err: fmt.Errorf("invalid argument %q for \"--api\" flag: want a URL such as http://127.0.0.1:8480", api)}
	}
	return base.JoinPath("/_local", name), nil
}

func openEvents(ctx context.Context, o eventsOptions) (io.ReadCloser, error) {
	where, err := localURL(o.api, "events")
	if err != nil {
		return nil, err
	}
	where.RawQuery = url.Values{"past": {fmt.Sprint(o.past)}}.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{ResponseHeaderTimeout: answerWithin}}
	response, err := client.Do(request)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return nil, fmt.Errorf("following the events of %s: %w: %w", o.api, errAbsent, failed.Err)
	}
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/x-ndjson" {
		response.Body.Close()
		return nil, fmt.Errorf("following the events of %s: another server is there: it answered %s", o.api, response.Status)
	}
	return response.Body, nil
}

func printEvent(console *cli.Console, line []byte, asJSON bool) error {
	if !asJSON {
		var e localcore.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("reading an event: %w", err)
		}
		line = []byte(term.Clean(describe(e)) + "\n")
	}
	if _, err := console.Out.Write(line); err != nil {
		return fmt.Errorf("writing an event: %w", err)
	}
	return nil
}

// describe returns an event in one line: when, what, who, on what, why.
func describe(e localcore.Event) string {
	what := string(e.Type)
	if e.Action != "" {
		what += " " + string(e.Action)
	}
	who := cmp.Or(e.ClientID, e.ThingName, e.Address, "unknown client")
	parts := []string{e.Time.Local().Format("15:04:05.000"), fmt.Sprintf("%-18s", what), who}
	for _, part := range []string{e.Operation, e.Topic, e.Code} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	text := strings.Join(parts, " ")
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text + aside(e, who)
}

// aside returns what else is known of who it was.
func aside(e localcore.Event, who string) string {
	var known []string
	if e.ThingName != "" && e.ThingName != who {
		known = append(known, "thing "+e.ThingName)
	}
	if e.CertificateID != "" {
		known = append(known, fmt.Sprintf("certificate %.8s…", e.CertificateID))
	}
	if e.Address != "" && e.Address != who {
		known = append(known, "from "+e.Address)
	}
	if len(known) == 0 {
		return ""
	}
	return " (" + strings.Join(known, ", ") + ")"
}
