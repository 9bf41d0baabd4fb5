// Package agent keeps a device connected to AWS IoT Core for as long as it runs, and lets every
// program on the device use that one connection: through a durable outbox
// ([example.com/fleety/device/agent/outbox]) and a local API on a Unix socket.
//
// It provisions the device first if it has no identity, connects again for ever, and replaces key
// and certificate by age. AWS IoT keeps its session: what is published at QoS 1 while the device is
// away is delivered later, for an hour or what the account's quota says.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"example.com/fleety/device/agent/outbox"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/osfile"
	"example.com/fleety/device/provision"
)

// ErrRunning is wrapped by the error of [Lock]. It names the process that has the lock.
var ErrRunning = errors.New("the connection of this device is in use")

// Config says which device to connect, and what to offer. Provision, Dir and Socket are required.
type Config struct {
	// Provision says how the device is provisioned, and how its identity is rotated. Its Session
	// also reaches AWS IoT for the agent.
	Provision provision.Config
	Dir       string        // holds the agent's lock and its outbox; it is made if it is missing
	Socket    string        // the path of the local API; its directory is made if it is missing
	Outbox    outbox.Config // bounds the outbox; Path, Accept and Log are the agent's own
	// RotateAfter is the age at which key and certificate are replaced; 0 means two thirds of the
	// certificate's lifetime, which is the latest in any case. Up to a tenth is added at random, so
	// that a fleet does not rotate at once.
	RotateAfter time.Duration
	Services    []ServiceConfig // use the connection, each from its own goroutine
	// Routes are more of the local API, by pattern as in [http.ServeMux], with a method. The body of
	// a request is in memory. A response other than success is a JSON object with a text "error".
	Routes map[string]http.Handler
	// OnStatus, if set, is called with what the agent does now, in one line, and whether it is
	// connected: the first time when the local API is ready.
	OnStatus func(text string, connected bool)
	Log      *slog.Logger // nil discards
	// Changes, if set, receives configurations for the agent to continue with, connected as it is.
	// Of each, Provision but for its Session, the bounds of Outbox, RotateAfter, Services and
	// Routes are used.
	Changes <-chan Config
}

type agent struct {
	Config        // Provision and RotateAfter are guarded by mu
	thing         string
	outbox        *outbox.Outbox
	subscriptions *subscriptions
	publisher     publisher
	denials       map[string]denial // by topic, for services, or filter; guarded by publisher.turn
	jitter        float64           // 0 to 1, of the rotation
	rotateNow     chan struct{}     // receives a value when the time of the rotation may have changed
	lastConnect   time.Time
	taken         bool                          // another client may have used the session since the last connection
	routes        atomic.Pointer[http.ServeMux] // of the local API
	requests      chan struct{}                 // has a value for each request that is limited
	now           func() time.Time              // the wall clock

	mu       sync.Mutex
	state    state
	services []*runningService
	link     link
}

// Run is an agent. It returns nil when ctx ends, after it has sent what it could of the outbox and
// has disconnected, and an error only where it could not begin: the device could not be provisioned
// (see [provision.Run]), its identity cannot be read, another process has the device's connection
// ([ErrRunning]), or there is no socket.
func Run(ctx context.Context, c Config) error {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	if c.OnStatus == nil {
		c.OnStatus = func(string, bool) {}
	}
	release, err := Lock(c.Dir)
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
	c.Outbox.Accept = func(topic string) bool {
		_, err := resolveTopic(id.Record.ThingName, topic)
		return err == nil
	}
	a := &agent{
		Config:        c,
		thing:         id.Record.ThingName,
		outbox:        outbox.New(c.Outbox),
		subscriptions: newSubscriptions(filepath.Join(c.Dir, "subscriptions.json")),
		denials:       map[string]denial{},
		rotateNow:     make(chan struct{}, 1),
		jitter:        rand.Float64(),
		requests:      make(chan struct{}, maxRequests),
		now:           time.Now,
		state:         state{identity: id, reconnects: map[string]uint64{}, serviceErrors: map[string]uint64{}},
		link:          link{changed: make(chan struct{})},
	}
	a.publisher = publisher{agent: a, turn: make(turn, 1), idle: make(chan struct{}, 1)}
	defer a.outbox.Close()
	a.setRoutes(c.Routes)
	stopAPI, err := a.serveAPI(ctx)
	if err != nil {
		return err
	}
	defer stopAPI()
	a.setServices(ctx, c.Services)
	defer a.setServices(ctx, nil) // whose programs may publish until they have ended
	c.OnStatus(a.thing+": connecting", false)
	var connecting sync.WaitGroup
	defer connecting.Wait()
	connecting.Go(func() { a.stayConnected(ctx) })
	for look := time.Tick(clockInterval); ; {
		select {
		case changed := <-c.Changes:
			a.change(ctx, changed)
		case <-look: // the folder may have been replaced, or another file system mounted there
			if osfile.Holder(filepath.Join(c.Dir, "lock")) == 0 {
				if release, err := Lock(c.Dir); err == nil {
					defer release() // too: the former file may come back
				}
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Lock reserves the connection of the device whose agent has that folder, which is made if it is
// missing, until release is called or the process ends: AWS IoT allows one for a client id. While
// another process has it, the error wraps [ErrRunning].
func Lock(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "lock")
	unlock, err := osfile.Lock(path, true)
	if errors.Is(err, osfile.ErrLocked) {
		return nil, fmt.Errorf("%w by process %d (lock %s)", ErrRunning, osfile.Holder(path), path)
	}
	if err != nil {
		return nil, err
	}
	return func() error { return unlock(false) }, nil
}

func (a *agent) change(ctx context.Context, c Config) {
	a.update(func(*state) {
		c.Provision.Session = a.Provision.Session
		a.Provision, a.RotateAfter = c.Provision, c.RotateAfter
	})
	a.outbox.SetBounds(c.Outbox.MaxBytes, c.Outbox.MaxAge)
	a.setServices(ctx, c.Services)
	a.setRoutes(c.Routes)
	signal(a.rotateNow)
}

// signal sends to a channel of size one that says that something may be new.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
