// Command serials manages the registry of serial numbers that the hook uses: it lists the allowed
// ones, for a stack that was deployed with -c serialRegistry=listed, and releases used ones. It
// finds credentials and Region as the aws command line does.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/serials"
)

// requestTimeout bounds each attempt of a request: a silent server is not waited for without end.
// Tests have less patience.
var requestTimeout = 30 * time.Second

func main() {
	if err := newCommand(openTable).Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "serials: error:", err)
		os.Exit(1)
	}
}

func openTable(ctx context.Context, name string) (*serials.Table, error) {
	client := awshttp.NewBuildableClient().WithTimeout(requestTimeout)
	c, err := config.LoadDefaultConfig(ctx, config.WithHTTPClient(client))
	if err != nil {
		return nil, fmt.Errorf("finding credentials and Region: %w", err)
	}
	if c.Region == "" {
		return nil, errors.New("there is no AWS Region: run aws configure, or set AWS_REGION")
	}
	return serials.New(c, name), nil
}

// newCommand returns the command on the table that open finds by its name.
func newCommand(open func(ctx context.Context, name string) (*serials.Table, error)) *cobra.Command {
	root := &cobra.Command{
		Use:           "serials",
		Short:         "Manage the list of allowed serial numbers",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	var table string
	var rules admit.Rules
	load := &cobra.Command{
		Use:   "load --table NAME FILE",
		Short: "Add the serial numbers of a CSV file",
		Long: `Load adds the serial numbers of a CSV file, "-" for standard input: its first
column, or the one that its first line calls serialNumber. Nothing is added if
one of them could never be admitted, or occurs twice.

Serial numbers that are listed already stay as they are, used or not: run an
interrupted load again.`,
		Example: "  $ go run ./cmd/serials load --table GoFleetProvisioning-Serials-1ABC delivery.csv",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			numbers, err := readFile(cmd.InOrStdin(), args[0], rules)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM) // not while a terminal is read
			defer stop()
			t, err := open(ctx, table)
			if err != nil {
				return err
			}
			added, err := addAll(ctx, t, numbers)
			done := fmt.Sprintf("added %d of %d serial numbers", added, len(numbers))
			if err != nil {
				return fmt.Errorf("%s, run it again for the others: %w", done, err)
			}
			return report(cmd, done)
		},
	}
	load.Flags().StringVar(&rules.SerialPrefix, "prefix", "", "what serial numbers begin with, if the stack was deployed with another `PREFIX`")
	release := &cobra.Command{
		Use:     "release --table NAME SERIAL...",
		Short:   "Release serial numbers, for another certificate",
		Example: "  $ go run ./cmd/serials release --table GoFleetProvisioning-Serials-1ABC 2974685",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := open(cmd.Context(), table)
			if err != nil {
				return err
			}
			for _, number := range args {
				if err := t.Release(cmd.Context(), number); err != nil {
					return err
				}
				if err := report(cmd, "released "+number); err != nil {
					return err
				}
			}
			return nil
		},
	}
	for _, cmd := range []*cobra.Command{load, release} {
		cmd.Flags().StringVar(&table, "table", "", "`NAME` of the table: the stack's output SerialTableName")
		_ = cmd.MarkFlagRequired("table")
		root.AddCommand(cmd)
	}
	return root
}

// report prints what was done. The error says it, too.
func report(cmd *cobra.Command, done string) error {
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), done); err != nil {
		return fmt.Errorf("%s, which could not be printed: %w", done, err)
	}
	return nil
}

// readFile reads a file of serial numbers, or standard input.
func readFile(from io.Reader, path string, rules admit.Rules) ([]string, error) {
	if path != "-" {
		file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO without a writer is empty
		if err != nil {
			return nil, err
		}
		defer file.Close()
		from = file
	}
	numbers, err := serials.Read(from, rules)
	if err == nil && len(numbers) == 0 { // as of a copy that was cut off
		err = errors.New("there is no serial number")
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s, nothing was added:\n%w", path, err)
	}
	return numbers, nil
}

// addAll stops at the first error and returns how many were added until then.
func addAll(ctx context.Context, t *serials.Table, numbers []string) (int, error) {
	var added atomic.Int64
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(16) // serial numbers on their way at a time
	for _, number := range numbers {
		if groupCtx.Err() != nil {
			break
		}
		group.Go(func() error {
			isNew, err := t.Add(groupCtx, number)
			if isNew {
				added.Add(1)
			}
			return err
		})
	}
	err := group.Wait()
	return int(added.Load()), cmp.Or(context.Cause(ctx), err)
}
