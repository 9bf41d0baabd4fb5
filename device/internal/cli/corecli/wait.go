package corecli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"example.com/fleety/device/internal/cli"
	"github.com/spf13/cobra"
)

// pollInterval is the time between two questions whether the emulator is ready.
const pollInterval = 100 * time.Millisecond

func newWaitCmd(console *cli.Console) *cobra.Command {
	var api string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait [flags]",
		Short: "Wait until an emulator is ready",
		Long: `Wait returns as soon as devices can connect to an emulator that was started in
the background, in a container, or on another machine.

It ends with exit code 0 when the emulator is ready, and 4 when it is not ready
within the time-out.`,
		Example: `  $ iot_core_local serve &
  $ iot_core_local wait --timeout 30s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if err := waitReady(ctx, api); err != nil {
				return fmt.Errorf("waiting %s for %s: %w", timeout, api, err)
			}
			console.Note("ready: " + api)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&api, "api", "http://127.0.0.1:8480", "control API of the emulator: `URL`")
	flags.DurationVar(&timeout, "timeout", 30*time.Second, "give up after `DURATION`")
	return cmd
}

// waitReady returns when the emulator is ready or, at the end of ctx, the latest
// reason why not.
func waitReady(ctx context.Context, api string) error {
	where, err := localURL(api, "health")
	if err != nil {
		return err
	}
	for {
		ready := probe(ctx, where)
		if ready == nil {
			return nil
		}
		if ctx.Err() == nil { // else the former reason says more
			err = ready
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(pollInterval):
		}
	}
}

func probe(ctx context.Context, where *url.URL) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("%w: %w", errAbsent, failed.Err)
	}
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: another server is there: it answered %s", errAbsent, response.Status)
	}
	return nil
}
