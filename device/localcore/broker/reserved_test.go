package broker

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"
)

// reserve returns a configuration with one handler for every reserved topic.
func reserve(direct bool, h Handler) Config {
	return Config{Reserved: func(string) (Handler, bool) { return h, direct }}
}

func TestRequestsOfAConnectionAreHandledInOrder(t *testing.T) {
	config := reserve(true, func(_ context.Context, c *Conn, m *Message) {
		if string(m.Payload) == "0" {
			time.Sleep(time.Minute) // the later ones wait, their PUBACK does not
		}
		if err := c.Reply(m.Topic+"/accepted", m.Payload); err != nil {
			panic(err)
		}
	})
	inBubble(t, config, func(b *bubble, version byte) {
		watcher := b.connect(version, "watcher", func(pk *packets.Packet) { pk.Connect.Keepalive = 1200 })
		watcher.subscribe(1, "$aws/things/#")
		p := b.connect(version, "a", func(pk *packets.Packet) { pk.Connect.Keepalive = 1200 })
		for i := range 3 {
			p.publish("$aws/things/a/shadow/get", fmt.Sprint(i))
		}
		for i := range 3 {
			m := p.receive(packets.Publish)
			if got := string(m.Payload); m.TopicName != "$aws/things/a/shadow/get/accepted" || got != fmt.Sprint(i) {
				b.Errorf("reply %d is %q on %s", i, got, m.TopicName)
			}
		}
		watcher.silentFor(time.Second) // neither requests nor replies are for others
	})
}

