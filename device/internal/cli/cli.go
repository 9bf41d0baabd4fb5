// Package cli holds what the commands of all binaries share: the way in and
// out of a program, its exit codes, its one way of reporting errors, and its
// logs. The commands themselves are in a subpackage per binary, so that the
// device's does not link what only the others need.
package cli

import (
	"cmp"
	"context"
	"os"
	"os/signal"
	"syscall"

	"example.com/fleety/device/internal/term"
	"github.com/spf13/cobra"
)

// Exit codes. Scripts and init systems tell 3 from 4 to know whether to try
// again.
const (
	ExitDone        = 0
	ExitFailed      = 1   // a defect or the local machine: disk, permission
	ExitUsage       = 2   // wrong usage or configuration
	ExitRefused     = 3   // refused by AWS IoT, retrying will not help
	ExitTemporary   = 4   // network, throttling, time-out: retrying may help
	ExitInterrupted = 130 // by a signal
)

// A Program is one binary.
type Program struct {
	Name string
	// Root returns the command tree.
	Root func(*Console) *cobra.Command
	// LogLevel is the default of --log-level; empty means warn.
	LogLevel string
	// Interrupted is the hint after an interrupt; empty for none.
	Interrupted string
	// Explain judges an error of a command by its type. nil takes every error
	// for a failure of the local machine.
	Explain func(error) Explanation
}

// An Explanation is what an error means for the user.
type Explanation struct {
	Code int
	// Lines replace the error's own text where one error is several findings.
	Lines []string
	// Hint says what to do next; empty when the error says so itself.
	Hint string
}

// Main runs a program and returns its exit code. An interrupt or a request to
// terminate cancels the command's context; a second one ends the program at
// once.
func Main(p Program, args []string, streams term.Streams) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)()

	console := &Console{Streams: streams, Name: p.Name, logLevel: cmp.Or(p.LogLevel, "warn")}
	root := p.Root(console)
	started := prepare(root, console, args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !*started {
		err = &UsageError{Err: err, Command: cmd}
	}
	return console.finish(ctx, p, err)
}

// prepare sets up what is the same in every command tree. The returned flag
// tells whether a command's own work has begun: errors before that are the
// command line's.
func prepare(root *cobra.Command, console *Console, args []string) *bool {
	started := false
	root.SetArgs(args)
	root.SetIn(console.In)
	root.SetOut(console.Out)
	root.SetErr(console.Err)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.Version = Version()
	console.addFlags(root.PersistentFlags())
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if err := console.open(); err != nil {
			return err
		}
		started = true
		return nil
	}
	return &started
}
