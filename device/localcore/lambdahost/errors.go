package lambdahost

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// A FunctionError is a failure that the function itself reported: an error
// that its handler returned, a panic, or a failed initialisation.
type FunctionError struct {
	// Type is the error's type as the function named it, such as errorString.
	Type    string
	Message string
}

func (e *FunctionError) Error() string {
	text := e.Type
	if e.Type != "" && e.Message != "" {
		text += ": "
	}
	return "the function failed: " + oneLine(text+e.Message)
}

// An ExitError reports that the function's process ended when it should have
// worked. It is [ErrExited].
type ExitError struct {
	// Status is how it ended: "exit status 1", "signal: killed".
	Status string
	// Stderr holds the last lines that it wrote to its standard error.
	Stderr []string
}

func (e *ExitError) Error() string {
	s := ErrExited.Error() + ": " + e.Status
	if summary := e.stderrSummary(); summary != "" {
		s += "; standard error: " + oneLine(summary)
	}
	return s
}

// oneLine quotes a function's text that would break or disguise the line it
// stands in.
func oneLine(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// stderrSummary returns the most telling line: the first of a Go panic, which
// its stack trace follows, else the last line.
func (e *ExitError) stderrSummary() string {
	for _, line := range slices.Backward(e.Stderr) {
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			return line
		}
	}
	if len(e.Stderr) == 0 {
		return ""
	}
	return e.Stderr[len(e.Stderr)-1]
}

// Unwrap returns [ErrExited].
func (e *ExitError) Unwrap() error { return ErrExited }

// A BinaryError reports why a file cannot run as a function on this machine.
type BinaryError struct {
	Path    string
	Problem string // what is wrong with it
	Remedy  string // what to do; may be empty
}

func (e *BinaryError) Error() string {
	s := e.Path + " " + e.Problem
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}
