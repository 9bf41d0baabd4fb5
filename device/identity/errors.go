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

// A BrokenError reports that files are there that do not make an identity. Replacing the identity
// repairs it; the files are renamed then, not overwritten.
type BrokenError struct{ Path, Reason string }

func (e *BrokenError) Error() string { return fmt.Sprintf("device identity: %s: %s", e.Path, e.Reason) }

// A ConflictError reports that one of the identity's paths is that of another file: of another of
// its own, of one that is reserved, or of another device's identity. Other paths repair it; nothing
// has been written.
type ConflictError struct{ Path, Reason string }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("device identity: %s: %s", e.Path, e.Reason)
}

// Class returns [awsiot.Misconfigured].
func (*ConflictError) Class() awsiot.Class { return awsiot.Misconfigured }

// An AccessError reports a file or directory that others own or may write to, so that what is in it
// may be anyone's.
type AccessError struct{ Path, Reason string }

func (e *AccessError) Error() string {
	return fmt.Sprintf("device identity: %s %s: it must belong to root or to the user that runs this, and no one else may write to it", e.Path, e.Reason)
}

// A CorruptError reports that the journal cannot be read.
type CorruptError struct{ Path, Reason string }

func (e *CorruptError) Error() string {
	return fmt.Sprintf("provisioning journal %s is damaged: %s", e.Path, e.Reason)
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
