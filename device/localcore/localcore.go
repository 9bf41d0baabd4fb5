// Package localcore is a local emulator of AWS IoT Core: MQTT over mutual TLS, fleet provisioning
// by claim with the same templates, policies and hook binary as in the cloud, and the control-plane
// API. It is to AWS IoT what net/http/httptest is to HTTP: [Start] one in a test, point the device
// at it, wait with [Server.AwaitThing].
//
// It rejects what AWS rejects and, unlike AWS, logs the reason. What AWS leaves open is in one
// table, see [Ambiguities].
//
// This package composes the emulator: package broker carries the messages, package provisioning
// answers the provisioning API, and they meet in Server.reserved.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-provision.html
package localcore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/localcore/jobs"
	"example.com/fleety/device/localcore/jsontree"
	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/provisioning"
	"example.com/fleety/device/localcore/records"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/rules"
	"example.com/fleety/device/localcore/shadow"
	"example.com/fleety/device/localcore/tunnel"
)

// A Server is a running emulator. It is safe for concurrent use.
type Server struct {
	Faults Faults // alter the answers to provisioning requests; set them at any time

	config       Config
	registry     *registry.Registry
	services     *records.File // what the services keep; nil in memory
	history      *event.History
	authority    *ca.Authority
	claim        func() (Credential, error)  // made once, see makeClaim
	functions    map[string]*lambdahost.Host // by ARN
	provisioning *provisioning.Service
	shadows      *shadow.Service
	jobs         *jobs.Service
	rules        *rules.Service
	tunnels      *tunnel.Service
	broker       *broker.Broker
	disconnect   func(registry.Change) // disconnects a certificate that was changed; nil before run
	documents    jsontree.Cache[*policy.Document]
	observers    sync.Map     // of messages: *observer to nothing
	port         int          // for devices
	portALPN     int          // 0 without one
	api          net.Listener // nil without one

	running sync.WaitGroup // the goroutines of this package
	closers []func() error // of what was started, in the order of starting
	close   func() error   // once
}

