package corecli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
	"example.com/fleety/device/localcore"
	"github.com/spf13/cobra"
)

// The emulator does not run, or has ended.
var (
	errAbsent = errors.New("no emulator answers")
	errEnded  = errors.New("the emulator has ended")
)

func newEventsCmd(console *cli.Console) *cobra.Command {
	var api string
	var past, asJSON bool
	cmd := cli.Command("events [flags]", cli.NoArgs, func(ctx context.Context, _ []string) error {
		response, err := get(ctx, api, "events", "past="+strconv.FormatBool(past))
		if err != nil {
			return fmt.Errorf("following the events of %s: %w", api, err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/x-ndjson" {
			return fmt.Errorf("following the events of %s: another server is there: it answered %s", api, response.Status)
		}
		console.Note(fmt.Sprintf("following the events of %s until interrupted", api))
		text := terminalHandler{out: console.Out}
		for lines := bufio.NewReader(response.Body); ; { // events end when someone ends them
			line, err := lines.ReadBytes('\n')
			if ctx.Err() != nil {
				return cli.Reported(cli.ExitInterrupted) // as announced: no error
			}
			if err != nil {
				return fmt.Errorf("following the events of %s: %w", api, errEnded)
			}
			if asJSON {
				_, err = term.JSON(console.Out).Write(line)
			} else {
				var e localcore.Event
				if err := json.Unmarshal(line, &e); err != nil {
					return fmt.Errorf("reading an event: %w", err)
				}
				record := slog.NewRecord(e.Time, slog.LevelInfo, string(e.Type), 0)
				record.AddAttrs(e.Attrs()...)
				err = text.Handle(ctx, record)
			}
			if err != nil {
				return fmt.Errorf("writing an event: %w", err)
			}
		}
	})
	flags := cmd.Flags()
	flags.StringVar(&api, "api", "http://127.0.0.1:8480", "`URL` of the emulator's control API")
	flags.BoolVar(&past, "past", false, "begin with the events that the emulator still keeps")
	flags.BoolVar(&asJSON, "json", false, "print each event as one JSON object in a line")
	return cmd
}

// get asks an endpoint of the emulator's own.
func get(ctx context.Context, api, name, query string) (*http.Response, error) {
	base, err := url.Parse(api)
	if err != nil || base.Host == "" {
		return nil, &cli.UsageError{Err: fmt.Errorf("invalid argument %q for \"--api\" flag: want a URL such as http://127.0.0.1:8480", api)}
	}
	where := base.JoinPath("/_local", name)
	where.RawQuery = query
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{ResponseHeaderTimeout: 10 * time.Second, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return nil, fmt.Errorf("%w: %w", errAbsent, failed.Err)
	}
	return response, err
}

func newWaitCmd(console *cli.Console) *cobra.Command {
	var api string
	var timeout time.Duration
	cmd := cli.Command("wait [flags]", cli.NoArgs, func(ctx context.Context, _ []string) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		reason := errAbsent // or more of why it is not ready
		for ctx.Err() == nil {
			response, err := get(ctx, api, "health", "")
			if err == nil {
				response.Body.Close()
				if response.StatusCode == http.StatusOK {
					console.Note("ready: " + api)
					return nil
				}
				err = fmt.Errorf("%w: another server is there: it answered %s", errAbsent, response.Status)
			}
			if cli.IsA[*cli.UsageError](err) {
				return err
			}
			if ctx.Err() == nil { // else the former reason has more
				reason = err
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
		return fmt.Errorf("waiting %s for %s: %w", timeout, api, reason)
	})
	flags := cmd.Flags()
	flags.StringVar(&api, "api", "http://127.0.0.1:8480", "`URL` of the emulator's control API")
	flags.DurationVar(&timeout, "timeout", 30*time.Second, "give up after `DURATION`")
	return cmd
}
