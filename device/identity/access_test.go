//go:build unix

package identity

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// someoneElse is a user and a group that no test runs as.
const someoneElse = 65534

func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("giving files to another user takes root")
	}
}

// certsDir returns a directory of mode 0755 in one that no one else may write to.
func certsDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func isAccessError(err error, path string) bool {
	e, ok := errors.AsType[*FileError](err)
	return ok && errors.Is(err, ErrAccess) && e.Path == path
}

func TestDirectoryThatOthersMayWriteIsRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		root    bool
		change  func(t *testing.T, dir string)
		refused func(dir string) string // the path in the error; nil if it is accepted
	}{
		"its own":          {change: func(t *testing.T, dir string) {}},
		"of its own group": {change: func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o775)) }},
		"everyone's":       {change: func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o777)) }, refused: func(dir string) string { return dir }},
		"everyone's, with the sticky bit": {change: func(t *testing.T, dir string) {
			must(t, os.Chmod(dir, 0o777|fs.ModeSticky))
		}},
		"in a directory of everyone's": {
			change:  func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Dir(dir), 0o777)) },
			refused: filepath.Dir,
		},
		"another group's": {root: true, change: func(t *testing.T, dir string) {
			must(t, os.Chown(dir, -1, someoneElse))
			must(t, os.Chmod(dir, 0o775))
		}, refused: func(dir string) string { return dir }},
		"another user's": {root: true, change: func(t *testing.T, dir string) {
			must(t, os.Chown(dir, someoneElse, -1))
		}, refused: func(dir string) string { return dir }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.root {
				asRoot(t)
			}
			dir := certsDir(t)
			test.change(t, dir)
			s := realStore(t, dir)
			err, check := provision(t, s, newCloud(t), run{}), s.CheckDisk()
			if test.refused == nil {
				if err != nil || check != nil {
					t.Errorf("refused: %v, %v", err, check)
				}
				return
			}
			if path := test.refused(dir); !isAccessError(err, path) || !isAccessError(check, path) {
				t.Errorf("errors %v, %v", err, check)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
				t.Errorf("written: %v, %v", entries, err)
			}
		})
	}
}

// A directory that is opened to others later is no reason to stop using the identity in it, whose
// files still have one owner.
func TestIdentityIsUsableInADirectoryThatOthersMayWrite(t *testing.T) {
	dir := certsDir(t)
	s := realStore(t, dir)
	must(t, provision(t, s, newCloud(t), run{}))
	must(t, os.Chmod(dir, 0o777))
	if _, err := s.Begin(); !isAccessError(err, dir) {
		t.Errorf("Begin() error = %v", err)
	}
	if st := s.Status(); st.State != Present {
		t.Errorf("status %+v", st)
	}
}

func TestFileThatOthersMayWriteIsRefused(t *testing.T) {
	for _, suffix := range []string{".certificate.pem", ".private.key", ".json"} {
		t.Run(suffix, func(t *testing.T) {
			dir := certsDir(t)
			s := realStore(t, dir)
			must(t, provision(t, s, newCloud(t), run{}))
			path := filepath.Join(dir, "fleety_"+serial+suffix)
			must(t, os.Chmod(path, 0o666))
			if _, err := s.Load(); !isAccessError(err, path) {
				t.Errorf("mode 0666: Load() error = %v", err)
			}
			if st := s.Status(); st.State != Unreadable || len(st.Problems) != 1 {
				t.Errorf("mode 0666: status %+v", st)
			}
			must(t, os.Chmod(path, 0o600))
			asRoot(t)
			must(t, os.Chown(path, someoneElse, -1))
			if _, err := s.Load(); !isAccessError(err, path) {
				t.Errorf("of another user: Load() error = %v", err)
			}
		})
	}
}

// Root may look at what a service owns, and must not write there.
func TestRootReadsAServicesIdentity(t *testing.T) {
	asRoot(t)
	dir := certsDir(t)
	s := realStore(t, dir)
	must(t, provision(t, s, newCloud(t), run{}))
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, someoneElse, someoneElse))
	}))
	if st := s.Status(); st.State != Present || len(st.Problems) > 0 {
		t.Errorf("status %+v", st)
	}
	if _, err := s.Begin(); !isAccessError(err, dir) {
		t.Errorf("Begin() error = %v", err)
	}
}

