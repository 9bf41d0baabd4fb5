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
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/template"
)

const (
	keysReady    = 2 // in the pool, for CreateKeysAndCertificate
	registryFile = "registry.db"
)

// A Server is a running local core. It is safe for concurrent use.
type Server struct {
	// Faults spoil provisioning exchanges; set them at any time.
	Faults Faults

	config    Config
	registry  *registry.Registry
	journal   *journal
	authority *ca.Authority
	keys      *ca.Pool
	hook      *lambdahost.Host // nil without one
	provision *provisioner
	broker    *broker
	claim     func() (Credential, error) // made once, see makeClaim
	making    sync.WaitGroup             // of keys and the claim
	mqtts     *listener
	alpn      *listener // nil without one
	expiry    *expiry
	api       *apiServer // nil without one

	closing sync.Once
	closed  error
}

// Start starts a local core, within milliseconds. The first start on a new
// Config.State, or in a process with Config.Credentials, makes two RSA keys
// before it returns, a tenth of a second each: the files must be there then.
// ctx bounds the start only; [Server.Close] ends what was started. Errors of
// templates and policies name file and place.
func Start(ctx context.Context, c Config) (*Server, error) {
	s := &Server{config: c}
	if err := s.start(ctx); err != nil {
		return nil, fmt.Errorf("starting the local core: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	c := &s.config
	read, err := c.withAssembly()
	if err != nil {
		return err
	}
	*c = read.withDefaults()
	if err := c.validate(); err != nil {
		return err
	}
	s.journal = newJournal(c.Log, c.Now)
	if err := s.openState(); err != nil {
		return err
	}
	if err := c.install(s.registry); err != nil {
		return err
	}
	s.claim = sync.OnceValues(func() (Credential, error) { return openClaim(c, s.registry, s.authority) })
	if err := s.startServices(ctx); err != nil {
		return err
	}
	return s.makeClaim()
}

// makeClaim makes the claim now where files hold it. In memory it is made in
// the background, with the two RSA keys that are nearly all of a first start;
// whoever can see it waits for it.
func (s *Server) makeClaim() error {
	c := &s.config
	s.making.Go(s.authority.Prepare)
	if c.State == "" && c.Credentials == "" && c.assembled == nil {
		s.making.Go(func() {
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
	return writeCredentials(c.Credentials, s.authority.RootPEM(), claim)
}

// openState opens registry and authority.
func (s *Server) openState() (err error) {
	path := ""
	if dir := s.config.State; dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("opening the state: %w", err)
		}
		path = filepath.Join(dir, registryFile)
	}
	s.registry, err = registry.Open(path, registry.Options{
		Now:           s.config.Now,
		CheckPolicy:   func(document []byte) error { _, err := policy.Parse(document); return err },
		CheckTemplate: func(body []byte) error { _, err := template.Parse(body); return err },
	})
	if err != nil {
		return fmt.Errorf("opening the registry %s: %w", path, err)
	}
	s.authority, err = ca.Open(s.config.State)
	return err
}

// startServices starts what runs: hook, provisioning, broker, listeners.
func (s *Server) startServices(ctx context.Context) error {
	c := &s.config
	if c.API != NoAPI {
		api, err := listenAPI(c)
		if err != nil {
			return err
		}
		s.api = api // before the hook, which is told its address
	}
	hook, host, err := startHook(ctx, c, s.APIURL())
	if err != nil {
		return err
	}
	s.hook = host
	s.keys = ca.NewPool(keysReady)
	s.provision = newProvisioner(c, s.registry, s.authority, s.keys, hook, &s.Faults, s.journal)
	s.broker, err = newBroker(c, s.registry, s.journal, s.provision)
	if err != nil {
		return err
	}
	s.provision.broker = s.broker
	s.expiry = watchCertificates(s.broker)
	return s.listen()
}

// listen opens the ports and begins to serve.
func (s *Server) listen() error {
	cert, err := s.authority.ServerCertificate("localhost", "127.0.0.1", "::1",
		"*.iot."+s.config.Region+".amazonaws.com")
	if err != nil {
		return err
	}
	if s.mqtts, err = s.broker.listen("mqtts", s.config.Listen, cert, false); err != nil {
		return fmt.Errorf("listening for devices: %w", err)
	}
	if s.config.ListenALPN != "" {
		if s.alpn, err = s.broker.listen("alpn", s.config.ListenALPN, cert, true); err != nil {
			return fmt.Errorf("listening for devices with ALPN: %w", err)
		}
	}
	if err := s.broker.serve(); err != nil {
		return err
	}
	if s.api != nil {
		s.api.serve(s.apiHandler())
	}
	return nil
}

// Close disconnects everyone and returns when no goroutine and no process is
// left. Further calls do nothing.
func (s *Server) Close() error {
	s.closing.Do(func() { s.closed = s.close() })
	return s.closed
}

// close ends what start began, as far as it came, in the opposite order.
func (s *Server) close() error {
	var errs []error
	s.making.Wait()
	if s.api != nil {
		errs = append(errs, s.api.close())
	}
	if s.expiry != nil {
		s.expiry.stop()
	}
	if s.broker != nil {
		errs = append(errs, s.broker.close())
	}
	if s.provision != nil {
		s.provision.close()
	}
	if s.hook != nil {
		errs = append(errs, s.hook.Close())
	}
	if s.registry != nil {
		errs = append(errs, s.registry.Close())
	}
	return errors.Join(errs...)
}

// Endpoint returns the host name and port for devices. The name is localhost:
// the server demands SNI, which clients do not send for an address.
func (s *Server) Endpoint() (host string, port int) { return "localhost", s.mqtts.port() }

// PortALPN returns the port of the listener that requires ALPN, 0 without one.
func (s *Server) PortALPN() int {
	if s.alpn == nil {
		return 0
	}
	return s.alpn.port()
}

// Registry returns the things, certificates, policies and templates, the
// claim's among them.
func (s *Server) Registry() *registry.Registry {
	s.Claim()
	return s.registry
}

// ARN returns the full name of a resource of this account, such as thing/NAME.
func (s *Server) ARN(resource string) string { return s.config.arn(resource) }

// AwaitThing waits until a thing of this name is registered and returns it.
func (s *Server) AwaitThing(ctx context.Context, name string) (registry.Thing, error) {
	for number := s.journal.latest(); ; number++ {
		thing, err := s.registry.DescribeThing(name)
		if !isNotFound(err) {
			return thing, err
		}
		if _, number, err = s.journal.next(ctx, number); err != nil {
			return thing, fmt.Errorf("waiting for thing %s: %w", name, err)
		}
	}
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

// LapsePending makes every ownership token lapse now: certificates that wait
// for RegisterThing are deleted. It returns their ids.
func (s *Server) LapsePending() ([]string, error) {
	return s.registry.Expire(s.config.Now().Add(ownershipTokenLife + time.Second))
}
