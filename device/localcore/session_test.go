package localcore_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore"
)

// persistent asks for a session of so many seconds.
func persistent(seconds uint32) func(*packets.Packet) {
	return func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = seconds, true
	}
}

// A clock is set by the test.
type clock struct{ now atomic.Pointer[time.Time] }

func newClock() *clock {
	c, now := new(clock), time.Now()
	c.now.Store(&now)
	return c
}

func (c *clock) Now() time.Time { return *c.now.Load() }

func (c *clock) advance(d time.Duration) {
	now := c.Now().Add(d)
	c.now.Store(&now)
}

func payloads(messages []packets.Packet) (all []string) {
	for _, m := range messages {
		all = append(all, string(m.Payload))
	}
	return all
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: a
// persistent session and its stored messages outlive the end of the broker.
func TestPersistentSessionSurvivesKill(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		state := t.TempDir()
		connect := func(r childReport, id string, adjust ...func(*packets.Packet)) (*rawClient, bool) {
			t.Helper()
			pair, err := tls.X509KeyPair(r.Claim.CertificatePEM, r.Claim.PrivateKeyPEM)
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(r.Root)
			c := dialPort(t, r.Port, version, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: "localhost"})
			return c, c.connect(id, adjust...).SessionPresent
		}
		server, kill := startChild(t, state)
		c, _ := connect(server, "a", persistent(600))
		c.mustSubscribe(1, "t", "gone")
		c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: 3,
			Filters: packets.Subscriptions{{Filter: "gone"}}})
		c.receive(packets.Unsuback)
		p, _ := connect(server, "p")
		publish := func(topic, text string) {
			t.Helper()
			p.publish(topic, 1, text)
			p.receive(packets.Puback)
		}
		publish("t", "acknowledged")
		c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: c.receive(packets.Publish).PacketID})
		c.alive()
		publish("t", "sent")
		c.receive(packets.Publish)
		c.conn.Close()
		publish("t", "while away")
		kill()

		server, kill = startChild(t, state)
		p, _ = connect(server, "p")
		publish("t", "after the restart")
		publish("gone", "not subscribed any more")
		c, present := connect(server, "a", persistent(600))
		if !present {
			t.Error("the session was lost")
		}
		var got []string
		for range 3 {
			m := c.receive(packets.Publish)
			got = append(got, string(m.Payload))
			c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: m.PacketID})
		}
		c.alive()
		if diff := cmp.Diff([]string{"sent", "while away", "after the restart"}, got); diff != "" {
			t.Error(diff)
		}
		kill()

		server, _ = startChild(t, state)
		c, present = connect(server, "a", persistent(600))
		if messages := payloads(c.settled()); !present || len(messages) > 0 {
			t.Errorf("present: %v, received %q again", present, messages)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: a session
// ends when its client has been away for the granted expiry, a restart of the broker included.
func TestSessionExpiryCountsOverARestart(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		away    time.Duration
		present bool
	}{
		"shorter than the expiry": {50 * time.Second, true},
		"longer than the expiry":  {61 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newClock()
			config := localcore.Config{State: t.TempDir(), Now: clock.Now, SessionExpiry: time.Minute}
			s := startFree(t, config)
			c := s.connect(t, 4, "a", persistent(60))
			c.mustSubscribe(1, "t")
			c.conn.Close()
			awaitDisconnect(t, s.Server, "a", "CONNECTION_LOST")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			clock.advance(test.away / 2)
			restarted := start(t, config)
			clock.advance(test.away - test.away/2)
			_, ack := connectRaw(t, restarted, 4, "a", tlsOf(s, restarted), persistent(60))
			if ack.SessionPresent != test.present {
				t.Errorf("session present: %v", ack.SessionPresent)
			}
		})
	}
}

// tlsOf returns what the clients of a server use after its restart.
func tlsOf(s free, restarted *localcore.Server) *tls.Config {
	config := s.tls.Clone()
	config.RootCAs = restarted.RootCAs()
	return config
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a client has at
// most 100 messages of QoS 1 that it has not acknowledged, and no more than its Receive Maximum.
func TestUnacknowledgedMessagesAreLimited(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		receiveMaximum uint16
		want           int
	}{
		"by AWS":             {0, 100},
		"by Receive Maximum": {5, 5},
	} {
		t.Run(name, func(t *testing.T) {
			s := startFree(t, localcore.Config{})
			c := s.connect(t, 5, "a", func(pk *packets.Packet) { pk.Properties.ReceiveMaximum = test.receiveMaximum })
			c.mustSubscribe(1, "t")
			p := s.connect(t, 5, "p")
			for i := range test.want + 1 {
				p.publish("t", 1, fmt.Sprint(i))
				p.receive(packets.Puback)
			}
			var last packets.Packet
			for range test.want {
				last = c.receive(packets.Publish)
			}
			c.alive() // and no other message
			c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: last.PacketID})
			if got := string(c.receive(packets.Publish).Payload); got != fmt.Sprint(test.want) {
				t.Errorf("received %s after an acknowledgement", got)
			}
		})
	}
}
