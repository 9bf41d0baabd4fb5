package identity

import (
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"

	"syscall"

	"example.com/fleety/device/internal/osfile"
)

// errCrashed is what everything returns once a memDisk's machine is down.
var errCrashed = errors.New("crashed")

// A memDisk is a file system on which nothing is durable that was not synced: data is from Sync on,
// and a name, that of a directory included, from SyncDir of the directory it is in. A power cut
// keeps any part of the rest. The machine can be made to crash, or its calls to fail, at any call
// that changes something.
type memDisk struct {
	root *dirNode

	calls int
	// fault decides about the call of that number; nil never fails.
	fault func(call int, op, path string) error
	down  bool
	held  map[string]bool
}

// A node is a *dirNode or an *inode.
type node any

type dirNode struct {
	names   map[string]node // as seen by running processes
	durable map[string]node // as found after a power cut that keeps nothing else
	pending []change        // what makes the one of the other
}

// A change sets a name, or removes it if to is nil; a rename does both at once.
type change struct {
	removes, sets string
	to            node
}

func (c change) apply(names map[string]node) {
	delete(names, c.removes)
	if c.to != nil {
		names[c.sets] = c.to
	}
}

type inode struct {
	data, synced []byte
	perm         fs.FileMode
}

func newDir() *dirNode { return &dirNode{names: map[string]node{}, durable: map[string]node{}} }

func (d *dirNode) change(c change) {
	c.apply(d.names)
	d.pending = append(d.pending, c)
}

func newMemDisk() *memDisk { return &memDisk{root: newDir(), held: map[string]bool{}} }

// A cut says what is left of what was not durable when the machine went down.
type cut string

const (
	kill      cut = "kill"      // the process died; the kernel keeps it all, and syncs none of it
	power     cut = "power"     // nothing is left
	torn      cut = "torn"      // names are left, of their data the first half
	scattered cut = "scattered" // any of the changes, and any of the data
)

var cuts = []cut{kill, power, torn, scattered}

// reboot returns the disk as the next run finds it.
func (d *memDisk) reboot(how cut) *memDisk {
	next := newMemDisk()
	next.root = d.root
	if how != kill {
		next.root = d.root.afterCut(how, map[*inode]*inode{})
	}
	return next
}

func (d *dirNode) afterCut(how cut, files map[*inode]*inode) *dirNode {
	left := newDir()
	names := maps.Clone(d.durable)
	for _, c := range d.pending {
		if how == torn || how == scattered && rand.IntN(2) == 0 {
			c.apply(names)
		}
	}
	for name, n := range names {
		switch n := n.(type) {
		case *dirNode:
			left.names[name] = n.afterCut(how, files)
		case *inode:
			if files[n] == nil {
				data := n.afterCut(how)
				files[n] = &inode{data: data, synced: data, perm: n.perm}
			}
			left.names[name] = files[n]
		}
	}
	left.durable = maps.Clone(left.names)
	return left
}

func (n *inode) afterCut(how cut) []byte {
	if slices.Equal(n.data, n.synced) {
		return n.synced
	}
	half := n.data[:len(n.data)/2]
	switch how {
	case torn:
		return half
	case scattered:
		zeros := make([]byte, len(n.data))
		return [][]byte{n.synced, n.data, half, zeros}[rand.IntN(4)]
	}
	return n.synced
}

// call counts a call that changes something, and may make it fail.
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

// at returns what a path names, and the directory it is in; nil for what is not there.
func (d *memDisk) at(p string) (node, *dirNode) {
	p = path.Clean(p)
	if p == "." || p == "/" {
		return d.root, d.root
	}
	dir, _ := d.at(path.Dir(p))
	parent, ok := dir.(*dirNode)
	if !ok {
		return nil, nil
	}
	return parent.names[path.Base(p)], parent
}

func notExist(op, path string) error {
	return &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
}

// files returns all files, by path.
func (d *memDisk) files() map[string]*inode {
	all := map[string]*inode{}
	var walk func(prefix string, dir *dirNode)
	walk = func(prefix string, dir *dirNode) {
		for name, n := range dir.names {
			switch n := n.(type) {
			case *dirNode:
				walk(prefix+name+"/", n)
			case *inode:
				all[prefix+name] = n
			}
		}
	}
	walk("", d.root)
	return all
}

