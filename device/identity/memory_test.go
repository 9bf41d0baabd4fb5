package identity

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"os"
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

// BenchmarkMemoryStore measures what a simulated device's identity takes beside its key and its
// certificate, which are made before.
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

// tokenKeys are keys that take room, by their public halves.
type tokenKeys struct {
	quickKeys
	held map[string]bool
}

type tokenKey struct {
	crypto.Signer
	keys tokenKeys
}

func (k tokenKeys) New() (crypto.Signer, []byte, error) {
	key, text, err := k.quickKeys.New()
	k.held[string(text)] = true
	return tokenKey{key, k}, text, err
}

func (k tokenKeys) Open(text []byte) (crypto.Signer, error) {
	key, err := k.quickKeys.Open(text)
	return tokenKey{key, k}, err
}

func (k tokenKey) Remove() error {
	for _, s := range stock() {
		if s.key.Public().(ed25519.PublicKey).Equal(k.Public()) {
			delete(k.keys.held, string(s.text))
		}
	}
	return nil
}

func TestHardwareHoldsNoKeyThatIsReplacedOrDiscarded(t *testing.T) {
	keys := tokenKeys{held: map[string]bool{}}
	s, err := NewStore(Config{SerialNumber: serial, Dir: t.TempDir(), Keys: keys})
	must(t, err)
	c := newCloud(t)
	inUse := func(when string, pending int) {
		t.Helper()
		id, err := s.Load()
		must(t, err)
		text, err := os.ReadFile(id.Files.PrivateKey)
		must(t, err)
		if len(keys.held) != 1+pending || !keys.held[string(text)] {
			t.Errorf("%s: %d keys are held", when, len(keys.held))
		}
	}
	must(t, provision(t, s, c, run{}))
	inUse("provisioned", 0)
	must(t, provision(t, s, c, run{replace: true}))
	inUse("replaced", 0)
	j, err := s.Begin()
	must(t, err)
	must(t, j.MakeKey())
	must(t, j.Close())
	inUse("a replacement is pending", 1)
	_, err = s.DiscardPending()
	must(t, err)
	inUse("it is discarded", 0)
}
