package term

import (
	"fmt"
	"io"
	"time"
)

// Steps shows the progress of a run in steps, one line for each. On a terminal
// the line is rewritten in place when the step ends; elsewhere it is written
// once, when the step begins, and once more only if it fails. A nil *Steps
// shows nothing. It is not safe for concurrent use.
type Steps struct {
	w       io.Writer
	inPlace bool
	color   bool
	open    bool // the line of the current step is unfinished
}

// NewSteps returns progress on the streams' Err. inPlace allows the rewriting
// of lines; it should be false while logs go to the same place.
func NewSteps(s Streams, inPlace bool) *Steps {
	return &Steps{w: s.Err, inPlace: s.Terminal && inPlace, color: s.Color}
}

// Begin shows a step that begins.
func (s *Steps) Begin(step string) {
	if s == nil {
		return
	}
	if !s.inPlace {
		fmt.Fprintf(s.w, "  %s\n", Clean(step))
		return
	}
	s.Break()
	fmt.Fprintf(s.w, "%s %s", s.paint(dim, "·"), Clean(step))
	s.open = true
}

// Done shows that a step is done, in the same words and what it cost.
func (s *Steps) Done(step, cost string) {
	if s == nil || !s.inPlace {
		return
	}
	if cost != "" {
		cost = "  " + s.paint(dim, cost)
	}
	s.rewrite(fmt.Sprintf("%s %s%s", s.paint(green, "✓"), Clean(step), cost))
}

// Failed shows that a step has failed, and why.
func (s *Steps) Failed(step string, why error) {
	if s == nil {
		return
	}
	line := fmt.Sprintf("%s %s: %s", s.paint(red, "✗"), Clean(step), Clean(why.Error()))
	if !s.inPlace {
		fmt.Fprintln(s.w, line)
		return
	}
	s.rewrite(line)
}

// Break ends an unfinished line, so that something else can be written.
func (s *Steps) Break() {
	if s != nil && s.open {
		fmt.Fprintln(s.w)
		s.open = false
	}
}

func (s *Steps) rewrite(line string) {
	const eraseLine = "\r\x1b[K"
	fmt.Fprintf(s.w, "%s%s\n", eraseLine, line)
	s.open = false
}

// Colours of the eight that every terminal has.
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

// Cost says what a step took: "45 ms, 2 round trips".
func Cost(elapsed time.Duration, roundTrips int) string {
	cost := elapsed.Round(time.Millisecond).String()
	switch {
	case roundTrips == 1:
		cost += ", 1 round trip"
	case roundTrips > 1:
		cost += fmt.Sprintf(", %d round trips", roundTrips)
	}
	return cost
}
