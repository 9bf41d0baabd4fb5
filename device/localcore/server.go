// Package localcore is AWS IoT Core towards devices, on this machine: MQTT
// over mutual TLS, fleet provisioning by claim with the same templates,
// policies and hook binary as in the cloud, and the control-plane API. It is to
// AWS IoT what net/http/httptest is to HTTP: [Start] one in a test, point the
// device at it, wait with [Server.AwaitThing].
//
// It refuses what AWS refuses and, other than AWS, says why: each refusal is
// one log line. What AWS leaves open is in one table, see [Fidelity]. It is no
// substitute for rules, shadows, jobs or any other service behind the broker.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-provision.html
package localcore

import (
	"context"
	"crypto/x509"
	"fmt"

	"example.com/fleety/device/localcore/registry"
)

// A Server is a running local core. It is safe for concurrent use.
type Server struct {
	config   Config
	registry *registry.Registry
	journal  *journal

	// Faults may be set at any time.
	Faults Faults
}

// Start starts a local core. ctx bounds the start only; [Server.Close] ends
// what was started. Errors of templates and policies name file and place.
func Start(ctx context.Context, c Config) (*Server, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("starting the local core: %w", err)
	}
	return nil, fmt.Errorf("starting the local core: not ready")
}

// Close disconnects everyone and returns when no goroutine and no process is
// left. Further calls do nothing.
func (s *Server) Close() error { return nil }

// Endpoint returns the host name and port for devices. The name is localhost:
// the server demands SNI, which clients do not send for an address.
func (s *Server) Endpoint() (host string, port int) { return "localhost", 0 }

// PortALPN returns the port of the listener that requires ALPN, 0 without one.
func (s *Server) PortALPN() int { return 0 }

// APIURL returns the base of the control API, empty without one. Give it to
// the AWS CLI as --endpoint-url.
func (s *Server) APIURL() string { return "" }

// RootPEM returns the root of the server's certificate.
func (s *Server) RootPEM() []byte { return nil }

// RootCAs returns a pool with the root of the server's certificate.
func (s *Server) RootCAs() *x509.CertPool { return nil }

// A Credential is a certificate with its key, in PEM form.
type Credential struct {
	CertificateID  string
	CertificatePEM []byte
	PrivateKeyPEM  []byte // secret
	PublicKeyPEM   []byte
}

// Claim returns the claim that [Start] registered: an ACTIVE certificate with
// the claim policy.
func (s *Server) Claim() Credential { return Credential{} }

// NewClaim registers one more claim like that of [Server.Claim].
func (s *Server) NewClaim(ctx context.Context) (Credential, error) { return Credential{}, nil }

// Registry returns the things, certificates, policies and templates.
func (s *Server) Registry() *registry.Registry { return s.registry }

// ARN returns the full name of a resource of this account, such as thing/NAME.
func (s *Server) ARN(resource string) string { return s.config.arn(resource) }

// AwaitThing waits until a thing of this name is registered and returns it.
func (s *Server) AwaitThing(ctx context.Context, name string) (registry.Thing, error) {
	return registry.Thing{}, nil
}

// AwaitEvent waits for an event that match accepts. Past events count too, as
// far as they are kept: the latest 2048 at least.
func (s *Server) AwaitEvent(ctx context.Context, match func(Event) bool) (Event, error) {
	for number := 0; ; number++ {
		e, n, err := s.journal.next(ctx, number)
		if err != nil {
			return Event{}, fmt.Errorf("waiting for an event: %w", err)
		}
		if match(e) {
			return e, nil
		}
		number = n
	}
}

// Follow calls yield for every event from now on, until yield returns false
// or ctx ends, whose error it then returns. A slow yield loses events, the
// oldest first, when more than 2048 are waiting.
func (s *Server) Follow(ctx context.Context, yield func(Event) bool) error {
	for number := s.journal.latest(); ; number++ {
		e, n, err := s.journal.next(ctx, number)
		if err != nil {
			return err
		}
		if !yield(e) {
			return nil
		}
		number = n
	}
}
