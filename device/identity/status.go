package identity

import (
	"errors"
	"time"
)

// A State says whether a device has an identity.
type State int

// The states.
const (
	Absent     State = iota // no identity
	Present                 // an identity that is whole
	Damaged                 // files that do not make this device's identity: *[BrokenError], *[ConflictError]
	Unreadable              // files that this process may not read, or that others may write: *[AccessError]
)

// String returns the state in one lower-case word.
func (s State) String() string {
	return [...]string{"absent", "present", "damaged", "unreadable"}[s]
}

// A Status is what is on disk: the identity, and apart from it the provisioning
// that is in progress, which may be to replace that identity.
type Status struct {
	State    State
	Identity *Identity // nil unless State is [Present]
	Pending  *Pending  // nil if no provisioning is in progress or was interrupted
	// Problems are the errors found: that of [Store.Load] unless it is
	// [ErrNone], then those of the journal. Each names its file.
	Problems []error
}

// Pending describes a provisioning that is in progress or was interrupted.
type Pending struct {
	Stage         Stage
	Since         time.Time // when the first step was stored
	Updated       time.Time // when the latest step was stored
	RequestedBy   string    // as in [Grant]; empty before [CertificateHeld]
	CertificateID string    // empty before [CertificateHeld]
	ThingName     string    // empty before [Registered]
	TokenExpires  time.Time // zero unless at [CertificateHeld]
	PID           int       // of the run that is working on it now, else 0
}

// Status returns what is on disk. It changes nothing and needs no network.
func (s *Store) Status() *Status {
	id, err := s.Load()
	status := &Status{State: stateAfter(err), Identity: id}
	if status.State == Damaged || status.State == Unreadable {
		status.Problems = append(status.Problems, err)
	}
	st, damaged, err := s.storage.readState()
	if err != nil {
		status.Problems = append(status.Problems, err)
	}
	for _, path := range damaged {
		status.Problems = append(status.Problems, &CorruptError{Path: path, Reason: "the next run continues from the step before it"})
	}
	if st != nil {
		status.Pending = s.pending(st)
	}
	return status
}

// stateAfter returns the state that an error of Load stands for.
func stateAfter(err error) State {
	_, broken := errors.AsType[*BrokenError](err)
	_, conflict := errors.AsType[*ConflictError](err)
	switch {
	case err == nil:
		return Present
	case errors.Is(err, ErrNone):
		return Absent
	case broken || conflict:
		return Damaged
	}
	return Unreadable
}

func (s *Store) pending(st *state) *Pending {
	return &Pending{st.Stage, st.Started, st.Updated, st.RequestedBy, st.Record.CertificateID, st.Record.ThingName, st.TokenExpires, s.storage.holder()}
}
