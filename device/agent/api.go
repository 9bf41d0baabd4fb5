package agent

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/net/netutil"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

const (
	maxSubscribers  = 64
	maxRequests     = 2 * maxSubscribers // at once, but for those of the status and the metrics
	maxWaiting      = 64                 // connections without a whole request, after burstTimeout
	maxConnections  = 2048               // in any case
	burstTimeout    = 10 * time.Second   // how long many programs at once have to send and to wait
	requestTimeout  = 30 * time.Second   // to send a request, its body included
	responseTimeout = 10 * time.Second   // to take a response
	idleTimeout     = 2 * time.Minute    // for the next request of a connection
	dropTimeout     = time.Minute        // of a subscriber that is dropped, to take the last line
)

// A Message is a line of the answer to GET /v1/subscribe. A payload that is no text in UTF-8 is in
// PayloadBase64.
type Message struct {
	Topic         string  `json:"topic"`
	Payload       *string `json:"payload,omitempty"`
	PayloadBase64 []byte  `json:"payloadBase64,omitempty"`
}

// serveAPI begins to serve the local API, until stop is called, which removes the socket.
func (a *agent) serveAPI(ctx context.Context) (stop func(), err error) {
	listener, err := listen(a.Socket)
	if err != nil {
		return nil, fmt.Errorf("listening for programs (agent.socket): %w", err)
	}
	serving, end := context.WithCancelCause(context.WithoutCancel(ctx))
	var conns apiConns
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conns.answer(r)
			if clean := path.Clean(r.URL.Path); clean != r.URL.Path && (clean == "/" || clean+"/" != r.URL.Path) || clean[0] != '/' {
				r.RequestURI, r.URL.Path = "/", "/" // the mux would redirect, or answer without JSON
			}
			a.routes.Load().ServeHTTP(w, r)
		}),
		ReadHeaderTimeout:            responseTimeout,
		ReadTimeout:                  requestTimeout,
		WriteTimeout:                 requestTimeout, // until a handler answers
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               8 << 10,
		DisableGeneralOptionsHandler: true,
		BaseContext:                  func(net.Listener) context.Context { return serving },
		ConnContext:                  func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ConnState:                    conns.changeState,
		ErrorLog:                     slog.NewLogLogger(a.Log.Handler(), slog.LevelWarn),
	}
	var running sync.WaitGroup
	running.Go(func() { server.Serve(listener) })
	return func() {
		end(errors.New("the agent is stopping")) // of subscriptions
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
		running.Wait()
	}, nil
}

// setRoutes sets the handlers of the local API: the agent's own, and more.
func (a *agent) setRoutes(more map[string]http.Handler) {
	mux := http.NewServeMux()
	limited := map[string]http.Handler{
		"POST /v1/publish":  Answer(a.handlePublish),
		"GET /v1/subscribe": Answer(a.handleSubscribe),
		"POST /v1/rotate":   Answer(a.handleRotate),
	}
	maps.Copy(limited, more)
	for pattern, handler := range limited {
		mux.Handle(pattern, Answer(func(w http.ResponseWriter, r *http.Request) (any, error) {
			if _, err := url.ParseQuery(r.URL.RawQuery); err != nil { // the parameter would count as missing
				return nil, &Error{400, "the query is malformed: " + err.Error()}
			}
			ctx, cancel := context.WithTimeout(r.Context(), burstTimeout)
			defer cancel()
			select {
			case a.requests <- struct{}{}:
				defer func() { <-a.requests }()
			case <-ctx.Done():
				return nil, fmt.Errorf("%d requests are not answered yet", maxRequests)
			}
			if err := readBody(r); err != nil {
				return nil, err
			}
			handler.ServeHTTP(w, r)
			return nil, nil
		}))
	}
	mux.Handle("GET /v1/status", Answer(func(http.ResponseWriter, *http.Request) (any, error) { return a.status(), nil }))
	mux.Handle("GET /metrics", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		w.Write(a.metrics())
	}))
	mux.Handle("/", Answer(func(w http.ResponseWriter, r *http.Request) (any, error) {
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodPatch, http.MethodPost} {
			if _, pattern := mux.Handler(&http.Request{Method: method, Host: r.Host, URL: r.URL}); pattern != "/" {
				allowed = append(allowed, method)
			}
		}
		if len(allowed) == 0 {
			return nil, &Error{404, "the local API has no such path"}
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return nil, &Error{405, fmt.Sprintf("%s is used with %s", r.URL.Path, strings.Join(allowed, " and "))}
	}))
	a.routes.Store(mux)
}

