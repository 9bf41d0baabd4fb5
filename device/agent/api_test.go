package agent_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/fleety/device/agent"
)

func (w *world) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", w.config.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Every error is a JSON object, also those that net/http and its mux find.
func TestEveryErrorOfTheLocalAPIIsJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(t)
	for request, want := range map[string]int{
		"GET / HTTP/1.1\nHost: agent":                                                 404,
		"GET /v2/status HTTP/1.1\nHost: agent":                                        404,
		"GET /v1/status/ HTTP/1.1\nHost: agent":                                       404,
		"GET //v1/status HTTP/1.1\nHost: agent":                                       404,
		"GET // HTTP/1.1\nHost: agent":                                                404,
		"GET /v1/../v1/status HTTP/1.1\nHost: agent":                                  404,
		"OPTIONS * HTTP/1.1\nHost: agent":                                             404,
		"CONNECT agent:1 HTTP/1.1\nHost: agent":                                       404,
		"DELETE /v1/status HTTP/1.1\nHost: agent":                                     405,
		"GET /v1/publish?topic=a HTTP/1.1\nHost: agent":                               405,
		"POST /v1/subscribe?filter=a HTTP/1.0\nContent-Length: 0":                     405,
		"POST /v1/publish HTTP/1.1\nHost: agent\nContent-Length: 0":                   400,
		"POST /v1/publish?topic=a&id=%zz HTTP/1.1\nHost: agent\nContent-Length: 0":    400,
		"POST /v1/publish?topic=a;b&topic=c HTTP/1.1\nHost: agent\nContent-Length: 0": 400,
		"POST /v1/rotate?thing=%zz HTTP/1.1\nHost: agent\nContent-Length: 0":          400,
		"POST /v1/publish?topic=a HTTP/1.1\nHost: agent\nContent-Length: x":           400,
		"GET /v1/status HTTP/1.1":                                                     400,
		"GET /v1/status HTTP/1.1\nHost: agent\nno header":                             400,
		"nonsense": 400,
		"GET /v1/status HTTP/1.1\nHost: agent\nExpect: more":                      417,
		"GET /v1/status HTTP/1.1\nHost: agent\nX: " + strings.Repeat("x", 20<<10): 431,
		"GET /v1/status HTTP/1.1\nHost: agent\nTransfer-Encoding: brotli":         501,
		"GET /v1/status HTTP/9.9\nHost: agent":                                    505,
	} {
		t.Run(fmt.Sprintf("%.60s", request), func(t *testing.T) {
			t.Parallel()
			conn := w.dial(t)
			if _, err := io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")+"\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			var body struct{ Error string }
			if err := json.NewDecoder(response.Body).Decode(&body); err != nil || body.Error == "" ||
				response.StatusCode != want || response.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s, want %d; %v, %+v, %v", response.Status, want, response.Header, body, err)
			}
			if allow := response.Header.Get("Allow"); want == 405 && allow == "" {
				t.Error("no method is allowed")
			}
		})
	}
}

// Connections on which nothing is requested, and as many subscribers as there may be, keep nobody
// from the status.
func TestIdleConnectionsAndSubscribersLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(t)
	w.await(t, connected)
	subscribers := make([]*bufio.Reader, 64)
	for i := range subscribers {
		conn := w.dial(t)
		fmt.Fprintf(conn, "GET /v1/subscribe?filter=f%d/x HTTP/1.1\r\nHost: agent\r\n\r\n", i%8)
		subscribers[i] = bufio.NewReader(conn)
		if response, err := http.ReadResponse(subscribers[i], nil); err != nil || response.StatusCode != http.StatusOK {
			t.Fatal(response, err)
		}
	}
	for i := range 200 {
		conn := w.dial(t)
		switch i % 3 {
		case 0: // it has sent nothing
		case 1:
			io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: ")
		case 2:
			io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n")
			if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != http.StatusOK {
				t.Fatal(response, err)
			}
		}
	}
	began := time.Now()
	if s := w.await(t, connected); s.Subscribers != 64 {
		t.Errorf("%d subscribers", s.Subscribers)
	}
	// An idle connection may be kept for two minutes.
	if took := time.Since(began); took > time.Minute {
		t.Errorf("the status took %v", took)
	}
	send(t, w, "down/f3/x", "hello")
	for i := 3; i < 64; i += 8 {
		for line, err := "", error(nil); !strings.Contains(line, "hello"); { // chunks have lines of their own
			if line, err = subscribers[i].ReadString('\n'); err != nil {
				t.Fatalf("subscriber %d: %v", i, err)
			}
		}
	}
}

