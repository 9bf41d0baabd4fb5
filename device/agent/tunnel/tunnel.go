// Package tunnel is the destination side of AWS IoT secure tunneling: notified of a tunnel, it
// connects to the data plane and lets the source reach the services that the configuration names,
// and nothing else.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/secure-tunneling.html
package tunnel

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/gorilla/websocket"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

const (
	maxTunnels     = 10  // that stay connected, and as many more that may take their place
	maxConnections = 100 // of all tunnels
	maxToken       = 3 << 10
	dialTimeout    = 30 * time.Second
	maxDelay       = time.Minute // before the next attempt to connect again
)

// A Config says how to reach AWS IoT.
type Config struct {
	// Endpoint and Port are those of the data plane. Empty means that of the Region of
	// Session.Endpoint or, where that is not known, of the notification.
	Endpoint string
	Port     int
	Session  session.Options // has the roots, the proxy and the dialer to use
	// PingInterval is how often the connection is tested; it is given up after three intervals in
	// which nothing was received, unless what was sent still waits for the source, or for a slow
	// link, that Linux sees to be there. 0 means 30 seconds.
	PingInterval time.Duration
	Log          *slog.Logger // nil discards
}

// A Service is a service of package agent. It is safe for concurrent use.
type Service struct {
	config   Config
	accepted chan *notified

	mu          sync.Mutex
	services    map[string]string // addresses by name; replaced, not changed
	open        []*notified       // in the order of the notifications
	ignored     map[string]uint64 // notifications, by cause
	opened      uint64            // notifications that were accepted
	connections int               // to local services
	connected   uint64            // all of them
}

// A notified is a tunnel that the device was notified of.
type notified struct {
	awsiot.TunnelNotification
	end func() // ends it; guarded by Service.mu
}

// New returns a service that waits for [Service.Run], and whose tunnels reach no service yet.
func New(c Config) *Service {
	c.PingInterval = cmp.Or(c.PingInterval, 30*time.Second)
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	return &Service{
		config: c, accepted: make(chan *notified, 2*maxTunnels),
		ignored: map[string]uint64{"malformed": 0, "service": 0, "duplicate": 0, "limit": 0},
	}
}

// SetServices sets the addresses, HOST:PORT, by the names that tunnels are opened for. A tunnel to
// any other service is ignored. Open tunnels to a service whose address has changed end.
func (s *Service) SetServices(addresses map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	former := s.services
	s.services = addresses
	for _, n := range s.open {
		if slices.ContainsFunc(n.Services, func(name string) bool { return addresses[name] != former[name] }) {
			n.end()
		}
	}
}

// Name returns "tunnel".
func (s *Service) Name() string { return "tunnel" }

// Filters returns the topic of the notifications.
func (s *Service) Filters(thing string) []string { return []string{awsiot.TunnelNotify(thing)} }

// Serve waits: tunnels do not depend on the MQTT connection.
func (s *Service) Serve(ctx context.Context, _ session.Shared) error {
	<-ctx.Done()
	return nil
}

