package identity

import (
	"sync"

	"example.com/fleety/device/internal/osfile"
)

// memory is the storage of one simulated device. What it keeps is neither encoded nor checked
// again: there is no one between writing and reading it.
type memory struct {
	config *Config

	held sync.Mutex // is the lock

	mu       sync.Mutex
	state    *state    // under mu
	identity *Identity // under mu
}

func (m *memory) lock() (osfile.Unlock, error) {
	if !m.held.TryLock() {
		return nil, &LockedError{Path: m.config.journalDir()}
	}
	return func(bool) error { m.held.Unlock(); return nil }, nil
}

func (m *memory) readState() (*state, []string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, nil, nil
}

func (m *memory) writeState(st *state) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = st
	return nil
}

func (m *memory) load() (*Identity, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.identity == nil {
		return nil, ErrNone
	}
	id := *m.identity
	return &id, nil
}

func (m *memory) replacing() (*Record, *replacedFiles, error) {
	if id, err := m.load(); err == nil {
		return &id.Record, nil, nil
	}
	return nil, nil, nil
}

func (m *memory) install(st *state) (*Identity, error) {
	m.mu.Lock()
	m.identity = st.identity(m.config.Files(st.base()))
	m.mu.Unlock()
	return m.load()
}

func (m *memory) clearState(*state) error               { return m.writeState(nil) }
func (m *memory) secureState() error                    { return nil }
func (m *memory) setAside([]string) error               { return nil }
func (m *memory) holder() int                           { return 0 }
func (m *memory) fileBase(thing string) (string, error) { return thing, nil }
func (m *memory) check() error                          { return nil }
