// Package broker is the MQTT side of the emulator: it accepts devices over mutual TLS, speaks MQTT
// 3.1.1 and 5 as AWS IoT Core does, and delivers messages. It knows certificates and policies only
// through an [Authorizer], and the services behind reserved topics only through Config.Reserved.
//
// Of mochi-mqtt only the codec, its package packets, is linked: AWS differs from mochi's server at
// every step from CONNECT to PUBACK, and a connection of that takes twice the memory.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
package broker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"

	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/localcore/records"
)

// A Config says what a broker depends on, and how it decides what AWS leaves open. Authorizer,
// Record, Log, Now and SessionExpiry must be set.
type Config struct {
	Authorizer Authorizer
	// Reserved returns what answers messages that clients publish to a reserved topic, one that
	// begins with $aws/; a nil handler means that nothing does. A direct message goes to its
	// handler alone, others to subscribers too. Nil means no handlers.
	Reserved func(topic string) (h Handler, direct bool)
	// HTTP answers a client that sends an HTTP request (GET) in place of CONNECT; its body is
	// closed after it was sent. Nil means that none is answered.
	HTTP func(*http.Request, Principal) *http.Response
	// Observe sees every message that is published: by clients, also to reserved topics, by the
	// services, and by the broker itself. It must not block, nor change the message. Nil means no
	// observer.
	Observe func(*Message)
	Record  func(event.Event) // takes events; it must not block

	EnforceRates  bool          // turns AWS's quotas per second on; structural limits, as of a topic's length, always hold
	SessionExpiry time.Duration // how long a session outlives its connection at most
	State         string        // the file that keeps persistent sessions and retained messages; empty means memory only

	MinTLS, MaxTLS  uint16               // versions, as in [tls.Config]
	AllowMissingSNI bool                 // admits clients that name no server
	ConnackOnDeny   byte                 // return code for a CONNECT of MQTT 3.1.1 that no policy allows; zero closes without an answer
	KeepOpenOnDeny  bool                 // leaves an MQTT 5 connection open after a negative PUBACK or SUBACK
	DelaySuback     func() time.Duration // returns how much later each SUBACK is sent; nil means at once

	Log *slog.Logger // receives what is no event: failures of the emulator itself
	Now func() time.Time
}

// A Broker accepts connections and delivers messages. It is safe for concurrent use.
type Broker struct {
	config    Config
	store     *store // nil without Config.State
	topics    topicTree
	retained  retained
	queued    atomic.Int64 // bytes of the messages of all sessions
	listeners []*listener
	stop      context.CancelFunc // ends Serve; nil before
	work      sync.WaitGroup     // every goroutine

	allConnects   *rate.Limiter // of the account
	allSubscribes *rate.Limiter // of the account

	// opening is held while a session is found or made, or expires: nothing may end the session
	// that a connection is about to resume.
	opening sync.Mutex

	mu       sync.Mutex
	closed   bool                       // under mu
	open     map[net.Conn]struct{}      // every TCP connection, under mu
	current  map[string]*Conn           // by client id, under mu
	sessions map[string]*session        // by client id, under mu
	connects map[string]*rate.Limiter   // by client id, under mu
	silent   map[string]bool            // reserved topics without a service that were warned about, under mu
	past     map[string]ConnectionState // of clients that disconnected lately, by client id, under mu
}

// New returns a broker with the sessions and retained messages of an earlier run. Use Listen and
// Serve to accept connections.
func New(c Config) (*Broker, error) {
	b := &Broker{
		config:        c,
		allConnects:   rate.NewLimiter(accountConnects, accountConnects),
		allSubscribes: rate.NewLimiter(accountSubscribes, accountSubscribes),
		open:          map[net.Conn]struct{}{},
		current:       map[string]*Conn{},
		sessions:      map[string]*session{},
		connects:      map[string]*rate.Limiter{},
		silent:        map[string]bool{},
		past:          map[string]ConnectionState{},
		retained:      retained{byTopic: map[string]*Message{}},
	}
	file, err := records.Open(c.State)
	if err == nil && file != nil {
		b.store = &store{file, c.Log}
		if err = b.restore(); err != nil {
			file.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening the broker's state %s: %w", c.State, err)
	}
	return b, nil
}

// Serve begins to accept connections on all ports that Listen opened. Close ends it, the end of ctx
// does not.
func (b *Broker) Serve(ctx context.Context) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	for _, l := range b.listeners {
		b.work.Go(func() { b.accept(ctx, l) })
	}
}

// Close ends every connection and returns when the last goroutine has ended. Close must be called
// once.
func (b *Broker) Close() error {
	for _, l := range b.listeners {
		l.tcp.Close()
	}
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	var closing sync.WaitGroup
	for _, c := range b.connections() {
		closing.Go(c.Close)
	}
	closing.Wait()
	b.mu.Lock()
	for conn := range b.open {
		conn.Close()
	}
	sessions := slices.Collect(maps.Values(b.sessions))
	b.mu.Unlock()
	if b.stop != nil {
		b.stop()
	}
	for _, s := range sessions {
		b.takeWill(s) // closed: no more wait
	}
	b.work.Wait()
	if b.store == nil {
		return nil
	}
	return b.store.file.Close()
}

// Disconnect ends the connection of a client id, and its session if cleanSession is set.
// preventWill keeps its will back. found reports whether the client was connected.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_DeleteConnection.html
func (b *Broker) Disconnect(clientID string, cleanSession, preventWill bool) (found bool) {
	c := b.connection(clientID)
	if c == nil {
		return false
	}
	c.withoutWill.CompareAndSwap(false, preventWill)
	c.end(reasonAPIInitiated, packets.ErrAdministrativeAction)
	<-c.ended
	if cleanSession {
		b.opening.Lock()
		defer b.opening.Unlock()
		if b.connection(clientID) == nil {
			b.dropSession(clientID)
		}
	}
	return true
}

// DisconnectCertificate ends every connection that uses a certificate, for it may not connect any
// more.
func (b *Broker) DisconnectCertificate(id string) {
	for _, c := range b.connections() {
		if c.principal.CertificateID == id {
			b.reject(c, event.Connect, "", "the certificate is no longer ACTIVE")
			c.end(reasonAuthError, packets.ErrNotAuthorized)
		}
	}
}

// Sweep sends overdue messages again, and ends the sessions and retained messages whose time is
// over. Call it every few seconds.
func (b *Broker) Sweep() {
	now := b.config.Now()
	for _, m := range b.AllRetained() {
		if m.expiredAt(now) {
			_ = b.retain(&Message{Topic: m.Topic}) // a newer one of this instant goes too
		}
	}
	b.mu.Lock()
	maps.DeleteFunc(b.past, func(_ string, s ConnectionState) bool { return now.Sub(s.Since) >= max(numbersLife, s.SessionExpiry) })
	sessions := slices.Collect(maps.Values(b.sessions))
	b.mu.Unlock()
	for _, s := range sessions {
		if s.expired(now) {
			b.expireSession(s, now)
		} else {
			b.retry(s, now)
		}
	}
}

// connection returns the connection of a client id, nil without one.
func (b *Broker) connection(clientID string) *Conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.current[clientID]
}

// connections returns the connections of all client ids.
func (b *Broker) connections() []*Conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.current))
}
