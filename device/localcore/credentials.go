package localcore

import (
	"context"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	texttemplate "text/template"

	"github.com/google/renameio/v2/maybe"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/osfile"
	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/template"
)

// Files of Config.Credentials.
const (
	rootFile             = "root.ca.bundle.pem"
	claimCertificateFile = "fleet-provisioning.certificate.pem"
	claimPrivateKeyFile  = "fleet-provisioning.private.key"
	claimPublicKeyFile   = "fleet-provisioning.public.key"
	// claimMark marks our claim, unlike one of a real account, whose key must not be overwritten: it
	// holds the ids of the last claim certificates, for a start may be killed before it has
	// written its own, and another process may write there too.
	claimMark = ".iot_core_local"
	maxMark   = 1000 // bytes of former ids
	// deviceFile is the configuration for the device.
	deviceFile = "device.yaml"
	// claimStateFile keeps the claim in Config.State.
	claimStateFile = "claim.json"
)

// A Credential is a certificate with its key, in PEM form.
type Credential = ca.Credential

// processClaimKey is the key of every claim that lives in memory only: making an RSA key takes
// longer than all the rest of a start.
var processClaimKey = sync.OnceValues(ca.NewKey)

// makeClaim makes the claim now where files hold it. In memory it is made in the background, with
// the two RSA keys that are nearly all of a first start; everything that shows it waits for it.
func (s *Server) makeClaim() error {
	c := &s.config
	s.running.Go(s.authority.Prepare)
	if c.State == "" && c.Credentials == "" && c.Assembly == "" {
		s.running.Go(func() {
			if _, err := s.claim(); err != nil {
				c.Log.Error("making the claim in the background", "error", err)
			}
		})
		return nil
	}
	claim, err := s.claim()
	if err != nil || c.Credentials == "" {
		return err
	}
	return s.writeCredentials(c.Credentials, claim)
}

// registerClaim gives a claim its policies and registers it as ACTIVE, unless it is registered already.
func (s *Server) registerClaim(claim Credential) error {
	plan := &template.Plan{Certificate: &template.Certificate{Status: template.StatusActive, StatusOverride: template.DoNothing}}
	for _, name := range s.config.deployment.claimPolicies {
		plan.Policies = append(plan.Policies, template.Policy{Name: name})
	}
	_, err := s.registry.Provision(registry.Provisioning{
		Plan: plan, NewCertificate: &registry.Certificate{PEM: string(claim.CertificatePEM), Status: registry.Active},
	})
	if err != nil {
		return fmt.Errorf("registering a claim: %w", err)
	}
	return nil
}

// openClaim returns the claim of the state directory, or a new one.
func (s *Server) openClaim() (claim Credential, err error) {
	newKey, path := processClaimKey, s.config.stateFile(claimStateFile)
	if path != "" {
		newKey = ca.NewKey
		data, err := osfile.Read(path, maxFile)
		if err == nil {
			err = json.Unmarshal(data, &claim)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return claim, fmt.Errorf("reading the claim in %s: %w (move the file away to make a new one)", path, err)
		}
		if _, registered := s.registry.CertificateByID(claim.CertificateID); registered {
			if s.config.deployment.unchanged {
				return claim, nil // with the policies that it was left with
			}
			return claim, s.registerClaim(claim)
		}
	}
	if claim, err = s.authority.IssueKeys(newKey, s.config.Now()); err != nil {
		return claim, fmt.Errorf("making the claim: %w", err)
	}
	if path != "" { // first: a start that is killed leaves no certificate whose key is lost
		if err := maybe.WriteFile(path, awsiot.EncodeJSON(claim), 0o600); err != nil {
			return claim, fmt.Errorf("keeping the claim: %w", err)
		}
	}
	return claim, s.registerClaim(claim)
}

// deviceYAML is the content of deviceFile. Its first line marks the file as ours. Paths start at
// the file's folder.
//
//go:embed device.yaml.tmpl
var deviceYAML string

var deviceTemplate = texttemplate.Must(texttemplate.New(deviceFile).Parse(deviceYAML))

func (s *Server) deviceConfiguration() string {
	host, port := s.Endpoint()
	v := struct {
		Host, Template, Tunnel string
		Port                   int
	}{Host: host, Port: port, Template: TemplateName}
	if s.config.Assembly != "" {
		v.Template = s.config.deployment.Templates[0].Name
	}
	if s.api != nil { // by name, as in its certificate
		v.Tunnel = fmt.Sprintf("%s:%d", host, s.api.Addr().(*net.TCPAddr).Port)
	}
	var text strings.Builder
	if err := deviceTemplate.Execute(&text, v); err != nil {
		panic(err) // a defect of the template
	}
	return text.String()
}

// writeCredentials writes what a device needs: the server's root, the claim and a configuration.
func (s *Server) writeCredentials(dir string, claim Credential) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("writing the credentials: %w", err)
	}
	key := filepath.Join(dir, claimPrivateKeyFile)
	_, noKey := os.Lstat(key)
	ours, noMark := osfile.Read(filepath.Join(dir, claimMark), maxFile)
	there, _ := osfile.Read(filepath.Join(dir, claimCertificateFile), maxFile)
	certificates, unread := awsiot.Certificates(there) // none where an earlier start was killed
	foreign := noMark != nil || unread == nil && !strings.Contains(string(ours), awsiot.CertificateID(certificates[0]))
	if foreign && !errors.Is(noKey, fs.ErrNotExist) {
		return fmt.Errorf("writing the credentials: %s was not written by the emulator and would be lost; choose another directory, or move it away", key)
	}
	device := s.deviceConfiguration()
	mark, _, _ := strings.Cut(device, "\n")
	old, err := osfile.Read(filepath.Join(dir, deviceFile), maxFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing the credentials: %w (move it away)", err)
	}
	kept := err == nil && !strings.HasPrefix(string(old), mark)
	if kept {
		s.config.Log.Warn("kept a configuration that the emulator did not write", "file", filepath.Join(dir, deviceFile))
	}
	for _, f := range []struct {
		name string
		data []byte
		mode fs.FileMode
	}{
		{claimMark, []byte(claim.CertificateID + "\n" + string(ours[:min(len(ours), maxMark)])), 0o644},
		{rootFile, s.authority.RootPEM(), 0o644},
		{claimPrivateKeyFile, claim.PrivateKeyPEM, 0o600},
		{claimPublicKeyFile, claim.PublicKeyPEM, 0o644},
		{claimCertificateFile, claim.CertificatePEM, 0o644},
		{deviceFile, []byte(device), 0o644},
	} {
		if kept && f.name == deviceFile {
			continue
		}
		if err := maybe.WriteFile(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return fmt.Errorf("writing the credentials: %w", err)
		}
	}
	return nil
}

// Claim returns the claim that [Start] registers: an ACTIVE certificate with the claim policy. The
// first call in a process may wait for RSA keys.
func (s *Server) Claim() Credential {
	claim, _ := s.claim() // an error is logged by makeClaim, or ended Start
	return claim
}

// NewClaim registers one more claim like that of [Server.Claim].
func (s *Server) NewClaim(ctx context.Context) (Credential, error) {
	claim, err := s.provisioning.IssueKeys()
	if err != nil {
		return claim, fmt.Errorf("making a claim: %w", err)
	}
	return claim, s.registerClaim(claim)
}

// RootPEM returns the root of the server's certificate.
func (s *Server) RootPEM() []byte { return s.authority.RootPEM() }

// RootCAs returns a pool with the root of the server's certificate.
func (s *Server) RootCAs() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.RootPEM())
	return pool
}
