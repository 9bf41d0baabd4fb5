package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"example.com/fleety/device/localcore"
)

// providerOf builds the certificate provider of docs/identity.md with a CA of two
// levels.
func providerOf(t *testing.T) (path string) {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	path = filepath.Join(dir, "bootstrap")
	writeFile(t, source, block(t, "identity.md", "Certificates of your own CA", "go"), 0o644)
	if err := runTool("go", "-C", filepath.Join("..", "..", "hook"), "build", "-tags", "lambda.norpc", "-o", path, source); err != nil {
		t.Fatal(err)
	}
	var chain []byte
	var parent *x509.Certificate
	var signer *ecdsa.PrivateKey
	for i, name := range []string{"Acme Root", "Acme Devices"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		}
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		signer = key
		chain = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), chain...)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "ca.pem"), string(chain), 0o644)
	writeFile(t, filepath.Join(dir, "ca.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})), 0o600)
	return path
}

// A device whose certificates come from a certificate provider keeps their chain,
// shows it and the end of a short life, and rotates.
func TestDeviceWithCertificatesOfItsOwnersCA(t *testing.T) {
	t.Parallel()
	s := &site{cloud: startCloud(t, func(c *localcore.Config) { c.CertificateProvider = providerOf(t) }), binary: build(t, shipped), dir: t.TempDir()}
	s.cloud.retireAtOnce(t)
	d := s.device(t, "device")
	first := d.mustRun(t)
	for range 2 {
		id := d.load(t)
		if len(id.Issuers) != 2 || id.Issuers[0].Subject.CommonName != "Acme Devices" || id.Certificate.Subject.CommonName != d.serial {
			t.Fatalf("certificate of %q, chain %v", id.Certificate.Subject, id.Issuers)
		}
		var status struct {
			NotAfter time.Time
			Issuers  []struct{ Subject string }
		}
		d.show(t, &status, "status")
		if life := time.Until(status.NotAfter); life < 6*24*time.Hour || life > 7*24*time.Hour || len(status.Issuers) != 2 || status.Issuers[0].Subject != "CN=Acme Devices" {
			t.Errorf("status: %+v", status)
		}
		var report struct {
			Checks []struct{ Name, Result, Found string }
		}
		d.show(t, &report, "doctor")
		for _, c := range report.Checks {
			if c.Name == "identity-files" && c.Result != "ok" {
				t.Errorf("doctor: %+v", c)
			}
		}
		if o := d.rotate(t); o.code != 0 || o.result.CertificateID == first.result.CertificateID {
			t.Fatalf("exit %d\n%s", o.code, o.stderr)
		}
	}
	s.cloud.awaitRetired(t, d.thing())
	d.checkWhole(t, s.cloud)
}

// show runs a command that shows something as JSON.
func (d *device) show(t *testing.T, into any, command string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), d.binary, command, "--config", "device.yaml", "--json")
	cmd.Dir = d.dir
	out, err := cmd.Output()
	if len(out) == 0 {
		t.Fatalf("%s: %v", command, err)
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// Killed before some change to its disk during a rotation, a device with a chain
// has one identity that works.
func TestKilledRotationWithAChainLosesNothing(t *testing.T) {
	t.Parallel()
	cloud := startCloud(t, func(c *localcore.Config) { c.CertificateProvider = providerOf(t) })
	(&site{cloud: cloud, binary: build(t, withKillers), dir: t.TempDir()}).killRotations(t, "device", 7)
}

// The programs as they are shipped: serve runs a certificate provider.
func TestServeRunsACertificateProvider(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), build(t, localCore), "serve", "--json", "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0",
		"--hook", "none", "--certificate-provider", providerOf(t), "--credentials", filepath.Join(dir, "claim"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	var ready struct{ Port int }
	if err := json.NewDecoder(stdout).Decode(&ready); err != nil {
		t.Fatalf("waiting for the ready line: %v\n%s", err, &stderr)
	}
	d := &device{binary: build(t, shipped), dir: filepath.Join(dir, "claim"), serial: "2974685", flags: []string{"--set", "server.proxy=direct"}}
	d.mustRun(t)
	var status struct {
		Issuers []struct{ Subject string }
	}
	d.show(t, &status, "status")
	if len(status.Issuers) != 2 {
		t.Errorf("status: %+v", status)
	}
}

// The commands of docs/identity.md, as an installer runs them.
func TestInstallersClaimProvisionsADevice(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	dir := t.TempDir()
	_, port := o.core.Endpoint()
	writeFile(t, filepath.Join(dir, "root.pem"), string(o.core.RootPEM()), 0o644)
	writeFile(t, filepath.Join(dir, ".simple-go-iot-device.yaml"), "serialNumber: \"2974685\"\ndeviceLocation: USA\n"+
		"server: {endpoint: localhost, port: "+strconv.Itoa(port)+", proxy: direct}\nbootstrap: {cacertificatepath: root.pem}\n", 0o644)
	o.run(t, "cd "+dir+"\nPATH="+filepath.Dir(build(t, shipped))+":$PATH\n"+block(t, "identity.md", "Claims for installers", "sh"))
	if _, err := o.core.Registry().DescribeThing("fleety_2974685"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "claim.pem")); !os.IsNotExist(err) {
		t.Errorf("the claim is still there: %v", err)
	}
}
