package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/identity/internal/identitytest"
	"example.com/fleety/device/identity/tpm"
)

var _ identity.KeyStore = (*tpm.Keys)(nil)

// need skips a test where a program is missing; CI installs it.
func need(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing, and CI installs it", program)
		}
		t.Skipf("%s is missing", program)
	}
	return path
}

// startTPM starts a software TPM and returns the path of its socket.
func startTPM(t testing.TB) string {
	t.Helper()
	swtpm := need(t, "swtpm")
	dir, err := os.MkdirTemp("", "tpm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "sock")
	cmd := exec.Command(swtpm, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+socket+".ctrl", "--flags", "not-need-init,startup-clear")
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.RemoveAll(dir)
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return socket
		}
		if time.Now().After(deadline) {
			t.Fatalf("swtpm does not listen: %s", output.String())
		}
	}
}

func signs(t *testing.T, key crypto.Signer) {
	t.Helper()
	digest := sha256.Sum256([]byte("message"))
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], signature) {
		t.Error("the signature does not verify")
	}
}

func TestKeySignsAndIsOpenedFromItsFile(t *testing.T) {
	t.Parallel()
	keys := &tpm.Keys{Device: startTPM(t)}
	key, text, err := keys.New()
	if err != nil {
		t.Fatal(err)
	}
	signs(t, key)
	opened, err := keys.Open(text)
	if err != nil {
		t.Fatal(err)
	}
	if !key.Public().(*ecdsa.PublicKey).Equal(opened.Public()) {
		t.Error("opened another key")
	}
	signs(t, opened)
	if _, err := awsiot.PrivateKey(text); err == nil {
		t.Error("the file holds a private key that works without the TPM")
	}
}

// A TLS 1.3 and a TLS 1.2 handshake, and a CSR, as a provisioning needs them.
func TestKeyServesRequestsAndHandshakes(t *testing.T) {
	t.Parallel()
	keys := &tpm.Keys{Device: startTPM(t)}
	key, _, err := keys.New()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	if request, err := x509.ParseCertificateRequest(der); err != nil || request.CheckSignature() != nil {
		t.Errorf("the request is not valid: %v", err)
	}
	certificate := identitytest.SelfSigned(t, key)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		identitytest.Handshake(t, version, certificate, certificate)
	}
}

func TestConcurrentSignaturesWaitForTheTPM(t *testing.T) {
	t.Parallel()
	socket := startTPM(t)
	key, text, err := (&tpm.Keys{Device: socket}).New()
	if err != nil {
		t.Fatal(err)
	}
	other, err := (&tpm.Keys{Device: socket}).Open(text)
	if err != nil {
		t.Fatal(err)
	}
	var signing sync.WaitGroup
	for range 8 {
		signing.Go(func() { signs(t, key) })
	}
	signing.Wait()
	signs(t, other)
}

func TestKeyOfAnotherTPMIsNamed(t *testing.T) {
	t.Parallel()
	_, text, err := (&tpm.Keys{Device: startTPM(t)}).New()
	if err != nil {
		t.Fatal(err)
	}
	key, err := (&tpm.Keys{Device: startTPM(t)}).Open(text)
	if err != nil {
		t.Fatal(err)
	}
	fails(t, key, tpm.ErrOtherTPM, awsiot.Failed)
}

func TestClearedTPMIsNamed(t *testing.T) {
	t.Parallel()
	socket := startTPM(t)
	key, _, err := (&tpm.Keys{Device: socket}).New()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := linuxudstpm.Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}).Execute(raw); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	fails(t, key, tpm.ErrOtherTPM, awsiot.Failed)
}

func TestOwnerAuthorizationIsNamed(t *testing.T) {
	t.Parallel()
	socket := startTPM(t)
	keys := &tpm.Keys{Device: socket}
	key, _, err := keys.New()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := linuxudstpm.Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("owner")},
	}).Execute(raw); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	fails(t, key, tpm.ErrOwner, awsiot.Failed)
	if _, _, err := keys.New(); !errors.Is(err, tpm.ErrOwner) {
		t.Errorf("a new key: %v", err)
	}
}

// A TPM that wrong authorizations of another program have locked still makes keys and signs with them.
func TestKeySignsWhileTheTPMIsLocked(t *testing.T) {
	t.Parallel()
	socket := startTPM(t)
	for _, pcrs := range [][]uint{nil, {7}} {
		keys := &tpm.Keys{Device: socket, PCRs: pcrs}
		before, _, err := keys.New()
		if err != nil {
			t.Fatal(err)
		}
		lockTPM(t, socket)
		signs(t, before)
		after, _, err := keys.New()
		if err != nil {
			t.Fatal(err)
		}
		signs(t, after)
	}
}

