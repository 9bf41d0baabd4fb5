package identity

import (
	"bytes"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
)

// NewMemoryStore returns a store like that of [NewStore], but one that keeps
// its files in memory and loses them with the process: for devices that are
// simulated. The paths of c are names only.
func NewMemoryStore(c Config) (*Store, error) {
	s, err := NewStore(c)
	if err != nil {
		return nil, err
	}
	s.disk = &memory{files: map[string][]byte{}}
	return s, nil
}

// memory is a disk for one device, without directories: every one exists.
type memory struct {
	mu     sync.Mutex
	files  map[string][]byte // under mu
	locked bool              // under mu; a store has one lock only
}

func (m *memory) ReadFile(path string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.files[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return bytes.Clone(data), nil
}

func (m *memory) ReadDir(path string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for file := range m.files {
		if filepath.Dir(file) == filepath.Clean(path) {
			names = append(names, filepath.Base(file))
		}
	}
	slices.Sort(names)
	return names, nil
}

func (m *memory) Create(path string, _ fs.FileMode) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.files[path]; ok {
		return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	m.files[path] = nil
	return &memoryFile{m, path}, nil
}

func (m *memory) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.files[from]
	if !ok {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	delete(m.files, from)
	m.files[to] = data
	return nil
}

func (m *memory) Remove(path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.files[path]; !ok {
		return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
	}
	delete(m.files, path)
	return nil
}

func (m *memory) Lock(path string) (lock, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked {
		return nil, &LockedError{Path: path}
	}
	m.locked = true
	return memoryLock{m}, nil
}

func (*memory) MkdirAll(string, fs.FileMode) error { return nil }
func (*memory) SyncDir(string) error               { return nil }
func (*memory) Holder(string) int                  { return 0 }

// A memoryFile is open for writing.
type memoryFile struct {
	disk *memory
	path string
}

func (f *memoryFile) Write(data []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.files[f.path] = append(f.disk.files[f.path], data...)
	return len(data), nil
}

func (*memoryFile) Sync() error  { return nil }
func (*memoryFile) Close() error { return nil }

type memoryLock struct{ disk *memory }

func (l memoryLock) Release() error {
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	l.disk.locked = false
	return nil
}

func (l memoryLock) RemoveAndRelease() error { return l.Release() }
