package broker

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/mochi-mqtt/server/v2/packets"
)

func TestIdleConnectionHasOneGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{})
		const connections = 20
		for i := range connections {
			p, topic := b.connect(4, fmt.Sprint("c", i)), fmt.Sprint("t/", i)
			p.subscribe(1, topic)
			b.Publish(&Message{Topic: topic, QoS: 1})
			p.receive(packets.Publish)
			p.publish("u", "x")
			p.ping()
		}
		synctest.Wait()
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		n := 0
		for stack := range strings.SplitSeq(string(stacks), "\n\n") {
			if strings.Contains(stack, "broker.(*Broker)") {
				n++
			}
		}
		if n != connections {
			t.Errorf("%d goroutines for %d connections: %s", n, connections, stacks)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// What a message of QoS 1 allocates on its way from its PUBLISH through policies and the session of
// its subscriber to both PUBACKs.
func TestMessageAllocatesLittle(t *testing.T) {
	const most = 13
	b := newBubble(t, Config{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	stream := &wire{Conn: server}
	b.work.Go(func() {
		c := b.newConn(stream, stream, Principal{})
		b.establish(c)
		b.serve(context.Background(), c)
	})
	exchange := func(request, answer []byte) {
		if _, err := client.Write(request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(client, answer); err != nil {
			t.Fatal(err)
		}
	}
	exchange([]byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"), make([]byte, 4))
	exchange([]byte("\x82\x06\x00\x01\x00\x01t\x01"), make([]byte, 5))
	request, answer := []byte("\x40\x02\x00\x00\x32\x07\x00\x01t\x00\x01hi"), make([]byte, 4+9)
	n := testing.AllocsPerRun(1000, func() {
		exchange(request, answer)
		id := answer[5:7] // of PUBLISH, which comes before PUBACK
		if answer[0]>>4 == packets.Puback {
			id = answer[9:11]
		}
		copy(request[2:], id) // acknowledges it with the next message
	})
	if n > most {
		t.Errorf("a message takes %.0f allocations, %d are allowed", n, most)
	}
	client.Close()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// Messages that wait leave in as few TLS records as they fit in, each of which takes a system call.
func TestMessagesThatWaitFillTLSRecords(t *testing.T) {
	const messages, record = 21, 16 << 10
	for _, size := range []int{1, 100, 1024, 4096, 8 << 10, 20 << 10} {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t, Config{})
			p := b.connect(4, "s")
			p.subscribe(1, "t")
			for range messages {
				b.Publish(&Message{Topic: "t", QoS: 1, Payload: make([]byte, size)})
			}
			records, buffer := 0, make([]byte, 1<<20)
			for left := messages * size; left > 0; {
				synctest.Wait()
				n, err := p.conn.Read(buffer) // what is written together
				if err != nil {
					t.Fatal(err)
				}
				left -= n
				records += (n + record - 1) / record
			}
			together := max(1, record/(size+16))
			want := 1 + (messages-2+together)/together // the first message leaves by itself
			if size > record {
				want = 2 * messages
			}
			if records > want {
				t.Errorf("%d messages of %d bytes took %d records, want %d", messages, size, records, want)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
