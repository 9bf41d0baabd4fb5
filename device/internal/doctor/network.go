package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/session"
)

// dns looks the endpoint up, unless a proxy will do that.
func (r *run) dns(ctx context.Context, name string) {
	host := r.Settings.Server.Endpoint
	proxy, err := r.options(r.Settings.Server.Port).ProxyURL()
	if err != nil {
		r.unknown = true
		// The address may be malformed around its password, so it is not shown.
		r.fail("proxy", awsiot.Misconfigured, "the proxy's address cannot be used", cause("proxy-address"))
		return
	}
	if proxy != nil {
		r.ok("proxy", proxy.Redacted()+" is asked for tunnels")
		host = proxy.Hostname()
	}
	if net.ParseIP(host) != nil {
		r.skip(name, host+" is an address")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	addresses, err := r.Resolve(ctx, host)
	if err == nil {
		r.ok(name, host+" is "+strings.Join(addresses, ", "))
		return
	}
	r.unknown = true
	c := cause("name-service", "host", host)
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		c = cause("name-unknown", "host", host)
	}
	if proxy != nil {
		c.Remedy = cause("proxy-down").Remedy
	}
	r.fail(name, awsiot.Temporary, host+": "+err.Error(), c)
}

// tcp opens a connection to the configured port, and to the other one that AWS IoT has, which may
// pass where a firewall blocks the first.
// https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html
func (r *run) tcp(ctx context.Context, name string) {
	if r.unknown {
		r.skip(name, "there is no address to connect to")
		return
	}
	configured := r.Settings.Server.Port
	other := 443
	if configured == 443 {
		other = session.DefaultPort
	}
	err, otherErr := r.dial(ctx, configured), errors.New("not tried")
	if r.onAWS() {
		otherErr = r.dial(ctx, other)
	}
	switch {
	case err == nil:
		r.port = configured
		r.ok(portName(configured), "open")
	case otherErr == nil:
		r.port = other
		r.fail(portName(configured), awsiot.Temporary, err.Error(), cause("port-blocked", "port", strconv.Itoa(configured), "other", strconv.Itoa(other)))
	default:
		r.failure(portName(configured), err)
	}
	switch {
	case !r.onAWS():
		r.skip(portName(other), "only AWS endpoints have it")
	case otherErr == nil:
		r.ok(portName(other), "open")
	default:
		r.skip(portName(other), fmt.Sprintf("closed, and not needed with server.port %d", configured))
	}
}

func portName(port int) string { return "tcp-" + strconv.Itoa(port) }

func (r *run) dial(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	conn, err := session.Dial(ctx, r.options(port))
	if err != nil {
		return err
	}
	return conn.Close()
}

// server reads the server's certificates before it verifies them, to report why one is not trusted.
func (r *run) server(ctx context.Context, name string) {
	if r.port == 0 {
		r.skip(name, "no port is open")
		return
	}
	state, err := r.handshake(ctx, nil)
	if len(state.PeerCertificates) == 0 && !isA[tls.RecordHeaderError](err) {
		// A ClientHello with ML-KEM needs two segments; without, one.
		small, smallErr := r.handshake(ctx, []tls.CurveID{tls.X25519, tls.CurveP256})
		if len(small.PeerCertificates) > 0 {
			r.warn("client-hello", "a TLS handshake with ML-KEM fails ("+err.Error()+"), without it succeeds", cause("client-hello").Why, cause("client-hello").Remedy)
			state, err = small, smallErr
		}
	}
	switch {
	case len(state.PeerCertificates) > 0:
		r.verify(name, state.PeerCertificates)
		r.alpn(state, err)
	case isA[tls.RecordHeaderError](err):
		r.fail(name, awsiot.Temporary, "the server does not speak TLS", cause("not-tls"))
	case errors.Is(err, context.DeadlineExceeded):
		r.fail(name, awsiot.Temporary, "the server does not respond to the TLS handshake", cause("tls-silence"))
	default:
		r.fail(name, awsiot.Temporary, "the TLS handshake failed: "+err.Error(), cause("tls-silence"))
	}
}