// A message knows how many of its client are still dealt with.
func TestRequestsThatAreUnderWayAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		got, release := map[string]int{}, make(chan struct{})
		b := newBubble(t, reserve(false, func(_ context.Context, _ *Conn, m *Message) {
			<-release
			mu.Lock()
			defer mu.Unlock()
			got[m.Topic+" "+string(m.Payload)] = m.Ahead
		}))
		p, other := b.connect(5, "a"), b.connect(5, "b")
		for i, topic := range []string{"a/shadow/update", "a/shadow/name/n/get", "a/jobs/get", "b/shadow/get", "a/shadow/update"} {
			p.publish("$aws/things/"+topic, fmt.Sprint(i))
		}
		other.publish("$aws/things/a/shadow/get", "5")
		synctest.Wait()
		close(release)
		synctest.Wait()
		want := map[string]int{
			"$aws/things/a/shadow/update 0": 0, "$aws/things/a/shadow/name/n/get 1": 1, "$aws/things/a/jobs/get 2": 2,
			"$aws/things/b/shadow/get 3": 3, "$aws/things/a/shadow/update 4": 4, "$aws/things/a/shadow/get 5": 0,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestPanicOfAHandlerHurtsNoOtherRequest(t *testing.T) {
	handled := make(chan string, 1)
	handler := func(_ context.Context, _ *Conn, m *Message) {
		if string(m.Payload) == "panic" {
			panic("as ordered")
		}
		handled <- string(m.Payload)
	}
	inBubble(t, Config{Reserved: func(string) (Handler, bool) { return handler, true }}, func(b *bubble, version byte) {
		p := b.connect(version, "a")
		p.publish("$aws/things/a/jobs/get", "panic")
		p.publish("$aws/things/a/jobs/get", "next")
		synctest.Wait()
		select {
		case got := <-handled:
			if got != "next" {
				b.Errorf("handled %q", got)
			}
		default:
			b.Error("the next request was not handled")
		}
	})
}

func TestSharedRequestsGoToSubscribersToo(t *testing.T) {
	config := reserve(false, func(context.Context, *Conn, *Message) {})
	inBubble(t, config, func(b *bubble, version byte) {
		watcher := b.connect(version, "watcher")
		watcher.subscribe(0, "$aws/things/#")
		p := b.connect(version, "a")
		p.publish("$aws/things/a/shadow/update", "{}")
		if m := watcher.receive(packets.Publish); m.TopicName != "$aws/things/a/shadow/update" {
			b.Errorf("received a message on %s", m.TopicName)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/reserved-topics.html: a
// client may publish to reserved topics; one behind which nothing is emulated is
// acknowledged, with a warning in the log.
func TestReservedTopicWithoutServiceIsAcknowledgedAndLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	var mu sync.Mutex
	inBubble(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(b *bubble, version byte) {
		mu.Lock() // the two versions share the log
		defer mu.Unlock()
		log.Reset()
		p := b.connect(version, "a")
		for range 3 {
			p.publish("$aws/commands/things/a/executions/1/response/json", "{}")
		}
		p.publish("$aws/things/a/jobs/get", "{}")
		synctest.Wait()
		for _, topic := range []string{"$aws/commands/things/a/executions/1/response/json", "$aws/things/a/jobs/get"} {
			if n := strings.Count(log.String(), "topic="+topic); n != 1 {
				b.Errorf("%d warnings for %s", n, topic)
			}
		}
		if strings.Count(log.String(), "level=WARN") != 2 {
			b.Errorf("log:\n%s", &log)
		}
	})
}

// Topics without a service that a client makes up take no memory without bound.
func TestTopicsThatWereWarnedAboutAreBounded(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		p := b.connect(version, "a")
		for i := range maxSilentTopics + 10 {
			p.publish(fmt.Sprint("$aws/things/a/", i), "")
		}
		synctest.Wait()
		if n := len(b.silent); n != maxSilentTopics {
			b.Errorf("%d topics are kept", n)
		}
	})
}

// The rules engine sees what clients publish, wherever it goes.
func TestObserverSeesEveryMessage(t *testing.T) {
	var mu sync.Mutex
	seen := map[byte][]string{}
	config := reserve(true, func(context.Context, *Conn, *Message) {})
	versionOf := map[string]byte{"a4": 4, "a5": 5}
	config.Observe = func(m *Message) {
		mu.Lock()
		defer mu.Unlock()
		if v, ok := versionOf[m.ClientID]; ok {
			seen[v] = append(seen[v], m.Topic)
		}
	}
	inBubble(t, config, func(b *bubble, version byte) {
		watcher := b.connect(version, "watcher")
		watcher.subscribe(0, "$aws/+/r/#")
		p := b.connect(version, fmt.Sprint("a", version))
		topics := []string{"t", "$aws/things/a/shadow/update", "$aws/rules/r/t"}
		for _, topic := range topics {
			p.publish(topic, "x")
		}
		synctest.Wait()
		mu.Lock()
		if diff := cmp.Diff(topics, seen[version]); diff != "" {
			b.Error(diff)
		}
		mu.Unlock()
		watcher.silentFor(time.Second) // basic ingest goes to no subscriber
	})
}

func TestRepliesKeepTheReceiveMaximum(t *testing.T) {
	config := reserve(true, func(_ context.Context, c *Conn, m *Message) {
		for i := range 2 {
			if err := c.Reply("reply", fmt.Append(nil, i)); err != nil {
				panic(err)
			}
		}
	})
	inBubble(t, config, func(b *bubble, version byte) {
		if version == 4 {
			return // it has no Receive Maximum
		}
		p := b.connect(5, "a", func(pk *packets.Packet) { pk.Properties.ReceiveMaximum = 1 })
		p.subscribe(1, "reply")
		p.publish("$aws/things/a/shadow/get", "")
		first := p.receive(packets.Publish)
		p.silentFor(time.Second)
		p.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: first.PacketID})
		if got := string(p.receive(packets.Publish).Payload); got != "1" {
			b.Errorf("received %q", got)
		}
	})
}

func TestReplyIsLostWithItsConnection(t *testing.T) {
	config := reserve(true, func(_ context.Context, c *Conn, m *Message) {
		time.Sleep(time.Minute)
		if c.Reply("reply", []byte("late")) == nil {
			panic("the connection is gone")
		}
	})
	inBubble(t, config, func(b *bubble, version byte) {
		p := b.connect(version, "a", persistent(600))
		p.subscribe(1, "reply")
		p.publish("$aws/things/a/shadow/get", "")
		p.conn.Close()
		time.Sleep(2 * time.Minute)
		p = b.connect(version, "a", persistent(600))
		p.silentFor(time.Second)
	})
}
