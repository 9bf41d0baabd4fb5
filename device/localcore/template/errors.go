package template

import (
	"fmt"
	"strings"

	"example.com/fleety/device/localcore/jsontree"
)

// An Error is a rejection of RegisterThing, in the form in which the device gets it.
type Error struct {
	StatusCode int
	Code       string // AWS's spelling, such as InvalidParameters
	Message    string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s (%d): %s", e.Code, e.StatusCode, e.Message)
}

// A SyntaxError is one fault of a template's text, with line, column and path.
type SyntaxError = jsontree.Error

// SyntaxErrors are all faults of a template's text, in its order. There is at
// least one.
type SyntaxErrors []*SyntaxError

func (e SyntaxErrors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the faults one by one.
func (e SyntaxErrors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}
