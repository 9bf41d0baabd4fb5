package term

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Steps shows the progress of a run in steps, one line for each. On a terminal
// the line is rewritten in place when the step ends; elsewhere it is written
// once, when the step begins, and once more only if it fails. A nil *Steps
// shows nothing. It is safe for concurrent use.
type Steps struct {
	inPlace bool
	color   bool

	mu   sync.Mutex
	w    io.Writer // under mu
	open bool      // the line of the current step is unfinished; under mu
}

// NewSteps returns progress on the streams' Err.
func NewSteps(s Streams) *Steps {
	return &Steps{w: s.Err, inPlace: s.Terminal, color: s.Color}
}

// Begin shows that a step begins.
func (s *Steps) Begin(step string) {
	if s == nil {
		return
	}
	if !s.inPlace {
		s.write("  "+Clean(step)+"\n", false)
		return
	}
	s.write(noWrap+s.paint(dim, "·")+" "+Clean(step)+wrap, true)
}

// Done shows that a step is done, and what it cost.
func (s *Steps) Done(step, cost string) {
	if s == nil || !s.inPlace {
		return
	}
	if cost != "" {
		cost = "  " + s.paint(dim, cost)
	}
	s.rewrite(s.paint(green, "✓") + " " + Clean(step) + cost)
}

// Failed shows that a step has failed, and why.
func (s *Steps) Failed(step string, why error) {
	if s != nil {
		s.rewrite(s.paint(red, "✗") + " " + Clean(step) + ": " + Clean(why.Error()))
	}
}

// Writer returns a writer of whole lines to the same place: an unfinished line is
// ended first.
func (s *Steps) Writer() io.Writer { return lines{s} }

type lines struct{ steps *Steps }

func (l lines) Write(p []byte) (int, error) {
	l.steps.write(string(p), false)
	return len(p), nil
}

// write ends an unfinished line, then writes text, which may leave another.
func (s *Steps) write(text string, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		text = "\n" + text
	}
	io.WriteString(s.w, text)
	s.open = open
}

// rewrite writes a line over the unfinished one, if there is one.
func (s *Steps) rewrite(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		line = eraseLine + line
	}
	io.WriteString(s.w, line+"\n")
	s.open = false
}

// Of an unfinished line, only as much is shown as fits into the terminal's: a
// second one would not be erased with it.
const (
	noWrap    = "\x1b[?7l"
	wrap      = "\x1b[?7h"
	eraseLine = "\r\x1b[K"
)

// Colors of the eight that every terminal has.
const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	dim   = "\x1b[2m"
	reset = "\x1b[0m"
)

func (s *Steps) paint(color, text string) string {
	if !s.color {
		return text
	}
	return color + text + reset
}

// Cost formats what a step took: "45 ms, 2 round trips".
func Cost(elapsed time.Duration, roundTrips int) string {
	precision := time.Millisecond
	if elapsed < precision {
		precision = 10 * time.Microsecond
	}
	cost := elapsed.Round(precision).String()
	switch {
	case roundTrips == 1:
		cost += ", 1 round trip"
	case roundTrips > 1:
		cost += fmt.Sprintf(", %d round trips", roundTrips)
	}
	return cost
}
