package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"example.com/fleety/device/session"
)

// A Service is a feature of AWS IoT that uses the agent's connection: shadows, jobs, tunnels. Its
// package need not import this one. It may have three more methods:
//
//   - Run(ctx context.Context, thing string) is called once, and does what outlives a connection. ctx
//     ends as soon as the agent is stopped, which waits for Run to return.
//   - Status() any is a part of /v1/status, at services.NAME, as JSON.
//   - Metrics(metric func(name, kind, help string, samples ...any)) calls metric for each metric of
//     /metrics. The name goes without the prefix iot_device_, and samples are pairs of labels, such
//     as `{result="done"}` or none, and a value; or of labels such as `{result=%q}` and a
//     map[string]uint64, with a value for each.
type Service interface {
	// Name is a word for logs, metrics and the status.
	Name() string
	// Filters returns what to subscribe to, at QoS 1, before Serve is called.
	Filters(thing string) []string
	// Serve uses one connection until ctx ends, which is when the connection does. When it returns
	// earlier, it is called again after a delay that grows, and its error is logged and counted.
	Serve(ctx context.Context, conn session.Shared) error
	// Deliver receives every message of the connection, from before Serve is called, and reports
	// whether it is one of the service's. It must not block.
	Deliver(m session.Message) bool
}

// A ServiceConfig says how a service is made.
type ServiceConfig struct {
	Key string         // stands for the service's settings: one with the same key goes on after a change
	New func() Service // is called after services that do not go on have ended
	// Set, if it is not nil, gives a new service, or one that goes on, the settings that Key leaves out.
	Set func(Service)
}

// A turn makes requests wait for each other's answers. AWS IoT denies a request by closing the
// connection: with one unanswered, it is known which.
type turn chan struct{}

// take waits for the turn. The caller must release it after the answer.
func (t turn) take(ctx context.Context, conn *session.Session) (release func(), err error) {
	select {
	case t <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case <-conn.Done():
		<-t
		return nil, session.ErrNotConnected // by another request
	default:
		return func() { <-t }, nil
	}
}

const denialPause = time.Hour // for a request that has ended maxRejections connections in a row

var errDenied = fmt.Errorf("it ended the connection %d times in a row, and is tried again", maxRejections)

// A denial counts the connections that a request for a topic or filter has ended in a row.
type denial struct {
	count int
	until time.Time // not repeated until then
}

// A serviceConn is a [session.Shared].
type serviceConn struct {
	agent   *agent
	conn    *session.Session
	present bool
}

func (c serviceConn) ThingName() string    { return c.agent.thing }
func (c serviceConn) SessionPresent() bool { return c.present }

func (c serviceConn) Publish(ctx context.Context, topic string, payload []byte) error {
	return c.request(ctx, "PUBLISH", topic, func(ctx context.Context) error {
		pace := &c.agent.publisher.pace
		if _, err := pace.wait(ctx, 1); err != nil {
			return err
		}
		pace.sent(1, len(topic)+len(payload))
		return c.conn.Publish(ctx, topic, payload)
	})
}

// request sends a packet when it is its turn and waits for the answer, unless the same has ended
// several connections.
func (c serviceConn) request(ctx context.Context, packet, topic string, send func(context.Context) error) error {
	release, err := c.agent.publisher.turn.take(ctx, c.conn)
	if err != nil {
		return err
	}
	defer release()
	if err = c.attempt(ctx, packet, topic, send); errors.Is(err, errDenied) {
		return fmt.Errorf("AWS IoT probably denies %s to %s: %w", packet, topic, err)
	}
	return err
}

// attempt is request for the holder of the turn.
func (c serviceConn) attempt(ctx context.Context, packet, topic string, send func(context.Context) error) error {
	d := c.agent.denials[topic]
	if time.Now().Before(d.until) {
		return fmt.Errorf("%w after %s", errDenied, d.until.UTC().Format(time.RFC3339))
	}
	if err := settle(ctx, c.conn, d.count); err != nil {
		return err
	}
	err := send(ctx)
	if errors.Is(err, context.Canceled) { // perhaps by the end of the connection
		err = cmp.Or(c.conn.Err(), err)
	}
	if err == nil {
		delete(c.agent.denials, topic)
	} else if session.Unanswered(err) == packet {
		if d.count++; d.count >= maxRejections {
			d = denial{until: time.Now().Add(denialPause)}
		}
		c.agent.denials[topic] = d
	}
	return err
}