func (d *memDisk) paths() []string { return slices.Sorted(maps.Keys(d.files())) }

func (d *memDisk) ReadFile(path string) ([]byte, error) {
	if d.down {
		return nil, errCrashed
	}
	switch n, _ := d.at(path); n := n.(type) {
	case *inode:
		return n.data, nil
	case *dirNode:
		return nil, &fs.PathError{Op: "read", Path: path, Err: syscall.EISDIR}
	}
	return nil, notExist("open", path)
}

func (d *memDisk) ReadDir(path string) ([]string, error) {
	n, _ := d.at(path)
	dir, ok := n.(*dirNode)
	if !ok {
		return nil, notExist("open", path)
	}
	return slices.Sorted(maps.Keys(dir.names)), nil
}

func (d *memDisk) Mkdir(p string, perm fs.FileMode) error {
	if err := d.call("mkdir", p); err != nil {
		return err
	}
	switch n, parent := d.at(p); {
	case parent == nil:
		return notExist("mkdir", p)
	case n != nil:
		return &fs.PathError{Op: "mkdir", Path: p, Err: fs.ErrExist}
	default:
		parent.change(change{sets: path.Base(p), to: newDir()})
	}
	return nil
}

func (d *memDisk) Create(p string, perm fs.FileMode) (file, error) {
	if err := d.call("create", p); err != nil {
		return nil, err
	}
	n, parent := d.at(p)
	if parent == nil {
		return nil, notExist("create", p)
	}
	if n != nil {
		return nil, &fs.PathError{Op: "create", Path: p, Err: fs.ErrExist}
	}
	made := &inode{perm: perm}
	parent.change(change{sets: path.Base(p), to: made})
	return &memFile{disk: d, path: p, inode: made}, nil
}

func (d *memDisk) Rename(from, to string) error {
	if err := d.call("rename", to); err != nil {
		return err
	}
	n, parent := d.at(from)
	if n == nil {
		return notExist("rename", from)
	}
	if path.Dir(from) != path.Dir(to) {
		return &fs.PathError{Op: "rename", Path: to, Err: syscall.EXDEV}
	}
	parent.change(change{removes: path.Base(from), sets: path.Base(to), to: n})
	return nil
}

func (d *memDisk) Remove(p string) error {
	if err := d.call("remove", p); err != nil {
		return err
	}
	n, parent := d.at(p)
	if n == nil {
		return notExist("remove", p)
	}
	if dir, ok := n.(*dirNode); ok && len(dir.names) > 0 {
		return &fs.PathError{Op: "remove", Path: p, Err: syscall.ENOTEMPTY}
	}
	parent.change(change{removes: path.Base(p)})
	return nil
}

func (d *memDisk) SyncDir(path string) error {
	if err := d.call("syncdir", path); err != nil {
		return err
	}
	n, _ := d.at(path)
	dir, ok := n.(*dirNode)
	if !ok {
		return notExist("open", path)
	}
	dir.durable, dir.pending = maps.Clone(dir.names), nil
	return nil
}

func (d *memDisk) Resolve(path string) (string, error) { return path, nil }
func (d *memDisk) Locate(p string) osfile.Place        { return osfile.Place{Name: p, Path: path.Clean(p)} }
func (d *memDisk) MayWrite(path string) error          { return d.MayRead(path) }

func (d *memDisk) MayRead(path string) error {
	if d.down {
		return errCrashed
	}
	if n, _ := d.at(path); n == nil {
		return notExist("stat", path)
	}
	return nil
}

func (d *memDisk) Lock(path string) (osfile.Unlock, error) {
	if d.down {
		return nil, errCrashed
	}
	if d.held[path] {
		return nil, &LockedError{PID: 1, Path: path}
	}
	d.held[path] = true
	return func(bool) error {
		delete(d.held, path)
		return nil
	}, nil
}

func (d *memDisk) Holder(path string) int {
	if d.held[path] {
		return 1
	}
	return 0
}

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
