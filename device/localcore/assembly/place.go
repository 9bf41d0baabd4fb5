package assembly

import (
	"errors"
	"fmt"
)

// An Error says what in a stack cannot be resolved or used, and where.
type Error struct {
	// File is the path of the stack's template.
	File string
	// LogicalID is that of the resource, or the name of the condition.
	LogicalID string
	// Path leads there from the resource, as in Properties.Code.S3Key.
	Path string
	// Err is what is wrong.
	Err error
}

func (e *Error) Error() string {
	where := e.LogicalID
	if e.Path != "" {
		where += "." + e.Path
	}
	return fmt.Sprintf("%s: %s: %v", e.File, where, e.Err)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// A place is where a value stands in a template.
type place struct{ file, id, path string }

func (p place) field(name string) place {
	if p.path != "" {
		name = p.path + "." + name
	}
	return place{p.file, p.id, name}
}

func (p place) index(i int) place {
	return place{p.file, p.id, fmt.Sprintf("%s[%d]", p.path, i)}
}

// fail returns an *Error with this place.
func (p place) fail(format string, args ...any) error {
	return p.wrap(fmt.Errorf(format, args...))
}

// wrap adds the place to an error that has none.
func (p place) wrap(err error) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return &Error{p.file, p.id, p.path, err}
}
