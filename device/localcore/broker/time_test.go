package broker

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore/event"
)

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a client that is
// silent for one and a half keep-alives is dropped.
func TestSilentClientIsDropped(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		p := b.connect(version, "a") // of 60 seconds
		time.Sleep(89 * time.Second)
		p.ping()
		before := time.Now()
		if version == 5 {
			if got := p.receive(packets.Disconnect).ReasonCode; got != 0x8D {
				b.Errorf("DISCONNECT 0x%02x", got)
			}
		}
		p.closed()
		if took := time.Since(before); took != 90*time.Second {
			b.Errorf("dropped after %s", took)
		}
		if !b.disconnected("a", "MQTT_KEEP_ALIVE_TIMEOUT") {
			b.Error("not disconnected with MQTT_KEEP_ALIVE_TIMEOUT")
		}
	})
}

func TestConnectionWithoutConnectIsDropped(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		before := time.Now()
		b.dial(version).closed()
		if took := time.Since(before); took != connectTimeout {
			b.Errorf("dropped after %s", took)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: what was
// stored for a client that was away is delivered at 10 messages per second.
func TestStoredMessagesAreDeliveredTenPerSecond(t *testing.T) {
	inBubble(t, Config{EnforceRates: true}, func(b *bubble, version byte) {
		p := b.connect(version, "a", persistent(60))
		p.subscribe(1, "t")
		p.conn.Close()
		if !b.disconnected("a", "CONNECTION_LOST") {
			b.Fatal("still connected")
		}
		publisher := b.connect(version, "p")
		for i := range 5 {
			publisher.publish("t", fmt.Sprint(i))
		}
		time.Sleep(time.Second) // one CONNECT per second under a client id
		before := time.Now()
		p = b.connect(version, "a", persistent(60))
		for i := range 5 {
			if got := string(p.receive(packets.Publish).Payload); got != fmt.Sprint(i) {
				b.Errorf("message %d is %q", i, got)
			}
		}
		if took := time.Since(before); took != 500*time.Millisecond {
			b.Errorf("5 messages came within %s", took)
		}
	})
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a message of
// QoS 1 that is not acknowledged is sent again for one hour in MQTT 3.1.1, for
// 960 seconds in MQTT 5.
func TestUnacknowledgedMessageIsSentAgainWithinTheWindow(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		longKeepAlive := func(pk *packets.Packet) { pk.Connect.Keepalive = 1200 }
		p := b.connect(version, "a", longKeepAlive)
		p.subscribe(1, "t")
		publisher := b.connect(version, "p")
		publisher.publish("t", "x")
		first := p.receive(packets.Publish)
		window := map[byte]time.Duration{4: time.Hour, 5: 960 * time.Second}[version]
		sent, began := 0, time.Now()
		for time.Since(began) < window-retryInterval {
			b.Sweep()
			p.silentFor(retryInterval - time.Second) // it is too early
			time.Sleep(time.Second)
			p.ping()
			b.Sweep()
			again := p.receive(packets.Publish)
			if string(again.Payload) != "x" || again.FixedHeader.Dup || again.PacketID == first.PacketID {
				b.Fatalf("received %q, DUP %v, packet ids %d and %d", again.Payload, again.FixedHeader.Dup, first.PacketID, again.PacketID)
			}
			first = again
			sent++
		}
		if want := int(window/retryInterval) - 1; sent != want {
			b.Errorf("sent again %d times, want %d", sent, want)
		}
		time.Sleep(retryInterval)
		b.Sweep()
		p.silentFor(retryInterval)
		if !b.recorded(func(e event.Event) bool { return e.Action == event.Receive && e.Topic == "t" }) {
			b.Error("nothing says that the message was given up")
		}
	})
}

// A delayed will is not published when the client is back in time
// [MQTT-3.1.3-9]; MQTT 3.1.1 has no delay.
func TestDelayedWill(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		watcher := b.connect(5, "watcher", func(pk *packets.Packet) { pk.Connect.Keepalive = 1200 })
		watcher.subscribe(0, "will")
		will := func(text string, delay uint32) func(*packets.Packet) {
			return func(pk *packets.Packet) {
				persistent(60)(pk)
				pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, "will", []byte(text)
				pk.Connect.WillProperties.WillDelayInterval = delay
			}
		}
		delays := map[byte]time.Duration{4: 0, 5: 10 * time.Second}
		before := time.Now()
		b.connect(version, "late", will("late", 10)).conn.Close()
		if got := string(watcher.receive(packets.Publish).Payload); got != "late" {
			b.Errorf("received the will %q", got)
		}
		if took := time.Since(before); took != delays[version] {
			b.Errorf("the will came after %s", took)
		}
		if version == 4 {
			return
		}
		b.connect(5, "back", will("back", 10)).conn.Close()
		if !b.disconnected("back", "CONNECTION_LOST") {
			b.Fatal("still connected")
		}
		b.connect(5, "back", persistent(60))
		b.connect(5, "clean", will("clean start", 10)).conn.Close()
		if !b.disconnected("clean", "CONNECTION_LOST") {
			b.Fatal("still connected")
		}
		before = time.Now()
		b.connect(5, "clean") // which ends the session, and with it the delay [MQTT-3.1.2.5]
		if got := string(watcher.receive(packets.Publish).Payload); got != "clean start" || time.Since(before) != 0 {
			b.Errorf("received the will %q after %s", got, time.Since(before))
		}
		b.connect(5, "session ends first", will("session ends first", 3600)).conn.Close()
		before = time.Now()
		if got := string(watcher.receive(packets.Publish).Payload); got != "session ends first" {
			b.Errorf("received the will %q", got)
		}
		if took := time.Since(before); took != time.Minute {
			b.Errorf("the will came after %s, its session lasted 60", took)
		}
		b.connect(5, "never", will("never", 60)).conn.Close() // at Close it still waits
	})
}