// listen opens the socket for the agent's user and group. What an agent that was killed left is
// replaced, also another user's; one where a program listens, as another device's agent, is not.
func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, &net.OpError{Op: "listen", Net: "unix", Err: err} // what is wrong is the socket's place, here and below
	}
	if info, err := os.Lstat(socket); err == nil && info.Mode()&os.ModeSocket != 0 {
		switch conn, err := net.Dial("unix", socket); {
		case err == nil:
			conn.Close()
		case errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EPROTOTYPE): // it is busy, or takes no streams
		default:
			if err := os.Remove(socket); err != nil {
				return nil, &net.OpError{Op: "listen", Net: "unix", Err: err}
			}
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(socket, 0o660); err != nil {
		l.Close()
		return nil, &net.OpError{Op: "listen", Net: "unix", Err: err}
	}
	return apiListener{netutil.LimitListener(l, maxConnections)}, nil
}

type apiListener struct{ net.Listener }

func (l apiListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &apiConn{Conn: conn}, nil
}

// An apiConn is the connection of a program.
type apiConn struct {
	net.Conn
	since     time.Time   // when it began to wait for a request
	answering atomic.Bool // a handler answers
}

// Write puts into JSON what net/http answers before there is a handler: that it rejects the header
// of a request.
func (c *apiConn) Write(p []byte) (int, error) {
	status, _, _ := bytes.Cut(p, []byte("\r\n"))
	_, reason, _ := strings.Cut(string(status), " ")
	if c.answering.Load() || reason < "4" {
		return c.Conn.Write(p)
	}
	text, _ := json.Marshal(map[string]string{"error": reason})
	_, err := fmt.Fprintf(c.Conn, "%s\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n%s\n", status, text)
	return len(p), err
}

type connKey struct{}

// apiConns bounds the connections that wait for a request of their program: another one takes the
// place of the oldest.
type apiConns struct {
	mu      sync.Mutex
	waiting []*apiConn // oldest first
}

func (c *apiConns) changeState(accepted net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch conn := accepted.(*apiConn); state {
	case http.StateNew, http.StateIdle:
		conn.answering.Store(false)
		conn.since = time.Now()
		if c.waiting = append(c.waiting, conn); len(c.waiting) > maxWaiting {
			time.AfterFunc(burstTimeout, c.makeRoom)
		}
	case http.StateClosed:
		c.remove(conn)
	}
}

// makeRoom does not wait for another connection, which is not accepted beyond maxConnections.
func (c *apiConns) makeRoom() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.waiting) > maxWaiting && time.Since(c.waiting[0].since) >= burstTimeout {
		c.waiting[0].Close()
		c.waiting = c.waiting[1:]
	}
}

func (c *apiConns) answer(r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := r.Context().Value(connKey{}).(*apiConn)
	conn.answering.Store(true)
	c.remove(conn)
}

// remove forgets a connection. The caller holds mu.
func (c *apiConns) remove(conn *apiConn) {
	c.waiting = slices.DeleteFunc(c.waiting, func(other *apiConn) bool { return other == conn })
}

// Answer returns a handler of the local API that writes a value as JSON. A nil one was written by the
// function itself. An error that is no [*Error] has the status of its class.
func Answer(answer func(http.ResponseWriter, *http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := http.StatusOK
		value, err := answer(w, r)
		if e, ok := errors.AsType[*Error](err); ok {
			status, value = e.StatusCode, map[string]string{"error": e.Message}
		} else if err != nil {
			status = cmp.Or(map[awsiot.Class]int{awsiot.Misconfigured: 400, awsiot.Denied: 403}[awsiot.ClassOf(err)], 503)
			value = map[string]string{"error": err.Error()}
		}
		if value != nil {
			http.NewResponseController(w).SetWriteDeadline(time.Now().Add(responseTimeout))
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			json.NewEncoder(w).Encode(value) // the program may be gone
		}
	})
}

// untilGone is for an answer that may take any time. It returns a context that ends when the program
// goes away, and closes the connection behind the answer: net/http would not notice the end of a
// connection on which the program has sent more than the request.
func untilGone(w http.ResponseWriter, r *http.Request) (context.Context, context.CancelCauseFunc, error) {
	w.Header().Set("Connection", "close")
	err := http.NewResponseController(w).SetReadDeadline(time.Time{})
	ctx, cancel := context.WithCancelCause(r.Context())
	conn := r.Context().Value(connKey{}).(*apiConn)
	go func() { // until the connection ends, for which net/http waits
		var err error
		for more := make([]byte, 16); err == nil; {
			_, err = conn.Read(more)
		}
		cancel(fmt.Errorf("the program has gone: %w", err))
	}()
	return ctx, cancel, err
}

