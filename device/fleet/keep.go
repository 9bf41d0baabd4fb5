package fleet

import (
	"fmt"
	"os"
	"path/filepath"
)

// Space of one identity: three files and a folder, and while it is provisioned
// a journal.
const (
	bytesPerIdentity  = 24 << 10
	inodesPerIdentity = 6
)

// prepareKeep makes the directory of the identities, which hold private keys:
// private to this user, and ignored by git. It tries to write there, and checks
// the free space.
func prepareKeep(dir string, devices uint64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the directory of the identities: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("making the directory of the identities: %w", err)
	}
	if open := info.Mode().Perm() & 0o077; open != 0 && privateModes {
		return fmt.Errorf("other users may use the directory of the identities %s (mode %#o), and private keys go there: run \"chmod 700 %[1]s\", or name another directory", dir, info.Mode().Perm())
	}
	if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("*\n"), 0o600); err != nil {
		return fmt.Errorf("writing into the directory of the identities: %w", err)
	}
	bytes, inodes, ok := space(dir)
	if !ok {
		return nil
	}
	return roomFor(dir, devices, bytes, inodes)
}

func roomFor(dir string, devices, bytes, inodes uint64) error {
	const text = "no room for the identities in %s: they take about %d %s, and %d are free; free some, or name another directory"
	if need := devices * bytesPerIdentity; need > bytes {
		return fmt.Errorf(text, dir, need>>20+1, "MB", bytes>>20)
	}
	if need := devices * inodesPerIdentity; need > inodes {
		return fmt.Errorf(text, dir, need, "files", inodes)
	}
	return nil
}