// handshake runs a handshake without a client certificate and returns what the server showed, also
// when it closes the connection after that.
func (r *run) handshake(ctx context.Context, curves []tls.CurveID) (state tls.ConnectionState, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	o := r.options(r.port)
	conn, err := session.Dial(ctx, o)
	if err != nil {
		return state, err
	}
	defer conn.Close()
	c := &tls.Config{
		ServerName: o.Endpoint, MinVersion: tls.VersionTLS12, CurvePreferences: curves,
		InsecureSkipVerify: true, // nothing is sent; verify verifies
		VerifyConnection:   func(s tls.ConnectionState) error { state = s; return nil },
	}
	if r.port == 443 {
		c.NextProtos = []string{session.ALPNProtocol}
	}
	return state, tls.Client(conn, c).HandshakeContext(ctx)
}

// verify verifies the chain against the bundle and explains what is wrong.
func (r *run) verify(name string, chain []*x509.Certificate) {
	leaf := chain[0]
	r.noEarlierThan(leaf, "the server's certificate")
	if r.roots == nil {
		r.skip(name, "there are no roots to verify it against")
		return
	}
	o := x509.VerifyOptions{
		DNSName:       r.Settings.Server.Endpoint,
		Roots:         r.roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   r.correctTime(),
	}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	verified, err := leaf.Verify(o)
	invalid, _ := errors.AsType[x509.CertificateInvalidError](err)
	switch {
	case err == nil:
		r.trusted = true
		top := verified[0][len(verified[0])-1]
		r.ok(name, fmt.Sprintf("%q, valid until %s, from root %q", leaf.Subject, date(leaf.NotAfter), top.Subject.CommonName))
	case isA[x509.HostnameError](err):
		r.fail(name, awsiot.Temporary, fmt.Sprintf("it is for %s, not for %s", strings.Join(leaf.DNSNames, ", "), o.DNSName), cause("wrong-server", "endpoint", o.DNSName))
	case invalid.Cert != nil && invalid.Reason == x509.Expired:
		r.fail(name, awsiot.Temporary, fmt.Sprintf("%q expired on %s, and the clock shows %s", invalid.Cert.Subject, date(invalid.Cert.NotAfter), date(o.CurrentTime)), cause("server-time"))
	case isA[x509.UnknownAuthorityError](err):
		r.unknownRoot(name, chain[len(chain)-1])
	default:
		r.fail(name, awsiot.Temporary, "it cannot be verified: "+err.Error(), cause("unknown-root", "roots", r.Settings.RootsFrom()))
	}
}

// unknownRoot names the root that the bundle lacks: the issuer at the top of the chain.
func (r *run) unknownRoot(name string, top *x509.Certificate) {
	missing := cmp.Or(top.Issuer.CommonName, top.Issuer.String())
	isNamed := func(roots []*x509.Certificate) bool {
		return slices.ContainsFunc(roots, func(c *x509.Certificate) bool { return c.Subject.CommonName == missing })
	}
	c := cause("unknown-root", "roots", r.Settings.RootsFrom())
	switch {
	case isNamed(config.AmazonRoots()):
		c.Why, c.Remedy = "the bundle is incomplete", config.UseAmazonRoots
	case strings.Contains(missing, "VeriSign") || strings.Contains(missing, "Symantec"):
		c.Why, c.Remedy = "this is the legacy endpoint, whose root is no longer trusted", askForEndpoint
	case r.onAWS():
		c.Why, c.Remedy = "it is not a root of AWS: a proxy that intercepts TLS, or a captive portal, answers in place of the server",
			"have the proxy pass "+r.Settings.Server.Endpoint+" on unopened; log in to the network"
	case isNamed(r.bundle):
		c.Why, c.Remedy = "the bundle has a root of this name with another key: the server was set up anew since", "copy the server's root certificate again"
	}
	r.fail(name, awsiot.Temporary, fmt.Sprintf("its root, %q, is not in %s", missing, r.Settings.RootsFrom()), c)
}

// alpn checks that port 443 leads to MQTT and not to HTTPS.
func (r *run) alpn(state tls.ConnectionState, err error) {
	const name = "alpn"
	switch {
	case r.port != 443:
		r.skip(name, fmt.Sprintf("port %d uses none", r.port))
	case state.NegotiatedProtocol == session.ALPNProtocol:
		r.ok(name, session.ALPNProtocol)
	default:
		c := Cause{Why: "a proxy that intercepts TLS, or a server that is not AWS IoT", Remedy: "check server.endpoint, or use server.port 8883"}
		if err != nil {
			c.Why = err.Error()
		}
		r.fail(name, awsiot.Temporary, "the server does not accept "+session.ALPNProtocol, c)
	}
}
