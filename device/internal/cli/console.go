package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"example.com/fleety/device/internal/term"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
)

// A Console is a command's standard streams: the result on Out, and on Err everything else, as much
// and in the format that the flags say.
type Console struct {
	term.Streams

	Name string   // the program's
	Args []string // of the command line

	quiet     bool
	logLevel  string
	logFormat string
	started   bool // a command's own work has begun: errors before that are of the command line

	Log     *slog.Logger // receives logs; it is set when a command begins to run
	steps   *term.Steps  // shows progress as text; nil when quiet or when logs are JSON
	records *slog.Logger // takes progress, warnings and errors when logs are JSON
}

var logLevels = []string{"debug", "info", "warn", "error"}

// open reads the flags that say what goes to Err.
func (c *Console) open() error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.logLevel)); err != nil || !slices.Contains(logLevels, strings.ToLower(c.logLevel)) {
		return fmt.Errorf("invalid argument %q for \"--log-level\" flag: want one of %s", c.logLevel, strings.Join(logLevels, ", "))
	}
	options := &slog.HandlerOptions{Level: level}
	switch c.logFormat {
	case "text":
		if !c.quiet {
			c.steps = term.NewSteps(c.Streams)
			c.Err = c.steps // never within the line of a step
		}
		c.Log = slog.New(slog.NewTextHandler(c.Err, options))
	case "json":
		c.Log = slog.New(slog.NewJSONHandler(term.JSON(c.Err), options))
		c.records = slog.New(slog.NewJSONHandler(term.JSON(c.Err), nil))
	default:
		return fmt.Errorf("invalid argument %q for \"--log-format\" flag: want text or json", c.logFormat)
	}
	c.started = true
	return nil
}

// Input returns In until ctx ends: a read of a terminal cannot be interrupted, the command can. Where
// somebody types the input, it says so.
func (c *Console) Input(ctx context.Context) io.Reader {
	if term.IsTerminal(c.In) {
		c.Note("reading standard input; Ctrl-D ends it")
	}
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	go func() {
		_, err := io.Copy(w, c.In)
		w.CloseWithError(err)
	}()
	return r
}

// Warn shows warnings: what works but needs attention.
func (c *Console) Warn(warnings ...string) {
	for _, text := range warnings {
		c.line(slog.LevelWarn, "warning", text)
	}
}

// Note shows what to do next after a success.
func (c *Console) Note(text string) {
	if c.quiet {
		return
	}
	if c.records != nil {
		c.records.Info(text)
		return
	}
	fmt.Fprintln(c.Err, term.Clean(text))
}

// Live reports whether a command may show progress of its own that it rewrites in place on Err.
func (c *Console) Live() bool { return c.Terminal && !c.quiet && c.records == nil }

// line writes one finding to Err: an error, a warning or a hint.
func (c *Console) line(level slog.Level, label, text string) {
	if c.records != nil {
		c.records.Log(context.Background(), level, text, "kind", label)
		return
	}
	fmt.Fprintf(c.Err, "%s: %s: %s\n", c.Name, label, term.Clean(text))
}

