package fleet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"example.com/fleety/device/identity"
)

// What one kept identity takes: three files and a folder, and for the time of
// its provisioning a journal.
const (
	bytesPerIdentity  = 24 << 10
	inodesPerIdentity = 6
)

// A FilesError tells that the process may not open as many files as it needs.
type FilesError struct{ Need, Limit int }

// Error says how to raise the limit.
func (e *FilesError) Error() string {
	return fmt.Sprintf("this many devices at once take %d open files, and this process may have %d: run \"ulimit -n %d\" first (as a service, LimitNOFILE=%d), or lower --concurrency or the number of devices",
		e.Need, e.Limit, e.Need, e.Need)
}

// A SpaceError tells that identities do not fit where they are to be kept.
type SpaceError struct {
	Dir        string
	Need, Free uint64
	Unit       string // what is short: "MB" or "files"
}

// Error names the directory, what it needs and what it has.
func (e *SpaceError) Error() string {
	return fmt.Sprintf("no room for the identities in %s: they take about %d %s, and %d are free", e.Dir, e.Need, e.Unit, e.Free)
}

// checkKeep makes the directory, tries to write there, and asks for its space.
func (c Config) checkKeep() error {
	if c.Keep == "" {
		return nil
	}
	if err := os.MkdirAll(c.Keep, 0o700); err != nil {
		return fmt.Errorf("making the directory of the identities: %w", err)
	}
	probe, err := os.CreateTemp(c.Keep, ".space-*")
	if err != nil {
		return fmt.Errorf("writing into the directory of the identities: %w", err)
	}
	defer os.Remove(probe.Name())
	defer probe.Close()
	if _, err := probe.Write(make([]byte, bytesPerIdentity)); err != nil {
		return fmt.Errorf("writing into the directory of the identities: %w", err)
	}
	bytes, inodes, ok := space(c.Keep)
	if !ok {
		return nil
	}
	return roomFor(c.Keep, uint64(c.Shard.size(c.Serials.Count)), bytes, inodes)
}

func roomFor(dir string, devices, bytes, inodes uint64) error {
	if need := devices * bytesPerIdentity; need > bytes {
		return &SpaceError{Dir: dir, Need: need>>20 + 1, Free: bytes >> 20, Unit: "MB"}
	}
	if need := devices * inodesPerIdentity; need > inodes {
		return &SpaceError{Dir: dir, Need: need, Free: inodes, Unit: "files"}
	}
	return nil
}

// store opens a device's store: on disk if it is to be kept. A folder of its
// own spares each device the search through all others.
func (c Config) store(serial string) (*identity.Store, error) {
	own := identity.Config{SerialNumber: serial, Log: c.Log}
	if c.Keep == "" {
		return identity.NewMemoryStore(own)
	}
	own.Dir = filepath.Join(c.Keep, serial)
	return identity.NewStore(own)
}

// Kept returns the identities in a directory that [Config.Keep] named. Devices
// that are not enrolled yet are left out.
func Kept(dir string) ([]*identity.Identity, error) {
	folders, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading kept identities: %w", err)
	}
	var kept []*identity.Identity
	for _, f := range folders {
		if !f.IsDir() {
			continue
		}
		store, err := Config{Keep: dir}.store(f.Name())
		if err != nil {
			return nil, err
		}
		id, err := store.Load()
		if errors.Is(err, identity.ErrNone) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading kept identities: %w", err)
		}
		kept = append(kept, id)
	}
	return kept, nil
}
