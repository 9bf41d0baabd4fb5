package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"golang.org/x/net/netutil"

	"example.com/fleety/device/session"
)

const (
	maxSubscribers  = 64
	maxConnections  = 2 * maxSubscribers // of the local API
	requestTimeout  = 30 * time.Second   // to send a request, its body included
	responseTimeout = 10 * time.Second   // to take one piece of a response
)

// A Message is a line of the answer to GET /v1/subscribe. A payload that is no
// text in UTF-8 is in PayloadBase64.
type Message struct {
	Topic         string  `json:"topic"`
	Payload       *string `json:"payload,omitempty"`
	PayloadBase64 []byte  `json:"payloadBase64,omitempty"`
}

// An apiError is an answer other than success: {"error": TEXT} with that status.
type apiError struct {
	status int
	text   string
}

func (e *apiError) Error() string { return e.text }

// serveAPI begins to serve the local API. The function that it returns ends it,
// and removes the socket.
func (a *agent) serveAPI(ctx context.Context) (stop func(), err error) {
	listener, err := listen(a.Socket)
	if err != nil {
		return nil, fmt.Errorf("listening for programs (agent.socket): %w", err)
	}
	mux := http.NewServeMux()
	handle := func(pattern string, handler func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			err := handler(w, r)
			if err == nil {
				return
			}
			status := http.StatusServiceUnavailable
			if e, ok := errors.AsType[*apiError](err); ok {
				status = e.status
			}
			writeJSON(w, status, map[string]string{"error": err.Error()})
		})
	}
	handle("POST /v1/publish", a.handlePublish)
	handle("GET /v1/subscribe", a.handleSubscribe)
	handle("POST /v1/rotate", a.handleRotate)
	handle("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) error {
		writeJSON(w, http.StatusOK, a.status())
		return nil
	})
	handle("GET /metrics", func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		w.Write(a.metrics())
		return nil
	})
	for pattern, handler := range a.Routes {
		mux.Handle(pattern, handler)
	}
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: responseTimeout,
		ReadTimeout:       requestTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    8 << 10,
		BaseContext:       func(net.Listener) context.Context { return serving },
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.Serve(netutil.LimitListener(listener, maxConnections))
	}()
	return func() {
		end() // of subscriptions
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
		<-ended
	}, nil
}

// listen opens the socket for the agent's user and group. What an agent that was
// killed left is replaced; the agent's lock makes sure of that.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// handlePublish stores the body as a message. It answers when the message is on
// stable storage.
func (a *agent) handlePublish(w http.ResponseWriter, r *http.Request) error {
	// The body is read first: a client that is still writing may not see an answer.
	payload, err := io.ReadAll(io.LimitReader(r.Body, session.MaxPayload+1))
	if err != nil {
		return &apiError{400, "reading the message: " + err.Error()}
	}
	if len(payload) > session.MaxPayload {
		io.CopyN(io.Discard, r.Body, 8*session.MaxPayload)
		return &apiError{413, fmt.Sprintf("AWS IoT accepts messages of %d bytes at most", session.MaxPayload)}
	}
	topic, err := resolveTopic(a.thing, r.URL.Query().Get("topic"))
	if err != nil {
		return err
	}
	if err := a.outbox.Put(topic, payload); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"topic": topic})
	return nil
}

// handleSubscribe answers with a line for each message, until the program goes
// away. The answer begins when AWS IoT has acknowledged the subscription.
func (a *agent) handleSubscribe(w http.ResponseWriter, r *http.Request) error {
	filter, err := resolveFilter(a.thing, r.URL.Query().Get("filter"))
	if err != nil {
		return err
	}
	sub, err := a.subscriptions.add(filter)
	if err != nil {
		return err
	}
	defer a.subscriptions.remove(sub)
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	select {
	case <-sub.ready:
	case err := <-sub.dropped:
		return err
	case <-r.Context().Done():
		return errors.New("the agent ends, or the program has gone away")
	}
	w.Header().Set("Content-Type", "application/jsonl")
	w.WriteHeader(http.StatusOK)
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	write := func(line any) error {
		control.SetWriteDeadline(time.Now().Add(responseTimeout))
		return errors.Join(lines.Encode(line), control.Flush())
	}
	if control.Flush() != nil {
		return nil
	}
	for {
		select {
		case m := <-sub.messages:
			a.subscriptions.taken(sub, m)
			line := Message{Topic: m.Topic, PayloadBase64: m.Payload}
			if utf8.Valid(m.Payload) {
				text := string(m.Payload)
				line.Payload, line.PayloadBase64 = &text, nil
			}
			if write(line) != nil {
				return nil
			}
		case err := <-sub.dropped:
			write(map[string]string{"error": err.Error()})
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}
