package term

import (
	"fmt"
	"io"
	"strings"
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

	mu      sync.Mutex // guards the rest
	w       io.Writer
	open    bool   // the line of the current step is unfinished
	waiting bool   // it is that of Wait, which leaves nothing
	failure string // the line above, if it is that of a failure
	times   int    // how often, one after the other
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
	s.begin(step, false)
}

// Wait shows that the steps wait before they try again. On a terminal nothing is
// left of it.
func (s *Steps) Wait(what string) {
	if s != nil {
		s.begin(what, true)
	}
}

func (s *Steps) begin(step string, waiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.inPlace {
		io.WriteString(s.w, "  "+Clean(step)+"\n")
		return
	}
	s.end()
	io.WriteString(s.w, noWrap+s.paint(dim, "·")+" "+Clean(step)+wrap)
	s.open, s.waiting = true, waiting
}

// end ends an unfinished line.
func (s *Steps) end() {
	switch {
	case s.open && s.waiting:
		io.WriteString(s.w, eraseLine)
	case s.open:
		io.WriteString(s.w, "\n")
		s.failure = ""
	}
	s.open = false
}

// Done shows that a step is done, and what it cost.
func (s *Steps) Done(step, cost string) {
	if s == nil || !s.inPlace {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open && s.waiting {
		return
	}
	if cost != "" {
		cost = "  " + s.paint(dim, cost)
	}
	s.rewrite(s.paint(green, "✓") + " " + Clean(step) + cost)
	s.failure = ""
}

// Failed shows that a step has failed, and why. On a terminal the same failure of
// several attempts, one after the other, is one line.
func (s *Steps) Failed(step string, why error) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	line := s.paint(red, "✗") + " " + Clean(step) + ": " + Clean(why.Error())
	if !s.inPlace {
		io.WriteString(s.w, line+"\n")
		return
	}
	if line != s.failure {
		s.rewrite(noWrap + line + wrap)
		s.failure, s.times = line, 1
		return
	}
	s.times++
	s.rewrite(lineUp + eraseLine + noWrap + fmt.Sprintf("%s %d times, last: %s", s.paint(red, "✗"), s.times, strings.TrimPrefix(line, s.paint(red, "✗")+" ")) + wrap)
}

// Writer returns a writer of whole lines to the same place: an unfinished line is
// ended first.
func (s *Steps) Writer() io.Writer { return lines{s} }

type lines struct{ steps *Steps }

func (l lines) Write(p []byte) (int, error) {
	l.steps.mu.Lock()
	defer l.steps.mu.Unlock()
	l.steps.end()
	l.steps.failure = ""
	return l.steps.w.Write(p)
}

// rewrite writes a line over the unfinished one, if there is one.
func (s *Steps) rewrite(line string) {
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
	lineUp    = "\x1b[1A"
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
