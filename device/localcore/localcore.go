// Package localcore is a local emulator of AWS IoT Core: MQTT over mutual TLS,
// fleet provisioning by claim with the same templates, policies and hook binary
// as in the cloud, and the control-plane API. It is to AWS IoT what
// net/http/httptest is to HTTP: [Start] one in a test, point the device at it,
// wait with [Server.AwaitThing].
//
// It rejects what AWS rejects and, unlike AWS, logs the reason. What AWS leaves
// open is in one table, see [Ambiguities].
//
// This package composes the emulator: package broker carries the messages,
// package provisioning answers the provisioning API, and they meet in
// Server.reserved.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-provision.html
package localcore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/localcore/jobs"
	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/provisioning"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/rules"
	"example.com/fleety/device/localcore/shadow"
	"example.com/fleety/device/localcore/template"
	"example.com/fleety/device/localcore/tunnel"
)

const (
	keysReady    = 2 // in the pool, for CreateKeysAndCertificate
	registryFile = "registry.db"
	brokerFile   = "broker.db"
)

// A Server is a running emulator. It is safe for concurrent use.
type Server struct {
	// Faults alter the answers to provisioning requests; set them at any time.
	Faults Faults

	config       Config
	registry     *registry.Registry
	history      *event.History
	authority    *ca.Authority
	keys         *ca.Pool
	hook         *lambdahost.Host // nil without one
	provisioning *provisioning.Service
	broker       *broker.Broker
	claim        func() (Credential, error) // made once, see makeClaim
	making       sync.WaitGroup             // of keys and the claim
	port         int                        // for devices
	portALPN     int                        // 0 without one
	expiry       *expiry
	api          *apiServer // nil without one

	records   *bolt.DB // of the services below; nil in memory
	shadows   *shadow.Service
	jobs      *jobs.Service
	rules     *rules.Service
	tunnels   *tunnel.Service
	functions map[string]*lambdahost.Host // by ARN
	observers observers                   // of messages
	hops      sync.Map                    // of messages under way, see publish: *broker.Message to int
	running   sync.WaitGroup              // of jobs and rules
	stop      context.CancelFunc          // ends them; nil before

	closing sync.Once
	closed  error
}

