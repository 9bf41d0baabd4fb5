//go:build cgo && pkcs11

package pkcs11_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	cryptoki "github.com/miekg/pkcs11"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/identity/internal/identitytest"
	"example.com/fleety/device/identity/pkcs11"
)

var _ identity.KeyStore = (*pkcs11.Keys)(nil)

const module = "/usr/lib/softhsm/libsofthsm2.so"

// TestMain gives SoftHSM, which reads its configuration once, a folder.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "softhsm")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		config := filepath.Join(dir, "softhsm2.conf")
		if err := os.WriteFile(config, []byte("directories.tokendir = "+dir+"\nlog.level = ERROR\n"), 0o600); err != nil {
			panic(err)
		}
		os.Setenv("SOFTHSM2_CONF", config)
		return m.Run()
	}())
}

// newToken makes a token and returns its URI, whose PIN is in a file.
func newToken(t testing.TB, label string) pkcs11.URI {
	t.Helper()
	if _, err := os.Stat(module); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("softhsm2 is missing, and CI installs it")
		}
		t.Skip("softhsm2 is missing")
	}
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "87654321", "--pin", "1234").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, []byte("1234\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return pkcs11.URI{Token: label, ModulePath: module, PINSource: "file:" + pin}
}

func TestKeyInTokenSignsAndIsFoundByItsFile(t *testing.T) {
	uri := newToken(t, "signs")
	keys := pkcs11.NewKeys(uri, t.TempDir())
	key, text, err := keys.New()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "1234") {
		t.Error("the file holds the PIN")
	}
	if _, err := awsiot.PrivateKey(text); err == nil {
		t.Error("the file holds a key that works without the token")
	}
	if err := keys.Close(); err != nil {
		t.Fatal(err)
	}
	keys = pkcs11.NewKeys(uri, t.TempDir())
	defer keys.Close()
	opened, err := keys.Open(text)
	if err != nil {
		t.Fatal(err)
	}
	if !key.Public().(*ecdsa.PublicKey).Equal(opened.Public()) {
		t.Error("found another key")
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, opened)
	if err != nil {
		t.Fatal(err)
	}
	if request, err := x509.ParseCertificateRequest(der); err != nil || request.CheckSignature() != nil {
		t.Errorf("the request is not valid: %v", err)
	}
	certificate := identitytest.SelfSigned(t, opened)
	identitytest.Handshake(t, tls.VersionTLS13, certificate, certificate)
	var signing sync.WaitGroup
	for range 8 {
		signing.Go(func() {
			digest := sha256.Sum256([]byte("message"))
			signature, err := opened.Sign(rand.Reader, digest[:], crypto.SHA256)
			if err != nil || !ecdsa.VerifyASN1(opened.Public().(*ecdsa.PublicKey), digest[:], signature) {
				t.Errorf("signing at the same time: %v", err)
			}
		})
	}
	signing.Wait()
}

func TestKeyOfAnotherTokenIsNamed(t *testing.T) {
	first := pkcs11.NewKeys(newToken(t, "first"), t.TempDir())
	_, text, err := first.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := pkcs11.NewKeys(newToken(t, "second"), t.TempDir())
	defer second.Close()
	if _, err := second.Open(text); !errors.Is(err, pkcs11.ErrNoKey) {
		t.Errorf("got %v", err)
	}
}

