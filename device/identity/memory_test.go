package identity

import (
	"crypto"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMemoryStoreKeepsAnIdentityWithoutADisk(t *testing.T) {
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

func TestMemoryStoreIsLockedWhileInUse(t *testing.T) {
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

// BenchmarkMemoryStore measures what a simulated device's identity takes beside
// its key and its certificate, which are made before.
func BenchmarkMemoryStore(b *testing.B) {
	c := newCloud(b)
	key := stock()[0].key
	g := c.create(b, key.Public())
	for b.Loop() {
		s, err := NewMemoryStore(Config{SerialNumber: serial, Keys: sameKey{}})
		if err != nil {
			b.Fatal(err)
		}
		j, err := s.Begin()
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(j.MakeKey(), j.HoldCertificate(g), j.Register(Registration{ThingName: "fleety_" + serial}), j.Commit()); err != nil {
			b.Fatal(err)
		}
		if _, err := j.Install(); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Load(); err != nil {
			b.Fatal(err)
		}
	}
}

// sameKey always returns one key.
type sameKey struct{ quickKeys }

func (sameKey) New() (crypto.Signer, []byte, error) { return stock()[0].key, stock()[0].text, nil }

// countedKeys counts how often a key is opened.
type countedKeys struct {
	SoftwareKeys
	opened *int
}

func (k countedKeys) Open(text []byte) (crypto.Signer, error) {
	*k.opened++
	return k.SoftwareKeys.Open(text)
}

func TestMemoryStoreParsesNoKeyAgain(t *testing.T) {
	opened := 0
	s, err := NewMemoryStore(Config{SerialNumber: serial, Keys: countedKeys{opened: &opened}})
	must(t, err)
	must(t, provision(t, s, newCloud(t), run{}))
	if _, err := s.Load(); err != nil || opened != 0 {
		t.Errorf("%d keys parsed, %v", opened, err)
	}
}
