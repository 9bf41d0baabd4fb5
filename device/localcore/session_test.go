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
// ends when its client has been away for the granted expiry, a restart of the
// broker included.
func TestSessionExpiryCountsOverARestart(t *testing.T) {
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

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a message of
// QoS 1 that is not acknowledged is sent again for one hour in MQTT 3.1.1, for
// 960 seconds in MQTT 5.
func TestUnacknowledgedMessageIsSentAgainWithinTheWindow(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		clock := newClock()
		s := startFree(t, localcore.Config{Now: clock.Now})
		c := s.connect(t, version, "a")
		c.mustSubscribe(1, "t")
		p := s.connect(t, version, "p")
		p.publish("t", 1, "x")
		p.receive(packets.Puback)
		first := c.receive(packets.Publish)
		s.Retry("a")
		c.alive() // it is too early
		clock.advance(30 * time.Second)
		s.Retry("a")
		again := c.receive(packets.Publish)
		if string(again.Payload) != "x" || again.FixedHeader.Dup || again.PacketID == first.PacketID {
			t.Errorf("received %q, DUP %v, packet ids %d and %d", again.Payload, again.FixedHeader.Dup, first.PacketID, again.PacketID)
		}
		window := time.Hour
		if version == 5 {
			window = 960 * time.Second
		}
		clock.advance(window - 31*time.Second)
		s.Retry("a")
		c.receive(packets.Publish)
		clock.advance(31 * time.Second)
		s.Retry("a")
		awaitRefusal(t, s.Server, localcore.ActionReceive, "given up")
		c.alive()
	})
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a client has at
// most 100 messages of QoS 1 that it has not acknowledged, and no more than
// its Receive Maximum.
func TestUnacknowledgedMessagesAreLimited(t *testing.T) {
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

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: what was
// stored for a client that was away is delivered at 10 messages a second.
func TestStoredMessagesAreDeliveredTenASecond(t *testing.T) {
	clock := newClock()
	s := startFree(t, localcore.Config{Quotas: localcore.QuotasAWS, Now: clock.Now})
	c := s.connect(t, 4, "a", persistent(60))
	c.mustSubscribe(1, "t")
	c.conn.Close()
	awaitDisconnect(t, s.Server, "a", "CONNECTION_LOST")
	p := s.connect(t, 4, "p")
	for range 5 {
		p.publish("t", 1, "x")
		p.receive(packets.Puback)
	}
	clock.advance(time.Second) // one CONNECT a second under a client id
	before := time.Now()
	c, _ = connectRaw(t, s.Server, 4, "a", s.tls, persistent(60))
	for range 5 {
		c.receive(packets.Publish)
	}
	if took := time.Since(before); took < 400*time.Millisecond {
		t.Errorf("5 messages came within %s", took)
	}
}

// A delayed will is not sent when the client is back in time [MQTT-3.1.3-9].
func TestDelayedWill(t *testing.T) {
	s := startFree(t, localcore.Config{})
	watcher := s.connect(t, 5, "watcher")
	watcher.mustSubscribe(0, "will")
	will := func(text string, delay uint32) func(*packets.Packet) {
		return func(pk *packets.Packet) {
			persistent(60)(pk)
			pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, "will", []byte(text)
			pk.Connect.WillProperties.WillDelayInterval = delay
		}
	}
	s.connect(t, 5, "late", will("late", 1)).conn.Close()
	s.connect(t, 5, "back", will("back", 1)).conn.Close()
	awaitDisconnect(t, s.Server, "back", "CONNECTION_LOST")
	s.connect(t, 5, "back")
	s.connect(t, 5, "never", will("never", 60)).conn.Close()
	if got := string(watcher.receive(packets.Publish).Payload); got != "late" {
		t.Errorf("received the will %q", got)
	}
	awaitDisconnect(t, s.Server, "never", "CONNECTION_LOST")
	if got := payloads(watcher.settled()); len(got) > 0 {
		t.Errorf("received %q too", got)
	}
}
