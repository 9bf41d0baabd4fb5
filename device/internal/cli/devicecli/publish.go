package devicecli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/session"
)

func newPublishCmd(console *cli.Console) *cobra.Command {
	var s config.Sources
	cmd := &cobra.Command{
		Use:   "publish TOPIC [MESSAGE|-] [flags]",
		Short: "Publish a message through the agent",
		Long: `Publish hands a message to the running agent, and ends when the agent has stored
it: the agent sends it as soon as there is a connection. Without a MESSAGE, all of
standard input is the message; with -, each line of it is one.

A TOPIC that begins with neither fleet/ nor $aws/ is below fleet/THINGNAME/up/.`,
		Example: `  $ iot_device publish telemetry '{"temperature": 21.5}'
  $ sensor | iot_device publish telemetry -`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPublish(cmd.Context(), console, s, args)
		},
	}
	s.AddFlags(cmd.Flags())
	return cmd
}

func runPublish(ctx context.Context, console *cli.Console, s config.Sources, args []string) error {
	c, err := load(ctx, console, s)
	if err != nil {
		return err
	}
	client := agent.NewClient(c.Agent.Socket)
	if len(args) == 2 && args[1] != "-" {
		return client.Publish(ctx, args[0], []byte(args[1]))
	}
	// Reading cannot be interrupted, the command can.
	defer context.AfterFunc(ctx, func() {
		if c, ok := console.In.(io.Closer); ok {
			c.Close()
		}
	})()
	if len(args) == 1 {
		payload, err := io.ReadAll(io.LimitReader(console.In, session.MaxPayload+1)) // the agent rejects one byte more
		if err != nil {
			return fmt.Errorf("reading standard input: %w", err)
		}
		return client.Publish(ctx, args[0], payload)
	}
	lines := bufio.NewScanner(console.In)
	lines.Buffer(nil, session.MaxPayload+2)
	n := 0
	for lines.Scan() {
		n++
		if err := client.Publish(ctx, args[0], lines.Bytes()); err != nil {
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
	cmd := &cobra.Command{
		Use:   "subscribe FILTER [flags]",
		Short: "Print messages from AWS IoT, through the agent",
		Long: `Subscribe prints each message of a topic filter as one line of JSON: its topic,
and its payload as text, or in base64 as payloadBase64 where it is none. It runs
until it is interrupted, and ends with exit code 130 then.

A FILTER that begins with neither fleet/ nor $aws/ is below fleet/THINGNAME/down/.`,
		Example: `  $ iot_device subscribe commands/+
  $ iot_device subscribe '#' | jq -r .payload`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := load(cmd.Context(), console, s)
			if err != nil {
				return err
			}
			err = agent.NewClient(c.Agent.Socket).Subscribe(cmd.Context(), args[0],
				func() { console.Note("subscribed, until interrupted") },
				func(line json.RawMessage) error { return console.JSON(line) })
			if cmd.Context().Err() != nil {
				return cli.Reported(cli.ExitInterrupted) // as announced: no error
			}
			return err
		},
	}
	s.AddFlags(cmd.Flags())
	return cmd
}
