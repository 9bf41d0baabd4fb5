package session_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/session"
)

func TestGetSendsTheCertificate(t *testing.T) {
	_, o := claimOptions(t, localcore.Config{})
	response, err := session.Get(t.Context(), o, "/role-aliases/none/credentials", http.Header{})
	if err != nil || response.StatusCode != http.StatusForbidden {
		t.Fatalf("got %v, %v", response, err)
	}
	if body, err := io.ReadAll(response.Body); err != nil || len(body) == 0 {
		t.Errorf("body %q, %v", body, err)
	}
}

func TestGetSpeaksHTTPOnPort443Too(t *testing.T) {
	s := serve(t, func(c *tls.Config) { c.NextProtos = []string{"x-amzn-mqtt-ca", "http/1.1"} }, func(c *tls.Conn) {
		_ = c.Handshake()
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"+c.ConnectionState().NegotiatedProtocol)
	})
	o := s.options()
	o.Port = 443
	response, err := session.Get(t.Context(), o, "/", http.Header{})
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "http/1.1" {
		t.Errorf("negotiated %q, %v", body, err)
	}
}

func TestGetEndsWhenTheServerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]func(*tls.Conn){
		"nothing":     func(c *tls.Conn) { _, _ = io.Copy(io.Discard, c) },
		"half a head": func(c *tls.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"); _, _ = io.Copy(io.Discard, c) },
		"an end":      func(c *tls.Conn) { _ = c.Handshake() },
		"no HTTP":     func(c *tls.Conn) { _, _ = io.WriteString(c, "hello\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(*tls.Config) {}, handle)
			o := s.options()
			o.ConnectTimeout = 2 * time.Second // which a handshake on a busy machine is within
			_, err := session.Get(t.Context(), o, "/", http.Header{})
			if e := sessionError(t, err); e.Stage != session.StageRequest || e.Class() != awsiot.Temporary {
				t.Errorf("%v (%s, %s)", err, e.Stage, e.Class())
			}
		})
	}
}
