package localcore_test

import (
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore"
)

// startMetered starts a server with AWS's rates and a clock that stands still.
func startMetered(t *testing.T) free {
	t.Helper()
	now := time.Now()
	return startFree(t, localcore.Config{Quotas: localcore.QuotasAWS, Now: func() time.Time { return now }})
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: 100 publishes a
// second on a connection, the excess is discarded.
func TestPublishesBeyondTheRateAreDiscarded(t *testing.T) {
	s := startMetered(t)
	c := s.connect(t, 4, "a")
	for range 100 {
		c.publish("t", 1, "x")
		c.receive(packets.Puback)
	}
	c.publish("t", 1, "one too many")
	c.alive() // and no PUBACK
	awaitRefusal(t, s.Server, localcore.ActionPublish, "100 messages")
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: one CONNECT a
// second under one client id.
func TestConnectsBeyondTheRateAreRefused(t *testing.T) {
	s := startMetered(t)
	s.connect(t, 5, "a")
	c, ack := connectRaw(t, s.Server, 5, "a", s.tls)
	if ack.ReasonCode != 0x97 {
		t.Errorf("CONNACK 0x%02x", ack.ReasonCode)
	}
	c.closed()
	s.connect(t, 5, "b").alive()
}

func TestRatesDoNotHoldByDefault(t *testing.T) {
	now := time.Now()
	s := startFree(t, localcore.Config{Now: func() time.Time { return now }})
	s.connect(t, 4, "a")
	c := s.connect(t, 4, "a")
	for range 150 {
		c.publish("t", 1, "x")
		c.receive(packets.Puback)
	}
}