// lockTPM has a TPM count one wrong authorization, and allow none.
func lockTPM(t *testing.T, socket string) {
	t.Helper()
	raw, err := linuxudstpm.Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	// TPM2_DictionaryAttackParameters, which go-tpm lacks: one try, and an hour until the next.
	parameters := []uint32{uint32(tpm2.TPMCCDictionaryAttackParameters), uint32(tpm2.TPMRHLockout), 9, uint32(tpm2.TPMRSPW), 0, 1, 3600, 3600}
	command := []byte{0x80, 0x02, 0, 0, 0, 39}
	for i, p := range parameters {
		if command = binary.BigEndian.AppendUint32(command, p); i == 4 {
			command = append(command, 0) // of nonce, attributes and password, which are five bytes
		}
	}
	if response, err := raw.Send(command); err != nil || !bytes.HasSuffix(response[:10], []byte{0, 0, 0, 0}) {
		t.Fatalf("setting the parameters of lockout: %x, %v", response, err)
	}
	template := tpm2.ECCSRKTemplate
	template.ObjectAttributes = tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true}
	template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		CurveID: tpm2.TPMECCNistP256,
		Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
	})
	key, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("right")}}},
	}.Execute(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(raw)
	for range 2 {
		digest := sha256.Sum256([]byte("message"))
		_, err = tpm2.Sign{
			KeyHandle: tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: tpm2.PasswordAuth([]byte("wrong"))},
			Digest:    tpm2.TPM2BDigest{Buffer: digest[:]}, Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
		}.Execute(raw)
	}
	if !errors.Is(err, tpm2.TPMRCLockout) {
		t.Fatalf("the TPM is not locked: %v", err)
	}
}

func TestKeyBoundToRegistersSignsOnlyWhileTheyAreUnchanged(t *testing.T) {
	t.Parallel()
	socket := startTPM(t)
	keys := &tpm.Keys{Device: socket, PCRs: []uint{7, 0, 7}}
	_, text, err := keys.New()
	if err != nil {
		t.Fatal(err)
	}
	key, err := (&tpm.Keys{Device: socket}).Open(text) // the file says what it is bound to
	if err != nil {
		t.Fatal(err)
	}
	signs(t, key)
	raw, err := linuxudstpm.Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("another kernel"))
	if _, err := (tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: 7, Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}}},
	}).Execute(raw); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	fails(t, key, tpm.ErrPolicy, awsiot.Failed)
}

func fails(t *testing.T, key crypto.Signer, want error, class awsiot.Class) {
	t.Helper()
	digest := sha256.Sum256([]byte("message"))
	_, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if !errors.Is(err, want) || awsiot.ClassOf(err) != class {
		t.Errorf("got %v of class %v, want %v of class %v", err, awsiot.ClassOf(err), want, class)
	}
}

func TestMissingTPMIsNamed(t *testing.T) {
	t.Parallel()
	keys := &tpm.Keys{Device: filepath.Join(t.TempDir(), "tpmrm0")}
	if _, _, err := keys.New(); !errors.Is(err, tpm.ErrNoTPM) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, _, err := (&tpm.Keys{PCRs: []uint{24}}).New(); err == nil || errors.Is(err, tpm.ErrNoTPM) {
		t.Errorf("register 24: %v", err)
	}
}

// OpenSSL's provider uses the same file, so that other programs of the device can.
func TestOpenSSLSignsWithTheFile(t *testing.T) {
	t.Parallel()
	openssl := need(t, "openssl")
	socket := startTPM(t)
	_, text, err := (&tpm.Keys{Device: socket}).New()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(openssl, "req", "-provider", "tpm2", "-provider", "default", "-new", "-key", file, "-subj", "/CN=a", "-outform", "DER", "-out", filepath.Join(dir, "csr"))
	cmd.Env = append(os.Environ(), "TPM2OPENSSL_TCTI=swtpm:path="+socket)
	if out, err := cmd.CombinedOutput(); err != nil {
		if strings.Contains(string(out), "unable to load provider tpm2") && os.Getenv("CI") == "" {
			t.Skip("the package tpm2-openssl is missing")
		}
		t.Fatalf("%v\n%s", err, out)
	}
	der, err := os.ReadFile(filepath.Join(dir, "csr"))
	if err != nil {
		t.Fatal(err)
	}
	if request, err := x509.ParseCertificateRequest(der); err != nil || request.CheckSignature() != nil {
		t.Errorf("OpenSSL's request is not valid: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte("-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if key, err := (&tpm.Keys{}).Open(text); err == nil && key.Public() == nil {
			t.Error("a key without a public half")
		}
	})
}

// BenchmarkHandshake: a software TPM takes a fraction of what a chip takes.
func BenchmarkHandshake(b *testing.B) {
	key, _, err := (&tpm.Keys{Device: startTPM(b)}).New()
	if err != nil {
		b.Fatal(err)
	}
	identitytest.BenchmarkHandshake(b, key)
}