var regionPattern = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}$`)

// Deliver receives a notification. One that is malformed, that names no configured service, or that
// came already is ignored and counted.
func (s *Service) Deliver(m session.Message) bool {
	if !strings.HasPrefix(m.Topic, "$aws/things/") || !strings.HasSuffix(m.Topic, "/tunnels/notify") {
		return false
	}
	n := &notified{end: func() {}}
	err := json.Unmarshal(m.Payload, &n.TunnelNotification)
	own := awsiot.ParseEndpoint(s.config.Session.Endpoint).Region
	token := string(n.ClientAccessToken)
	s.mu.Lock()
	defer s.mu.Unlock()
	n.Services = slices.DeleteFunc(n.Services, func(name string) bool { return s.services[name] == "" })
	cause, reason := "malformed", ""
	switch {
	case err != nil:
		reason = err.Error()
	case n.ClientMode != "destination":
		reason = "its client mode is not destination"
	case token == "" || len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		reason = "it has no access token"
	case s.config.Endpoint == "" && (!regionPattern.MatchString(n.Region) || own != "" && own != n.Region):
		reason = fmt.Sprintf("its Region %q is not that of the device", awsiot.Printable(n.Region))
	case len(n.Services) == 0:
		cause, reason = "service", "none of its services is configured in agent.tunnel.services"
	case slices.ContainsFunc(s.open, func(o *notified) bool { return o.ClientAccessToken == n.ClientAccessToken }):
		cause, reason = "duplicate", "the tunnel is open already"
	case len(s.open) >= 2*maxTunnels:
		cause, reason = "limit", fmt.Sprintf("%d tunnels are open", len(s.open))
	default:
		s.open = append(s.open, n)
		s.opened++
		s.accepted <- n // there is room for all that are open
		return true
	}
	s.ignored[cause]++
	s.config.Log.Warn("ignored a tunnel", "cause", cause, "reason", reason)
	return true
}

// Run serves the tunnels until ctx ends.
func (s *Service) Run(ctx context.Context, _ string) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case n := <-s.accepted:
			running.Go(func() {
				s.stayConnected(ctx, n, &running)
				s.mu.Lock()
				defer s.mu.Unlock()
				s.open = slices.DeleteFunc(s.open, func(o *notified) bool { return o == n })
			})
		case <-ctx.Done():
			return
		}
	}
}

// stayConnected connects to a tunnel, again and again, until AWS IoT rejects it: the client token
// allows the access token to be used again. No tunnel lives for more than 12 hours.
func (s *Service) stayConnected(ctx context.Context, n *notified, running *sync.WaitGroup) {
	life, end := context.WithTimeout(ctx, awsiot.MaxTunnelMinutes*time.Minute)
	defer end()
	s.mu.Lock()
	n.end = end
	s.mu.Unlock()
	delays := backoff.NewExponentialBackOff()
	delays.MaxInterval = maxDelay
	log := s.config.Log.With("services", n.Services)
	header := http.Header{"access-token": {string(n.ClientAccessToken)}, "client-token": {rand.Text() + rand.Text()}}
	_, err := backoff.Retry(life, func() (struct{}, error) {
		ws, channel, err := s.connect(life, n, header)
		if err != nil {
			return struct{}{}, err
		}
		log.Info("connected to a tunnel", "protocol", ws.Subprotocol(), "channel", channel)
		began := time.Now()
		defer time.AfterFunc(s.config.PingInterval, s.endExcess).Stop()
		t := &tunnel{service: s, services: n.Services, log: log, ws: ws, streams: map[string]*stream{}, running: running}
		if err = t.use(ctx, life); time.Since(began) > maxDelay {
			delays.Reset()
		}
		return struct{}{}, err
	}, backoff.WithBackOff(delays), backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, delay time.Duration) {
		log.Warn("not connected to the tunnel", "next", delay.Round(time.Millisecond), "error", err)
	}))
	log.Info("the tunnel has ended", "reason", err)
}

// endExcess ends the oldest tunnels where more than maxTunnels are open. A notification does not say
// which tunnel it is of: one whose token was rotated has been replaced by now, which ended the
// former connection.
func (s *Service) endExcess() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.open[:max(len(s.open)-maxTunnels, 0)] {
		s.config.Log.Warn("ended the oldest tunnel", "open", len(s.open), "most", maxTunnels)
		n.end()
	}
}

// connect performs the handshake. Neither its error nor channel, which AWS IoT names the connection
// by, has the token. The error is permanent where the tunnel is closed or the token was rotated.
//
// https://github.com/aws-samples/aws-iot-securetunneling-localproxy/blob/main/docs/V3WebSocketProtocolGuide.md
func (s *Service) connect(ctx context.Context, n *notified, header http.Header) (ws *websocket.Conn, channel string, err error) {
	o := s.config.Session
	if o.Endpoint, o.Port = s.config.Endpoint, s.config.Port; o.Endpoint == "" {
		o.Endpoint, o.Port = "data.tunneling.iot."+n.Region+".amazonaws.com", 443
		if awsiot.PartitionOf(n.Region) == "aws-cn" {
			o.Endpoint += ".cn"
		}
	}
	conn, dial := &link{}, o.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	o.DialContext = func(ctx context.Context, network, address string) (_ net.Conn, err error) {
		conn.Conn, err = dial(ctx, network, address)
		return conn, err
	}
	dialer := websocket.Dialer{
		Subprotocols:     []string{awsiot.TunnelV3, awsiot.TunnelV2, awsiot.TunnelV1},
		HandshakeTimeout: dialTimeout,
		NetDialContext:   func(ctx context.Context, _, _ string) (net.Conn, error) { return session.Dial(ctx, o) },
		TLSClientConfig:  &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12, Time: o.Now},
	}
	ws, r, err := dialer.DialContext(ctx, "wss://"+net.JoinHostPort(o.Endpoint, strconv.Itoa(o.Port))+"/tunnel?local-proxy-mode=destination", header)
	if r == nil {
		return nil, "", fmt.Errorf("connecting to the tunnel at %s: %w", o.Endpoint, err)
	}
	channel = awsiot.Printable(r.Header.Get("channel-id"))
	switch {
	case err == nil && ws.Subprotocol() == "":
		ws.Close()
		return nil, channel, backoff.Permanent(fmt.Errorf("connecting to the tunnel: %s chose no protocol of secure tunneling", o.Endpoint))
	case err == nil:
		ws.SetPongHandler(func(string) error { // AWS IoT does not promise a pong: silence counts once there was one
			conn.patience = 3 * s.config.PingInterval
			return nil
		})
		return ws, channel, nil
	}
	body, _ := io.ReadAll(r.Body) // of 1 KB at most; it is in memory
	message := strings.ReplaceAll(string(body), string(n.ClientAccessToken), n.ClientAccessToken.String())
	err = fmt.Errorf("connecting to the tunnel at %s, channel %s: %d %s", o.Endpoint, channel, r.StatusCode, awsiot.Printable(message))
	if r.StatusCode/100 == 4 && r.StatusCode != http.StatusTooManyRequests && r.StatusCode != http.StatusRequestTimeout {
		err = backoff.Permanent(err)
	}
	return nil, channel, err
}

// countConnection counts a connection to a service, unless there are too many.
func (s *Service) countConnection(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 && s.connections >= maxConnections {
		return false
	}
	s.connections += n
	s.connected += uint64(max(n, 0))
	return true
}

// Status returns what is open, for the agent's status.
func (s *Service) Status() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return map[string]int{"tunnels": len(s.open), "connections": s.connections}
}

// Metrics calls metric for each metric.
func (s *Service) Metrics(metric func(name, kind, help string, samples ...any)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	metric("tunnels", "gauge", "Tunnels that are open.", "", len(s.open))
	metric("tunnels_total", "counter", "Notifications of tunnels that were accepted.", "", s.opened)
	metric("tunnels_ignored_total", "counter", "Notifications of tunnels that were ignored, by cause.", "{cause=%q}", s.ignored)
	metric("tunnel_connections", "gauge", "Connections from tunnels to services of the device.", "", s.connections)
	metric("tunnel_connections_total", "counter", "Connections from tunnels to services of the device, all of them.", "", s.connected)
}