// planted writes a journal at Committed, with valid key and certificate, as anyone who may write to
// the directory could: its checksum is no signature.
func planted(t *testing.T, dir string, change func(*state)) string {
	t.Helper()
	key, text, err := SoftwareKeys{}.New()
	must(t, err)
	g := newCloud(t).create(t, key.Public())
	st := &state{
		Sequence: 4, SerialNumber: serial, Stage: Committed, KeyPEM: string(text), CertificatePEM: g.CertificatePEM,
		Record: Record{FormatVersion: 1, ThingName: "fleety_" + serial, SerialNumber: serial, CertificateID: g.CertificateID},
	}
	change(st)
	data, err := st.encode()
	must(t, err)
	journal := filepath.Join(dir, "."+serial+".provisioning")
	must(t, os.Mkdir(journal, 0o700))
	must(t, os.WriteFile(filepath.Join(journal, "journal.0"), data, 0o600))
	return journal
}

func TestPlantedJournalWritesAndRemovesNothingElsewhere(t *testing.T) {
	tests := map[string]func(s *state, precious string){
		"thing name":    func(s *state, p string) { s.Record.ThingName = "../elsewhere/x" },
		"base of files": func(s *state, p string) { s.FileBase = "../elsewhere/x" },
		"another base":  func(s *state, p string) { s.FileBase = "fleety_1" },
		"replaced files": func(s *state, p string) {
			s.Replaced = &replacedFiles{"../elsewhere/x", []string{checksum([]byte("root's"))}}
		},
		"replaced files, plain name": func(s *state, p string) {
			s.Replaced = &replacedFiles{"x~1", []string{checksum([]byte("root's"))}}
		},
		"another certificate": func(s *state, p string) { s.Record.CertificateID = checksum(nil) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			dir := certsDir(t)
			elsewhere := filepath.Join(filepath.Dir(dir), "elsewhere")
			must(t, os.Mkdir(elsewhere, 0o755))
			precious := filepath.Join(elsewhere, "x.json")
			must(t, os.WriteFile(precious, []byte("root's"), 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "passwd"), []byte("root's"), 0o600))
			planted(t, dir, func(s *state) { change(s, precious) })
			_, err := realStore(t, dir).Begin()
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("Begin() error = %v", err)
			}
			if data, err := os.ReadFile(precious); err != nil || string(data) != "root's" {
				t.Errorf("the other file has %q, %v", data, err)
			}
			if entries, err := os.ReadDir(elsewhere); err != nil || len(entries) != 1 {
				t.Errorf("elsewhere are %v, %v", entries, err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
				t.Errorf("in the directory are %v, %v", entries, err)
			}
		})
	}
}

func TestJournalOfAnotherUserIsRefused(t *testing.T) {
	asRoot(t)
	for name, mode := range map[string]fs.FileMode{"directory of everyone's": 0o777, "with the sticky bit": 0o777 | fs.ModeSticky} {
		t.Run(name, func(t *testing.T) {
			dir := certsDir(t)
			must(t, os.Chmod(dir, mode))
			journal := planted(t, dir, func(*state) {})
			for _, path := range []string{journal, filepath.Join(journal, "journal.0")} {
				must(t, os.Chown(path, someoneElse, someoneElse))
			}
			s := realStore(t, dir)
			if _, err := s.Begin(); !isAccessError(err, dir) && !isAccessError(err, journal) {
				t.Errorf("Begin() error = %v", err)
			}
			if _, err := s.Load(); !errors.Is(err, ErrNone) {
				t.Errorf("Load() error = %v", err)
			}
			if st := s.Status(); len(st.Problems) == 0 {
				t.Error("Status() reports no problem")
			}
		})
	}
}

