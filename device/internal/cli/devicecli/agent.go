package devicecli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/session"
	"github.com/spf13/cobra"
)

func newPublishCmd(console *cli.Console) *cobra.Command {
	var s config.Sources
	var member string
	cmd := cli.Command("publish TOPIC [MESSAGE|-] [flags]", cobra.RangeArgs(1, 2), func(ctx context.Context, args []string) error {
		return withAgent(ctx, console, s, func(ctx context.Context, client *agent.Client) error {
			return runPublish(ctx, console, client, args, member)
		})
	})
	cmd.Flags().StringVar(&member, "message-id", "", "add a `MEMBER` with an id to the message, a JSON object: a message may arrive twice, with the same id")
	s.AddFlags(cmd.Flags())
	return cmd
}

// withAgent lets use speak to the agent that the configuration names, with a context of its own.
func withAgent(ctx context.Context, console *cli.Console, s config.Sources, use func(context.Context, *agent.Client) error) error {
	c, err := load(ctx, console, s)
	if err == nil {
		err = whileItResponds(ctx, c, use)
	}
	if err != nil && c != nil {
		return &deviceError{error: err, config: c}
	}
	return err
}

// statusWait is how long an agent may take to say its status. Tests shorten it.
var statusWait = 20 * time.Second

var errHangs = &agent.Error{StatusCode: http.StatusServiceUnavailable, Message: "it does not respond: restart it, as with \"systemctl restart iot_device\"; what it has stored stays"}

// statusOf asks for the status, which an agent says at once also while its disk is slow or the device
// is offline. One that hangs, or is stopped, takes every request and answers none: the error wraps
// errHangs.
func statusOf(ctx context.Context, client *agent.Client) (agent.Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, statusWait, errHangs)
	defer cancel()
	return client.Status(ctx)
}

// whileItResponds lets use speak to the agent for as long as that says its status.
func whileItResponds(ctx context.Context, c *config.Config, use func(context.Context, *agent.Client) error) error {
	client := agent.NewClient(c.Agent.Socket)
	defer client.Close()
	if _, err := statusOf(ctx, client); err != nil {
		return err
	}
	using, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() {
		for tick := time.Tick(statusWait); ; {
			select {
			case <-tick:
			case <-using.Done():
				return
			}
			if _, err := statusOf(using, client); errors.Is(err, errHangs) {
				end(errHangs)
			}
		}
	}()
	return use(using, client)
}

func runPublish(ctx context.Context, console *cli.Console, client *agent.Client, args []string, member string) error {
	if len(args) == 2 && args[1] != "-" {
		return client.PublishWithID(ctx, args[0], []byte(args[1]), member)
	}
	in := console.Input(ctx)
	if len(args) == 1 {
		payload, err := io.ReadAll(io.LimitReader(in, session.MaxPayload+1)) // the agent rejects one byte more
		if err != nil {
			return fmt.Errorf("reading standard input: %w", err)
		}
		return client.PublishWithID(ctx, args[0], payload, member)
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, session.MaxPayload+2)
	n := 0
	for lines.Scan() {
		n++
		if err := client.PublishWithID(ctx, args[0], lines.Bytes(), member); err != nil {
			return fmt.Errorf("publishing line %d: %w", n, err)
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("publishing line %d: %w", n+1, &agent.Error{StatusCode: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("AWS IoT accepts messages of %d bytes at most", session.MaxPayload)})
	} else if err != nil {
		return fmt.Errorf("reading standard input: %w", err)
	}
	return nil
}

func newSubscribeCmd(console *cli.Console) *cobra.Command {
	var s config.Sources
	cmd := cli.Command("subscribe FILTER [flags]", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		err := withAgent(ctx, console, s, func(ctx context.Context, client *agent.Client) error {
			return client.Subscribe(ctx, args[0],
				func() { console.Note("subscribed, until interrupted") },
				func(line json.RawMessage) error { return console.JSON(line) })
		})
		if ctx.Err() != nil {
			return cli.Reported(cli.ExitInterrupted) // as announced: no error
		}
		return err
	})
	s.AddFlags(cmd.Flags())
	return cmd
}

func newShadowCmd(console *cli.Console) *cobra.Command {
	var s config.Sources
	cmd := cli.Group("shadow")
	get := cli.Command("get [NAME] [flags]", cobra.MaximumNArgs(1), func(ctx context.Context, args []string) error {
		return runShadow(ctx, console, s, args, nil)
	})
	update := cli.Command("update [NAME] [DOCUMENT] [flags]", cobra.MaximumNArgs(2), func(ctx context.Context, args []string) error {
		if last := len(args) - 1; last >= 0 && (last == 1 || strings.HasPrefix(strings.TrimSpace(args[last]), "{")) {
			return runShadow(ctx, console, s, args[:last], []byte(args[last]))
		}
		change, err := io.ReadAll(io.LimitReader(console.Input(ctx), session.MaxPayload+2)) // the agent rejects as much
		if err != nil {
			return fmt.Errorf("reading standard input: %w", err)
		}
		return runShadow(ctx, console, s, args, change)
	})
	s.AddFlags(get.Flags())
	s.AddFlags(update.Flags())
	cmd.AddCommand(get, update)
	return cmd
}

// runShadow prints a shadow, after a change if there is one.
func runShadow(ctx context.Context, console *cli.Console, s config.Sources, args []string, change []byte) error {
	return withAgent(ctx, console, s, func(ctx context.Context, client *agent.Client) (err error) {
		name := strings.Join(args, "")
		var document json.RawMessage
		if change == nil {
			document, err = client.Shadow(ctx, name)
		} else {
			document, err = client.UpdateShadow(ctx, name, change)
		}
		if err != nil {
			return err
		}
		return console.JSON(document)
	})
}
