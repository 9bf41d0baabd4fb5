package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"syscall"

	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// stageOf returns the stage at which a connection failed.
func stageOf(err error, otherwise Stage) Stage {
	if e, ok := errors.AsType[*session.Error](err); ok {
		switch e.Stage {
		case session.StageResolve, session.StageDial, session.StageProxy:
			return StageDial
		case session.StageTLS:
			return StageTLS
		}
	}
	return otherwise
}

// cause returns why something failed, in a text that is the same for every
// device, so that failures can be counted.
func cause(err error, serial string) string {
	if e, ok := errors.AsType[*provision.TimeoutError](err); ok {
		return e.Error()
	}
	if errors.Is(err, session.ErrClosedSilently) {
		if e, ok := errors.AsType[*session.Error](err); ok && e.After != "" {
			return "connection closed without a response to " + e.After
		}
		return "connection closed without a response"
	}
	if alert, ok := errors.AsType[tls.AlertError](err); ok {
		return "server sent a TLS alert: " + alert.Error()
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, context.DeadlineExceeded):
		return "timed out"
	}
	return strings.ReplaceAll(root(err).Error(), serial, "SERIAL")
}

// root follows the chain of causes to its end. Of several it takes the last,
// since what wraps an error says what that was.
func root(err error) error {
	for {
		var next error
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			next = e.Unwrap()
		case interface{ Unwrap() []error }:
			if errs := e.Unwrap(); len(errs) > 0 {
				next = errs[len(errs)-1]
			}
		}
		if next == nil {
			return err
		}
		err = next
	}
}
