package identity

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// atRegistered returns a disk whose journal is at Registered.
func atRegistered(t *testing.T) *memDisk {
	d, c := newMemDisk(), newCloud(t)
	j, err := storeOn(t, d).Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for _, step := range []func() error{
		j.MakeKey,
		func() error { return j.HoldCertificate(c.create(t, j.Key().Public())) },
		func() error { return j.Register(Registration{ThingName: "fleety_" + serial}) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func damage(data []byte) []byte { return data[:len(data)-10] }

func TestDamagedSlotCostsOneStepAtMost(t *testing.T) {
	tests := map[string]struct {
		damaged string
		want    Stage
	}{
		"the newest":          {"certs/.2974685.provisioning/journal.1", CertificateHeld},
		"the one before that": {"certs/.2974685.provisioning/journal.0", Registered},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := atRegistered(t)
			d.files()[test.damaged].data = damage(d.files()[test.damaged].data)
			s := storeOn(t, d)
			if problems := s.Status().Problems; len(problems) != 1 || !strings.Contains(problems[0].Error(), test.damaged) {
				t.Errorf("Status() problems = %q", problems)
			}
			j, err := s.Begin()
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			if j.Stage() != test.want {
				t.Errorf("journal is at %q, want %q", j.Stage(), test.want)
			}
		})
	}
}

// TestIdentityNeverReplacesItself loses the newest state after the identity was installed, so that
// it is committed once more.
func TestIdentityNeverReplacesItself(t *testing.T) {
	d, c, old := pendingReplacement(t, Registered)
	journal := "certs/.2974685.provisioning/journal.1"
	registered := slices.Clone(d.files()[journal].data)
	j, err := storeOn(t, d).Begin()
	must(t, err)
	must(t, j.Commit())
	d.fault = func(_ int, op, path string) error { // the end of the journal
		if op == "remove" && strings.Contains(path, "journal.") && !strings.HasSuffix(path, ".tmp") {
			return errCrashed
		}
		return nil
	}
	if _, err := j.Install(); !errors.Is(err, errCrashed) {
		t.Fatalf("Install() error = %v", err)
	}
	d = d.reboot(kill)
	newest := d.files()["certs/.2974685.provisioning/journal.0"]
	newest.data = damage(newest.data)
	if data := d.files()[journal].data; !bytes.Equal(data, registered) {
		t.Fatal("the older state is not that of Registered")
	}
	must(t, provision(t, storeOn(t, d), c, run{thing: "other_" + serial}))
	if id, err := storeOn(t, d).Load(); err != nil || id.Record.Replaces != old {
		t.Errorf("identity %+v, %v", id, err)
	}
}

func TestDamagedFirstStepIsDoneAgain(t *testing.T) {
	d := newMemDisk()
	j, err := storeOn(t, d).Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := j.MakeKey(); err != nil {
		t.Fatal(err)
	}
	j.Close()
	n := d.files()["certs/.2974685.provisioning/journal.1"]
	n.data = damage(n.data)
	c := newCloud(t)
	if err := provision(t, storeOn(t, d), c, run{}); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, d, c)
}

// loseJournal damages all copies of the journal, and returns what is in them then.
func loseJournal(d *memDisk) (copies []string) {
	for path, n := range d.files() {
		if strings.Contains(path, "journal.") {
			n.data = damage(n.data)
			copies = append(copies, string(n.data))
		}
	}
	return copies
}

// A device that nobody can reach begins again. What is left of its keys stays.
func TestLostJournalIsSetAside(t *testing.T) {
	replacement, c, old := pendingReplacement(t, Registered)
	for name, d := range map[string]*memDisk{"without identity": atRegistered(t), "of a replacement": replacement} {
		copies := loseJournal(d)
		if problems := storeOn(t, d).Status().Problems; len(problems) != 1 || !errors.Is(problems[0], ErrCorrupt) {
			t.Errorf("%s: problems %v", name, problems)
		}
		must(t, provision(t, storeOn(t, d), c, run{replace: true}))
		id, err := storeOn(t, d).Load()
		if err != nil || d == replacement && id.Record.Replaces != old {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
		for path, n := range d.files() {
			if strings.Contains(path, ".found-") {
				copies = slices.DeleteFunc(copies, func(text string) bool { return text == string(n.data) })
			}
		}
		if len(copies) > 0 {
			t.Errorf("%s: %d damaged copies are gone", name, len(copies))
		}
	}
}

func TestLostJournalOfADamagedIdentityIsAnError(t *testing.T) {
	d, _, _ := pendingReplacement(t, Registered)
	loseJournal(d)
	for path, n := range d.files() {
		if strings.HasSuffix(path, ".private.key") {
			n.data = damage(n.data)
		}
	}
	_, err := storeOn(t, d).Begin()
	if corrupt, ok := errors.AsType[*FileError](err); !ok || !errors.Is(err, ErrCorrupt) || corrupt.Path != "certs/.2974685.provisioning" {
		t.Errorf("Begin() error = %v", err)
	}
	if len(d.held) != 0 {
		t.Error("the lock is still held")
	}
}

func TestJournalOfALaterVersionIsLeftAlone(t *testing.T) {
	d := atRegistered(t)
	n := d.files()["certs/.2974685.provisioning/journal.1"]
	n.data = []byte(strings.Replace(string(n.data), "fleety-journal 1", "fleety-journal 2", 1))
	_, err := storeOn(t, d).Begin()
	if err == nil || !strings.Contains(err.Error(), "format version 2") {
		t.Errorf("Begin() error = %v", err)
	}
}

func FuzzDecodeState(f *testing.F) {
	good, err := (&state{Sequence: 1, SerialNumber: serial, Stage: KeyMade, Started: time.Unix(0, 0).UTC(), KeyPEM: "x"}).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(damage(good))
	f.Add([]byte("fleety-journal 1 \n{}"))
	f.Add([]byte("fleety-journal 2 00\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeState(data)
		if err != nil {
			return
		}
		again, err := s.encode()
		if err != nil {
			t.Fatal(err)
		}
		twice, err := decodeState(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, twice, cmpopts.IgnoreUnexported(state{})); diff != "" {
			t.Errorf("printing and reading changed it:\n%s", diff)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"formatVersion":1,"thingName":"fleety_1","serialNumber":"1","certificateId":"ab","notAfter":"2049-12-31T23:59:59Z"}`))
	f.Add([]byte(`{"formatVersion":1,"thingName":"../etc"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRecord(data)
		if err != nil {
			return
		}
		again, err := ParseRecord(r.encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, again); diff != "" {
			t.Errorf("printing and reading changed it:\n%s", diff)
		}
	})
}
