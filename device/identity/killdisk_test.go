//go:build failpoints

// The product has no point to be killed at: a build for crash tests takes this file in place of
// disk_real.go, by go build's option -overlay.

package identity

import (
	"io/fs"
	"os"
	"strconv"
	"syscall"
)

// killAtCall is the variable with the number, from 1, of the change to the disk that kills the
// process instead of happening.
const killAtCall = "IOT_DEVICE_KILL_AT_DISK_CALL"

// A deadlyDisk kills its process before one of the calls that change something. Crash tests of the
// whole binary are built with it.
type deadlyDisk struct {
	osDisk
	left *int
}

func newDisk() disk {
	n, err := strconv.Atoi(os.Getenv(killAtCall))
	if err != nil {
		return osDisk{}
	}
	return deadlyDisk{left: &n}
}

func (d deadlyDisk) count() {
	if *d.left--; *d.left != 0 {
		return
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic(err)
	}
	select {} // until the signal arrives
}

func (d deadlyDisk) Mkdir(path string, perm fs.FileMode) error {
	d.count()
	return d.osDisk.Mkdir(path, perm)
}

func (d deadlyDisk) Create(path string, perm fs.FileMode) (file, error) {
	d.count()
	f, err := d.osDisk.Create(path, perm)
	return deadlyFile{f, d}, err
}

func (d deadlyDisk) Rename(from, to string) error {
	d.count()
	return d.osDisk.Rename(from, to)
}

func (d deadlyDisk) Remove(path string) error {
	d.count()
	return d.osDisk.Remove(path)
}

func (d deadlyDisk) SyncDir(path string) error {
	d.count()
	return d.osDisk.SyncDir(path)
}

type deadlyFile struct {
	file
	disk deadlyDisk
}

func (f deadlyFile) Write(p []byte) (int, error) {
	f.disk.count()
	return f.file.Write(p)
}

func (f deadlyFile) Sync() error {
	f.disk.count()
	return f.file.Sync()
}