// As many connections as the agent accepts, which have all requested something, make room without
// another one, which it does not see.
func TestConnectionsBeyondTheMostMakeRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(t)
	for range 2048 {
		conn := w.dial(t)
		io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n")
	}
	began := time.Now()
	conn := w.dial(t)
	io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n")
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response, err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("the status took %v", took)
	}
}

// A program that goes away is noticed, whatever body its request had, also while the device is
// offline.
func TestProgramThatGoesAwayIsNoticedWithABody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(t)
	w.await(t, connected)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.await(t, func(s agent.Status) bool { return !s.Connected })
	for _, body := range []string{"Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"} {
		conn := w.dial(t)
		fmt.Fprint(conn, "GET /v1/subscribe?filter=x HTTP/1.1\r\nHost: agent\r\n"+body)
		w.await(t, func(s agent.Status) bool { return s.Subscribers == 1 })
		conn.Close()
		w.await(t, func(s agent.Status) bool { return s.Subscribers == 0 })
	}
	for _, method := range []string{"GET", "HEAD"} { // with more behind its request
		conn := w.dial(t)
		request := " /v1/subscribe?filter=x HTTP/1.1\r\nHost: agent\r\n\r\n"
		io.WriteString(conn, method+request)
		w.await(t, func(s agent.Status) bool { return s.Subscribers == 1 })
		io.WriteString(conn, "GET"+request)
		w.await(t, func(s agent.Status) bool { return s.Subscribers == 1 })
		conn.Close()
		w.await(t, func(s agent.Status) bool { return s.Subscribers == 0 })
	}
	for _, request := range []string{"GET /v1/subscribe?filter=x", "POST /v1/rotate"} { // in the middle of its body
		conn := w.dial(t)
		fmt.Fprint(conn, request+" HTTP/1.1\r\nHost: agent\r\nContent-Length: 3\r\n\r\n{}")
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != 400 {
			t.Errorf("%s: %v, %v", request, response, err)
		}
	}
}

// Many more programs than are answered at once may publish at the same instant.
func TestProgramsThatPublishAtOnceAreAllAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(t)
	var working sync.WaitGroup
	start := make(chan struct{})
	for i := range 400 {
		conn := w.dial(t)
		working.Go(func() {
			<-start
			fmt.Fprintf(conn, "POST /v1/publish?topic=t/%d HTTP/1.1\r\nHost: agent\r\nContent-Length: 0\r\n\r\n", i)
			if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != http.StatusOK {
				t.Errorf("program %d: %v, %v", i, response, err)
			}
		})
	}
	close(start)
	working.Wait()
	w.await(t, func(s agent.Status) bool { return s.Connected && s.Outbox.Messages == 0 })
}

// A subscriber that the agent ends reads why, as its last line.
func TestSubscriberReadsWhyItEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.run(t)
	client := agent.NewClient(w.config.Socket)
	defer client.Close()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- client.Subscribe(t.Context(), "#", func() { close(ready) }, func(json.RawMessage) error { return nil })
	}()
	<-ready
	stop()
	err := <-ended
	if _, ok := errors.AsType[*agent.Error](err); !ok {
		t.Errorf("the subscriber got %v", err)
	}
}
