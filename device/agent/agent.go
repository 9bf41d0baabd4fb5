// Package agent keeps a device connected to AWS IoT Core for as long as it runs,
// and lets every program on the device use that one connection: through a
// durable outbox ([example.com/fleety/device/agent/outbox]) and a local API on a
// Unix socket.
//
// It provisions the device first if it has no identity, connects again for ever,
// and replaces key and certificate by age. AWS IoT keeps its session: what is
// published at QoS 1 while the device is away is delivered later, for an hour or
// what the account's quota says.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
package agent

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"example.com/fleety/device/agent/outbox"
	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/provision"
)

// ErrRunning is wrapped by the error of a second agent of a device. It names the
// process of the first.
var ErrRunning = errors.New("another agent of this device is running")

// drainTimeout is how long a stopping agent sends what is in the outbox.
const drainTimeout = 5 * time.Second

// Config says which device to connect, and what the agent offers. Provision, Dir
// and Socket are required.
type Config struct {
	// Provision says how the device is provisioned, and how its identity is
	// rotated. Its Session also reaches AWS IoT for the agent.
	Provision provision.Config
	// Dir holds the agent's lock and its outbox. It is made if it is missing.
	Dir string
	// Socket is the path of the local API. Its directory is made if it is missing.
	Socket string
	// Outbox bounds the outbox. Path and Log are the agent's own.
	Outbox outbox.Config
	// RotateAfter is the age at which key and certificate are replaced; 0 means
	// never. Two thirds of the certificate's lifetime is the latest in any case. Up
	// to a tenth is added at random, so that a fleet does not rotate at once.
	RotateAfter time.Duration
	// Services use the connection, each from its own goroutine.
	Services []Service
	// Routes are more of the local API, by pattern as in [http.ServeMux]. A response
	// other than success is a JSON object with a text "error".
	Routes map[string]http.Handler
	// OnStatus, if set, is called with what the agent does now, in one line, and
	// whether it is connected: the first time when the local API is ready.
	OnStatus func(text string, connected bool)
	Log      *slog.Logger // nil discards
}

// An agent is what Run runs.
type agent struct {
	Config
	thing         string
	outbox        *outbox.Outbox
	subscriptions *subscriptions
	publisher     publisher
	denials       map[string]denial // of services, by topic or filter; guarded by publisher.turn
	jitter        float64           // 0 to 1, of the rotation
	rotateNow     chan struct{}     // receives a value when a rotation is requested
	lastConnect   time.Time

	mu    sync.Mutex
	state state
}

// Run is an agent. It returns nil when ctx ends, after it has sent what it could
// of the outbox and has disconnected, and an error only where it could not begin:
// the device could not be provisioned (see [provision.Run]), its identity cannot
// be read, another agent is running ([ErrRunning]), or there is no socket.
func Run(ctx context.Context, c Config) error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.OnStatus == nil {
		c.OnStatus = func(string, bool) {}
	}
	release, err := lock(c.Dir)
	switch {
	case errors.Is(err, ErrRunning):
		return err
	case err != nil: // a disk that cannot be written is no reason not to connect
		c.Log.Error("another agent of this device would not be noticed", "error", err)
	default:
		defer release()
	}
	id, err := c.Provision.Store.Load()
	if errors.Is(err, identity.ErrNone) {
		var done *provision.Result
		if done, err = provision.Run(ctx, c.Provision); err == nil {
			id = done.Identity
		}
	}
	if err != nil {
		return err
	}
	c.Outbox.Path, c.Outbox.Log = filepath.Join(c.Dir, "outbox.db"), c.Log
	a := &agent{
		Config:        c,
		thing:         id.Record.ThingName,
		outbox:        outbox.New(c.Outbox),
		subscriptions: newSubscriptions(filepath.Join(c.Dir, "subscriptions.json")),
		denials:       map[string]denial{},
		rotateNow:     make(chan struct{}, 1),
		jitter:        rand.Float64(),
		state:         newState(id),
	}
	a.publisher = publisher{outbox: a.outbox, turn: make(turn, 1), setAside: a.reportSetAside, idle: make(chan struct{}, 1)}
	defer a.outbox.Close()
	stopServices := a.runServices(ctx)
	defer stopServices()
	stopAPI, err := a.serveAPI(ctx)
	if err != nil {
		return err
	}
	defer stopAPI()
	c.OnStatus(a.thing+": connecting", false)
	a.stayConnected(ctx)
	return nil
}

func (a *agent) reportSetAside(m outbox.Message, err error) {
	a.Log.Error("a message has ended the connection three times in a row and is set aside; the device's policy probably denies its topic",
		"topic", m.Topic, "bytes", len(m.Payload), "stored", m.Stored.UTC(), "error", err)
	a.update(func(s *state) { s.setAside++ })
}

// rotationDue returns when the identity is to be replaced. The caller holds mu.
func (a *agent) rotationDue(id *identity.Identity) time.Time {
	if len(a.state.rotationRequests) > 0 {
		return time.Time{}
	}
	cert := id.Certificate
	age := cert.NotAfter.Sub(cert.NotBefore) / 3 * 2
	if a.RotateAfter > 0 {
		age = min(age, a.RotateAfter)
	}
	due := cert.NotBefore.Add(age + time.Duration(a.jitter*float64(age)/10))
	if due.Before(a.state.rotateNext) {
		return a.state.rotateNext
	}
	return due
}

// rotate replaces the identity. The device is not connected meanwhile: the
// rotation needs its client id. After a failure the present identity stays, and the
// next attempt follows after retryRotation.
func (a *agent) rotate(ctx context.Context, id *identity.Identity) {
	a.OnStatus(a.thing+": replacing key and certificate", false)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	c := a.Provision
	c.Rotate = true
	if c.Author == "" {
		c.Author = id.Record.Author
	}
	result, err := provision.Run(ctx, c)
	a.lastConnect = time.Now()
	defer a.answerRotation(err)
	if err != nil {
		next := time.Now().Add(retryRotation(time.Until(id.Certificate.NotAfter)))
		a.Log.Error("replacing key and certificate failed; the present ones stay", "next", next.UTC(), "class", awsiot.ClassOf(err).String(), "error", err)
		a.update(func(s *state) { s.rotationsFailed++; s.rotateNext = next })
		return
	}
	a.Log.Info("replaced key and certificate", "certificateId", result.Identity.Record.CertificateID, "replaces", result.Identity.Record.Replaces)
	a.update(func(s *state) { s.rotations++ })
}

// retryRotation returns the delay after a rotation that failed: about an hour, and
// less where little is left of the certificate's life, after which nothing can be
// rotated.
func retryRotation(left time.Duration) time.Duration {
	delay := max(time.Minute, min(time.Hour, left/4))
	return delay/2 + rand.N(delay)
}