// Start starts an emulator, within milliseconds. The first start on a new
// Config.State, or in a process with Config.Credentials, makes two RSA keys
// before it returns, a tenth of a second each: the files must be there then.
// ctx bounds the start only; [Server.Close] ends what was started. Errors of
// templates and policies name file and place.
func Start(ctx context.Context, c Config) (*Server, error) {
	s := &Server{config: c}
	if err := s.start(ctx); err != nil {
		return nil, fmt.Errorf("starting the emulator: %w", errors.Join(err, s.Close()))
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
	s.history = event.NewHistory(c.Log, c.Now)
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
	if err := s.makeClaim(); err != nil {
		return err
	}
	if s.api != nil { // last: an answer means that the files of this start are there
		s.api.serve(s.apiHandler())
	}
	return nil
}

// makeClaim makes the claim now where files hold it. In memory it is made in
// the background, with the two RSA keys that are nearly all of a first start;
// everything that shows it waits for it.
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
	return s.writeCredentials(c.Credentials, claim)
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
		ClaimPolicy: func(template string) string {
			return strings.NewReplacer("client/claim-*", "client/*", "provisioning-templates/*", "provisioning-templates/"+template+"/*").Replace(s.config.Expand(openClaimPolicy))
		},
		Account:       s.config.Account,
		CreateMissing: s.config.CreateMissing,
		ARN:           s.config.arn,
		Changed: func(events []registry.Event) {
			if s.jobs != nil {
				s.jobs.RegistryChanged()
			}
			for _, e := range events {
				e.Payload["timestamp"] = s.config.Now().UnixMilli()
				s.publishEvent(e.Topic, e.Payload)
			}
		},
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
	cert, err := s.authority.ServerCertificate("localhost", "127.0.0.1", "::1", "*.iot."+c.Region+".amazonaws.com")
	if err != nil {
		return err
	}
	if c.API != NoAPI {
		api, err := listenAPI(ctx, c, cert)
		if err != nil {
			return err
		}
		s.api = api // before the hook, which gets its address
	}
	hook, host, err := startHook(ctx, c, s.APIURL())
	if err != nil {
		return err
	}
	s.hook = host
	s.keys = ca.NewPool(keysReady)
	s.provisioning = provisioning.New(provisioning.Config{
		Registry: s.registry, Authority: s.authority, Keys: s.keys,
		Hook: hook, HookARN: c.hookARN(), HookTimeout: c.HookTimeout, Invoke: s.invokeFunction,
		ARN: c.arn, EnforceRates: c.Quotas == QuotasAWS, DropThrottled: c.AmbiguousBehavior.DropThrottled,
		Record: s.history.Record, Log: c.Log, Now: c.Now,
	})
	if err := s.openServices(ctx); err != nil {
		return err
	}
	if err := s.openBroker(cert); err != nil {
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.running.Go(func() { s.jobs.Run(running) })
	s.running.Go(func() { s.rules.Run(running) })
	s.expiry = s.watchExpiry()
	s.broker.Serve(ctx)
	return nil
}

// openServices opens the services behind the broker: shadows, jobs, tunnels and
// rules.
func (s *Server) openServices(ctx context.Context) (err error) {
	var shadows shadow.Store
	var jobStore jobs.Store
	var ruleStore rules.Store
	if s.config.State != "" {
		if s.records, err = openRecords(s.config.State); err != nil {
			return err
		}
		shadows, jobStore, ruleStore = records{s.records, "shadows"}, records{s.records, "jobs"}, records{s.records, "rules"}
	}
	if s.shadows, err = shadow.Open(shadow.Config{Store: shadows, Now: s.config.Now, EnforceRates: s.config.Quotas == QuotasAWS}); err != nil {
		return err
	}
	if err := s.openJobs(jobStore); err != nil {
		return err
	}
	s.tunnels = tunnel.New(tunnel.Config{
		ARN: s.config.arn, Region: s.config.Region, EnforceRates: s.config.Quotas == QuotasAWS, Now: s.config.Now, Log: s.config.Log,
		Publish: func(topic string, payload []byte) {
			s.publish(&broker.Message{Topic: topic, Payload: payload, QoS: 1}, 0)
		},
		Deleted: func(id string) {
			if err := s.registry.DeleteTags("tunnel/" + id); err != nil {
				s.config.Log.Error("deleting the tags of a tunnel", "tunnel", id, "error", err)
			}
		},
	})
	return s.openRules(ctx, ruleStore)
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
	if s.tunnels != nil {
		s.tunnels.Close()
	}
	if s.expiry != nil {
		s.expiry.stop()
	}
	if s.stop != nil {
		s.stop()
		s.running.Wait()
	}
	if s.broker != nil {
		errs = append(errs, s.broker.Close())
	}
	if s.keys != nil {
		s.keys.Close()
	}
	for _, host := range s.functions {
		errs = append(errs, host.Close())
	}
	if s.hook != nil {
		errs = append(errs, s.hook.Close()) // if it is not a function yet
	}
	if s.records != nil {
		errs = append(errs, s.records.Close())
	}
	if s.registry != nil {
		errs = append(errs, s.registry.Close())
	}
	return errors.Join(errs...)
}

// Endpoint returns the host name and port for devices. The name is localhost:
// the server requires SNI, which clients do not send for an address.
func (s *Server) Endpoint() (host string, port int) { return "localhost", s.port }

// PortALPN returns the port of the listener that requires ALPN, 0 without one.
func (s *Server) PortALPN() int { return s.portALPN }

// Registry returns the things, certificates, policies and templates, the
// claim's among them.
func (s *Server) Registry() *registry.Registry {
	s.Claim()
	return s.registry
}

// ARN returns the full name of a resource of this account, such as thing/NAME.
func (s *Server) ARN(resource string) string { return s.config.arn(resource) }

// ExpireTokens makes every pending certificate ownership token expire now: the
// certificates that wait for RegisterThing are deleted. It returns their ids.
func (s *Server) ExpireTokens() ([]string, error) {
	return s.registry.Expire(s.config.Now().Add(awsiot.OwnershipTokenLife + time.Second))
}