// JSON writes v to Out as one object.
func (c *Console) JSON(v any) error {
	e := json.NewEncoder(term.JSON(c.Out))
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// finish reports how the program ended and returns its exit code. No other place prints errors.
func (c *Console) finish(ctx context.Context, p Program, err error) int {
	switch {
	case err == nil:
		return ExitDone
	case errors.Is(err, Reported(ExitInterrupted)):
		return ExitInterrupted
	case ctx.Err() != nil:
		c.line(slog.LevelError, "error", "interrupted")
		if p.Interrupted != "" {
			c.line(slog.LevelInfo, "hint", p.Interrupted)
		}
		return ExitInterrupted
	}
	if code, ok := errors.AsType[Reported](err); ok {
		return int(code)
	}
	if usage, ok := errors.AsType[*UsageError](err); ok {
		c.line(slog.LevelError, "error", usage.Error())
		if usage.Command != nil {
			c.line(slog.LevelInfo, "usage", usage.Command.UseLine())
			c.line(slog.LevelInfo, "hint", fmt.Sprintf("for details, run: %s --help", usage.Command.CommandPath()))
		}
		return ExitUsage
	}
	explanation := p.Explain(err)
	for _, finding := range findings(err) {
		c.line(slog.LevelError, "error", finding)
	}
	if explanation.Hint != "" {
		c.line(slog.LevelInfo, "hint", explanation.Hint)
	}
	return explanation.Code
}

// findings returns the lines of an error: those of a list of errors, however deep it is wrapped,
// are several. A line break in the text of one error is no reason for a second line: the text may
// come from a server.
func findings(err error) []string {
	text := err.Error()
	switch err := err.(type) {
	case interface{ Unwrap() []error }:
		parts := err.Unwrap()
		if errors.Join(parts...).Error() != text {
			break // a sentence about several causes
		}
		var lines []string
		for _, part := range parts {
			lines = append(lines, findings(part)...)
		}
		return lines
	case interface{ Unwrap() error }:
		inner := err.Unwrap()
		if inner == nil {
			break
		}
		if prefix, ok := strings.CutSuffix(text, inner.Error()); ok {
			lines := findings(inner)
			lines[0] = prefix + lines[0]
			return lines
		}
	}
	return []string{text}
}

// Reported is the exit code of a command whose result reports the failure already.
type Reported int

// Error names the code.
func (r Reported) Error() string { return fmt.Sprintf("exit code %d", int(r)) }

// A UsageError is an error in the command line.
type UsageError struct {
	Err     error
	Command *cobra.Command
}

// Error implements error.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// Notify sends lines to the service manager, if there is one: [daemon.SdNotifyReady] and the like,
// and "STATUS=" with a short text.
//
// Page: https://www.freedesktop.org/software/systemd/man/sd_notify.html
func (c *Console) Notify(lines ...string) {
	for i, line := range lines {
		lines[i] = term.Clean(line)
	}
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		c.Log.Debug("notifying the service manager failed", "error", err)
	}
}

// A Step is one step of a command's work, for showing its progress.
type Step struct {
	Name       string // the same in every run
	Text       string // Name with what it is done to
	Elapsed    time.Duration
	RoundTrips int
	Err        error
	Wait       bool // it waits before another attempt
	Ended      bool // else it begins
}

// ShowStep shows that a step begins, that it is done, and what it cost, or that it has failed, and
// why. To the service manager it does not show that a step is done.
func (c *Console) ShowStep(s Step) {
	switch {
	case !s.Ended:
		c.Notify("STATUS=" + s.Text)
		if c.records == nil {
			c.steps.Begin(s.Text, s.Wait)
		}
		return
	case s.Err != nil:
		c.Notify("STATUS=" + s.Text + ": " + s.Err.Error())
	}
	attrs := []any{"step", s.Name, "text", s.Text, "elapsedMs", s.Elapsed.Milliseconds(), "roundTrips", s.RoundTrips}
	switch {
	case c.records == nil && s.Err != nil:
		c.steps.Failed(s.Text, s.Err)
	case c.records == nil:
		c.steps.Done(s.Text, term.Cost(s.Elapsed, s.RoundTrips))
	case c.quiet:
	case s.Err != nil:
		c.records.Warn("step failed", append(attrs, "error", s.Err.Error())...)
	default:
		c.records.Info("step done", attrs...)
	}
}

// Step shows a step around its work, and returns the work's error.
func (c *Console) Step(name, text string, work func() error) error {
	s := Step{Name: name, Text: text}
	c.ShowStep(s)
	began := time.Now()
	s.Err = work()
	s.Elapsed, s.Ended = time.Since(began), true
	c.ShowStep(s)
	return s.Err
}

// A Row is a label and its value, or a cell for each column.
type Row []string

// A Table is a result for a person: one line per row, cells aligned.
type Table []Row

// Table writes t to Out, without the rows that have no value.
func (c *Console) Table(t Table) error {
	t = slices.DeleteFunc(slices.Clone(t), func(r Row) bool { return len(r) > 1 && r[len(r)-1] == "" })
	columns := tabwriter.NewWriter(c.Out, 0, 0, 2, ' ', 0)
	for _, r := range t {
		cells := make([]string, len(r))
		for i, cell := range r {
			cells[i] = term.Clean(cell)
		}
		fmt.Fprintln(columns, strings.Join(cells, "\t"))
	}
	if err := columns.Flush(); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}
