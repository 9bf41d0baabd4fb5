package localcore

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"example.com/fleety/device/internal/osfile"
	"example.com/fleety/device/localcore/console"
	"example.com/fleety/device/localcore/controlapi"
	"example.com/fleety/device/localcore/policy"
)

// listenAPI opens the port of the control API. Requests wait until serveAPI.
func (s *Server) listenAPI(cert *tls.Certificate) error {
	l, err := net.Listen("tcp", s.config.API)
	if err != nil {
		return fmt.Errorf("starting the control API: %w", err)
	}
	s.api = &plainOrTLS{l, &tls.Config{Certificates: []tls.Certificate{*cert}}}
	s.onClose(func() error { l.Close(); return nil }) // the server has closed it
	return nil
}

// A plainOrTLS is a port for both HTTP and HTTPS: the first byte of a client says which it speaks.
type plainOrTLS struct {
	net.Listener
	config *tls.Config
}

func (l *plainOrTLS) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	buffered := bufferedConn{raw, bufio.NewReader(raw)}
	return &sniffedConn{raw, sync.OnceValue(func() net.Conn {
		const handshake = 0x16 // content type of a ClientHello, RFC 8446, section 5.1
		if first, err := buffered.reader.Peek(1); err != nil || first[0] != handshake {
			return buffered
		}
		return tls.Server(buffered, l.config)
	})}, nil
}

// A sniffedConn finds out what its client speaks when it is read or written.
type sniffedConn struct {
	net.Conn
	spoken func() net.Conn
}

func (c *sniffedConn) Read(p []byte) (int, error)  { return c.spoken().Read(p) }
func (c *sniffedConn) Write(p []byte) (int, error) { return c.spoken().Write(p) }

// A bufferedConn is read through a buffer.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c bufferedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }

// serveAPI begins to serve, once everything that requests can ask for is there.
func (s *Server) serveAPI(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // ends requests that follow events
	server := &http.Server{
		Handler:           s.apiHandler(),
		ReadHeaderTimeout: 10 * time.Second, // of a body: see controlapi
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.config.Log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(s.api) }()
	s.onClose(func() error {
		cancel()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			server.Close()
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving the control API: %w", err)
		}
		return nil
	})
}

// apiHandler serves the control API and the endpoints of this server's own under /_local/.
func (s *Server) apiHandler() http.Handler {
	c := &s.config
	host, port := s.Endpoint()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /mqtt", s.serveWebSocket)
	mux.Handle("/_local/", http.NewCrossOriginProtection().Handler(s.localHandler()))
	mux.Handle("GET /tunnel", s.tunnels) // the data plane of secure tunneling
	if !c.NoConsole {
		console.Register(mux, console.Config{
			Endpoint: host, Port: port, API: s.APIURL(), Account: c.Account, Region: c.Region,
			Credentials: c.Credentials, DeviceConfiguration: s.deviceConfiguration(), DevicePath: osfile.Quote(filepath.Join(c.Credentials, deviceFile)),
		})
	}
	mux.Handle("/", controlapi.New(controlapi.Config{
		Registry: s.registry, Account: c.Account, ARN: c.arn,
		Endpoint:     fmt.Sprintf("%s:%d", host, port),
		Provisioning: s.provisioning, Shadows: s.shadows, Jobs: s.jobs, Rules: s.rules, Tunnels: s.tunnels,
		Broker: s.broker, Publish: s.publishMessage, Evaluate: s.evaluate,
		Session: func(certificateID, clientID string) *policy.Session {
			return s.policySession(certificateID, clientID, nil)
		},
		Quotas: c.Quotas == QuotasAWS, Log: c.Log,
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A web page whose name was made to resolve to this machine must not reach the registry.
		if !c.UnsafeAllowAnyAddress && !isLoopback(r.Host) {
			http.Error(w, "this API answers to localhost only", http.StatusForbidden)
			return
		}
		s.Claim() // the registry shows it
		r.URL.RawPath = exactPath.Replace(r.URL.EscapedPath())
		mux.ServeHTTP(w, r)
	})
}

// exactPath escapes what [http.ServeMux] would redirect: a topic may be /a or a//b.
var exactPath = strings.NewReplacer("//", "/%2F", "/.", "/%2E")

// isLoopback reports whether a host, with or without port, is this machine.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(hostname(host))
	return hostname(host) == "localhost" || err == nil && ip.IsLoopback()
}

// hostname returns a host without its port.
func hostname(host string) string { return (&url.URL{Host: host}).Hostname() }

// APIURL returns the base of the control API, empty without one; on loopback when it listens on all
// addresses. Give it to the AWS CLI as --endpoint-url.
func (s *Server) APIURL() string {
	if s.api == nil {
		return ""
	}
	address := netip.MustParseAddrPort(s.api.Addr().String())
	if address.Addr().IsUnspecified() { // [::] for 0.0.0.0 too
		return fmt.Sprintf("http://127.0.0.1:%d", address.Port())
	}
	return "http://" + address.String()
}
