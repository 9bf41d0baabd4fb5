//go:build unix

package identity

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/fleety/device/awsiot"
)

func TestPathsThatMeetAreAnErrorBeforeAnythingIsWritten(t *testing.T) {
	t.Parallel()
	// Each names certificate and private key, relative to a directory that holds claim/ with the
	// claim, link/ to it, and other.json of another device.
	tests := map[string][2]string{
		"key is certificate":                  {"own/x.pem", "own/x.pem"},
		"key is certificate, dot":             {"own/x.pem", "./own/x.pem"},
		"key is certificate, dots":            {"own/x.pem", "own/../own/x.pem"},
		"key is certificate, case":            {"own/x.pem", "own/X.PEM"},
		"key is certificate, linked":          {"own/x.pem", "ownlink/x.pem"},
		"certificate is record":               {"own/x.json", "own/x.key"},
		"key is record":                       {"own/x.pem", "own/x.json"},
		"key is record, linked":               {"own/x.pem", "ownlink/x.json"},
		"key is the certificate's temporary":  {"own/x.pem", "own/.x.pem.tmp"},
		"key is the journal's lock":           {"own/x.pem", "own/.2974685.provisioning/lock"},
		"key is the journal":                  {"own/x.pem", "own/.2974685.provisioning/journal.1"},
		"certificate is the claim's":          {"claim/claim.pem", "own/x.key"},
		"certificate is the claim's, linked":  {"claimlink/claim.pem", "own/x.key"},
		"certificate is the claim's, by link": {"own/to-claim.pem", "own/x.key"},
		"key is the claim's":                  {"own/x.pem", "claim/claim.key"},
		"key is the claim's, hard link":       {"own/x.pem", "own/hard.key"},
		"record is the configuration":         {"claim/device.pem", "own/x.key"},
		"record of another device":            {"other.pem", "own/x.key"},
		"certificate is a directory":          {"claim", "own/x.key"},
		"key has a long name":                 {"own/x.pem", "own/" + strings.Repeat("k", 253)},
		"certificate has a long name":         {"own/" + strings.Repeat("c", 250), "own/x.key"},
	}
	for name, paths := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, d := range []string{"own", "claim"} {
				must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
				must(t, os.Symlink(d, filepath.Join(dir, d+"link")))
			}
			reserved := []string{""}
			for _, name := range []string{"claim.pem", "claim.key", "device.json"} {
				path := filepath.Join(dir, "claim", name)
				reserved = append(reserved, path)
				must(t, os.WriteFile(path, []byte(name), 0o644))
			}
			must(t, os.Symlink("../claim/claim.pem", filepath.Join(dir, "own/to-claim.pem")))
			must(t, os.Link(filepath.Join(dir, "claim/claim.key"), filepath.Join(dir, "own/hard.key")))
			other := Record{FormatVersion: 1, ThingName: "fleety_1", SerialNumber: "1", CertificateID: checksum(nil)}
			must(t, os.WriteFile(filepath.Join(dir, "other.json"), other.encode(), 0o644))
			before := contents(t, dir)
			s, err := NewStore(Config{
				SerialNumber: serial, Reserved: reserved,
				Certificate: dir + "/" + paths[0], PrivateKey: dir + "/" + paths[1],
			})
			must(t, err)
			err = provision(t, s, newCloud(t), run{replace: true})
			if !errors.Is(err, ErrConflict) || awsiot.ClassOf(err) != awsiot.Misconfigured {
				t.Errorf("error = %v", err)
			}
			after := contents(t, dir)
			for path, content := range before {
				if after[path] != content {
					t.Errorf("%s has changed", path)
				}
			}
			if len(after) != len(before) {
				t.Errorf("files: %v", after)
			}
		})
	}
}

// A file whose name is so long that it cannot be renamed stays, and the run ends.
func TestFileThatCannotBeKeptAsideIsAnError(t *testing.T) {
	dir := certsDir(t)
	key := filepath.Join(dir, strings.Repeat("k", 240))
	must(t, os.WriteFile(key, []byte("of someone"), 0o600))
	s, err := NewStore(Config{SerialNumber: serial, Certificate: filepath.Join(dir, "c.pem"), PrivateKey: key})
	must(t, err)
	if err := provision(t, s, newCloud(t), run{replace: true}); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("error = %v", err)
	}
	if text, err := os.ReadFile(key); string(text) != "of someone" {
		t.Errorf("the file has %q, %v", text, err)
	}
}

