package term

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Steps shows the progress of a run in steps, one line for each. On a terminal the line is
// rewritten in place when the step ends; elsewhere it is written once, when the step begins, and
// once more only if it fails. A nil *Steps shows nothing. It is safe for concurrent use.
type Steps struct {
	inPlace bool
	color   bool

	mu      sync.Mutex // guards the rest
	w       io.Writer
	open    bool   // the line of the current step is unfinished
	waiting bool   // it is that of a wait, which leaves nothing
	failure string // the line above, if it is that of a failure
	times   int    // how often, one after the other
}

// NewSteps returns progress on the streams' Err.
func NewSteps(s Streams) *Steps {
	return &Steps{w: s.Err, inPlace: s.Terminal, color: s.Color}
}

// Begin shows that a step begins or, where it waits, that the steps wait before they try again; on
// a terminal nothing is left of that.
func (s *Steps) Begin(step string, waiting bool) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.inPlace {
		io.WriteString(s.w, "  "+Clean(step)+"\n")
		return
	}
	s.end()
	io.WriteString(s.w, noWrap+s.paint(Dim, "·")+" "+Clean(step)+wrap)
	s.open, s.waiting = true, waiting
}

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
		cost = "  " + s.paint(Dim, cost)
	}
	s.rewrite(s.paint(Green, "✓") + " " + Clean(step) + cost)
	s.failure = ""
}

// Failed shows that a step has failed, and why. On a terminal the same failure of several attempts,
// one after the other, is one line.
func (s *Steps) Failed(step string, why error) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	failure, cross := Clean(step)+": "+Clean(why.Error()), s.paint(Red, "✗")+" "
	switch {
	case !s.inPlace:
		io.WriteString(s.w, cross+failure+"\n")
	case failure != s.failure:
		s.rewrite(noWrap + cross + failure + wrap)
		s.failure, s.times = failure, 1
	default:
		s.times++
		s.rewrite(lineUp + eraseLine + noWrap + cross + fmt.Sprintf("%d times, last: %s", s.times, failure) + wrap)
	}
}

// Write writes whole lines to the same place: an unfinished one is ended first.
func (s *Steps) Write(lines []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
	s.failure = ""
	return s.w.Write(lines)
}

// rewrite writes a line over the unfinished one, if there is one.
func (s *Steps) rewrite(line string) {
	if s.open {
		line = eraseLine + line
	}
	io.WriteString(s.w, line+"\n")
	s.open = false
}

// Of an unfinished line, only as much is shown as fits into the terminal's: a second one would not
// be erased with it.
const (
	noWrap    = "\x1b[?7l"
	wrap      = "\x1b[?7h"
	eraseLine = "\r\x1b[K"
	lineUp    = "\x1b[1A"
)

// Colors of the eight that every terminal has.
const (
	Red   = "\x1b[31m"
	Green = "\x1b[32m"
	Dim   = "\x1b[2m"
	Reset = "\x1b[0m"
)

func (s *Steps) paint(color, text string) string {
	if s.color {
		return color + text + Reset
	}
	return text
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
