package session_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"testing"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/session"
)

// claimOptions start an emulator and connect to it with its claim.
func claimOptions(t *testing.T, c localcore.Config) (*localcore.Server, session.Options) {
	t.Helper()
	c.Templates = filepath.Join("..", "..", "templates")
	core, err := localcore.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { core.Close() })
	claim, err := core.Claim().TLS()
	if err != nil {
		t.Fatal(err)
	}
	host, port := core.Endpoint()
	return core, session.Options{
		Endpoint:    host,
		Port:        port,
		ClientID:    "claim-1",
		RootCAs:     core.RootCAs(),
		Certificate: func(context.Context) (*tls.Certificate, error) { return claim, nil },
		Proxy:       "direct",
	}
}

func TestLocalCoreTakesAClaimSession(t *testing.T) {
	_, o := claimOptions(t, localcore.Config{})
	answers := make(chan session.Message, 1)
	o.OnMessage = func(m session.Message) { answers <- m }
	s := connect(t, o)
	create := awsiot.Topic{Operation: awsiot.CreateKeysAndCertificate, Format: awsiot.JSON}
	register := awsiot.Topic{Operation: awsiot.RegisterThing, Template: localcore.TemplateName, Format: awsiot.JSON}
	err := s.Subscribe(t.Context(), create.Accepted(), create.Rejected(), register.Accepted(), register.Rejected())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), create.String(), nil); err != nil {
		t.Fatal(err)
	}
	if m := <-answers; m.Topic != create.Accepted() {
		t.Errorf("answered on %s: %s", m.Topic, m.Payload)
	}
	if got := s.Stats(); got.RoundTrips() != 5 { // TCP, TLS, CONNECT, SUBSCRIBE, create
		t.Errorf("stats are %+v", got)
	}
}

func TestLocalCoreDeniesLikeAWS(t *testing.T) {
	for name, tc := range map[string]struct {
		config localcore.Config
		change func(*session.Options)
		found  func(error) bool
		after  string
		class  awsiot.Class
	}{
		"client id": {
			change: func(o *session.Options) { o.ClientID = "somebody" },
			found:  isSilent,
			after:  "CONNECT",
			class:  awsiot.Temporary,
		},
		"client id, with CONNACK": {
			config: localcore.Config{AmbiguousBehavior: localcore.AmbiguousBehavior{ConnackOnDeny: 7}},
			change: func(o *session.Options) { o.ClientID = "somebody" },
			found:  is[*session.ConnackError],
			class:  awsiot.Denied,
		},
		"topic filter": {
			change: func(*session.Options) {},
			found:  isSilent,
			after:  "SUBSCRIBE",
			class:  awsiot.Temporary,
		},
		"unknown certificate": {
			change: func(o *session.Options) { o.Certificate = newAuthority(t).clientCertificate() },
			found:  is[tls.AlertError],
			after:  "CONNECT",
			class:  awsiot.Denied,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, o := claimOptions(t, tc.config)
			tc.change(&o)
			err := converse(t, o)
			e := sessionError(t, err)
			if !tc.found(err) || e.After != tc.after || e.Class() != tc.class {
				t.Errorf("got %v (stage %v, after %q, %v)", err, e.Stage, e.After, e.Class())
			}
		})
	}
}

func isSilent(err error) bool { return errors.Is(err, session.ErrClosedSilently) }

func TestLocalCoreOnTheALPNPort(t *testing.T) {
	core, o := claimOptions(t, localcore.Config{ListenALPN: "127.0.0.1:0"})
	o.Port = core.PortALPN()
	if _, err := session.Connect(t.Context(), o); err == nil {
		t.Error("a session without ALPN was accepted")
	}
	o.Port = 443
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(core.PortALPN()))
	o.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	if s := connect(t, o); s.TLS().NegotiatedProtocol != session.ALPNProtocol {
		t.Errorf("protocol is %q", s.TLS().NegotiatedProtocol)
	}
}
