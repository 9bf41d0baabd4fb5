package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// Begin takes the store's lock, finishes a commit that was interrupted, and
// opens the journal, empty if no provisioning is under way. It returns a
// *[LockedError] while another process or store has the lock, and a
// *[CorruptError] when a journal is there that cannot be read. The caller
// closes the journal.
func (s *Store) Begin() (*Journal, error) {
	l, err := s.lock()
	if err != nil {
		return nil, err
	}
	j := &Journal{store: s, lock: l, state: state{SerialNumber: s.config.SerialNumber}}
	if err := j.resume(); err != nil {
		return nil, errors.Join(err, l.Release())
	}
	return j, nil
}

// lock makes the journal's directory and takes the lock in it. Runs that end
// meanwhile may remove the directory in between.
func (s *Store) lock() (lock, error) {
	const tries = 100
	for try := 1; ; try++ {
		l, err := s.tryLock()
		vanished := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist)
		if !vanished || try == tries {
			return l, err
		}
	}
}

func (s *Store) tryLock() (lock, error) {
	if err := s.makeJournalDir(); err != nil {
		return nil, fmt.Errorf("making provisioning journal: %w", err)
	}
	return s.disk.Lock(filepath.Join(s.journalDir(), "lock"))
}

func (j *Journal) resume() error {
	st, damaged, err := j.store.slots().read()
	if err != nil {
		return err
	}
	for _, path := range damaged {
		j.store.log.Warn("the latest step in the provisioning journal is damaged; going on from the step before it", "path", path)
	}
	if st == nil {
		return j.store.slots().sweep()
	}
	if st.SerialNumber != j.store.config.SerialNumber {
		return &CorruptError{Path: j.store.journalDir(), Reason: fmt.Sprintf("is of serial number %q", st.SerialNumber)}
	}
	if j.key, j.cert, err = j.store.open(st); err != nil {
		return &CorruptError{Path: j.store.journalDir(), Reason: err.Error()}
	}
	j.state = *st
	if j.Stage() == Committed {
		j.finished, err = j.Install()
	}
	return err
}

// DiscardPending ends a provisioning that was to replace the identity, also one
// whose journal is damaged, and keeps the identity. It returns what was
// discarded, nil if nothing was or the journal could not be read. A certificate
// in it, from [Registered] on, is active in AWS IoT and stays so.
//
// It returns an error that wraps [ErrNone] when there is no identity to keep: the
// pending provisioning may be all that the device has. It returns a *[LockedError]
// while a run is working on it. An identity that is committed already is not
// pending: it is installed, and nothing is discarded.
func (s *Store) DiscardPending() (*Pending, error) {
	if _, err := s.Load(); err != nil {
		return nil, fmt.Errorf("discarding pending provisioning: keeping the identity: %w", err)
	}
	l, err := s.lock()
	if err != nil {
		return nil, err
	}
	j := &Journal{store: s, lock: l, state: state{SerialNumber: s.config.SerialNumber}}
	var discarded *Pending
	st, _, err := s.slots().read()
	if _, corrupt := errors.AsType[*CorruptError](err); err != nil && !corrupt {
		return nil, errors.Join(err, l.Release())
	}
	if st != nil && st.Stage == Committed {
		err = j.resume()
		return nil, errors.Join(err, j.Close())
	}
	sequence := uint64(1)
	if st != nil {
		discarded, sequence = s.pending(st), st.Sequence
		discarded.PID = 0
	}
	if err := s.slots().clear(sequence); err != nil {
		return nil, errors.Join(fmt.Errorf("discarding pending provisioning: %w", err), l.Release())
	}
	return discarded, j.Close()
}
