package lambdahost

import (
	"fmt"
	"slices"
	"strings"
)

// A FunctionError is a failure that the function itself reported: an error
// that its handler returned, a panic, or a failed initialisation.
type FunctionError struct {
	// Type is the error's type as the function named it, such as errorString.
	Type    string
	Message string
}

func (e *FunctionError) Error() string {
	switch {
	case e.Type == "":
		return "the function failed: " + e.Message
	case e.Message == "":
		return "the function failed: " + e.Type
	}
	return fmt.Sprintf("the function failed: %s: %s", e.Type, e.Message)
}

// An ExitError says that the function's process ended when it should have
// worked. It is [ErrExited].
type ExitError struct {
	// Status is how it ended: "exit status 1", "signal: killed".
	Status string
	// Stderr holds the last lines that it wrote to its standard error.
	Stderr []string
}

func (e *ExitError) Error() string {
	s := ErrExited.Error() + ": " + e.Status
	if words := e.lastWords(); words != "" {
		s += "; its last words: " + words
	}
	return s
}

// lastWords returns what best tells why: the first line of a Go panic, which
// its stack trace follows, else the last line.
func (e *ExitError) lastWords() string {
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

// A BinaryError says why a file cannot run as a function on this machine.
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
