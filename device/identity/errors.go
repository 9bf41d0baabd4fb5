package identity

import "fmt"

// A LockedError tells that another run is using the store.
type LockedError struct {
	PID  int // of the process that has the lock, 0 if unknown
	Path string
}

// Error names the process that has the lock.
func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("another run is provisioning this device (lock %s)", e.Path)
	}
	return fmt.Sprintf("another run, process %d, is provisioning this device (lock %s)", e.PID, e.Path)
}

// A BrokenError tells that files are there that do not make an identity.
// Replacing the identity repairs it.
type BrokenError struct {
	Path   string
	Reason string
}

// Error names the file and what is wrong with it.
func (e *BrokenError) Error() string { return fmt.Sprintf("device identity: %s: %s", e.Path, e.Reason) }

// A CorruptError tells that the journal cannot be read.
type CorruptError struct {
	Path   string
	Reason string
}

// Error names the journal and what is wrong with it.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("provisioning journal %s is damaged: %s", e.Path, e.Reason)
}

// A CertificateError tells that a certificate that was answered cannot be this
// device's.
type CertificateError struct{ Reason string }

// Error says what does not fit.
func (e *CertificateError) Error() string { return "certificate from AWS IoT: " + e.Reason }
