// Package cli holds what the commands of all programs share: the root command, exit codes, the one
// way of reporting errors, and logs. The commands themselves are in a subpackage per program, so
// that the device's does not link what only the others need.
package cli

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/term"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
	return [...]int{
		awsiot.Failed: ExitFailed, awsiot.Misconfigured: ExitUsage, awsiot.Denied: ExitDenied,
		awsiot.Temporary: ExitTemporary, awsiot.Interrupted: ExitInterrupted,
	}[c]
}

// A Program is one binary.
type Program struct {
	Name        string
	Help        string                          // what it and its commands say about themselves; see [describe]
	Commands    func(*Console) []*cobra.Command // its own; version, completion and exit-codes are added
	LogLevel    string                          // the default of --log-level; empty means warn
	Interrupted string                          // the hint after an interrupt; empty for none
	Explain     func(error) Explanation         // classifies an error of a command by its type
	Hangup      bool                            // the end of its terminal is an interrupt: it has results to write
}

// An Explanation is what an error means for the user.
type Explanation struct {
	Code int
	Hint string // what to do next; empty when the error says so itself
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
	if p.Hangup && !signal.Ignored(syscall.SIGHUP) { // else nohup keeps it running
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP) // of which the shell sends a second one
		defer stop()
	}

	console, root := tree(p, args, streams)
	help := &helpWriter{w: console.Out}
	root.SetOut(help)
	cmd, err := root.ExecuteContextC(ctx)
	if help.err != nil {
		err = fmt.Errorf("writing the result: %w", help.err)
	} else if err != nil && !console.started {
		_ = console.open() // as far as the flags were read
		err = &UsageError{Err: err, Command: cmd}
	}
	return console.finish(ctx, p, err)
}

// A helpWriter takes help, and keeps the first error, which cobra drops or takes for one of usage.
type helpWriter struct {
	w   io.Writer
	err error
}

func (h *helpWriter) Write(p []byte) (n int, err error) {
	n, err = h.w.Write(p)
	h.err = cmp.Or(h.err, err)
	return n, err
}

// Tree returns the command tree of a program for its manual. Its commands do not run.
func Tree(p Program) *cobra.Command {
	_, root := tree(p, nil, term.Streams{})
	return root
}

// tree makes the command tree of a program.
func tree(p Program, args []string, streams term.Streams) (*Console, *cobra.Command) {
	c := &Console{Streams: streams, Name: p.Name, Args: args, logLevel: cmp.Or(p.LogLevel, "warn")}
	root := &cobra.Command{
		Use: p.Name, Args: rejectUnknown, RunE: printHelp, Version: Version(),
		SilenceErrors: true, SilenceUsage: true, SuggestionsMinimumDistance: 2,
	}
	root.SetArgs(args)
	root.SetErr(c.Err)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok && flagValues[invalid.GetFlag().Value.Type()] != "" {
			flag := invalid.GetFlag()
			return fmt.Errorf("invalid argument %q for \"--%s\" flag: want %s", invalid.GetValue(), flag.Name, flagValues[flag.Value.Type()])
		}
		return err
	})
	flags := root.PersistentFlags()
	flags.BoolVarP(&c.quiet, "quiet", "q", false, "show no progress and no hints on success")
	flags.StringVar(&c.logLevel, "log-level", c.logLevel, "minimum log `LEVEL`: "+strings.Join(logLevels, ", "))
	flags.StringVar(&c.logFormat, "log-format", "text", "write logs as `FORMAT`: text or json (all of stderr, one object per line)")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := cmd.ValidateRequiredFlags(); err != nil {
			return err
		}
		return c.open()
	}
	root.AddCommand(p.Commands(c)...)
	root.AddCommand(newVersionCmd(c), newCompletionCmd(c), &cobra.Command{Use: "exit-codes"})
	describe(root, p.Help+"\n"+strings.ReplaceAll(help, "{program}", p.Name))
	usage := root.UsageFunc()
	root.SetUsageFunc(func(cmd *cobra.Command) error { // its flags fit a terminal
		var wide strings.Builder
		out := cmd.OutOrStderr()
		cmd.SetOut(&wide)
		_ = usage(cmd) // a builder does not fail
		cmd.SetOut(out)
		var fit []string
		for _, flags := range []*pflag.FlagSet{cmd.LocalFlags(), cmd.InheritedFlags()} {
			fit = append(fit, strings.TrimSpace(flags.FlagUsages()), strings.TrimSpace(flags.FlagUsagesWrapped(term.Width)))
		}
		_, err := strings.NewReplacer(fit...).WriteString(out, wide.String())
		return err
	})
	root.InitDefaultHelpCmd()
	topics, _, _ := root.Find([]string{"help"})
	topics.Args = func(_ *cobra.Command, args []string) error {
		cmd, rest, _ := root.Find(args)
		return rejectUnknown(cmd, rest)
	}
	return c, root
}

