package localcore

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/google/renameio/v2/maybe"

	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/registry"
)

// Files of Config.Credentials.
const (
	rootFile             = "root.ca.bundle.pem"
	claimCertificateFile = "fleet-provisioning.certificate.pem"
	claimPrivateKeyFile  = "fleet-provisioning.private.key"
	claimPublicKeyFile   = "fleet-provisioning.public.key"
	// claimMark marks our claim, unlike one of a real account, whose key must
	// not be overwritten: it holds the id of the claim certificate.
	claimMark = ".iot_core_local"
	// deviceFile is the configuration for the device.
	deviceFile = "device.yaml"
	// claimStateFile keeps the claim in Config.State.
	claimStateFile = "claim.json"
)

// A Credential is a certificate with its key, in PEM form.
type Credential struct {
	CertificateID  string `json:"certificateId"`
	CertificatePEM []byte `json:"certificatePem"`
	PrivateKeyPEM  []byte `json:"privateKey"` // secret
	PublicKeyPEM   []byte `json:"publicKey"`
}

// String names the certificate; the key does not show.
func (c Credential) String() string { return "certificate " + c.CertificateID }

// GoString is String.
func (c Credential) GoString() string { return c.String() }

// LogValue is String.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// processClaimKey is the key of every claim that lives in memory only: making
// an RSA key takes longer than all the rest of a start.
var processClaimKey = sync.OnceValues(ca.NewKey)

// newClaim registers an ACTIVE certificate with the claim policy.
func newClaim(c *Config, r *registry.Registry, a *ca.Authority, key *rsa.PrivateKey) (Credential, error) {
	cert, err := a.IssueForKey(key, c.Now())
	if err != nil {
		return Credential{}, fmt.Errorf("making a claim: %w", err)
	}
	if _, err := r.CreateCertificate(registry.NewCertificate{PEM: string(cert.PEM), Status: registry.Active}); err != nil {
		return Credential{}, fmt.Errorf("registering a claim: %w", err)
	}
	if err := c.attachClaim(r, cert.ID); err != nil {
		return Credential{}, err
	}
	return Credential{cert.ID, cert.PEM, cert.PrivateKeyPEM, cert.PublicKeyPEM}, nil
}

// attachClaim gives a claim its policies.
func (c *Config) attachClaim(r *registry.Registry, certificateID string) error {
	policies := []string{ClaimPolicyName}
	if c.assembled != nil {
		policies = c.assembled.claimPolicies()
	}
	for _, name := range policies {
		if err := r.AttachPolicy(name, registry.CertificateTarget(certificateID)); err != nil {
			return fmt.Errorf("registering a claim: %w", err)
		}
	}
	return nil
}

// openClaim returns the claim of the state directory, or a new one.
func openClaim(c *Config, r *registry.Registry, a *ca.Authority) (Credential, error) {
	if c.State == "" {
		key, err := processClaimKey()
		if err != nil {
			return Credential{}, fmt.Errorf("making a claim: %w", err)
		}
		return newClaim(c, r, a, key)
	}
	path := filepath.Join(c.State, claimStateFile)
	claim, err := readClaim(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return claim, err
	}
	if _, registered := r.CertificateByID(claim.CertificateID); registered {
		if c.assembled == nil {
			return claim, nil // with the policies that it was left with
		}
		return claim, c.attachClaim(r, claim.CertificateID)
	}
	key, err := ca.NewKey()
	if err != nil {
		return claim, fmt.Errorf("making a claim: %w", err)
	}
	if claim, err = newClaim(c, r, a, key); err != nil {
		return claim, err
	}
	data, err := json.Marshal(claim)
	if err != nil {
		return claim, fmt.Errorf("encoding the claim: %w", err)
	}
	if err := maybe.WriteFile(path, data, 0o600); err != nil {
		return claim, fmt.Errorf("keeping the claim: %w", err)
	}
	return claim, nil
}

