package identity

import (
	"errors"
	"path/filepath"
	"time"
)

// A Status is what is on disk. Ages count from the times in it.
type Status struct {
	// Identity is the device's identity, nil if there is none.
	Identity *Identity
	// Pending is the provisioning that is under way, nil if there is none.
	Pending *Pending
	// Problems tells in words what is damaged or inconsistent.
	Problems []string
}

// Pending describes a provisioning that is under way or was interrupted.
type Pending struct {
	Stage         Stage
	Since         time.Time // when the first step was stored
	Updated       time.Time // when the latest step was stored
	CertificateID string    // empty before [CertificateHeld]
	ThingName     string    // empty before [Registered]
	TokenExpires  time.Time // zero unless at [CertificateHeld]
	PID           int       // of the run that is working on it now, else 0
}

// Status tells what is on disk. It changes nothing and needs no network.
// Damage is told in the status and is not an error.
func (s *Store) Status() *Status {
	var status Status
	id, err := s.Load()
	switch {
	case err == nil:
		status.Identity = id
	case !errors.Is(err, ErrNone):
		status.Problems = append(status.Problems, err.Error())
	}
	st, damaged, err := s.slots().read()
	if err != nil {
		status.Problems = append(status.Problems, err.Error())
	}
	for _, path := range damaged {
		status.Problems = append(status.Problems, path+" is damaged; the next run goes on from the step before it")
	}
	if st != nil {
		status.Pending = &Pending{
			Stage:         st.Stage,
			Since:         st.Started,
			Updated:       st.Updated,
			CertificateID: st.Record.CertificateID,
			ThingName:     st.Record.ThingName,
			TokenExpires:  st.TokenExpires,
			PID:           s.disk.Holder(filepath.Join(s.journalDir(), "lock")),
		}
	}
	return &status
}