func TestQueuedBytesOfOneClientAreBounded(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		p := b.connect(version, "a", persistent(60))
		p.subscribe(1, "t")
		p.conn.Close()
		if !b.disconnected("a", "CONNECTION_LOST") {
			b.Fatal("still connected")
		}
		m := &Message{Topic: "t", Payload: []byte(strings.Repeat("x", MaxPayload)), QoS: 1}
		for range maxQueuedBytes/MaxPayload + 1 {
			b.Publish(m)
		}
		s := b.session("a")
		if s.bytes > maxQueuedBytes {
			b.Errorf("%d bytes wait", s.bytes)
		}
		if !b.recorded(func(e event.Event) bool { return e.Type == event.Rejected && e.ClientID == "a" && e.Topic == "t" }) {
			b.Error("nothing says that a message was discarded")
		}
		waiting := len(s.waiting)
		p = b.connect(version, "a", persistent(60))
		for range waiting {
			pk := p.receive(packets.Publish)
			p.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID})
		}
		p.ping()
		if s.bytes != 0 {
			b.Errorf("%d bytes are counted when all are acknowledged", s.bytes)
		}
	})
}

// A client that reads nothing but sends on does not keep another from its client id.
func TestTakeoverOfAClientThatReadsNothing(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		slow := b.connect(version, "a")
		slow.subscribe(0, "t")
		synctest.Wait()                 // the broker reads
		b.Publish(&Message{Topic: "t"}) // which is never read
		synctest.Wait()
		var pings sync.WaitGroup
		pings.Go(func() {
			for { // moves its deadline
				if _, err := slow.conn.Write([]byte{0xC0, 0}); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
		time.Sleep(time.Second)
		before := time.Now()
		b.connect(version, "a")
		if took := time.Since(before); took > 2*closeTimeout {
			b.Errorf("it took %s", took)
		}
		pings.Wait()
	})
}

// What a client has not been sent when it goes is kept if it is of QoS 1.
func TestMessagesOfQoS0AreNotKeptForAClientThatIsAway(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		p := b.connect(version, "a", persistent(60))
		p.subscribe(1, "t")
		b.Publish(&Message{Topic: "t", QoS: 1, Payload: []byte("being written")})
		synctest.Wait()
		b.Publish(&Message{Topic: "t", Payload: []byte("0")})
		b.Publish(&Message{Topic: "t", QoS: 1, Payload: []byte("1")})
		p.conn.Close()
		if !b.disconnected("a", "CONNECTION_LOST") {
			b.Fatal("still connected")
		}
		p = b.connect(version, "a", persistent(60))
		for _, want := range []string{"being written", "1"} {
			if got := string(p.receive(packets.Publish).Payload); got != want {
				b.Errorf("received %q, want %q", got, want)
			}
		}
		p.silentFor(time.Second)
	})
}