// Start starts an emulator, within milliseconds. The first start on a new Config.State, or in a
// process with Config.Credentials, makes two RSA keys before it returns, a tenth of a second each:
// the files must be there then. ctx bounds the start only; [Server.Close] ends what was started.
// Errors of templates and policies name file and place.
func Start(ctx context.Context, c Config) (*Server, error) {
	s := &Server{config: c, functions: map[string]*lambdahost.Host{}}
	s.close = sync.OnceValue(func() error {
		var errs []error
		for _, end := range slices.Backward(s.closers) {
			errs = append(errs, end())
		}
		return errors.Join(errs...)
	})
	if err := s.start(ctx); err != nil {
		return nil, fmt.Errorf("starting the emulator: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

// Close disconnects everyone and returns when no goroutine and no process is left. Further calls do
// nothing.
func (s *Server) Close() error { return s.close() }

// onClose adds what ends something that was started.
func (s *Server) onClose(end func() error) { s.closers = append(s.closers, end) }

func (s *Server) start(ctx context.Context) (err error) {
	c := &s.config
	if c.Assembly != "" {
		if *c, err = c.withStack(); err != nil {
			return err
		}
	}
	*c = c.withDefaults()
	if err := cmp.Or(ctx.Err(), c.validate()); err != nil {
		return err
	}
	if c.deployment == nil {
		if c.deployment, err = c.readTemplates(); err != nil {
			return err
		}
	}
	s.history = event.NewHistory(c.Log, c.Now)
	s.claim = sync.OnceValues(s.openClaim)
	for _, step := range []func() error{s.openState, s.install, func() error { return s.startServices(ctx) }, s.makeClaim} {
		if err := step(); err != nil {
			return err
		}
	}
	if s.api != nil { // last: an answer means that the files of this start are there
		s.serveAPI(ctx)
	}
	return nil
}

// stateFile returns the path of a file of the state, empty where none is kept.
func (c *Config) stateFile(name string) string {
	if c.State == "" {
		return ""
	}
	return filepath.Join(c.State, name)
}

// openState opens registry, services and authority.
func (s *Server) openState() (err error) {
	c := &s.config
	if c.State != "" {
		if err := os.MkdirAll(c.State, 0o700); err != nil {
			return fmt.Errorf("opening the state: %w", err)
		}
	}
	path := c.stateFile("registry.db")
	s.registry, err = registry.Open(path, registry.Options{
		Now:           c.Now,
		CheckPolicy:   checkPolicy,
		CheckTemplate: checkTemplate,
		ClaimPolicy: func(template string) string {
			return strings.NewReplacer("client/claim-*", "client/*", "provisioning-templates/*", "provisioning-templates/"+template+"/*").Replace(c.Expand(openClaimPolicy))
		},
		Account:       c.Account,
		CreateMissing: c.CreateMissing,
		ARN:           c.arn,
		Changed: func(events []registry.Event, certificates []registry.Change) {
			if s.jobs != nil {
				s.jobs.RegistryChanged()
			}
			for _, c := range certificates {
				if s.disconnect != nil {
					s.disconnect(c)
				}
			}
			for _, e := range events {
				e.Payload["timestamp"] = c.Now().UnixMilli()
				s.publishEvent(e.Topic, e.Payload)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("opening the registry %s: %w", path, err)
	}
	s.onClose(s.registry.Close)
	path = c.stateFile("services.db")
	if s.services, err = records.Open(path); err != nil {
		return fmt.Errorf("opening the state %s: %w", path, err)
	}
	s.onClose(s.services.Close)
	s.authority, err = ca.Open(c.State, c.FastIssuer)
	return err
}

// startServices starts what runs: the functions, the services, the broker and its listeners.
func (s *Server) startServices(ctx context.Context) error {
	c := &s.config
	cert, err := s.authority.ServerCertificate("localhost", "127.0.0.1", "::1", "*.iot."+c.Region+".amazonaws.com")
	if err != nil {
		return err
	}
	if c.API != NoAPI { // before the functions, which get its address
		if err := s.listenAPI(cert); err != nil {
			return err
		}
	}
	if err := s.startFunctions(ctx); err != nil {
		return err
	}
	enforceRates := c.Quotas == QuotasAWS
	s.provisioning = provisioning.New(provisioning.Config{
		Registry: s.registry, Authority: s.authority,
		Hook: c.HookFunc, HookARN: c.hookARN(), HookTimeout: c.HookTimeout, Invoke: s.invoke,
		ARN: c.arn, EnforceRates: enforceRates,
		Record: s.history.Record, Log: c.Log, Now: c.Now,
	})
	failed := func(err error) error { return fmt.Errorf("opening the state %s: %w", c.stateFile("services.db"), err) }
	if s.shadows, err = shadow.Open(shadow.Config{Store: s.services.Bucket("shadows"), Now: c.Now, EnforceRates: enforceRates}); err != nil {
		return failed(err)
	}
	if err := s.openJobs(s.services.Bucket("jobs")); err != nil {
		return failed(err)
	}
	s.tunnels = tunnel.New(tunnel.Config{
		ARN: c.arn, Region: c.Region, EnforceRates: enforceRates, Now: c.Now, Log: c.Log,
		Publish: s.publish,
		Deleted: func(id string) {
			if err := s.registry.DeleteTags("tunnel/" + id); err != nil {
				c.Log.Error("deleting the tags of a tunnel", "tunnel", id, "error", err)
			}
		},
	})
	if err := s.openRules(s.services.Bucket("rules")); err != nil {
		return failed(err)
	}
	if err := s.openBroker(ctx, cert); err != nil {
		return err
	}
	s.run(ctx)
	s.broker.Serve(ctx)
	return nil
}

// run starts what happens without a request: jobs, rules, the end of what has expired, and that of
// the connections of certificates that leave ACTIVE.
func (s *Server) run(ctx context.Context) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.running.Go(func() { s.jobs.Run(ctx) })
	s.running.Go(func() { s.rules.Run(ctx) })
	s.running.Go(func() { s.sweep(ctx) })
	var mu sync.Mutex // so that nothing starts after stop
	s.disconnect = func(change registry.Change) {
		mu.Lock()
		defer mu.Unlock()
		if change.Status != registry.Active && ctx.Err() == nil {
			s.running.Go(func() { s.disconnectInactive(ctx, change.CertificateID) })
		}
	}
	s.onClose(func() error {
		s.tunnels.Close()
		mu.Lock()
		stop()
		mu.Unlock()
		s.running.Wait()
		return nil
	})
}

// disconnectInactive ends the connections of a certificate that is not ACTIVE after the delay that
// AWS leaves open (U22).
func (s *Server) disconnectInactive(ctx context.Context, certificateID string) {
	if !wait(ctx, s.config.AmbiguousBehavior.DisconnectDelay) {
		return
	}
	if cert, ok := s.registry.CertificateByID(certificateID); !ok || cert.Status != registry.Active {
		s.broker.DisconnectCertificate(certificateID)
	}
}

// Endpoint returns the host name and port for devices. The name is localhost: the server requires
// SNI, which clients do not send for an address.
func (s *Server) Endpoint() (host string, port int) { return "localhost", s.port }

// PortALPN returns the port of the listener that requires ALPN, 0 without one.
func (s *Server) PortALPN() int { return s.portALPN }

// Registry returns the things, certificates, policies and templates, the claim's among them.
func (s *Server) Registry() *registry.Registry {
	s.Claim()
	return s.registry
}

// ARN returns the full name of a resource of this account, such as thing/NAME.
func (s *Server) ARN(resource string) string { return s.config.arn(resource) }

// ExpireTokens makes every pending certificate ownership token expire now: the certificates that
// wait for RegisterThing are deleted. It returns their ids.
func (s *Server) ExpireTokens() ([]string, error) {
	return s.registry.Expire(s.config.Now().Add(awsiot.OwnershipTokenLife + time.Second))
}

// sweepInterval is how often what has expired is looked for.
const sweepInterval = 5 * time.Second

// sweep ends what has expired, until ctx ends.
func (s *Server) sweep(ctx context.Context) {
	for wait(ctx, sweepInterval) {
		_, err := s.registry.Expire(s.config.Now())
		if err = errors.Join(err, s.shadows.Sweep()); err != nil {
			s.config.Log.Error("deleting what has expired", "error", err)
		}
		s.broker.Sweep()
		s.tunnels.Sweep()
	}
}

// wait reports false if ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
