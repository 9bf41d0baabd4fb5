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
	"sync"
	"time"

	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/console"
	"example.com/fleety/device/localcore/controlapi"
)

// Bounds of a connection of the control API.
const (
	apiHeaderTimeout = 10 * time.Second
	apiIdleTimeout   = 2 * time.Minute
	apiHeaderBytes   = 64 << 10
)

// An apiServer serves the control API and the endpoints of this server's own
// under /_local/.
type apiServer struct {
	http     *http.Server
	listener net.Listener
	cancel   context.CancelFunc // ends requests that follow events
	served   chan error         // nil until it serves
}

// listenAPI opens the port of the control API. Requests wait until serve.
func listenAPI(ctx context.Context, c *Config, cert *tls.Certificate) (*apiServer, error) {
	l, err := net.Listen("tcp", c.API)
	if err != nil {
		return nil, fmt.Errorf("listening for tools: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	return &apiServer{
		listener: &plainOrTLS{l, &tls.Config{Certificates: []tls.Certificate{*cert}}},
		cancel:   cancel,
		http: &http.Server{
			ReadHeaderTimeout: apiHeaderTimeout, // of a body: see controlapi
			IdleTimeout:       apiIdleTimeout,
			MaxHeaderBytes:    apiHeaderBytes,
			BaseContext:       func(net.Listener) context.Context { return ctx },
			ErrorLog:          slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
		},
	}, nil
}

// A plainOrTLS is a port for both HTTP and HTTPS: the first byte of a client
// says which it speaks.
type plainOrTLS struct {
	net.Listener
	config *tls.Config
}

func (l *plainOrTLS) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	begun := bufferedConn{raw, bufio.NewReader(raw)}
	return &sniffedConn{raw, sync.OnceValue(func() net.Conn {
		if first, err := begun.reader.Peek(1); err != nil || first[0] != tlsHandshake {
			return begun
		}
		return tls.Server(begun, l.config)
	})}, nil
}

const tlsHandshake = 0x16 // content type of a ClientHello, RFC 8446, section 5.1

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

// serve begins to serve, once everything that requests can ask for is there.
func (a *apiServer) serve(handler http.Handler) {
	a.http.Handler = handler
	a.served = make(chan error, 1)
	go func() { a.served <- a.http.Serve(a.listener) }()
}

func (s *Server) apiHandler() http.Handler {
	services := control{s}
	host, port := s.Endpoint()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /mqtt", s.serveWebSocket)
	mux.Handle("/_local/", http.NewCrossOriginProtection().Handler(s.localHandler()))
	mux.Handle("GET /tunnel", s.tunnels) // the data plane of secure tunneling
	if !s.config.NoConsole {
		console.Register(mux, console.Config{
			Endpoint: host, Port: port, API: s.APIURL(), Account: s.config.Account, Region: s.config.Region,
			Credentials: s.config.Credentials, DeviceConfiguration: s.deviceConfiguration(),
		})
	}
	mux.Handle("/", controlapi.New(controlapi.Config{
		Registry:   s.registry,
		Partition:  s.config.Partition,
		Region:     s.config.Region,
		Account:    s.config.Account,
		Endpoint:   fmt.Sprintf("%s:%d", host, port),
		Issuer:     services,
		Registrar:  services,
		Authorizer: services,
		Broker:     s.broker,
		Publish:    func(m *broker.Message) { s.publishOn(m, 0) },
		Shadows:    services,
		Jobs:       s.jobs,
		Rules:      s.rules,
		Tunnels:    s.tunnels,
		Quotas:     s.config.Quotas == QuotasAWS,
		Log:        s.config.Log,
	}))
	complete := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Claim() // the registry shows it
		mux.ServeHTTP(w, r)
	})
	if s.config.UnsafeAllowAnyAddress {
		return complete
	}
	return loopbackOnly(complete)
}

// loopbackOnly rejects requests for another host name: a web page whose name
// was made to resolve to this machine must not reach the registry.
func loopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopback(r.Host) {
			http.Error(w, "this API answers to localhost only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLoopback reports whether a host, with or without port, is this machine.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(hostname(host))
	return hostname(host) == "localhost" || err == nil && ip.IsLoopback()
}

// hostname returns a host without its port.
func hostname(host string) string {
	return (&url.URL{Host: host}).Hostname()
}

// close ends every request and returns when the last has ended.
func (a *apiServer) close() error {
	a.cancel()
	if a.served == nil {
		return a.listener.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := a.http.Shutdown(ctx); err != nil {
		a.http.Close()
	}
	if err := <-a.served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the control API: %w", err)
	}
	return nil
}

// APIURL returns the base of the control API, empty without one; on loopback when
// it listens on all addresses. Give it to the AWS CLI as --endpoint-url.
func (s *Server) APIURL() string {
	if s.api == nil {
		return ""
	}
	address := netip.MustParseAddrPort(s.api.listener.Addr().String())
	if address.Addr().IsUnspecified() { // [::] for 0.0.0.0 too
		return fmt.Sprintf("http://127.0.0.1:%d", address.Port())
	}
	return "http://" + address.String()
}
