package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
)

// A Problem is one thing that is wrong with the configuration.
type Problem struct {
	Origin Origin
	Key    string // "server.endpoint"; empty when no single key is at fault
	What   string // what is wrong, and why
	Remedy string // what to do about it
	// Machine is set where this machine keeps a file from being read (permission, I/O error), and
	// the configuration may be right.
	Machine bool
}

// Error returns the problem in one line: where, what, and what to do.
func (p Problem) Error() string {
	text := strings.TrimPrefix(p.Origin.String()+": "+p.What, ": ")
	return strings.TrimSuffix(text+"; "+p.Remedy, "; ")
}

// String returns FILE:LINE:COLUMN, or as much of it as is known.
func (o Origin) String() string {
	if o.Line == 0 {
		return o.Source
	}
	return fmt.Sprintf("%s:%d:%d", o.Source, o.Line, o.Column)
}

// Problems are all problems of a configuration, in the order of the file.
type Problems []Problem

// Error returns one line for each problem.
func (p Problems) Error() string { return errors.Join(p.Unwrap()...).Error() }

// Class is Misconfigured, or Failed where all problems are those of the machine.
func (p Problems) Class() awsiot.Class {
	if slices.ContainsFunc(p, func(p Problem) bool { return !p.Machine }) {
		return awsiot.Misconfigured
	}
	return awsiot.Failed
}

// Unwrap returns the problems one by one, each of type [Problem].
func (p Problems) Unwrap() []error {
	errs := make([]error, len(p))
	for i, problem := range p {
		errs[i] = problem
	}
	return errs
}

// Join returns the problems of several checks as one error: nil when there are none, and the errors
// as they are when one is not of type [Problems].
func Join(errs ...error) error {
	var all Problems
	for _, err := range errs {
		problems, ok := errors.AsType[Problems](err)
		if err != nil && !ok {
			return errors.Join(errs...)
		}
		all = append(all, problems...)
	}
	return all.err()
}

// err makes sure that no problems are a nil error.
func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

func (p Problems) about(key string) bool {
	return slices.ContainsFunc(p, func(p Problem) bool { return p.Key == key })
}
