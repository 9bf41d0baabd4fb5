package lambdahost

import (
	"fmt"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
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
	return "the function failed: " + awsiot.Printable(text+e.Message)
}

// exitError is [ErrExited] with how the process ended, "signal: killed" for
// instance, and the most informative one of the last lines of its standard error: the
// first of a Go panic, which its stack trace follows, else the last line.
func exitError(status string, stderr []string) error {
	for _, line := range slices.Backward(stderr) {
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			stderr = []string{line}
			break
		}
	}
	if len(stderr) == 0 {
		return fmt.Errorf("%w: %s", ErrExited, status)
	}
	return fmt.Errorf("%w: %s; standard error: %s", ErrExited, status, awsiot.Printable(stderr[len(stderr)-1]))
}

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
