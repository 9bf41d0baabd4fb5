package assembly

import (
	"errors"
	"fmt"
)

// A place is where a value stands: the path of the stack's template, the logical
// id of the resource or the name of the condition, and the way from there, as in
// Properties.Code.S3Key.
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

// A placeError is what is wrong at a place.
type placeError struct {
	place place
	err   error
}

func (e *placeError) Error() string {
	where := e.place.id
	if e.place.path != "" {
		where += "." + e.place.path
	}
	return fmt.Sprintf("%s: %s: %v", e.place.file, where, e.err)
}

func (e *placeError) Unwrap() error { return e.err }

// fail returns an error with this place.
func (p place) fail(format string, args ...any) error {
	return p.wrap(fmt.Errorf(format, args...))
}

// wrap adds the place to an error that has none.
func (p place) wrap(err error) error {
	if _, ok := errors.AsType[*placeError](err); ok {
		return err
	}
	return &placeError{p, err}
}
