package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/agent/outbox"
	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
	"example.com/fleety/hook/payload"
)

// formatsDir has a folder for each release: what its programs left on disk.
//
//	emulator/                  state of iot_core_local with a device, a shadow and a rule
//	device/                    state directory of that device: its identity
//	device/.2974685.*          a replacement with a new key, and an outbox of three messages
//	device/.2974686.*          a provisioning that holds a certificate
//
// No private key is kept: those of devices are derived from a name, and the
// emulator makes new ones of its own.
const formatsDir = "testdata/formats"

// A release writes its fixture once; it is never changed afterwards.
var makeFormats = flag.String("make.formats", "", "write the fixture of the formats of this `RELEASE`")

var outboxMessages = []string{"first", "", "third \x00\xff"}

// formats are the folders of one fixture.
type formats struct{ device, emulator string }

func (f formats) store(t *testing.T, serial string) *identity.Store {
	t.Helper()
	store, err := identity.NewStore(identity.Config{SerialNumber: serial, Dir: f.device, Keys: derivedKeys{}})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func (f formats) outbox() outbox.Config {
	return outbox.Config{Path: filepath.Join(f.device, ".2974685.agent", "outbox.db"), MaxAge: 100 * 365 * 24 * time.Hour}
}

// start starts the emulator on its state.
func (f formats) start(t *testing.T) *localcore.Server {
	t.Helper()
	core, err := localcore.Start(t.Context(), localcore.Config{State: f.emulator, HookFunc: func(context.Context, payload.Request) (payload.Response, error) {
		return payload.Response{AllowProvisioning: true}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return core
}

func (f formats) provisioning(t *testing.T, core *localcore.Server) provision.Config {
	t.Helper()
	host, port := core.Endpoint()
	claim, err := core.Claim().TLS()
	if err != nil {
		t.Fatal(err)
	}
	return provision.Config{
		Store: f.store(t, "2974685"), Session: session.Options{Endpoint: host, Port: port, RootCAs: core.RootCAs(), Proxy: "direct"},
		Claims: []*tls.Certificate{claim}, Template: localcore.TemplateName, Author: "Wilford Brimley",
		Parameters: map[string]string{"serialNumber": "2974685", "deviceLocation": "USA"},
	}
}

// request calls the emulator's REST API.
func request(t *testing.T, core *localcore.Server, method, path, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, core.APIURL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %s %v", method, path, answer.Status, text, err)
	}
	return string(text)
}

func (f formats) write(t *testing.T) {
	t.Helper()
	core := f.start(t)
	if _, err := provision.Run(t.Context(), f.provisioning(t, core)); err != nil {
		t.Fatal(err)
	}
	request(t, core, "POST", "/things/fleety_2974685/shadow", `{"state": {"desired": {"interval": 60}}}`)
	request(t, core, "POST", "/rules/keep", `{"sql": "SELECT * FROM 'fleet/+'", "actions": [{"republish": {"roleArn": "arn:aws:iam::123456789012:role/r", "topic": "kept"}}]}`)
	if err := core.Close(); err != nil {
		t.Fatal(err)
	}
	for _, serial := range []string{"2974685", "2974686"} {
		journal, err := f.store(t, serial).Begin()
		if err == nil {
			err = journal.MakeKey()
		}
		if err == nil && serial == "2974686" {
			err = journal.HoldCertificate(grant(t, journal))
		}
		if err != nil {
			t.Fatal(err)
		}
		journal.Close()
	}
	o := outbox.New(f.outbox())
	for i, message := range outboxMessages {
		if err := o.Put(fmt.Sprintf("fleet/fleety_2974685/up/%d", i), []byte(message)); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
}

// grant is what AWS IoT answers to a certificate signing request.
func grant(t *testing.T, journal *identity.Journal) identity.Grant {
	t.Helper()
	forever := time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "2974686"}, NotAfter: forever}
	der, err := x509.CreateCertificate(rand.Reader, template, template, journal.Key().Public(), journal.Key())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return identity.Grant{CertificateID: awsiot.CertificateID(cert), CertificatePEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Token: "certificate ownership token", TokenExpires: forever}
}

// The upgrade promise: what the programs of a release have left on disk, those of
// every later release read.
func TestFormatsOfEveryReleaseAreRead(t *testing.T) {
	if *makeFormats != "" {
		dir := filepath.Join(formatsDir, *makeFormats)
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dir, 0o755); err != nil { // never over another
			t.Fatal(err)
		}
		f := formats{filepath.Join(dir, "device"), filepath.Join(dir, "emulator")}
		f.write(t)
		f.removeKeys(t)
	}
	releases, err := os.ReadDir(formatsDir)
	if err != nil || len(releases) == 0 {
		t.Fatal(releases, err)
	}
	for _, release := range releases {
		t.Run(release.Name(), func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(filepath.Join(formatsDir, release.Name()))); err != nil {
				t.Fatal(err)
			}
			// git keeps no modes, and the programs reject what others may read or write.
			err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				if entry.IsDir() {
					return os.Chmod(path, 0o700)
				}
				return os.Chmod(path, 0o600)
			})
			if err != nil {
				t.Fatal(err)
			}
			f := formats{filepath.Join(dir, "device"), filepath.Join(dir, "emulator")}
			f.read(t, false)
		})
	}
	t.Run("this one", func(t *testing.T) {
		f := formats{t.TempDir(), t.TempDir()}
		f.write(t)
		f.read(t, true)
	})
}

