package localcore_test

import (
	"fmt"
	"strings"
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

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: 100 publishes per
// second on a connection, the excess is discarded.
func TestPublishesBeyondTheRateAreDiscarded(t *testing.T) {
	t.Parallel()
	s := startMetered(t)
	c := s.connect(t, 4, "a")
	for range 100 {
		c.publish("t", 1, "x")
		c.receive(packets.Puback)
	}
	c.publish("t", 1, "one too many")
	c.alive() // and no PUBACK
	awaitRejection(t, s.Server, localcore.ActionPublish, "")
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: one CONNECT per
// second under one client id.
func TestConnectsBeyondTheRateAreRejected(t *testing.T) {
	t.Parallel()
	s := startMetered(t)
	s.connect(t, 5, "a")
	c, ack := connectRaw(t, s.Server, 5, "a", s.tls)
	if ack.ReasonCode != 0x97 {
		t.Errorf("CONNACK 0x%02x", ack.ReasonCode)
	}
	c.closed()
	s.connect(t, 5, "b").alive()
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: an account has
// 100 CONNECTs per second in the smaller Regions.
func TestConnectsOfAllClientsAreCounted(t *testing.T) {
	t.Parallel()
	s := startMetered(t)
	for i := range 100 {
		s.connect(t, 5, fmt.Sprint("client-", i)).conn.Close()
	}
	if _, ack := connectRaw(t, s.Server, 5, "one-more", s.tls); ack.ReasonCode != 0x97 {
		t.Errorf("CONNACK 0x%02x", ack.ReasonCode)
	}
	awaitRejection(t, s.Server, localcore.ActionConnect, "")
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: an account has
// 200 SUBSCRIBEs per second in the smaller Regions; SUBACK 0x97 or 0x80 beyond.
func TestSubscribesOfAllClientsAreCounted(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		s := startMetered(t)
		c := s.connect(t, version, "a")
		for range 200 {
			c.mustSubscribe(0, "t")
		}
		c.subscribe(0, "t")
		if got, want := c.receive(packets.Suback).ReasonCodes, map[byte]byte{4: 0x80, 5: 0x97}[version]; got[0] != want {
			t.Errorf("SUBACK %x, want %x", got, want)
		}
	})
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a connection
// moves 512 KB per second, what is beyond is delayed and not lost.
func TestThroughputIsLimited(t *testing.T) {
	t.Parallel()
	s := startMetered(t)
	c := s.connect(t, 4, "a")
	before := time.Now()
	for range 6 { // 750 KB
		c.publish("t", 1, strings.Repeat("x", 125<<10))
		c.receive(packets.Puback)
	}
	if took := time.Since(before); took < 400*time.Millisecond {
		t.Errorf("750 KB took %s", took)
	}
}

func TestRatesAreNotEnforcedByDefault(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := startFree(t, localcore.Config{Now: func() time.Time { return now }})
	s.connect(t, 4, "a")
	c := s.connect(t, 4, "a")
	for range 150 {
		c.publish("t", 1, "x")
		c.receive(packets.Puback)
	}
}