func readClaim(path string) (claim Credential, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return claim, fmt.Errorf("reading the claim: %w", err)
	}
	if err := json.Unmarshal(data, &claim); err != nil {
		return claim, fmt.Errorf("reading the claim in %s: %w (remove the file to make a new one)", path, err)
	}
	return claim, nil
}

// deviceConfiguration is the content of deviceFile. Its first line marks the
// file as ours. Paths start at the file's folder.
const deviceConfiguration = `# Written by iot_core_local at each start. Copy the file to change it.
serialNumber: "2974685"
deviceLocation: USA
server:
  endpoint: %s
  port: %d
  credentialsEndpoint: %[1]s:%[2]d
bootstrap:
  certificatepath: fleet-provisioning.certificate.pem
  privatekeypath: fleet-provisioning.private.key
  cacertificatepath: root.ca.bundle.pem
  provisioningTemplate: %[3]s
stateDir: devices
agent:
  socket: api.sock
`

// deviceTunnel follows where there is a control API.
const deviceTunnel = `  tunnel: {endpoint: "%s"}
`

func (s *Server) deviceConfiguration() string {
	template := TemplateName
	if a := s.config.assembled; a != nil {
		template = a.Templates[0].Name
	}
	host, port := s.Endpoint()
	text := fmt.Sprintf(deviceConfiguration, host, port, template)
	if s.api != nil { // by name, as in its certificate
		text += fmt.Sprintf(deviceTunnel, net.JoinHostPort(host, strconv.Itoa(s.api.listener.Addr().(*net.TCPAddr).Port)))
	}
	return text
}

// writeCredentials writes what a device needs: the server's root, the claim and
// a configuration.
func (s *Server) writeCredentials(dir string, claim Credential) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("writing the credentials: %w", err)
	}
	if err := checkOurs(dir); err != nil {
		return err
	}
	device := s.deviceConfiguration()
	mark, _, _ := strings.Cut(device, "\n")
	if old, err := os.ReadFile(filepath.Join(dir, deviceFile)); err == nil && !strings.HasPrefix(string(old), mark) {
		s.config.Log.Warn("kept a configuration that the emulator did not write", "file", filepath.Join(dir, deviceFile))
		device = string(old)
	}
	files := []struct {
		name string
		data []byte
		mode fs.FileMode
	}{
		{claimMark, []byte(claim.CertificateID + "\n"), 0o644},
		{rootFile, s.authority.RootPEM(), 0o644},
		{claimPrivateKeyFile, claim.PrivateKeyPEM, 0o600},
		{claimPublicKeyFile, claim.PublicKeyPEM, 0o644},
		{claimCertificateFile, claim.CertificatePEM, 0o644},
		{deviceFile, []byte(device), 0o644},
	}
	for _, f := range files {
		if err := maybe.WriteFile(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return fmt.Errorf("writing the credentials: %w", err)
		}
	}
	return nil
}

// checkOurs returns an error for a directory that holds another claim.
func checkOurs(dir string) error {
	key := filepath.Join(dir, claimPrivateKeyFile)
	if _, err := os.Lstat(key); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(dir, claimMark)); err == nil {
		return nil
	}
	return fmt.Errorf("writing the credentials: %s was not written by the emulator and would be lost; choose another directory, or move it away", key)
}

// Claim returns the claim that [Start] registers: an ACTIVE certificate with
// the claim policy. The first call in a process may wait for RSA keys.
func (s *Server) Claim() Credential {
	claim, _ := s.claim() // an error is logged by makeClaim, or ended Start
	return claim
}

// NewClaim registers one more claim like that of [Server.Claim].
func (s *Server) NewClaim(ctx context.Context) (Credential, error) {
	key, err := s.keys.Take(ctx)
	if err != nil {
		return Credential{}, fmt.Errorf("making a claim: %w", err)
	}
	return newClaim(&s.config, s.registry, s.authority, key)
}

// RootPEM returns the root of the server's certificate.
func (s *Server) RootPEM() []byte { return s.authority.RootPEM() }

// RootCAs returns a pool with the root of the server's certificate.
func (s *Server) RootCAs() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.RootPEM())
	return pool
}
