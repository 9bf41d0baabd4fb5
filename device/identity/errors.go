package identity

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"example.com/fleety/device/awsiot"
)

// A LockedError reports that another run is using the store.
type LockedError struct {
	PID  int // of the process that has the lock, 0 if unknown
	Path string
}

func (e *LockedError) Error() string {
	var process string
	if e.PID != 0 {
		process = fmt.Sprintf(", process %d,", e.PID)
	}
	return fmt.Sprintf("another run%s is provisioning this device (lock %s)", process, e.Path)
}

// Class returns [awsiot.Temporary]: the other run will end.
func (*LockedError) Class() awsiot.Class { return awsiot.Temporary }

// The kinds of [FileError].
var (
	ErrBroken   = errors.New("files do not make an identity")    // replacing it repairs that; they are renamed then
	ErrConflict = errors.New("the path is that of another file") // of its own, of a reserved one, or of another device; nothing was written
	ErrAccess   = errors.New("others own it or may write to it") // so that what is in it may be anyone's
	ErrCorrupt  = errors.New("the provisioning journal is damaged")
)

// A FileError reports a file or folder that cannot be used for the identity or its journal.
type FileError struct {
	Kind         error // wrapped: [ErrBroken], [ErrConflict], [ErrAccess] or [ErrCorrupt]
	Path, Reason string
}

func (e *FileError) Error() string {
	if errors.Is(e.Kind, ErrCorrupt) {
		return fmt.Sprintf("provisioning journal %s is damaged: %s", e.Path, e.Reason)
	}
	return fmt.Sprintf("device identity: %s: %s", e.Path, e.Reason)
}

// Unwrap returns the kind.
func (e *FileError) Unwrap() error { return e.Kind }

// Class returns [awsiot.Misconfigured] for a conflict, which other paths repair, else [awsiot.Failed].
func (e *FileError) Class() awsiot.Class {
	if errors.Is(e.Kind, ErrConflict) {
		return awsiot.Misconfigured
	}
	return awsiot.Failed
}

// A CertificateError reports that the certificate in an answer cannot be this device's.
type CertificateError struct{ Reason string }

func (e *CertificateError) Error() string { return "certificate from AWS IoT: " + e.Reason }

// mayPass are the conditions of a file system that may pass by themselves.
var mayPass = []error{
	syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN, syscall.EINTR, syscall.EBUSY, syscall.ESTALE,
}

// classify gives an error of the file system that may pass by itself, such as that of a full disk,
// the class [awsiot.Temporary].
func classify(err error) error {
	if slices.ContainsFunc(mayPass, func(t error) bool { return errors.Is(err, t) }) {
		return awsiot.WithClass(awsiot.Temporary, err)
	}
	return err
}