// What is acknowledged is delivered, however slow the subscriber: it is the
// publisher that is slowed, to AWS's 100 messages per second of a connection. One
// that is its own subscriber is not: it could not acknowledge.
// https://docs.aws.amazon.com/general/latest/gr/iot-core.html
func TestPublisherIsSlowedToItsSubscribers(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		const many = 2000
		long := func(pk *packets.Packet) { pk.Connect.Keepalive = 1200 }
		slow := b.connect(version, "slow", long)
		slow.subscribe(1, "t/#")
		publisher := b.connect(version, "p", long)
		publisher.subscribe(1, "own")
		began := time.Now()
		for i := range many {
			publisher.publish("t/1", fmt.Sprint(i)) // nobody reads them yet
		}
		if took := time.Since(began); took < 18*time.Second || took > 20*time.Second {
			b.Errorf("%d messages took %s", many, took)
		}
		var acknowledging sync.WaitGroup
		ids := make(chan uint16, 2*many)
		acknowledging.Go(func() {
			for id := range ids {
				slow.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: id})
			}
		})
		for i := range many {
			pk := slow.receive(packets.Publish)
			if string(pk.Payload) != fmt.Sprint(i) {
				b.Fatalf("message %d is %q", i, pk.Payload)
			}
			ids <- pk.PacketID
		}
		began = time.Now()
		for i := range 10 {
			publisher.publish("t/1", fmt.Sprint(i))
			ids <- slow.receive(packets.Publish).PacketID
		}
		if took := time.Since(began); took > 0 {
			b.Errorf("beside a subscriber that keeps up, 10 messages took %s", took)
		}
		close(ids)
		acknowledging.Wait()
		slow.conn.Close()
		if !b.disconnected("slow", "CONNECTION_LOST") {
			b.Fatal("still connected")
		}
		began = time.Now()
		var receiving sync.WaitGroup
		receiving.Go(func() {
			for range 20 {
				publisher.receive(packets.Publish)
			}
		})
		for range 20 {
			publisher.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: "own", Payload: []byte("x")})
		}
		receiving.Wait()
		if took := time.Since(began); took > 0 {
			b.Errorf("a publisher that is its own subscriber was slowed by %s", took)
		}
	})
}

// Publishers go on in the order in which they came, each when few enough messages
// are on their way to each of its subscribers. What is unacknowledged counts too.
func TestPublishersGoOnInTurn(t *testing.T) {
	for subscribers, underway := range map[int]int{1: maxUnderway, 2: maxUnderway / 2, 10: minUnderway} {
		t.Run(fmt.Sprint(subscribers), func(t *testing.T) {
			inBubble(t, Config{}, func(b *bubble, version byte) {
				ids := make([][]uint16, subscribers)
				peers := make([]*peer, subscribers)
				for i := range peers {
					peers[i] = b.connect(version, fmt.Sprint("s", i))
					peers[i].subscribe(1, "t")
				}
				publish := func(p *peer) {
					p.publish("t", "x")
					for i, s := range peers {
						ids[i] = append(ids[i], s.receive(packets.Publish).PacketID)
					}
					synctest.Wait() // it takes its turn only after the PUBACK
				}
				publishers := []*peer{b.connect(version, "p0"), b.connect(version, "p1"), b.connect(version, "p2")}
				for range underway {
					publish(publishers[0])
				}
				for _, p := range publishers {
					publish(p)
				}
				began := time.Now()
				for n, p := range publishers[:2] {
					for i, s := range peers {
						s.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: ids[i][n]})
						s.ping()
					}
					if p.ping(); time.Since(began) != 0 {
						b.Errorf("publisher %d waited for %s", n, time.Since(began))
					}
				}
				interval := time.Second / publishesPerSecond
				if publishers[2].ping(); time.Since(began) != interval {
					b.Errorf("a publisher ahead of its subscribers waited for %s, want %s", time.Since(began), interval)
				}
			})
		})
	}
}

// A connection takes over a session while a message is being written to the one before.
func TestTakeoverWhileAMessageIsWritten(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		const many = 5
		p := b.connect(version, "a", persistent(60))
		p.subscribe(1, "t")
		for range many {
			if err := b.Publish(&Message{Topic: "t", QoS: 1, Payload: make([]byte, flushAt)}); err != nil {
				b.Fatal(err)
			}
		}
		synctest.Wait() // the broker writes
		for range 50 {
			p = b.connect(version, "a", persistent(60))
		}
		for range many {
			p.receive(packets.Publish)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html: the events of a
// connection have one version number, that of the client's next connection is greater; it is 0 again
// when the client was away for an hour.
func TestLifecycleEventsNumberTheConnections(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		watcher := b.connect(version, "watcher", func(pk *packets.Packet) { pk.Connect.Keepalive = 1200 })
		watcher.subscribe(0, "$aws/events/+/+/a")
		for _, want := range []int{0, 1, 2, 0} {
			if want == 0 {
				for range 61 {
					time.Sleep(time.Minute)
					watcher.ping()
				}
				b.Sweep()
			}
			p := b.connect(version, "a")
			p.subscribe(0, "t")
			p.conn.Close()
			for range 3 { // connected, subscribed, disconnected
				var e lifecycleEvent
				if m := watcher.receive(packets.Publish); json.Unmarshal(m.Payload, &e) != nil || e.VersionNumber != want {
					b.Errorf("%s: %s, want version %d", m.TopicName, m.Payload, want)
				}
			}
		}
	})
}