func TestSymbolicLinkOfAnotherUserIsNotFollowed(t *testing.T) {
	asRoot(t)
	for name, second := range map[string]bool{"fleety_" + serial + ".private.key": false, "." + serial + ".provisioning": false, "fleety_" + serial + ".json": true} {
		t.Run(name, func(t *testing.T) {
			dir := certsDir(t)
			must(t, os.Chmod(dir, 0o777|fs.ModeSticky))
			elsewhere := filepath.Join(filepath.Dir(dir), "elsewhere")
			must(t, os.Mkdir(elsewhere, 0o755))
			link := filepath.Join(dir, name)
			if second { // a link of root's leads to one of someone else's
				open := filepath.Join(filepath.Dir(dir), "open")
				must(t, os.Mkdir(open, 0o777))
				must(t, os.Symlink(filepath.Join(open, "link"), link))
				link = filepath.Join(open, "link")
			}
			must(t, os.Symlink(elsewhere, link))
			must(t, os.Lchown(link, someoneElse, someoneElse))
			s, err := NewStore(Config{SerialNumber: serial, ThingName: "fleety_" + serial, Dir: dir})
			must(t, err)
			if err := provision(t, s, newCloud(t), run{}); !isAccessError(err, link) {
				t.Errorf("error = %v", err)
			}
			if entries, err := os.ReadDir(elsewhere); err != nil || len(entries) > 0 {
				t.Errorf("elsewhere are %v, %v", entries, err)
			}
		})
	}
}

// A deniedDisk is the real file system, of which one path may not be read.
type deniedDisk struct {
	osDisk
	path string
}

func (d deniedDisk) ReadFile(path string) ([]byte, error) {
	if path == d.path {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
	}
	return d.osDisk.ReadFile(path)
}

func (d deniedDisk) ReadDir(path string) ([]string, error) {
	if path == d.path {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
	}
	return d.osDisk.ReadDir(path)
}

// The file system that a symbolic link leads to may not be mounted yet.
func TestIdentityInADirectoryThatIsNotThereYetIsNotAbsent(t *testing.T) {
	for name, configure := range map[string]func(dir string) Config{
		"directory":              func(dir string) Config { return Config{Dir: dir} },
		"directory above":        func(dir string) Config { return Config{Dir: filepath.Join(dir, "a", "b")} },
		"configured certificate": func(dir string) Config { return Config{Certificate: filepath.Join(dir, "c.pem")} },
	} {
		t.Run(name, func(t *testing.T) {
			link := filepath.Join(certsDir(t), "link")
			must(t, os.Symlink(filepath.Join("disk", "certs"), link))
			c := configure(link)
			c.SerialNumber = serial
			s, err := NewStore(c)
			must(t, err)
			if st := s.Status(); st.State != Unreadable || len(st.Problems) != 1 {
				t.Errorf("status %+v", st)
			}
			_, begun := s.Begin()
			for call, err := range map[string]error{"Begin": begun, "CheckDisk": s.CheckDisk()} {
				if path, ok := errors.AsType[*fs.PathError](err); !ok || path.Path != link {
					t.Errorf("%s() error = %v", call, err)
				}
			}
			must(t, os.MkdirAll(filepath.Join(filepath.Dir(link), "disk", "certs"), 0o700))
			if st := s.Status(); st.State != Absent || len(st.Problems) != 0 {
				t.Errorf("once it is there: %+v", st)
			}
		})
	}
}

// The link may be that of a user who deploys software, such as /opt/app/current.
func TestIdentityBelowALinkOfAnotherUserIsAbsent(t *testing.T) {
	asRoot(t)
	dir := certsDir(t)
	link := filepath.Join(filepath.Dir(dir), "current")
	must(t, os.Symlink(dir, link))
	must(t, os.Lchown(link, someoneElse, someoneElse))
	for _, below := range []string{"", "missing", "missing/certs"} {
		s, err := NewStore(Config{SerialNumber: serial, Dir: filepath.Join(link, below)})
		must(t, err)
		if st := s.Status(); st.State != Absent || len(st.Problems) > 0 {
			t.Errorf("%q: status %+v", below, st)
		}
		must(t, provision(t, s, newCloud(t), run{}))
	}
}

func TestIdentityThatMayNotBeReadIsNotAbsent(t *testing.T) {
	for _, name := range []string{"", "fleety_2974685.certificate.pem", "fleety_2974685.private.key", "fleety_2974685.json"} {
		t.Run(name, func(t *testing.T) {
			dir := certsDir(t)
			s := realStore(t, dir)
			must(t, provision(t, s, newCloud(t), run{}))
			s.storage.(*directory).disk = deniedDisk{path: filepath.Join(dir, name)}
			if _, err := s.Load(); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("Load() error = %v", err)
			}
			if st := s.Status(); st.State != Unreadable || len(st.Problems) != 1 || !errors.Is(st.Problems[0], fs.ErrPermission) {
				t.Errorf("status %+v", st)
			}
		})
	}
}
