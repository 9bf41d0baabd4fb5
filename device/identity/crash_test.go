package identity

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const serial = "2974685"

// A cloud issues and registers certificates as AWS IoT does, so that a device
// can be judged by what it has left there.
type cloud struct {
	issuer  ed25519.PrivateKey
	issued  int64
	pending map[string]string // token to certificate id
	active  []string          // certificate ids on the thing
}

func newCloud(t testing.TB) *cloud {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &cloud{issuer: key, pending: map[string]string{}}
}

func (c *cloud) create(t testing.TB, key crypto.PublicKey) Grant {
	c.issued++
	cert := issue(t, c.issuer, key, c.issued)
	token := fmt.Sprintf("token-%d", c.issued)
	c.pending[token] = CertificateID(cert)
	return Grant{
		CertificateID:  CertificateID(cert),
		CertificatePEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
		Token:          token,
		TokenExpires:   time.Now().Add(time.Hour),
	}
}

// issuedBefore saves making the same certificate a thousand times.
var issuedBefore = map[string]*x509.Certificate{}

func issue(t testing.TB, issuer ed25519.PrivateKey, key crypto.PublicKey, number int64) *x509.Certificate {
	t.Helper()
	what := fmt.Sprint(key, number)
	if cert, ok := issuedBefore[what]; ok {
		return cert
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(number),
		Subject:      pkix.Name{CommonName: "AWS IoT Certificate"},
		NotAfter:     time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key, issuer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	issuedBefore[what] = cert
	return cert
}

func (c *cloud) register(token string) {
	if id, ok := c.pending[token]; ok {
		delete(c.pending, token)
		c.active = append(c.active, id)
	}
}

func (c *cloud) isActive(id string) bool {
	for _, a := range c.active {
		if a == id {
			return true
		}
	}
	return false
}

// quickKeys hands out keys from a stock, for tests by the thousand. No two in
// a row are the same.
type quickKeys struct{}

var stock = sync.OnceValue(func() [][]byte {
	keys := make([][]byte, 16)
	for i := range keys {
		_, key, _ := ed25519.GenerateKey(rand.Reader)
		der, _ := x509.MarshalPKCS8PrivateKey(key)
		keys[i] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	return keys
})

var handedOut int

func (quickKeys) New() ([]byte, error) {
	handedOut++
	return stock()[handedOut%len(stock())], nil
}

var opened = map[string]crypto.Signer{}

func (quickKeys) Open(text []byte) (crypto.Signer, error) {
	if key, ok := opened[string(text)]; ok {
		return key, nil
	}
	key, err := SoftwareKeys{}.Open(text)
	if err == nil {
		opened[string(text)] = key
	}
	return key, err
}

func storeOn(t testing.TB, d *memDisk) *Store {
	t.Helper()
	s, err := NewStore(Config{SerialNumber: serial, Keys: quickKeys{}})
	if err != nil {
		t.Fatal(err)
	}
	s.disk = d
	return s
}

// provision does what a run does, as far as the disk lets it.
func provision(t testing.TB, s *Store, c *cloud, replace bool) error {
	j, err := s.Begin()
	if err != nil {
		return err
	}
	defer j.Close()
	if j.Finished() != nil {
		return nil
	}
	if _, err := s.Load(); err == nil && !replace && j.Stage() == Empty {
		return nil
	}
	for {
		switch j.Stage() {
		case Empty:
			err = j.MakeKey()
		case KeyMade:
			err = j.HoldCertificate(c.create(t, j.Key().Public()))
		case CertificateHeld:
			if token, _ := j.Token(); !c.isActive(CertificateID(j.Certificate())) {
				c.register(token)
			}
			err = j.Register(Registration{ThingName: "fleety_" + serial, Endpoint: "localhost"})
		case Registered:
			err = j.Commit()
		case Committed:
			_, err = j.Install()
			return err
		}
		if err != nil {
			return err
		}
	}
}

// checkWhole demands one identity on disk, the cloud's newest and only
// certificate beside those in old, and nothing else.
func checkWhole(t *testing.T, d *memDisk, c *cloud, old ...string) {
	t.Helper()
	id, err := storeOn(t, d).Load()
	if err != nil {
		t.Fatalf("no identity in the end: %v", err)
	}
	if len(c.active) != len(old)+1 || c.active[len(old)] != id.Record.CertificateID {
		t.Fatalf("device has certificate %s, the cloud has %v active (old: %v)", id.Record.CertificateID, c.active, old)
	}
	if !fits(id.Key, id.Certificate) {
		t.Fatal("key and certificate differ")
	}
	want := []string{"certs/fleety_2974685.certificate.pem", "certs/fleety_2974685.json", "certs/fleety_2974685.private.key"}
	if got := d.paths(); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Fatalf("files left: %v, want %v", got, want)
	}
	for path, n := range d.names {
		if secret := strings.HasSuffix(path, ".key"); secret && n.perm != 0o600 || !secret && n.perm != 0o644 {
			t.Errorf("%s has mode %v", path, n.perm)
		}
	}
}

// countCalls returns how many calls an undisturbed run makes.
func countCalls(t *testing.T, d *memDisk, replace bool) int {
	c := newCloud(t)
	if err := provision(t, storeOn(t, d), c, replace); err != nil {
		t.Fatal(err)
	}
	return d.calls
}

func crashAt(call int) func(int, string, string) error {
	return func(n int, _, _ string) error {
		if n == call {
			return errCrashed
		}
		return nil
	}
}

func TestACrashAtAnyCallLosesNothing(t *testing.T) {
	calls := countCalls(t, newMemDisk(), false)
	for _, how := range []cut{kill, power, torn} {
		t.Run(string(how), func(t *testing.T) {
			for call := 1; call <= calls; call++ {
				d, c := newMemDisk(), newCloud(t)
				d.fault = crashAt(call)
				_ = provision(t, storeOn(t, d), c, false)
				d = d.reboot(how)
				if _, err := storeOn(t, d).Load(); err != nil && !errors.Is(err, ErrNone) {
					t.Fatalf("crash at call %d: a half identity was found: %v", call, err)
				}
				if err := provision(t, storeOn(t, d), c, false); err != nil {
					t.Fatalf("crash at call %d: next run: %v", call, err)
				}
				checkWhole(t, d, c)
			}
		})
	}
}

func TestTwoCrashesLoseNothing(t *testing.T) {
	calls := countCalls(t, newMemDisk(), false)
	cuts := []cut{kill, power, torn}
	for first := 1; first <= calls; first++ {
		for second := 1; second <= calls; second++ {
			d, c := newMemDisk(), newCloud(t)
			d.fault = crashAt(first)
			_ = provision(t, storeOn(t, d), c, false)
			d = d.reboot(cuts[first%3])
			d.fault = crashAt(second)
			if err := provision(t, storeOn(t, d), c, false); err == nil && d.calls < second {
				break // the second run has fewer calls than that
			}
			d = d.reboot(cuts[second%3])
			if err := provision(t, storeOn(t, d), c, false); err != nil {
				t.Fatalf("crashes at calls %d and %d: last run: %v", first, second, err)
			}
			checkWhole(t, d, c)
		}
	}
}

// provisioned returns a disk with an identity, and its cloud.
func provisioned(t *testing.T) (*memDisk, *cloud) {
	d, c := newMemDisk(), newCloud(t)
	if err := provision(t, storeOn(t, d), c, false); err != nil {
		t.Fatal(err)
	}
	return d.reboot(power), c
}

func TestReplacingAnIdentityNeverLeavesTheDeviceWithoutOne(t *testing.T) {
	d, _ := provisioned(t)
	calls := countCalls(t, d, true)
	for _, how := range []cut{kill, power, torn} {
		t.Run(string(how), func(t *testing.T) {
			for call := 1; call <= calls; call++ {
				d, c := provisioned(t)
				old := c.active[0]
				d.fault = crashAt(call)
				err := provision(t, storeOn(t, d), c, true)
				d = d.reboot(how)
				id, loadErr := storeOn(t, d).Load()
				if loadErr != nil {
					t.Fatalf("crash at call %d: no identity: %v", call, loadErr)
				}
				if id.Record.CertificateID != old && id.Record.Replaces != old {
					t.Fatalf("crash at call %d: identity forgot which one it replaces", call)
				}
				if len(c.active) == 2 && errors.Is(err, errCrashed) {
					// The new one was registered: the next run must finish it.
					if err := provision(t, storeOn(t, d), c, false); err != nil {
						t.Fatalf("crash at call %d: next run: %v", call, err)
					}
					checkWhole(t, d, c, old)
				}
			}
		})
	}
}

func TestAReplacementThatIsGivenUpLeavesNothing(t *testing.T) {
	d, _ := provisioned(t)
	calls := countCalls(t, d, true)
	for _, how := range []cut{kill, power, torn} {
		t.Run(string(how), func(t *testing.T) {
			for call := 1; call <= calls; call++ {
				d, c := provisioned(t)
				old := c.active[0]
				d.fault = crashAt(call)
				_ = provision(t, storeOn(t, d), c, true)
				d = d.reboot(how)
				if err := provision(t, storeOn(t, d), c, false); err != nil {
					t.Fatalf("crash at call %d: next run: %v", call, err)
				}
				if len(c.active) == 1 {
					checkWhole(t, d, c)
				} else {
					checkWhole(t, d, c, old)
				}
			}
		})
	}
}

func TestAFailingDiskIsToldAndTheNextRunWorks(t *testing.T) {
	calls := countCalls(t, newMemDisk(), false)
	faults := map[string]func(from int) func(int, string, string) error{
		"one call fails": func(from int) func(int, string, string) error {
			return func(n int, _, _ string) error {
				if n == from {
					return syscall.EIO
				}
				return nil
			}
		},
		"the disk stays full": func(from int) func(int, string, string) error {
			return func(n int, op, _ string) error {
				if n >= from && (op == "create" || op == "write" || op == "mkdir") {
					return syscall.ENOSPC
				}
				return nil
			}
		},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			for call := 1; call <= calls; call++ {
				d, c := newMemDisk(), newCloud(t)
				d.fault = fault(call)
				err := provision(t, storeOn(t, d), c, false)
				if err != nil && !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("call %d: the cause is lost: %v", call, err)
				}
				if err != nil && !strings.Contains(err.Error(), "certs") {
					t.Errorf("call %d: the error names no path: %v", call, err)
				}
				d.fault = nil
				if err := provision(t, storeOn(t, d), c, false); err != nil {
					t.Fatalf("call %d: next run: %v", call, err)
				}
				checkWhole(t, d, c)
			}
		})
	}
}