type runningService struct {
	key     string
	service Service
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// A link is the present connection of the agent.
type link struct {
	conn    *session.Session // nil if there is none
	present bool             // the session is as the connection before left it
	changed chan struct{}    // closed when another link follows
	// afterEnd calls a function when the connection is to end, as [context.AfterFunc] does.
	afterEnd func(func()) (stop func() bool)
}

func (a *agent) setLink(l link) {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.link.changed)
	l.changed = make(chan struct{})
	a.link = l
}

// setServices stops the services that are not among these, and starts those that do not run. They
// run until they are stopped, or ctx ends. It is called by one goroutine at a time.
func (a *agent) setServices(ctx context.Context, services []ServiceConfig) {
	var all, stopped []*runningService
	for _, r := range a.services {
		if slices.ContainsFunc(services, func(s ServiceConfig) bool { return s.Key == r.key }) {
			all = append(all, r)
		} else {
			stopped = append(stopped, r)
			r.cancel()
		}
	}
	for _, r := range stopped {
		r.running.Wait()
	}
	kept := len(all)
	for _, s := range services {
		i := slices.IndexFunc(all, func(r *runningService) bool { return r.key == s.Key })
		if i < 0 {
			i, all = len(all), append(all, &runningService{key: s.Key, service: s.New()})
		}
		if s.Set != nil {
			s.Set(all[i].service)
		}
	}
	var filters []string
	for _, r := range all {
		filters = append(filters, r.service.Filters(a.thing)...)
	}
	a.subscriptions.setServices(filters)
	a.mu.Lock()
	a.services = all
	a.mu.Unlock()
	for _, r := range all[kept:] {
		running, cancel := context.WithCancel(ctx)
		r.cancel = cancel
		if s, ok := r.service.(interface{ Run(context.Context, string) }); ok {
			r.running.Go(func() { s.Run(running, a.thing) })
		}
		r.running.Go(func() { a.serveLinks(running, r.service) })
	}
}

// serveLinks lets a service use each connection, until ctx ends.
func (a *agent) serveLinks(ctx context.Context, s Service) {
	for first := true; ; first = false {
		a.mu.Lock()
		link := a.link
		a.mu.Unlock()
		if link.conn != nil {
			using, cancel := context.WithCancel(ctx)
			stop := link.afterEnd(cancel)
			// Of a connection that is older than the service it has missed messages.
			a.serve(using, serviceConn{a, link.conn, link.present && !first}, s)
			stop()
			cancel()
		}
		select {
		case <-link.changed:
		case <-ctx.Done():
			return
		}
	}
}

// serve lets a service use a connection until it ends.
func (a *agent) serve(ctx context.Context, c serviceConn, s Service) {
	var delays backoff
	for {
		began := time.Now()
		err := a.subscribeService(ctx, c, s)
		if err == nil {
			err = s.Serve(ctx, c)
		}
		select {
		case <-ctx.Done():
			return
		case <-c.conn.Done():
			return
		default:
		}
		if err == nil {
			err = errors.New("it ended by itself")
		}
		delay := delays.next(time.Since(began))
		a.update(func(st *state) { st.serviceErrors[s.Name()]++ })
		a.Log.Error("service failed", "service", s.Name(), "next", delay.Round(time.Millisecond), "error", err)
		if !sleep(ctx, delay) {
			return
		}
	}
}

// subscribeService subscribes to those filters of a service that the connection does not have.
func (a *agent) subscribeService(ctx context.Context, c serviceConn, s Service) error {
	for filters := range slices.Chunk(a.subscriptions.expect(s.Filters(a.thing)...), session.MaxFilters) {
		err := c.request(ctx, "SUBSCRIBE", filters[0], func(ctx context.Context) error { return c.conn.Subscribe(ctx, filters...) })
		if err != nil {
			return err
		}
		a.subscriptions.hold(filters...)
	}
	return nil
}

// deliver hands a message to the services and programs that it is for.
func (a *agent) deliver(m session.Message) {
	expected := a.subscriptions.deliver(m)
	for _, s := range a.runningServices() {
		expected = s.service.Deliver(m) || expected
	}
	if !expected {
		a.update(func(s *state) { s.unexpected++ })
	}
}