// readBody gets the body of a request into memory, a message at most, also where there should be none:
// a client that is still writing may not see an answer, and that it goes away shows only behind the
// body.
func readBody(r *http.Request) error {
	payload, err := io.ReadAll(io.LimitReader(r.Body, session.MaxPayload+1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &Error{408, fmt.Sprintf("the message has not arrived within %v", requestTimeout)}
	}
	if err != nil {
		return &Error{400, "reading the message: " + err.Error()}
	}
	if len(payload) > session.MaxPayload {
		io.CopyN(io.Discard, r.Body, 8*session.MaxPayload)
		return &Error{413, fmt.Sprintf("AWS IoT accepts messages of %d bytes at most", session.MaxPayload)}
	}
	r.Body = io.NopCloser(bytes.NewReader(payload))
	return nil
}

// handlePublish stores the body as a message. It answers when the message is on stable storage.
func (a *agent) handlePublish(_ http.ResponseWriter, r *http.Request) (any, error) {
	payload, _ := io.ReadAll(r.Body) // which is in memory
	topic, err := resolveTopic(a.thing, r.URL.Query().Get("topic"))
	if err != nil {
		return nil, err
	}
	stored := map[string]string{"topic": topic}
	if member := r.URL.Query().Get("id"); member != "" {
		stored["id"] = rand.Text()
		if payload, err = withID(payload, member, stored["id"]); err != nil {
			return nil, err
		}
	}
	if err := a.outbox.Put(topic, payload); err != nil {
		return nil, err
	}
	return stored, nil
}

// withID returns a message with one member more, by which its reader knows that it arrives for the
// second time. The rest stays as it is.
func withID(payload []byte, member, id string) ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(payload, &object); err != nil || object == nil {
		return nil, &Error{400, "a message can have an id if it is a JSON object"}
	}
	if _, has := object[member]; has {
		return nil, &Error{400, fmt.Sprintf("the message has %q already", member)}
	}
	added := awsiot.EncodeJSON(map[string]string{member: id})
	if len(object) > 0 {
		_, rest, _ := bytes.Cut(payload, []byte("{"))
		added = append(append(added[:len(added)-1], ','), rest...)
	}
	if len(added) > session.MaxPayload {
		return nil, &Error{413, fmt.Sprintf("AWS IoT accepts messages of %d bytes at most, and the id makes it longer", session.MaxPayload)}
	}
	return added, nil
}

// handleSubscribe answers with a line for each message, until the program goes away. The answer
// begins when AWS IoT has acknowledged the subscription.
func (a *agent) handleSubscribe(w http.ResponseWriter, r *http.Request) (any, error) {
	filter, err := resolveFilter(a.thing, r.URL.Query().Get("filter"))
	if err != nil {
		return nil, err
	}
	ctx, drop, err := untilGone(w, r)
	defer drop(nil)
	if err != nil {
		return nil, err
	}
	sub, err := a.subscriptions.add(filter, drop)
	if err != nil {
		return nil, err
	}
	defer a.subscriptions.remove(sub)
	control := http.NewResponseController(w)
	// A program that does not read has no deadline until too much waits for it: it can read why it
	// was dropped.
	if err := control.SetWriteDeadline(time.Time{}); err != nil {
		return nil, err
	}
	select {
	case <-sub.ready:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	w.Header().Set("Content-Type", "application/jsonl")
	w.WriteHeader(http.StatusOK)
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	defer context.AfterFunc(ctx, func() { control.SetWriteDeadline(time.Now().Add(dropTimeout)) })()
	for err := control.Flush(); err == nil; err = control.Flush() {
		select {
		case <-ctx.Done():
			lines.Encode(map[string]string{"error": context.Cause(ctx).Error()})
			return nil, nil
		case m := <-sub.messages:
			sub.waiting.Add(-int64(len(m.Payload)))
			line := Message{Topic: m.Topic, PayloadBase64: m.Payload}
			if utf8.Valid(m.Payload) {
				line.Payload, line.PayloadBase64 = new(string(m.Payload)), nil
			}
			_ = lines.Encode(line) // an error is that of Flush
		}
	}
	return nil, nil
}
