// Package tunnel is AWS IoT secure tunneling: the tunnels of an account with their access tokens,
// and the WebSocket data plane, which forwards messages between source and destination. It knows no
// MQTT: the caller publishes the notifications.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/secure-tunneling.html
package tunnel

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"example.com/fleety/device/awsiot"
)

// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot_device_management.html
const (
	maxServices = 3             // the quota "Maximum services per tunnel"
	bandwidth   = 800 << 10     // the quota "Maximum bandwidth per tunnel", in bytes per second
	keepClosed  = 3 * time.Hour // in which a closed tunnel can be described. AWS says at least
	tokenBytes  = 256           // of randomness; AWS's tokens are as long
)

// A Config says what the service stands on. All of it must be set.
type Config struct {
	ARN    func(resource string) string // returns the full name of a resource such as "tunnel/ID"
	Region string
	// Publish receives the notifications of things. It must not call the service.
	Publish      func(topic string, payload []byte)
	Deleted      func(id string) // is called with the id of each tunnel that is deleted
	EnforceRates bool            // limits the bandwidth of a tunnel to AWS's quota
	Now          func() time.Time
	Log          *slog.Logger
}

// A Service holds the tunnels of one account. Its errors are of type [*Error]. It is safe for
// concurrent use, and an http.Handler for the data plane.
type Service struct {
	config   Config
	handlers sync.WaitGroup // of the data plane

	mu      sync.Mutex
	tunnels []*tunnel // in the order of their creation
	closed  bool
}

// An Error is a rejected operation. Code is AWS's exception.
type Error struct{ Code, Message string }

// Error returns code and message in one line.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// The codes of an [Error].
const (
	CodeNotFound      = "ResourceNotFoundException"
	CodeLimitExceeded = "LimitExceededException"
	CodeValidation    = "ValidationException"
)

// A DestinationConfig names the thing and the services that a tunnel leads to.
type DestinationConfig struct {
	ThingName string   `json:"thingName,omitempty"`
	Services  []string `json:"services"`
}

// A TimeoutConfig is how long a tunnel stays open, 720 minutes by default.
type TimeoutConfig struct {
	Minutes *int `json:"maxLifetimeTimeoutMinutes,omitempty"` // 1 to 720
}

// A NewTunnel is what OpenTunnel makes. All of it is optional.
type NewTunnel struct {
	Description       *string            `json:"description,omitempty"`
	DestinationConfig *DestinationConfig `json:"destinationConfig,omitempty"`
	TimeoutConfig     TimeoutConfig      `json:"timeoutConfig"`
}

// Statuses of tunnels and of the connections to them.
const (
	Open         = "OPEN"
	Closed       = "CLOSED"
	Connected    = "CONNECTED"
	Disconnected = "DISCONNECTED"
)

// A ConnectionState says whether one side is connected.
type ConnectionState struct {
	Status        string  `json:"status"`
	LastUpdatedAt float64 `json:"lastUpdatedAt"`
}

// A Tunnel is what DescribeTunnel returns. Times are seconds since 1970.
type Tunnel struct {
	NewTunnel
	ID                         string          `json:"tunnelId"`
	ARN                        string          `json:"tunnelArn"`
	Status                     string          `json:"status"`
	SourceConnectionState      ConnectionState `json:"sourceConnectionState"`
	DestinationConnectionState ConnectionState `json:"destinationConnectionState"`
	CreatedAt                  float64         `json:"createdAt"`
	LastUpdatedAt              float64         `json:"lastUpdatedAt"`
}

// Tokens are the access tokens of a tunnel; one that was not made is empty.
type Tokens struct {
	Source      awsiot.Secret `json:"sourceAccessToken,omitempty"`
	Destination awsiot.Secret `json:"destinationAccessToken,omitempty"`
}

// The modes of clients, as in the handshake.
const (
	source      = "source"
	destination = "destination"
)

var opposite = map[string]string{source: destination, destination: source}

// A side is what a tunnel has of its source or its destination.
type side struct {
	token  awsiot.Secret
	client string // the client token that the access token was first used with
	used   bool   // the access token
	peer   *peer  // nil while the side is not connected
	state  *ConnectionState
}

// A tunnel is a tunnel with what is not shown of it.
type tunnel struct {
	Tunnel
	expires time.Time          // it is closed then or, if it is closed, deleted
	sides   map[string]*side   // by mode
	streams map[string]*stream // by service, the empty one for version 1
	limit   *rate.Limiter
}

// New returns a service without tunnels.
func New(c Config) *Service { return &Service{config: c} }

func (s *Service) now() float64 { return float64(s.config.Now().UnixMilli()) / 1000 }

func (d *DestinationConfig) validate() error {
	if d != nil && len(d.Services) > maxServices {
		return &Error{CodeLimitExceeded, fmt.Sprintf("a tunnel has at most %d services, not %d", maxServices, len(d.Services))}
	}
	return nil
}