// flagValues says what flags of a type take, where pflag's error is that of a function of Go.
var flagValues = map[string]string{
	"bool": "true or false", "int": "a whole number", "float64": "a number", "duration": "a duration, such as 90s or 2h",
}

// rejectUnknown suggests what a misspelt command may have meant.
func rejectUnknown(cmd *cobra.Command, args []string) error {
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

func printHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// NoArgs rejects arguments, which [cobra.NoArgs] takes for unknown commands.
func NoArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q", args[0])
	}
	return nil
}

// Command returns a command; [Program.Help] has its help.
func Command(use string, args cobra.PositionalArgs, run func(ctx context.Context, args []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Args: args, RunE: func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), args) }}
}

// Group returns a command that groups others, and alone prints its help.
func Group(use string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Args: rejectUnknown, RunE: printHelp, SuggestionsMinimumDistance: 2}
	cmd.AddCommand(commands...)
	return cmd
}

// describe gives the commands of a tree their help. The text has a section for each, below "# " and
// its path: a line for the list of commands, the description, and examples below "Examples:".
// Others keep what they have.
func describe(cmd *cobra.Command, help string) {
	if _, section, ok := strings.Cut("\n"+help, "\n# "+cmd.CommandPath()+"\n"); ok {
		section, _, _ = strings.Cut(section, "\n\n# ")
		section, cmd.Example, _ = strings.Cut(strings.TrimSpace(section), "\n\nExamples:\n")
		cmd.Short, cmd.Long, _ = strings.Cut(section, "\n\n")
	}
	for _, child := range cmd.Commands() {
		describe(child, help)
	}
}

// Set when the program is linked (-X …/internal/cli.version=v1.2.3).
var version, commit string

// help is what the commands of every program say about themselves.
//
//go:embed help.txt
var help string

// A build is where a program comes from. Its JSON keys are part of the contract of the version
// command.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"` // absent when built outside a checkout
	Go       string `json:"go"`
	Platform string `json:"platform"` // GOOS/GOARCH
}

// thisBuild has what was set at link time, else what the go command recorded.
func thisBuild() build {
	b := build{Version: version, Commit: commit, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		b.Version = cmp.Or(b.Version, info.Main.Version)
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				b.Commit = cmp.Or(b.Commit, setting.Value)
			}
		}
	}
	b.Version = cmp.Or(b.Version, "unknown")
	return b
}

// Version returns the version with the compiler and the platform.
func Version() string {
	b := thisBuild()
	return fmt.Sprintf("%s (%s %s)", b.Version, b.Go, b.Platform)
}

func newVersionCmd(c *Console) *cobra.Command {
	var asJSON bool
	cmd := Command("version [flags]", cobra.NoArgs, func(context.Context, []string) error {
		if asJSON {
			return c.JSON(thisBuild())
		}
		_, err := fmt.Fprintf(c.Out, "%s version %s\n", c.Name, Version())
		return err
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the version as one JSON object")
	return cmd
}

func newCompletionCmd(c *Console) *cobra.Command {
	return &cobra.Command{
		Use:                   "completion {bash | zsh | fish | powershell}",
		Args:                  cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs:             []string{"bash", "zsh", "fish", "powershell"},
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(c.Out, true)
			case "zsh":
				return root.GenZshCompletion(c.Out)
			case "fish":
				return root.GenFishCompletion(c.Out, true)
			default:
				return root.GenPowerShellCompletionWithDesc(c.Out)
			}
		},
	}
}
