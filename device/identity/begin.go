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
	if j.Stage() == Proved {
		j.finished, err = j.Commit()
	}
	return err
}
