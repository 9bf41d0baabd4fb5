package awsiot

import (
	"context"
	"errors"
)

// A Class says what an error means for another attempt. Programs map it to their exit codes.
type Class int

// The classes. The zero value stands for every error without a class of its own.
const (
	Failed        Class = iota // a defect, or the local machine: disk, permission
	Misconfigured              // usage or configuration; it must change before another attempt
	Denied                     // AWS IoT denied the request; retrying soon does not help
	Temporary                  // network, name resolution, clock, throttling, time-out; retrying may help
	Interrupted                // the caller canceled the context
)

// String returns the class in one lower-case word.
func (c Class) String() string {
	return [...]string{"failed", "misconfigured", "denied", "temporary", "interrupted"}[c]
}

// WithClass returns an error like err, which it wraps, of a class of its own.
func WithClass(c Class, err error) error { return &classed{err, c} }

type classed struct {
	error
	class Class
}

func (e *classed) Unwrap() error { return e.error }
func (e *classed) Class() Class  { return e.class }

// ClassOf returns the class of an error: Interrupted where a context was canceled, else that of the
// outermost error in the chain that has a method Class() Class, else Temporary where a deadline
// passed, else Failed.
func ClassOf(err error) Class {
	if errors.Is(err, context.Canceled) {
		return Interrupted
	}
	var e interface {
		error
		Class() Class
	}
	switch {
	case errors.As(err, &e):
		return e.Class()
	case errors.Is(err, context.DeadlineExceeded):
		return Temporary
	}
	return Failed
}
