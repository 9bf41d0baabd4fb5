package identity

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAMemoryStoreKeepsAnIdentityWithoutADisk(t *testing.T) {
	t.Chdir(t.TempDir())
	s, err := NewMemoryStore(Config{SerialNumber: serial})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); !errors.Is(err, ErrNone) {
		t.Errorf("an empty store gave %v", err)
	}
	c := newCloud(t)
	if err := provision(t, s, c, run{}); err != nil {
		t.Fatal(err)
	}
	id, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.active, []string{id.Record.CertificateID}); diff != "" {
		t.Errorf("certificate (-want +got):\n%s", diff)
	}
	if p := s.Status().Pending; p != nil {
		t.Errorf("the journal is still there: %+v", p)
	}
	names, err := osDisk{}.ReadDir(".")
	if err != nil || len(names) > 0 {
		t.Errorf("on the disk are %v, %v", names, err)
	}
}

func TestAMemoryStoreIsLockedWhileInUse(t *testing.T) {
	s, err := NewMemoryStore(Config{SerialNumber: serial})
	if err != nil {
		t.Fatal(err)
	}
	j, err := s.Begin()
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Begin()
	if _, ok := errors.AsType[*LockedError](err); !ok {
		t.Errorf("a second Begin returned %v", err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	j, err = s.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}
