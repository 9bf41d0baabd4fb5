// Package cli holds what the commands of all programs share: the root command, exit codes, the one
// way of reporting errors, and logs. The commands themselves are in a subpackage per program, so
// that the device's does not link what only the others need.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/term"
	"github.com/spf13/cobra"
)

// Exit codes, as design.md and "help exit-codes" have them.
const (
	ExitDone        = 0
	ExitFailed      = 1   // a defect or the local machine: disk, permission
	ExitUsage       = 2   // wrong usage or configuration
	ExitDenied      = 3   // denied by AWS IoT, retrying will not help
	ExitTemporary   = 4   // network, clock, throttling, time-out: retrying may help
	ExitInterrupted = 130 // by a signal
)

// ExitCode returns the exit code of a class of errors.
func ExitCode(c awsiot.Class) int {
	switch c {
	case awsiot.Misconfigured:
		return ExitUsage
	case awsiot.Denied:
		return ExitDenied
	case awsiot.Temporary:
		return ExitTemporary
	case awsiot.Interrupted:
		return ExitInterrupted
	}
	return ExitFailed
}

// A Program is one binary.
type Program struct {
	Name string
	// Root returns the command tree, made with [NewRoot].
	Root func(*Console) *cobra.Command
	// LogLevel is the default of --log-level; empty means warn.
	LogLevel string
	// Interrupted is the hint after an interrupt; empty for none.
	Interrupted string
	// Explain classifies an error of a command by its type. nil takes every error for a failure of
	// the local machine.
	Explain func(error) Explanation
}

// An Explanation is what an error means for the user.
type Explanation struct {
	Code int
	// Hint says what to do next; empty when the error says so itself.
	Hint string
}

// IsA reports whether an error of type E is in the chain of err.
func IsA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// Main runs a program and returns its exit code. An interrupt or a request to terminate cancels the
// command's context; a second one ends the program at once.
func Main(p Program, args []string, streams term.Streams) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)()

	console, root := tree(p, streams)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !console.started {
		err = &UsageError{Err: err, Command: cmd}
	}
	return console.finish(ctx, p, err)
}

// Tree returns the command tree of a program for its manual. Its commands do not run.
func Tree(p Program) *cobra.Command {
	_, root := tree(p, term.Streams{})
	return root
}

// tree sets up what is the same in every command tree.
func tree(p Program, streams term.Streams) (*Console, *cobra.Command) {
	c := &Console{Streams: streams, Name: p.Name, logLevel: cmp.Or(p.LogLevel, "warn")}
	root := p.Root(c)
	root.SetIn(c.In)
	root.SetOut(c.Out)
	root.SetErr(c.Err)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.Version = Version()
	flags := root.PersistentFlags()
	flags.BoolVarP(&c.quiet, "quiet", "q", false, "show no progress and no hints on success")
	flags.StringVar(&c.logLevel, "log-level", c.logLevel, "minimum log `LEVEL`: "+strings.Join(logLevels, ", "))
	flags.StringVar(&c.logFormat, "log-format", "text", "write logs as `FORMAT`: text or json (all of stderr, one object per line)")
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return c.open() }
	return c, root
}

// NewRoot completes the root of a command tree: it prints its help, suggests what a misspelt
// command may have meant, and has the given commands and those of every program.
func NewRoot(c *Console, root *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	root.SuggestionsMinimumDistance = 2
	root.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			begun := slices.IndexFunc(near, func(name string) bool { return strings.HasPrefix(name, args[0]) })
			err = fmt.Errorf("%w; did you mean %q?", err, near[max(begun, 0)])
		}
		return err
	}
	root.RunE = printHelp
	root.AddCommand(commands...)
	root.AddCommand(newVersionCmd(c), newCompletionCmd(c), &cobra.Command{Use: "exit-codes"})
	return Describe(root, strings.ReplaceAll(help, "{program}", c.Name))
}

func printHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// Command returns a command; [Describe] gives it its help.
func Command(use string, args cobra.PositionalArgs, run func(ctx context.Context, args []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Args: args, RunE: func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), args) }}
}

// Group returns a command that groups others, and alone prints its help.
func Group(use string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Args: cobra.NoArgs, RunE: printHelp}
	cmd.AddCommand(commands...)
	return cmd
}

// Describe gives the commands of a tree their help. The text has a section for each, below "# " and
// its path: a line for the list of commands, the description, and examples below "Examples:".
// Others keep what they have.
func Describe(cmd *cobra.Command, help string) *cobra.Command {
	if _, section, ok := strings.Cut("\n"+help, "\n# "+cmd.CommandPath()+"\n"); ok {
		section, _, _ = strings.Cut(section, "\n\n# ")
		section, cmd.Example, _ = strings.Cut(strings.TrimSpace(section), "\n\nExamples:\n")
		cmd.Short, cmd.Long, _ = strings.Cut(section, "\n\n")
	}
	for _, child := range cmd.Commands() {
		Describe(child, help)
	}
	return cmd
}