// removeKeys removes what holds a private key.
func (f formats) removeKeys(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{
		filepath.Join(f.emulator, "authority.pem"), filepath.Join(f.emulator, "claim.json"),
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatal(pattern, err)
		}
		for _, path := range paths {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// derivedKeys keeps the name of a key in the key's place.
type derivedKeys struct{}

func (k derivedKeys) New() (crypto.Signer, []byte, error) {
	text := []byte("key of a test " + rand.Text())
	key, err := k.Open(text)
	return key, text, err
}

func (derivedKeys) Open(text []byte) (crypto.Signer, error) {
	d := sha256.Sum256(text)
	return ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
}

// read reads everything. Only with the emulator's keys can the device connect.
func (f formats) read(t *testing.T, connect bool) {
	status := f.store(t, "2974685").Status()
	if len(status.Problems) > 0 || status.Identity == nil || status.Pending == nil {
		t.Fatalf("device: %+v", status)
	}
	id := status.Identity.Record
	got := []string{id.ThingName, id.SerialNumber, id.Author, fmt.Sprint(id.DeviceConfiguration["LocationUrl"]), status.Pending.Stage.String()}
	if diff := cmp.Diff([]string{"fleety_2974685", "2974685", "Wilford Brimley", "https://ameri.ca", identity.KeyMade.String()}, got); diff != "" {
		t.Errorf("record and journal (-want +got):\n%s", diff)
	}
	other := f.store(t, "2974686").Status()
	if len(other.Problems) > 0 || other.Pending == nil || other.Pending.Stage != identity.CertificateHeld || other.Pending.TokenExpires.Year() != 2049 {
		t.Errorf("second journal: %+v", other)
	}

	f.readOutbox(t)
	core := f.start(t)
	defer core.Close()
	f.readEmulator(t, core)
	certificate, err := core.Registry().DescribeCertificate(id.CertificateID)
	if err != nil || certificate.Status != registry.Active {
		t.Errorf("certificate: %+v %v", certificate, err)
	}
	if !connect {
		return
	}
	// The identity connects, and the replacement that it had begun ends.
	c := f.provisioning(t, core)
	if result, err := provision.Run(t.Context(), c); err != nil || result.Identity.Record.CertificateID != id.CertificateID {
		t.Fatalf("verifying the identity: %+v %v", result, err)
	}
	c.Rotate = true
	if result, err := provision.Run(t.Context(), c); err != nil || result.Identity.Record.Replaces != id.CertificateID {
		t.Errorf("rotating: %+v %v", result, err)
	}
}

func (f formats) readOutbox(t *testing.T) {
	t.Helper()
	o := outbox.New(f.outbox())
	messages, err := o.Next(time.Now(), 10, 1<<20)
	if err != nil || len(messages) != len(outboxMessages) {
		t.Fatalf("outbox: %v %v", messages, err)
	}
	for i, m := range messages {
		if m.Topic != fmt.Sprintf("fleet/fleety_2974685/up/%d", i) || !bytes.Equal(m.Payload, []byte(outboxMessages[i])) || m.Stored.Year() < 2026 {
			t.Errorf("message %d: %+v", i, m)
		}
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
}

func (f formats) readEmulator(t *testing.T, core *localcore.Server) {
	t.Helper()
	thing, err := core.Registry().DescribeThing("fleety_2974685")
	if err != nil || thing.Attributes["serialNumber"] != "2974685" {
		t.Errorf("thing: %+v %v", thing, err)
	}
	if shadow := request(t, core, "GET", "/things/fleety_2974685/shadow", ""); !strings.Contains(shadow, `"interval":60`) {
		t.Errorf("shadow: %s", shadow)
	}
	if rule := request(t, core, "GET", "/rules/keep", ""); !strings.Contains(rule, "kept") {
		t.Errorf("rule: %s", rule)
	}
}
