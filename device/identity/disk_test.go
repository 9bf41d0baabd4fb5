//go:build unix

package identity

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/osfile"
)

// A faultyDisk is the real file system, of which some calls fail.
type faultyDisk struct {
	osDisk
	fault func(op string) error
}

func (d faultyDisk) Create(path string, perm fs.FileMode) (file, error) {
	if err := d.fault("chmod"); err != nil {
		return nil, &fs.PathError{Op: "chmod", Path: path, Err: err}
	}
	return d.osDisk.Create(path, perm)
}

func (d faultyDisk) Rename(from, to string) error {
	if err := d.fault("rename"); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return d.osDisk.Rename(from, to)
}

func (d faultyDisk) ReadDir(path string) ([]string, error) {
	if err := d.fault("readdir"); err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return d.osDisk.ReadDir(path)
}

func (d faultyDisk) Lock(path string) (osfile.Unlock, error) {
	if err := d.fault("flock"); err != nil {
		return nil, &fs.PathError{Op: "flock", Path: path, Err: err}
	}
	return d.osDisk.Lock(path)
}

// FAT has no modes, NFS and others no locks, and some do not rename; a full disk is none of these.
func TestFileSystemThatCannotHoldAnIdentityIsAFailure(t *testing.T) {
	tests := map[string]struct {
		op    string
		err   error
		class awsiot.Class
	}{
		"no permission bits": {"chmod", syscall.EPERM, awsiot.Failed},
		"no locks":           {"flock", syscall.ENOLCK, awsiot.Failed},
		"no locks, NFS":      {"flock", syscall.EOPNOTSUPP, awsiot.Failed},
		"no rename":          {"rename", syscall.ENOSYS, awsiot.Failed},
		"full":               {"chmod", syscall.ENOSPC, awsiot.Temporary},
		"over quota":         {"rename", syscall.EDQUOT, awsiot.Temporary},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := realStore(t, t.TempDir())
			s.storage.(*directory).disk = faultyDisk{fault: func(op string) error {
				if op == test.op {
					return test.err
				}
				return nil
			}}
			for what, err := range map[string]error{"provisioning": provision(t, s, newCloud(t), run{}), "CheckDisk": s.CheckDisk()} {
				if !errors.Is(err, test.err) || awsiot.ClassOf(err) != test.class {
					t.Errorf("%s: error %v of class %v", what, err, awsiot.ClassOf(err))
				}
			}
		})
	}
}

// What may pass is temporary also where an identity is only read.
func TestLoadTellsWhatMayPass(t *testing.T) {
	t.Parallel()
	for fault, class := range map[error]awsiot.Class{syscall.ESTALE: awsiot.Temporary, syscall.EMFILE: awsiot.Temporary, syscall.EIO: awsiot.Failed} {
		s := realStore(t, t.TempDir())
		s.storage.(*directory).disk = faultyDisk{fault: func(string) error { return fault }}
		if _, err := s.Load(); !errors.Is(err, fault) || awsiot.ClassOf(err) != class {
			t.Errorf("%v: error %v of class %v", fault, err, awsiot.ClassOf(err))
		}
	}
}

func TestCheckDiskLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := realStore(t, filepath.Join(dir, "not", "there", "yet")).CheckDisk(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// A FIFO blocks its reader, and a socket cannot be opened at all.
func TestWhatIsNoFileInPlaceOfOneIsAnErrorAtOnce(t *testing.T) {
	kinds := map[string]func(path string) error{
		"FIFO": func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"socket": func(path string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "short"})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return errors.Join(l.Close(), os.Rename("short", path))
		},
	}
	for name, suffix := range map[string]string{
		"FIFO certificate": ".certificate.pem", "FIFO key": ".private.key", "FIFO record": ".json",
		"socket certificate": ".certificate.pem", "socket key": ".private.key", "socket record": ".json",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir)
			s := realStore(t, dir)
			if err := provision(t, s, newCloud(t), run{}); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "fleety_"+serial+suffix)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			kind, _, _ := strings.Cut(name, " ")
			if err := kinds[kind](path); err != nil {
				t.Fatal(err)
			}
			_, err := s.Load()
			if broken, ok := errors.AsType[*FileError](err); !ok || !errors.Is(err, ErrBroken) || broken.Path != path {
				t.Errorf("Load() error = %v", err)
			}
			if st := s.Status(); st.State != Damaged {
				t.Errorf("state is %v", st.State)
			}
			// Replacing the identity keeps it.
			c := newCloud(t)
			if err := provision(t, s, c, run{replace: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Load(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSymbolicLinksAreWrittenThrough(t *testing.T) {
	dir, persistent := t.TempDir(), filepath.Join(t.TempDir(), "persistent")
	names := []string{"fleety_" + serial + ".certificate.pem", "fleety_" + serial + ".private.key", "fleety_" + serial + ".json"}
	for _, name := range names {
		// The first provisioning finds links whose target, and its directory, are missing.
		if err := os.Symlink(filepath.Join(persistent, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s, c := realStore(t, dir), newCloud(t)
	for _, r := range []run{{}, {replace: true}} {
		if err := provision(t, s, c, r); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || info.Mode()&fs.ModeSymlink == 0 {
				t.Errorf("%s is no symbolic link any more: %v, %v", name, info, err)
			}
			if info, err := os.Lstat(filepath.Join(persistent, name)); err != nil || !info.Mode().IsRegular() {
				t.Errorf("its target: %v, %v", info, err)
			}
		}
		if id, err := s.Load(); err != nil || id.Record.CertificateID != c.active[len(c.active)-1] {
			t.Errorf("identity %+v, %v", id, err)
		}
	}
	// Another name leaves neither the links nor what they named.
	if err := provision(t, s, c, run{replace: true, thing: "unit_" + serial}); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, persistent} {
		entries, err := os.ReadDir(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "fleety_") {
				t.Errorf("left: %s", filepath.Join(d, e.Name()))
			}
		}
	}
}

// A stuckDisk is the real file system, of which one file cannot be removed.
type stuckDisk struct {
	osDisk
	path string
}

func (d stuckDisk) Remove(path string) error {
	if path == d.path {
		return &fs.PathError{Op: "remove", Path: path, Err: syscall.EBUSY}
	}
	return d.osDisk.Remove(path)
}

// The link to a claim's key is all that the next run finds it by.
func TestLinkToAClaimThatCannotBeRemovedStays(t *testing.T) {
	dir := t.TempDir()
	persistent, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	key, link := filepath.Join(persistent, "claim.key"), filepath.Join(dir, "claim.key")
	must(t, os.WriteFile(key, []byte("claim"), 0o600))
	must(t, os.Symlink(key, link))
	s := realStore(t, dir)
	must(t, provision(t, s, newCloud(t), run{}))
	s.storage.(*directory).disk = stuckDisk{path: key}
	if err := s.RemoveClaim(link); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("got %v", err)
	}
	if id, err := s.Load(); err != nil || !id.Record.ClaimRemovedAt.IsZero() {
		t.Errorf("the record says that the claim is gone: %v", err)
	}
	must(t, realStore(t, dir).RemoveClaim(link))
	for _, path := range []string{key, link} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there: %v", path, err)
		}
	}
}
