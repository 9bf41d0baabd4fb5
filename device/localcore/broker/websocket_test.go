package broker

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// A pipeListener hands out one end of a pipe.
type pipeListener struct{ conns chan net.Conn }

func (l pipeListener) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l pipeListener) Close() error   { return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// dialWebSocket opens a connection whose client sends what it likes after the
// handshake of HTTP. The server ends with the connection.
func (b *bubble) dialWebSocket() net.Conn {
	b.Helper()
	ours, theirs := net.Pipe()
	l := pipeListener{make(chan net.Conn, 1)}
	l.conns <- ours
	close(l.conns)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.ServeWebSocket(w, r, Principal{AccessKeyID: "a"})
	})}
	_ = server.Serve(l) // one connection: the listener has no more
	request := "GET /mqtt HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
	if _, err := io.WriteString(theirs, request); err != nil {
		b.Fatal(err)
	}
	reader := bufio.NewReader(theirs)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		b.Fatal(response, err)
	}
	go io.Copy(io.Discard, reader)
	return theirs
}

// webSocketFrame is one frame as a client masks it, with a mask of zeros.
func webSocketFrame(head byte, payload string) string {
	return string([]byte{head, 0x80 | byte(len(payload)), 0, 0, 0, 0}) + payload
}

// Frames of one client, well formed or not, hurt no other.
func FuzzWebSocket(f *testing.F) {
	connect := "\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04fuzz"
	binary := webSocketFrame(0x82, connect)
	for _, seed := range []string{
		binary, binary + webSocketFrame(0x82, "\xc0\x00"), binary + webSocketFrame(0x89, "ping") + webSocketFrame(0x88, "\x03\xe8"),
		webSocketFrame(0x02, connect[:5]) + webSocketFrame(0x80, connect[5:]), // in two fragments
		webSocketFrame(0x82, connect[:5]) + webSocketFrame(0x82, connect[5:]), // in two frames
		binary + webSocketFrame(0x81, "\xc0\x00"),                             // as text
		webSocketFrame(0x82, connect+"\x32\x0a\x00\x03a/b\x00\x01\x00hi\x82\x06\x00\x01\x00\x01t\x00"),
		"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", "\x82\xfe\xff", "\xc2\x80", "\x00\x80", "\x89\xfe\x01\x00", "\x82\x01\x00", webSocketFrame(0x88, "\x00"),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t, Config{Log: slog.New(panicIsAnError{slog.DiscardHandler, t})})
			other := b.connect(4, "other")
			fuzz := b.dialWebSocket()
			_, _ = fuzz.Write(data) // the broker may close before the end
			synctest.Wait()
			other.ping()
			fuzz.Close()
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	})
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a connection over
// WebSocket lasts 24 hours, however lively it is.
func TestWebSocketEndsAfterADay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{})
		theirs := b.dialWebSocket()
		began := time.Now()
		frame := func(s string) error {
			_, err := io.WriteString(theirs, webSocketFrame(0x82, s))
			return err
		}
		if err := frame("\x10\x0d\x00\x04MQTT\x04\x02\x04\xb0\x00\x01a"); err != nil {
			t.Fatal(err)
		}
		for frame("\xc0\x00") == nil {
			time.Sleep(10 * time.Minute)
		}
		if took := time.Since(began); took < 24*time.Hour || took > 24*time.Hour+10*time.Minute {
			t.Errorf("ended after %s", took)
		}
		if !b.disconnected("a", reasonWebSocketTTL) {
			t.Error("not disconnected with " + reasonWebSocketTTL)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}