// OpenTunnel opens a tunnel, and notifies its thing, if it has one. The caller enforces the
// constraints of AWS's service model, as those of [Service.RotateTunnelAccessToken].
func (s *Service) OpenTunnel(in NewTunnel) (Tunnel, Tokens, error) {
	in.TimeoutConfig.Minutes = cmp.Or(in.TimeoutConfig.Minutes, new(awsiot.MaxTunnelMinutes))
	if err := in.DestinationConfig.validate(); err != nil {
		return Tunnel{}, Tokens{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, now := awsiot.NewUUID(), s.now()
	state := ConnectionState{Disconnected, now}
	t := &tunnel{
		Tunnel: Tunnel{
			NewTunnel: in, ID: id, ARN: s.config.ARN("tunnel/" + id), Status: Open,
			SourceConnectionState: state, DestinationConnectionState: state, CreatedAt: now, LastUpdatedAt: now,
		},
		expires: s.config.Now().Add(time.Duration(*in.TimeoutConfig.Minutes) * time.Minute),
		streams: map[string]*stream{}, limit: rate.NewLimiter(rate.Inf, 0),
	}
	t.sides = map[string]*side{source: {state: &t.SourceConnectionState}, destination: {state: &t.DestinationConnectionState}}
	if s.config.EnforceRates {
		t.limit = rate.NewLimiter(bandwidth, bandwidth)
	}
	s.tunnels = append(s.tunnels, t)
	return t.Tunnel, s.newTokens(t, source, destination), nil
}

// newTokens makes access tokens in the place of those there are. That of the destination is
// published to the thing.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/agent-snippet.html
func (s *Service) newTokens(t *tunnel, modes ...string) (out Tokens) {
	for _, mode := range modes {
		var random [tokenBytes]byte
		_, _ = rand.Read(random[:]) // it cannot fail
		one := t.sides[mode]
		one.token, one.client, one.used = awsiot.Secret("AQGA"+base64.URLEncoding.EncodeToString(random[:])), "", false
		if mode == source {
			out.Source = one.token
			continue
		}
		out.Destination = one.token
		if d := t.DestinationConfig; d != nil && d.ThingName != "" {
			s.config.Publish(awsiot.TunnelNotify(d.ThingName), awsiot.EncodeJSON(awsiot.TunnelNotification{
				ClientAccessToken: one.token, ClientMode: destination, Region: s.config.Region, Services: d.Services,
			}))
		}
	}
	return out
}

// on calls f with a tunnel, under mu.
func (s *Service) on(id string, f func(*tunnel) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	for _, t := range s.tunnels {
		if t.ID == id {
			return f(t)
		}
	}
	return &Error{CodeNotFound, fmt.Sprintf("Tunnel %q is not found", awsiot.Printable(id))}
}

// DescribeTunnel returns an open tunnel, or one that was closed within the last three hours.
func (s *Service) DescribeTunnel(id string) (out Tunnel, err error) {
	err = s.on(id, func(t *tunnel) error {
		out = t.Tunnel
		return nil
	})
	return out, err
}

// Tunnels returns those of a thing, or all if thing is empty.
func (s *Service) Tunnels(thing string) (all []Tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	for _, t := range s.tunnels {
		if thing == "" || t.DestinationConfig != nil && t.DestinationConfig.ThingName == thing {
			all = append(all, t.Tunnel)
		}
	}
	return all
}

// CloseTunnel closes a tunnel and its connections, and deletes it if remove is set.
func (s *Service) CloseTunnel(id string, remove bool) error {
	return s.on(id, func(t *tunnel) error {
		s.close(t)
		if remove {
			t.expires = time.Time{}
			s.sweep()
		}
		return nil
	})
}

// close ends a tunnel. The caller holds mu.
func (s *Service) close(t *tunnel) {
	if t.Status == Open {
		t.Status, t.LastUpdatedAt, t.expires = Closed, s.now(), s.config.Now().Add(keepClosed)
		t.disconnect()
	}
}

// RotateTunnelAccessToken revokes the access tokens of a client mode and returns new ones; the
// thing is notified of its own. A connection that used a revoked one stays.
//
// AWS page:
// https://docs.aws.amazon.com/iot/latest/apireference/API_iot-secure-tunneling_RotateTunnelAccessToken.html
func (s *Service) RotateTunnelAccessToken(id, clientMode string, d *DestinationConfig) (arn string, tokens Tokens, err error) {
	modes := map[string][]string{"SOURCE": {source}, "DESTINATION": {destination}, "ALL": {source, destination}}[clientMode]
	if d != nil && clientMode == "SOURCE" {
		return "", Tokens{}, &Error{CodeValidation, "destinationConfig must be null with clientMode SOURCE"}
	}
	if err := d.validate(); err != nil {
		return "", Tokens{}, err
	}
	err = s.on(id, func(t *tunnel) error {
		if t.Status != Open {
			return &Error{CodeNotFound, fmt.Sprintf("Tunnel %q is closed", t.ID)}
		}
		t.DestinationConfig, t.LastUpdatedAt = cmp.Or(d, t.DestinationConfig), s.now()
		arn, tokens = t.ARN, s.newTokens(t, modes...)
		return nil
	})
	return arn, tokens, err
}

// Sweep closes the tunnels whose time is over, and deletes those that were closed long ago. Every
// operation does so too; call it from time to time for the connections.
func (s *Service) Sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
}

func (s *Service) sweep() {
	s.tunnels = slices.DeleteFunc(s.tunnels, func(t *tunnel) (gone bool) {
		if s.config.Now().Before(t.expires) {
			return false
		}
		if gone = t.Status == Closed; gone {
			s.config.Deleted(t.ID)
		}
		s.close(t)
		return gone
	})
}

// Close ends all connections, and returns when the last has ended.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	for _, t := range s.tunnels {
		t.disconnect()
	}
	s.mu.Unlock()
	s.handlers.Wait()
}
