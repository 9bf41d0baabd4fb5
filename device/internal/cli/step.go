package cli

import (
	"context"
	"log/slog"
	"time"

	"example.com/fleety/device/internal/term"
)

// A Step is one step of a command's work, for showing its progress.
type Step struct {
	Name       string // the same in every run
	Text       string // Name with what it is done to
	Elapsed    time.Duration
	RoundTrips int
	Err        error
	Wait       bool // it waits before another attempt
}

// StepBegins shows that a step begins, also to the service manager.
func (c *Console) StepBegins(s Step) {
	c.Status(s.Text)
	switch {
	case c.records != nil:
	case s.Wait:
		c.steps.Wait(s.Text)
	default:
		c.steps.Begin(s.Text)
	}
}

// StepDone shows that a step is done, and what it cost.
func (c *Console) StepDone(s Step) {
	if c.records == nil {
		c.steps.Done(s.Text, term.Cost(s.Elapsed, s.RoundTrips))
		return
	}
	c.record(slog.LevelInfo, "step done", s)
}

// StepFailed shows that a step has failed, and why, also to the service
// manager.
func (c *Console) StepFailed(s Step) {
	c.Status(s.Text + ": " + s.Err.Error())
	if c.records == nil {
		c.steps.Failed(s.Text, s.Err)
		return
	}
	c.record(slog.LevelWarn, "step failed", s)
}

func (c *Console) record(level slog.Level, message string, s Step) {
	if c.quiet {
		return
	}
	attrs := []any{"step", s.Name, "text", s.Text, "elapsedMs", s.Elapsed.Milliseconds(), "roundTrips", s.RoundTrips}
	if s.Err != nil {
		attrs = append(attrs, "error", s.Err.Error())
	}
	c.records.Log(context.Background(), level, message, attrs...)
}