// A run opens the key of the identity, and that of a replacement, which may be gone.
func TestOpenKeySignsAfterAnotherIsNotFound(t *testing.T) {
	keys := pkcs11.NewKeys(newToken(t, "one is gone"), t.TempDir())
	defer keys.Close()
	var texts [2][]byte
	var opened crypto.Signer
	for i := range texts {
		var err error
		if opened, texts[i], err = keys.New(); err != nil {
			t.Fatal(err)
		}
	}
	if err := opened.(interface{ Remove() error }).Remove(); err != nil {
		t.Fatal(err)
	}
	opened, err := keys.Open(texts[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Open(texts[1]); !errors.Is(err, pkcs11.ErrNoKey) {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	if _, err := opened.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
		t.Error(err)
	}
}

func TestOnlyKeysOfTheStoreAreRemoved(t *testing.T) {
	uri := newToken(t, "removes")
	keys := pkcs11.NewKeys(uri, t.TempDir())
	uri.Object = "another program's"
	others := pkcs11.NewKeys(uri, t.TempDir())
	for _, removed := range []bool{true, false} {
		maker := others
		if removed {
			maker = keys
		}
		_, text, err := maker.New()
		if err != nil {
			t.Fatal(err)
		}
		key, err := keys.Open(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := key.(interface{ Remove() error }).Remove(); err != nil {
			t.Error(err)
		}
		if _, err := keys.Open(text); errors.Is(err, pkcs11.ErrNoKey) != removed {
			t.Errorf("removed %t, and then %v", removed, err)
		}
	}
	if err := errors.Join(keys.Close(), others.Close()); err != nil {
		t.Error(err)
	}
}

func TestWrongOrMissingPINIsAnError(t *testing.T) {
	uri := newToken(t, "pin")
	uri.PINSource = ""
	if _, _, err := pkcs11.NewKeys(uri, t.TempDir()).New(); !errors.Is(err, identity.ErrUnavailable) {
		t.Errorf("without a PIN: %v", err)
	}
	empty := uri
	empty.PINSource = os.DevNull
	if _, _, err := pkcs11.NewKeys(empty, t.TempDir()).New(); err == nil || strings.Contains(err.Error(), "CKR_") {
		t.Errorf("an empty PIN: %v", err) // that a login has tried
	}
	empty.PINSource = filepath.Join(t.TempDir(), "fifo") // of a program that has ended
	if err := syscall.Mkfifo(empty.PINSource, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := pkcs11.NewKeys(empty, t.TempDir()).New(); err == nil || strings.Contains(err.Error(), "CKR_") {
		t.Errorf("a FIFO without a writer: %v", err)
	}
	t.Setenv(pkcs11.PINVariable, "9999")
	if _, _, err := pkcs11.NewKeys(uri, t.TempDir()).New(); !errors.Is(err, identity.ErrUnavailable) || strings.Contains(err.Error(), "9999") {
		t.Errorf("a wrong PIN: %v", err)
	}
	t.Setenv(pkcs11.PINVariable, "1234")
	keys := pkcs11.NewKeys(uri, t.TempDir())
	defer keys.Close()
	if _, _, err := keys.New(); err != nil {
		t.Error(err)
	}
}

// newLockingToken makes a token that three wrong PINs lock, as they do hardware.
func newLockingToken(t *testing.T) (uri pkcs11.URI, wrong string) {
	t.Helper()
	uri = newToken(t, "locks "+rand.Text()[:8])
	uri.ModulePath = filepath.Join(t.TempDir(), "locking.so")
	out, err := exec.Command("gcc", "-shared", "-fPIC", "-std=gnu11", `-DSOFTHSM="`+module+`"`, "-o", uri.ModulePath, "testdata/locking.c", "-ldl").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wrong = filepath.Join(t.TempDir(), "wrong")
	t.Setenv("LOCKING_FILE", wrong)
	return uri, wrong
}

// A command opens the key several times, and the service manager repeats the command.
func TestWrongPINIsTriedOnce(t *testing.T) {
	for name, fill := range map[string]func(t *testing.T, uri *pkcs11.URI, pin string){
		"file": func(t *testing.T, uri *pkcs11.URI, pin string) {
			path := strings.TrimPrefix(uri.PINSource, "file:")
			if err := errors.Join(os.WriteFile(path, []byte(pin), 0o600), os.Chtimes(path, time.Time{}, time.Unix(int64(len(pin)), 0))); err != nil {
				t.Fatal(err)
			}
		},
		"variable": func(t *testing.T, uri *pkcs11.URI, pin string) {
			uri.PINSource = ""
			t.Setenv(pkcs11.PINVariable, pin)
		},
	} {
		for _, disk := range []string{"writable", "read-only"} {
			t.Run(name+", "+disk, func(t *testing.T) {
				uri, wrong := newLockingToken(t)
				dir := t.TempDir()
				note := filepath.Join(dir, ".pkcs11-pin-rejected")
				if disk == "read-only" {
					if err := os.Mkdir(note, 0o700); err != nil { // root may write where no one may
						t.Fatal(err)
					}
				}
				fill(t, &uri, "99999")
				for range 5 {
					keys := pkcs11.NewKeys(uri, dir)
					if _, _, err := keys.New(); !errors.Is(err, identity.ErrUnavailable) {
						t.Fatal(err)
					}
					_, err := keys.Open(pem.EncodeToMemory(&pem.Block{Type: pkcs11.FileType, Bytes: []byte("pkcs11:token=locks;id=1?module-path=/m")}))
					if !errors.Is(err, identity.ErrUnavailable) || !strings.Contains(err.Error(), note) || strings.Contains(err.Error(), "99999") || !strings.Contains(err.Error(), "that file changes or, after a variable was corrected,") {
						t.Fatal(err)
					}
				}
				if tries, err := os.ReadFile(wrong); err != nil || len(tries) != 1 {
					t.Errorf("tried %d times, %v", len(tries), err)
				}
				if disk == "read-only" {
					return
				}
				fill(t, &uri, "1234")
				if name == "variable" {
					if err := os.Remove(note); err != nil {
						t.Fatal(err)
					}
				}
				keys := pkcs11.NewKeys(uri, dir)
				defer keys.Close()
				if _, _, err := keys.New(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func BenchmarkHandshake(b *testing.B) {
	keys := pkcs11.NewKeys(newToken(b, "bench"), b.TempDir())
	defer keys.Close()
	key, _, err := keys.New()
	if err != nil {
		b.Fatal(err)
	}
	identitytest.BenchmarkHandshake(b, key)
}

// A token that was removed and inserted again, or whose daemon was restarted, has ended all sessions.
func TestKeyIsUsableAfterItsTokenWasRemoved(t *testing.T) {
	keys := pkcs11.NewKeys(newToken(t, "comes back"), t.TempDir())
	defer keys.Close()
	key, text, err := keys.New()
	if err != nil {
		t.Fatal(err)
	}
	endSessions := func() {
		p := cryptoki.New(module)
		slots, err := p.GetSlotList(true)
		if err != nil {
			t.Fatal(err)
		}
		for _, slot := range slots {
			_ = p.CloseAllSessions(slot)
		}
	}
	for range 2 {
		endSessions()
		digest := sha256.Sum256([]byte("message"))
		if _, err := key.Sign(rand.Reader, digest[:], crypto.SHA256); err == nil {
			t.Error("the sessions have not ended")
		}
		if key, err = keys.Open(text); err != nil {
			t.Fatal(err)
		}
		signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil || !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], signature) {
			t.Errorf("signing: %v", err)
		}
		endSessions()
		if key, err = keys.Open(text); err != nil { // before anything has failed
			t.Fatal(err)
		}
	}
}