// A socket stands here for a device such as /dev/null, without which a machine does not work.
func TestWhatIsNoRegularFileIsNeitherReplacedNorRemoved(t *testing.T) {
	dir := certsDir(t)
	t.Chdir(dir) // the address of a socket is short
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "socket"})
	must(t, err)
	defer l.Close()
	must(t, os.Symlink("socket", "link"))
	for _, path := range []string{"socket", "link"} {
		for name, c := range map[string]Config{"certificate": {Certificate: path}, "key": {Certificate: "c.pem", PrivateKey: path}} {
			c.SerialNumber = serial
			s, err := NewStore(c)
			must(t, err)
			if err := provision(t, s, newCloud(t), run{replace: true}); !errors.Is(err, ErrConflict) {
				t.Errorf("%s as %s: error = %v", path, name, err)
			}
		}
		s := realStore(t, dir)
		must(t, provision(t, s, newCloud(t), run{replace: true}))
		if err := s.RemoveClaim(filepath.Join(dir, path)); !errors.Is(err, ErrConflict) {
			t.Errorf("%s as the claim: error = %v", path, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode()&fs.ModeSocket == 0 {
			t.Fatalf("%s is %v, %v", path, info, err)
		}
	}
}

// TestThingNameOfOthersFilesGivesWay covers names that AWS IoT answers, when it is too late for an
// error: that of the claim, and that of another device.
func TestThingNameOfOthersFilesGivesWay(t *testing.T) {
	dir := certsDir(t)
	claim := []string{filepath.Join(dir, "claim.certificate.pem"), filepath.Join(dir, "claim.private.key")}
	for _, path := range claim {
		must(t, os.WriteFile(path, []byte("claim"), 0o600))
	}
	other, err := NewStore(Config{SerialNumber: "1", Dir: dir})
	must(t, err)
	c := newCloud(t)
	must(t, provision(t, other, c, run{thing: "shared"}))
	for _, thing := range []string{"claim", "shared"} {
		t.Run(thing, func(t *testing.T) {
			before := contents(t, dir)
			s, err := NewStore(Config{SerialNumber: serial, Dir: dir, Reserved: claim})
			must(t, err)
			c := newCloud(t)
			for range 2 {
				must(t, provision(t, s, c, run{thing: thing, replace: true}))
				id, err := s.Load()
				if err != nil || id.Record.CertificateID != c.active[len(c.active)-1] || id.Record.ThingName != thing {
					t.Errorf("identity %+v, %v", id, err)
				}
			}
			after := contents(t, dir)
			for path, content := range before {
				if after[path] != content && thing != "" && !bytes.Contains([]byte(path), []byte("~")) {
					t.Errorf("%s has changed", path)
				}
			}
			if len(after) != 8 {
				t.Errorf("files: %v", after)
			}
		})
	}
}

func TestForeignFilesInTheWayAreKept(t *testing.T) {
	for _, suffix := range []string{".certificate.pem", ".private.key", ".json"} {
		t.Run(suffix, func(t *testing.T) {
			dir := certsDir(t)
			path := filepath.Join(dir, "fleety_"+serial+suffix)
			s, c := realStore(t, dir), newCloud(t)
			for i, content := range []string{"someone's only copy", "and another one"} {
				must(t, os.WriteFile(path, []byte(content), 0o600))
				must(t, provision(t, s, c, run{replace: true}))
				kept, err := filepath.Glob(path + ".found-*")
				if err != nil || len(kept) != i+1 {
					t.Fatalf("kept: %v, %v", kept, err)
				}
			}
			found := map[string]bool{}
			for path, content := range contents(t, dir) {
				if matched, _ := filepath.Match("*.found-*", filepath.Base(path)); matched {
					found[content] = true
				}
			}
			if !found["someone's only copy"] || !found["and another one"] {
				t.Errorf("kept: %v", found)
			}
		})
	}
}
