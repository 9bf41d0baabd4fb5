package fleet

import (
	"fmt"
	"os"
	"path/filepath"
)

// prepareKeep makes the directory of the identities, which hold private keys:
// private to this user, and ignored by git.
func prepareKeep(dir string) error {
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
	return nil
}
