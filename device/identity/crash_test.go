package identity

import (
	"cmp"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/awsiot"
)

// The whole matrix, which takes a minute: go test -crash.pairs 1 -crash.histories 10000
var (
	crashPairs     = flag.Int("crash.pairs", 11, "tests of two failures take one of so many pairs; 1 takes all")
	crashHistories = flag.Int("crash.histories", 200, "how many histories TestRandomHistories goes through")
)

const serial = "2974685"

// A cloud issues and registers certificates as AWS IoT does, so that a test can compare what a
// device has with what is active.
type cloud struct {
	issuer  ed25519.PrivateKey
	issued  int64
	pending map[string]string // token to certificate id
	active  []string          // certificate ids on the thing
	// loses is the request whose answer is lost, once.
	loses string
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
	c.pending[token] = awsiot.CertificateID(cert)
	return Grant{
		CertificateID:  awsiot.CertificateID(cert),
		CertificatePEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
		Token:          token,
		TokenExpires:   time.Now().Add(time.Hour),
	}
}

// issuedBefore saves making the same certificate a thousand times.
var issuedBefore sync.Map // of *x509.Certificate, by key and number

func issue(t testing.TB, issuer ed25519.PrivateKey, key crypto.PublicKey, number int64) *x509.Certificate {
	t.Helper()
	what := fmt.Sprint(key, number)
	if cert, ok := issuedBefore.Load(what); ok {
		return cert.(*x509.Certificate)
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
	issuedBefore.Store(what, cert)
	return cert
}

// errLost is what a device gets for an answer that is lost.
var errLost = errors.New("answer lost")

func (c *cloud) answer(request string) error {
	if c.loses == request {
		c.loses = ""
		return errLost
	}
	return nil
}

func (c *cloud) register(token string) error {
	if id, ok := c.pending[token]; ok {
		delete(c.pending, token)
		c.active = append(c.active, id)
	}
	return c.answer("register")
}

func (c *cloud) isActive(id string) bool {
	return slices.Contains(c.active, id)
}

// quickKeys returns keys from a stock, for tests by the thousand. No two in a row are the same.
type quickKeys struct{}

type stockKey struct {
	key  crypto.Signer
	text []byte
}

var stock = sync.OnceValue(func() []stockKey {
	keys := make([]stockKey, 16)
	for i := range keys {
		_, key, _ := ed25519.GenerateKey(rand.Reader)
		der, _ := x509.MarshalPKCS8PrivateKey(key)
		keys[i] = stockKey{key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}
	}
	return keys
})

var taken atomic.Int64

func (quickKeys) New() (crypto.Signer, []byte, error) {
	k := stock()[taken.Add(1)%int64(len(stock()))]
	return k.key, k.text, nil
}

func (quickKeys) Open(text []byte) (crypto.Signer, error) {
	for _, k := range stock() {
		if string(k.text) == string(text) {
			return k.key, nil
		}
	}
	return SoftwareKeys{}.Open(text)
}

func storeOn(t testing.TB, d *memDisk) *Store {
	t.Helper()
	return storeAt(t, d, Config{})
}

func storeAt(t testing.TB, d *memDisk, c Config) *Store {
	t.Helper()
	c.SerialNumber, c.Keys = serial, quickKeys{}
	s, err := NewStore(c)
	if err != nil {
		t.Fatal(err)
	}
	s.storage.(*directory).disk = d
	return s
}

// A run provisions a device as package provision does, as far as the disk and the network let it.
type run struct {
	thing   string // default fleety_SERIAL
	replace bool
	// onlyIdentity makes a run without replace leave a pending replacement alone.
	onlyIdentity bool
}

func provision(t testing.TB, s *Store, c *cloud, r run) error {
	j, err := s.Begin()
	if err != nil {
		return err
	}
	err = r.provision(t, s, j, c)
	return errors.Join(err, j.Close())
}

func (r run) provision(t testing.TB, s *Store, j *Journal, c *cloud) error {
	if j.Finished() != nil {
		return nil
	}
	if _, err := s.Load(); err == nil && !r.replace && (r.onlyIdentity || j.Stage() == Empty) {
		return nil
	}
	for {
		var err error
		switch j.Stage() {
		case Empty:
			err = j.MakeKey()
		case KeyMade:
			g := c.create(t, j.Key().Public())
			if err = c.answer("create"); err == nil {
				err = j.HoldCertificate(g)
			}
		case CertificateHeld:
			if token, _ := j.Token(); !c.isActive(awsiot.CertificateID(j.TLS().Leaf)) {
				err = c.register(token)
			}
			if err == nil {
				err = j.Register(Registration{ThingName: cmp.Or(r.thing, "fleety_"+serial), Endpoint: "localhost"})
			}
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

// checkWhole demands one identity on disk, the cloud's newest and only certificate beside those in
// old, and nothing else.
func checkWhole(t *testing.T, d *memDisk, c *cloud, old ...string) {
	t.Helper()
	id, err := storeOn(t, d).Load()
	if err != nil {
		t.Fatalf("no identity in the end: %v", err)
	}
	if len(c.active) != len(old)+1 || c.active[len(old)] != id.Record.CertificateID {
		t.Fatalf("device has certificate %s, the cloud has %v active (old: %v)", id.Record.CertificateID, c.active, old)
	}
	if !awsiot.Matches(id.Key, id.Certificate) {
		t.Fatal("key and certificate differ")
	}
	base := "certs/" + id.Record.ThingName
	want := []string{base + ".certificate.pem", base + ".json", base + ".private.key"}
	if got := d.paths(); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Fatalf("files left: %v, want %v", got, want)
	}
	for path, n := range d.files() {
		if secret := strings.HasSuffix(path, ".key"); secret && n.perm != 0o600 || !secret && n.perm != 0o644 {
			t.Errorf("%s has mode %v", path, n.perm)
		}
	}
}

// checkEnd demands the same of the next run after a power cut, which may bring back what a killed
// process had removed.
func checkEnd(t *testing.T, d *memDisk, c *cloud, old ...string) {
	t.Helper()
	d = d.reboot(power)
	if err := provision(t, storeOn(t, d), c, run{}); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, d, c, old...)
}

// countCalls returns how many calls an undisturbed run makes.
func countCalls(t *testing.T, d *memDisk, r run) int {
	if err := provision(t, storeOn(t, d), newCloud(t), r); err != nil {
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

func TestCrashAtAnyCallLosesNothing(t *testing.T) {
	calls := countCalls(t, newMemDisk(), run{})
	for _, how := range cuts {
		t.Run(string(how), func(t *testing.T) {
			for call := 1; call <= calls; call++ {
				d, c := newMemDisk(), newCloud(t)
				d.fault = crashAt(call)
				_ = provision(t, storeOn(t, d), c, run{})
				d = d.reboot(how)
				if _, err := storeOn(t, d).Load(); err != nil && !errors.Is(err, ErrNone) {
					t.Fatalf("crash at call %d: a damaged identity was found: %v", call, err)
				}
				if err := provision(t, storeOn(t, d), c, run{}); err != nil {
					t.Fatalf("crash at call %d: next run: %v", call, err)
				}
				checkEnd(t, d, c)
			}
		})
	}
}

// TestDirectoriesAreDurableWhereverTheyAre has the files in directories of their own, several
// levels of which are missing.
func TestDirectoriesAreDurableWhereverTheyAre(t *testing.T) {
	config := Config{Certificate: "a/b/x.certificate.pem", PrivateKey: "c/d/x.private.key"}
	d := newMemDisk()
	must(t, provision(t, storeAt(t, d, config), newCloud(t), run{}))
	for call := 0; call <= d.calls; call++ {
		for _, how := range cuts {
			d, c := newMemDisk(), newCloud(t)
			d.fault = crashAt(call)
			_ = provision(t, storeAt(t, d, config), c, run{})
			d = d.reboot(how)
			if err := provision(t, storeAt(t, d, config), c, run{}); err != nil {
				t.Fatalf("crash at call %d: next run: %v", call, err)
			}
			id, err := storeAt(t, d.reboot(power), config).Load()
			if err != nil || len(c.active) != 1 || id.Record.CertificateID != c.active[0] {
				t.Fatalf("crash at call %d: identity %+v, %v", call, id, err)
			}
		}
	}
}

// TestFinishedProvisioningIsDurable demands that neither the files nor the end of the journal are
// lost in a power cut after the run.
func TestFinishedProvisioningIsDurable(t *testing.T) {
	for _, r := range replacements {
		d, c := provisioned(t)
		old := c.active[0]
		checkWhole(t, d, c)
		must(t, provision(t, storeOn(t, d), c, r))
		checkWhole(t, d.reboot(power), c, old)
	}
}

func TestTwoCrashesLoseNothing(t *testing.T) {
	calls := countCalls(t, newMemDisk(), run{})
	for first := 1; first <= calls; first++ {
		for second := 1 + first%*crashPairs; second <= calls; second += *crashPairs {
			d, c := newMemDisk(), newCloud(t)
			d.fault = crashAt(first)
			_ = provision(t, storeOn(t, d), c, run{})
			d = d.reboot(cuts[(first+second)%len(cuts)])
			d.fault = crashAt(second)
			if err := provision(t, storeOn(t, d), c, run{}); err == nil && d.calls < second {
				break // the second run has fewer calls than that
			}
			d = d.reboot(cuts[second%len(cuts)])
			if err := provision(t, storeOn(t, d), c, run{}); err != nil {
				t.Fatalf("crashes at calls %d and %d: last run: %v", first, second, err)
			}
			checkEnd(t, d, c)
		}
	}
}

// TestCrashAndLostAnswerLoseNothing pairs each step of the disk with each step of the network, in
// both orders.
func TestCrashAndLostAnswerLoseNothing(t *testing.T) {
	calls := countCalls(t, newMemDisk(), run{})
	for _, request := range []string{"create", "register"} {
		for _, how := range cuts {
			for call := 1; call <= 2*calls; call++ {
				d, c := newMemDisk(), newCloud(t)
				if call <= calls {
					c.loses = request
				}
				d.fault = crashAt(call)
				_ = provision(t, storeOn(t, d), c, run{})
				if call > calls { // the answer is lost first, then the machine crashes
					d = newMemDisk()
					c = newCloud(t)
					c.loses = request
					if err := provision(t, storeOn(t, d), c, run{}); !errors.Is(err, errLost) {
						t.Fatalf("the answer was not lost: %v", err)
					}
					d = d.reboot(how)
					d.fault = crashAt(call - calls)
					_ = provision(t, storeOn(t, d), c, run{})
				}
				d = d.reboot(how)
				_ = provision(t, storeOn(t, d), c, run{}) // loses what was not lost before
				if err := provision(t, storeOn(t, d), c, run{}); err != nil {
					t.Fatalf("crash at call %d, %s lost: last run: %v", call, request, err)
				}
				checkEnd(t, d, c)
			}
		}
	}
}

// provisioned returns a disk with an identity, and its cloud.
func provisioned(t testing.TB) (*memDisk, *cloud) {
	d, c := newMemDisk(), newCloud(t)
	if err := provision(t, storeOn(t, d), c, run{}); err != nil {
		t.Fatal(err)
	}
	return d.reboot(power), c
}

// replacements name the thing as it was named before, and such that its files come after and before
// the old ones.
var replacements = []run{{replace: true}, {replace: true, thing: "unit_" + serial}, {replace: true, thing: "a_" + serial}}

func TestReplacingAnIdentityNeverLeavesTheDeviceWithoutOne(t *testing.T) {
	for _, r := range replacements {
		d, _ := provisioned(t)
		calls := countCalls(t, d, r)
		for _, how := range cuts {
			t.Run(r.thing+" "+string(how), func(t *testing.T) {
				for call := 1; call <= calls; call++ {
					d, c := provisioned(t)
					old := c.active[0]
					d.fault = crashAt(call)
					err := provision(t, storeOn(t, d), c, r)
					d = d.reboot(how)
					id, loadErr := storeOn(t, d).Load()
					if loadErr != nil {
						t.Fatalf("crash at call %d: no identity: %v", call, loadErr)
					}
					if id.Record.CertificateID != old && id.Record.Replaces != old {
						t.Fatalf("crash at call %d: the identity does not name the one that it replaces", call)
					}
					if len(c.active) == 2 && errors.Is(err, errCrashed) {
						// The new one was registered: the next run must finish it.
						if err := provision(t, storeOn(t, d), c, run{thing: r.thing}); err != nil {
							t.Fatalf("crash at call %d: next run: %v", call, err)
						}
						checkEnd(t, d, c, old)
					}
				}
			})
		}
	}
}

func TestReplacementThatIsDiscardedLeavesTheIdentity(t *testing.T) {
	for _, r := range replacements {
		d, _ := provisioned(t)
		calls := countCalls(t, d, r)
		for _, how := range cuts {
			t.Run(r.thing+" "+string(how), func(t *testing.T) {
				for call := 1; call <= calls; call++ {
					d, c := provisioned(t)
					old := c.active[0]
					d.fault = crashAt(call)
					_ = provision(t, storeOn(t, d), c, r)
					d = d.reboot(how)
					before, err := storeOn(t, d).Load()
					if err != nil {
						t.Fatal(err)
					}
					if err := provision(t, storeOn(t, d), c, run{onlyIdentity: true}); err != nil {
						t.Fatalf("crash at call %d: next run: %v", call, err)
					}
					if _, err := storeOn(t, d).DiscardPending(); err != nil {
						t.Fatalf("crash at call %d: DiscardPending: %v", call, err)
					}
					d = d.reboot(power)
					if id, err := storeOn(t, d).Load(); err != nil || id.Record.CertificateID != before.Record.CertificateID {
						t.Fatalf("crash at call %d: identity %+v, %v", call, id, err)
					}
					if before.Record.CertificateID == old {
						c.active = c.active[:1]
						checkEnd(t, d, c)
					} else {
						checkEnd(t, d, c, old)
					}
				}
			})
		}
	}
}

// TestRandomHistoriesEndWithOneIdentity goes through runs that crash, lose answers and replace the
// identity under changing names.
func TestRandomHistoriesEndWithOneIdentity(t *testing.T) {
	for range *crashHistories {
		d, c := newMemDisk(), newCloud(t)
		var history []string
		committed := false
		r := run{}
		for range 2 + mathrand.IntN(6) {
			if committed && mathrand.IntN(2) == 0 {
				r = replacements[mathrand.IntN(len(replacements))]
			}
			call, how := 1+mathrand.IntN(90), cuts[mathrand.IntN(len(cuts))]
			c.loses = []string{"", "", "create", "register"}[mathrand.IntN(4)]
			history = append(history, fmt.Sprintf("%+v, loses %q, %s at call %d", r, c.loses, how, call))
			d.fault = crashAt(call)
			if err := provision(t, storeOn(t, d), c, r); err == nil {
				r = run{thing: r.thing}
			}
			d = d.reboot(how)
			_, err := storeOn(t, d).Load()
			if err != nil && (committed || !errors.Is(err, ErrNone)) {
				t.Fatalf("no identity: %v\n%s", err, strings.Join(history, "\n"))
			}
			if how != kill { // what a killed process has left is not durable yet
				committed = err == nil
			}
		}
		c.loses = ""
		if err := provision(t, storeOn(t, d), c, run{thing: r.thing}); err != nil {
			t.Fatalf("last run: %v\n%s", err, strings.Join(history, "\n"))
		}
		if t.Failed() {
			return
		}
		t.Run("", func(t *testing.T) {
			checkEnd(t, d, c, c.active[:len(c.active)-1]...)
			if t.Failed() {
				t.Log(strings.Join(history, "\n"))
			}
		})
	}
}

func TestFailingDiskIsReportedAndTheNextRunWorks(t *testing.T) {
	calls := countCalls(t, newMemDisk(), run{})
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
				if err := provision(t, storeOn(t, d), c, run{}); err != nil {
					want := awsiot.Failed
					if errors.Is(err, syscall.ENOSPC) {
						want = awsiot.Temporary
					} else if !errors.Is(err, syscall.EIO) {
						t.Fatalf("call %d: the cause is lost: %v", call, err)
					}
					if _, ok := errors.AsType[*fs.PathError](err); !ok || awsiot.ClassOf(err) != want {
						t.Errorf("call %d: error %v of class %v, want %v", call, err, awsiot.ClassOf(err), want)
					}
				}
				d.fault = nil
				if err := provision(t, storeOn(t, d), c, run{}); err != nil {
					t.Fatalf("call %d: next run: %v", call, err)
				}
				checkEnd(t, d, c)
			}
		})
	}
}
