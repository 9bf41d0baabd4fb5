package identity

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
)

// realStore is on the real file system, in dir.
func realStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := NewStore(Config{SerialNumber: serial, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// contents returns the files below a directory, by path.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		all[path] = string(data)
		return err
	}))
	return all
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesHaveTheirModesUnderAnyUmask(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	if err := provision(t, realStore(t, dir), newCloud(t), run{}); err != nil {
		t.Fatal(err)
	}
	want := map[string]fs.FileMode{
		"fleety_2974685.certificate.pem": 0o644,
		"fleety_2974685.private.key":     0o600,
		"fleety_2974685.json":            0o644,
	}
	got := map[string]fs.FileMode{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = info.Mode()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestRecordDescribesTheIdentity(t *testing.T) {
	dir := t.TempDir()
	s := realStore(t, dir)
	s.config.Now = func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }
	c := newCloud(t)
	if err := provision(t, s, c, run{}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "fleety_2974685.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"formatVersion":       float64(1),
		"thingName":           "fleety_2974685",
		"serialNumber":        "2974685",
		"certificateId":       c.active[0],
		"endpoint":            "localhost",
		"notAfter":            "2049-12-31T23:59:59Z",
		"deviceConfiguration": nil,
		"author":              "",
		"issuedAt":            "2026-03-01T12:00:00Z",
		"registeredAt":        "2026-03-01T12:00:00Z",
		"provedAt":            "2026-03-01T12:00:00Z",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

func TestConfiguredPathsAreUsed(t *testing.T) {
	dir := t.TempDir()
	s, err := NewStore(Config{
		SerialNumber: serial,
		Certificate:  filepath.Join(dir, "public", "device.crt"),
		PrivateKey:   filepath.Join(dir, "secret", "device.key"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := provision(t, s, newCloud(t), run{}); err != nil {
		t.Fatal(err)
	}
	id, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	want := Files{
		Certificate: filepath.Join(dir, "public", "device.crt"),
		PrivateKey:  filepath.Join(dir, "secret", "device.key"),
		Record:      filepath.Join(dir, "public", "device.json"),
	}
	if diff := cmp.Diff(want, id.Files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestSerialNumberCannotLeaveTheDirectory(t *testing.T) {
	s, err := NewStore(Config{SerialNumber: "../../etc/x", Dir: "certs"})
	if err != nil {
		t.Fatal(err)
	}
	if got := filepath.Dir(s.config.journalDir()); got != "certs" {
		t.Errorf("the journal is in %s", got)
	}
}

func TestLoadReportsFilesThatAreNoIdentity(t *testing.T) {
	other := newCloud(t)
	files := Files{
		Certificate: "fleety_2974685.certificate.pem",
		PrivateKey:  "fleety_2974685.private.key",
		Record:      "fleety_2974685.json",
	}
	signer, key, err := SoftwareKeys{}.New()
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		path    string
		content []byte // nil removes the file
	}{
		"certificate missing":          {files.Certificate, nil},
		"key missing":                  {files.PrivateKey, nil},
		"certificate of another":       {files.Certificate, []byte(other.create(t, signer.Public()).CertificatePEM)},
		"key of another":               {files.PrivateKey, key},
		"certificate empty":            {files.Certificate, []byte{}},
		"key empty":                    {files.PrivateKey, []byte{}},
		"record torn":                  {files.Record, []byte(`{"formatVersion": 1, "thi`)},
		"record of a later version":    {files.Record, []byte(`{"formatVersion": 2}`)},
		"record without a thing name":  {files.Record, []byte(`{"formatVersion": 1, "thingName": "../x"}`)},
		"record without a certificate": {files.Record, []byte(`{"formatVersion": 1, "thingName": "x"}`)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := realStore(t, dir)
			if err := provision(t, s, newCloud(t), run{}); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, test.path)
			if test.content == nil {
				err = os.Remove(path)
			} else {
				err = os.WriteFile(path, test.content, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err := s.Load()
			broken, ok := errors.AsType[*FileError](err)
			if !ok || broken.Path != path || broken.Reason == "" {
				t.Errorf("Load() error = %v, want one about %s", err, path)
			}
			if problems := s.Status().Problems; len(problems) != 1 || problems[0].Error() != err.Error() {
				t.Errorf("Status() problems = %q", problems)
			}
		})
	}
}

func TestCertificateForAnotherKeyIsRejected(t *testing.T) {
	c := newCloud(t)
	tests := map[string]func(g *Grant, foreign Grant){
		"for another key":  func(g *Grant, foreign Grant) { *g = foreign },
		"under another id": func(g *Grant, foreign Grant) { g.CertificateID = foreign.CertificateID },
		"no certificate":   func(g *Grant, _ Grant) { g.CertificatePEM = "-----BEGIN" },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			j, err := realStore(t, t.TempDir()).Begin()
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			if err := j.MakeKey(); err != nil {
				t.Fatal(err)
			}
			foreign, _, err := SoftwareKeys{}.New()
			if err != nil {
				t.Fatal(err)
			}
			g := c.create(t, j.Key().Public())
			spoil(&g, c.create(t, foreign.Public()))
			if _, ok := errors.AsType[*CertificateError](j.HoldCertificate(g)); !ok {
				t.Error("it was accepted")
			}
			if j.Stage() != KeyMade {
				t.Errorf("journal is at %q", j.Stage())
			}
		})
	}
}

func TestStageCannotBeSkipped(t *testing.T) {
	j, err := realStore(t, t.TempDir()).Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if err := j.Register(Registration{ThingName: "x"}); err == nil {
		t.Error("registered without a certificate")
	}
	if err := j.Commit(); err == nil {
		t.Error("proved without a registration")
	}
	if _, err := j.Install(); err == nil {
		t.Error("committed without a proof")
	}
}

func TestStatusShowsAnInterruptedProvisioning(t *testing.T) {
	s := realStore(t, t.TempDir())
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s.config.Now = func() time.Time { return now }
	j, err := s.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := j.MakeKey(); err != nil {
		t.Fatal(err)
	}
	began := now
	now = now.Add(time.Minute)
	g := newCloud(t).create(t, j.Key().Public())
	g.TokenExpires = now.Add(time.Hour)
	if err := j.HoldCertificate(g); err != nil {
		t.Fatal(err)
	}
	want := &Pending{
		Stage: CertificateHeld, Since: began, Updated: now,
		CertificateID: g.CertificateID, TokenExpires: now.Add(time.Hour), PID: os.Getpid(),
	}
	if diff := cmp.Diff(want, s.Status().Pending); diff != "" {
		t.Errorf("while it runs (-want +got):\n%s", diff)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	want.PID = 0
	if diff := cmp.Diff(want, s.Status().Pending); diff != "" {
		t.Errorf("afterwards (-want +got):\n%s", diff)
	}
}

func TestBeginAndCloseLeaveNothingBehind(t *testing.T) {
	dir := t.TempDir()
	j, err := realStore(t, dir).Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestConcurrentRunsExcludeEachOther(t *testing.T) {
	dir := t.TempDir()
	var holders atomic.Int32
	var runs sync.WaitGroup
	for range 8 {
		s := realStore(t, dir)
		runs.Go(func() {
			for range 50 {
				j, err := s.Begin()
				if _, ok := errors.AsType[*LockedError](err); ok {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d runs hold the lock", n)
				}
				holders.Add(-1)
				if err := j.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	runs.Wait()
}

// TestMain lets the test binary be a process that holds the lock.
func TestMain(m *testing.M) {
	if dir := os.Getenv("IDENTITY_TEST_HOLD"); dir != "" {
		holdLock(dir)
	}
	os.Exit(m.Run())
}

func holdLock(dir string) {
	s, err := NewStore(Config{SerialNumber: serial, Dir: dir})
	if err != nil {
		os.Exit(1)
	}
	j, err := s.Begin()
	if err != nil || j.MakeKey() != nil {
		os.Exit(1)
	}
	os.Stdout.WriteString("held\n")
	os.Stdin.Read(make([]byte, 1)) // until killed
}

func TestLockedErrorNamesTheProcess(t *testing.T) {
	dir := t.TempDir()
	holder := exec.CommandContext(t.Context(), os.Args[0])
	holder.Env = append(os.Environ(), "IDENTITY_TEST_HOLD="+dir)
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	s := realStore(t, dir)
	_, err = s.Begin()
	locked, ok := errors.AsType[*LockedError](err)
	if !ok || locked.PID != holder.Process.Pid || !strings.Contains(err.Error(), strconv.Itoa(holder.Process.Pid)) {
		t.Errorf("Begin() error = %v, want one about process %d", err, holder.Process.Pid)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	j, err := s.Begin()
	if err != nil {
		t.Fatalf("after the other process was killed: %v", err)
	}
	defer j.Close()
	if j.Stage() != KeyMade {
		t.Errorf("journal is at %q", j.Stage())
	}
}

// TestJournalCanBeContinuedFromAnotherDirectory commits under a relative path, and continues under
// an absolute one.
func TestJournalCanBeContinuedFromAnotherDirectory(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	s, c := realStore(t, "certs"), newCloud(t)
	must(t, provision(t, s, c, run{}))
	j, err := s.Begin()
	must(t, err)
	must(t, errors.Join(j.MakeKey(), j.HoldCertificate(c.create(t, j.Key().Public()))))
	must(t, errors.Join(j.Register(Registration{ThingName: "unit_" + serial}), j.Commit()))
	want := awsiot.CertificateID(j.TLS().Leaf)
	must(t, j.Close())

	t.Chdir(t.TempDir())
	s = realStore(t, filepath.Join(dir, "certs"))
	if id, err := s.Load(); err != nil || id.Record.CertificateID != want {
		t.Errorf("before: identity %+v, %v", id, err)
	}
	j, err = s.Begin()
	must(t, err)
	must(t, j.Close())
	if id, err := s.Load(); err != nil || id.Record.CertificateID != want {
		t.Errorf("after: identity %+v, %v", id, err)
	}
	if files := contents(t, dir); len(files) != 3 {
		t.Errorf("files: %v", slices.Sorted(maps.Keys(files)))
	}
}
