package identity

import (
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// errCrashed is what everything returns once a memDisk's machine is down.
var errCrashed = errors.New("crashed")

// A memDisk is a file system that remembers what is durable and what is not:
// data is from Sync on, names are from SyncDir on. Its machine can be made to
// crash, or its calls to fail, at any call that changes something.
type memDisk struct {
	names   map[string]*inode // as seen by running processes
	durable map[string]*inode // as found after a power cut
	dirs    map[string]bool   // false until durable

	calls int
	// fault decides about the call of that number; nil never fails.
	fault func(call int, op, path string) error
	down  bool
	held  map[string]bool
}

type inode struct {
	data, synced []byte
	perm         fs.FileMode
}

func newMemDisk() *memDisk {
	return &memDisk{names: map[string]*inode{}, durable: map[string]*inode{}, dirs: map[string]bool{}, held: map[string]bool{}}
}

// A cut says what is left of what was not durable when the machine went down.
type cut string

const (
	kill  cut = "kill"  // the process died; the kernel keeps it all
	power cut = "power" // nothing is left
	torn  cut = "torn"  // names are left, of their data the first half
)

// reboot returns the disk as the next run finds it.
func (d *memDisk) reboot(how cut) *memDisk {
	next := newMemDisk()
	names := d.names
	if how == power {
		names = d.durable
	}
	for dir, durable := range d.dirs {
		if durable || how != power {
			next.dirs[dir] = true
		}
	}
	for path, n := range names {
		data := n.data
		switch {
		case how == power:
			data = n.synced
		case how == torn && len(n.data) != len(n.synced):
			data = n.data[:len(n.data)/2]
		}
		if _, ok := next.dirs[filepath.Dir(path)]; !ok {
			continue
		}
		left := &inode{data: data, synced: data, perm: n.perm}
		next.names[path], next.durable[path] = left, left
	}
	return next
}

// call counts a call that changes something, and lets it fail.
func (d *memDisk) call(op, path string) error {
	if d.down {
		return errCrashed
	}
	d.calls++
	if d.fault == nil {
		return nil
	}
	err := d.fault(d.calls, op, path)
	if errors.Is(err, errCrashed) {
		d.down = true
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: path, Err: err}
	}
	return nil
}

func (d *memDisk) paths() []string { return slices.Sorted(maps.Keys(d.names)) }

func (d *memDisk) ReadFile(path string) ([]byte, error) {
	if d.down {
		return nil, errCrashed
	}
	n, ok := d.names[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return n.data, nil
}

func (d *memDisk) ReadDir(path string) ([]string, error) {
	if _, ok := d.dirs[path]; !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	var names []string
	for _, p := range d.paths() {
		if filepath.Dir(p) == path {
			names = append(names, filepath.Base(p))
		}
	}
	return names, nil
}

func (d *memDisk) MkdirAll(path string, perm fs.FileMode) error {
	if err := d.call("mkdir", path); err != nil {
		return err
	}
	for ; path != "." && path != "/"; path = filepath.Dir(path) {
		if _, ok := d.dirs[path]; !ok {
			// A directory above ours is the installer's, and durable.
			d.dirs[path] = !strings.Contains(path, ".provisioning")
		}
	}
	return nil
}

func (d *memDisk) Create(path string, perm fs.FileMode) (file, error) {
	if err := d.call("create", path); err != nil {
		return nil, err
	}
	if _, ok := d.names[path]; ok {
		return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	n := &inode{perm: perm}
	d.names[path] = n
	return &memFile{disk: d, path: path, inode: n}, nil
}

func (d *memDisk) Rename(from, to string) error {
	if err := d.call("rename", to); err != nil {
		return err
	}
	n, ok := d.names[from]
	if !ok {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	delete(d.names, from)
	d.names[to] = n
	return nil
}

func (d *memDisk) Remove(path string) error {
	if err := d.call("remove", path); err != nil {
		return err
	}
	if _, ok := d.dirs[path]; ok {
		delete(d.dirs, path)
		return nil
	}
	if _, ok := d.names[path]; !ok {
		return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
	}
	delete(d.names, path)
	return nil
}

func (d *memDisk) SyncDir(dir string) error {
	if err := d.call("syncdir", dir); err != nil {
		return err
	}
	for path := range d.durable {
		if filepath.Dir(path) == dir && d.names[path] == nil {
			delete(d.durable, path)
		}
	}
	for path, n := range d.names {
		if filepath.Dir(path) == dir {
			d.durable[path] = n
		}
	}
	for sub := range d.dirs {
		if filepath.Dir(sub) == dir {
			d.dirs[sub] = true
		}
	}
	return nil
}

func (d *memDisk) Lock(path string) (lock, error) {
	if d.down {
		return nil, errCrashed
	}
	if d.held[path] {
		return nil, &LockedError{PID: 1, Path: path}
	}
	d.held[path] = true
	return memLock{d, path}, nil
}

func (d *memDisk) Holder(path string) int {
	if d.held[path] {
		return 1
	}
	return 0
}

type memLock struct {
	disk *memDisk
	path string
}

func (l memLock) Release() error {
	delete(l.disk.held, l.path)
	return nil
}

func (l memLock) RemoveAndRelease() error { return l.Release() }

type memFile struct {
	disk  *memDisk
	path  string
	inode *inode
}

// Write leaves half of the data when it fails.
func (f *memFile) Write(data []byte) (int, error) {
	if err := f.disk.call("write", f.path); err != nil {
		f.inode.data = append(f.inode.data, data[:len(data)/2]...)
		return len(data) / 2, err
	}
	f.inode.data = append(f.inode.data, data...)
	return len(data), nil
}

func (f *memFile) Sync() error {
	if err := f.disk.call("sync", f.path); err != nil {
		return err
	}
	f.inode.synced = slices.Clone(f.inode.data)
	return nil
}

func (f *memFile) Close() error { return f.disk.call("close", f.path) }
