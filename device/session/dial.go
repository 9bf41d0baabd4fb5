package session

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.com/fleety/device/awsiot"
)

// maxProxyAnswer bounds the head of a proxy's answer, in bytes.
const maxProxyAnswer = 64 << 10

// Dial opens the TCP connection that a session would use, through the proxy
// if there is one. The error is an [*Error].
func Dial(ctx context.Context, o Options) (net.Conn, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	m, _, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	return m.Conn, nil
}

// ProxyURL returns the proxy that a session would go through, nil for none.
func (o Options) ProxyURL() (*url.URL, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return o.proxyURL()
}

// open returns the connection to the endpoint and the round trips that the proxy took.
func (o *Options) open(ctx context.Context) (m *meter, proxyRoundTrips int, err error) {
	proxy, err := o.proxyURL()
	if err != nil {
		return nil, 0, err
	}
	if proxy == nil {
		conn, err := o.DialContext(ctx, "tcp", o.address())
		if err != nil {
			stage := StageDial
			if _, ok := errors.AsType[*net.DNSError](err); ok {
				stage = StageResolve
			}
			return nil, 0, o.fail(stage, "", withCause(ctx, err))
		}
		return &meter{Conn: conn}, 0, nil
	}
	port := cmp.Or(proxy.Port(), map[string]string{"http": "80", "https": "443"}[proxy.Scheme])
	address := net.JoinHostPort(proxy.Hostname(), port)
	conn, err := o.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, 0, o.fail(StageProxy, address, fmt.Errorf("the proxy cannot be reached: %w", withCause(ctx, err)))
	}
	m = &meter{Conn: conn}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	tunnel, err := o.requestTunnel(ctx, m, proxy)
	if !stop() || err != nil {
		conn.Close()
		return nil, 0, o.fail(StageProxy, address, withCause(ctx, o.explain(err)))
	}
	proxyRoundTrips = m.takeRoundTrips()
	if tunnel != net.Conn(m) {
		m = &meter{Conn: tunnel}
	}
	return m, proxyRoundTrips, nil
}

// requestTunnel asks the proxy for a connection to the endpoint (RFC 9110, section
// 9.3.6), and returns the one to speak to the endpoint over: conn, or TLS with the
// proxy over it. Nothing can follow the answer's head yet, since a TLS server does
// not speak first, so the reader may be dropped.
func (o *Options) requestTunnel(ctx context.Context, conn net.Conn, proxy *url.URL) (net.Conn, error) {
	if proxy.Scheme == "https" {
		secure := tls.Client(conn, &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12, CipherSuites: cipherSuites, Time: o.Now})
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = secure
	}
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: o.address()}, Host: o.address(), Header: http.Header{}}
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		credentials := proxy.User.Username() + ":" + password
		request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(credentials)))
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxProxyAnswer)), request)
	if err != nil {
		return nil, fmt.Errorf("reading the proxy's answer: %w", err)
	}
	if answer.StatusCode/100 != 2 {
		e := &ProxyError{StatusCode: answer.StatusCode, Status: answer.Status}
		for _, challenge := range answer.Header.Values("Proxy-Authenticate") {
			scheme, _, _ := strings.Cut(challenge, " ")
			e.Schemes = append(e.Schemes, scheme)
		}
		return nil, e
	}
	return conn, nil
}

// proxyURL returns the proxy of the options, or else of the environment, as net/http reads it once
// for the whole process. Its errors repeat nothing of the address: wherever the password stands in
// a malformed one, it stays hidden.
func (o *Options) proxyURL() (*url.URL, error) {
	var proxy *url.URL
	var err error
	switch {
	case o.Proxy == "direct":
		return nil, nil
	case o.Proxy == "":
		proxy, err = http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: o.address()}})
		if proxy == nil && err == nil {
			return nil, nil
		}
	case strings.Contains(o.Proxy, "://"):
		proxy, err = url.Parse(o.Proxy)
	default:
		proxy, err = url.Parse("http://" + o.Proxy)
	}
	if err == nil && proxy.Port() != "" {
		_, err = strconv.ParseUint(proxy.Port(), 10, 16)
	}
	if err != nil || proxy.Scheme != "http" && proxy.Scheme != "https" || proxy.Hostname() == "" ||
		proxy.Path != "" && proxy.Path != "/" || proxy.RawQuery != "" || proxy.Fragment != "" {
		return nil, o.fail(StageOptions, "", errors.New("the proxy's address is not of the form http://HOST:PORT or https://HOST:PORT; a user and a password may precede HOST, with special characters %-encoded"))
	}
	return proxy, nil
}

// withCause puts the end of the context before what it brought about.
func withCause(ctx context.Context, err error) error {
	if deadline, ok := ctx.Deadline(); ok && isTimeout(err) && !time.Now().Before(deadline) {
		<-ctx.Done() // the dialer's timer, for the same deadline, was first
	}
	cause := context.Cause(ctx)
	isContextError := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	switch {
	case cause == nil:
		return err
	case err == nil || isContextError || isTimeout(err) || errors.Is(err, net.ErrClosed):
		return cause
	}
	return fmt.Errorf("%w (%w)", cause, err)
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// ClassicCurves are the key exchanges without ML-KEM. A ClientHello with ML-KEM has 1.5 kB and
// needs two TCP segments, which some devices on the way drop or reset.
var ClassicCurves = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}

// cipherSuites are those of TLS 1.2 that are offered: authenticated encryption only, no CBC.
var cipherSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// tlsConfig is the client's side of AWS IoT's TLS: SNI always, ALPN on port
// 443 alone. Session tickets are not used, since AWS IoT does not support them.
// https://docs.aws.amazon.com/iot/latest/developerguide/transport-security.html
func (o *Options) tlsConfig(certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) *tls.Config {
	c := &tls.Config{
		ServerName:           o.Endpoint,
		RootCAs:              o.RootCAs,
		MinVersion:           tls.VersionTLS12,
		CipherSuites:         cipherSuites,
		CurvePreferences:     o.CurvePreferences,
		Time:                 o.Now,
		GetClientCertificate: certificate,
	}
	switch {
	case o.https:
		c.NextProtos = []string{"http/1.1"}
	case o.Port == 443:
		c.NextProtos = []string{ALPNProtocol}
	}
	return c
}

// explain turns what a connection returned into a cause that can be shown and compared.
func (o *Options) explain(err error) error {
	if alert, ok := receivedAlert(err); ok {
		return fmt.Errorf("server sent a TLS alert: %w", alert)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return &awsiot.ValidityError{What: fmt.Sprintf("server certificate %q", invalid.Cert.Subject), Certificate: invalid.Cert, Now: o.Now(), Err: err}
	}
	if closedByPeer(err) {
		return fmt.Errorf("%w (%w)", ErrClosedSilently, err)
	}
	return err
}

// receivedAlert finds the alert in an error of crypto/tls, which keeps it in
// a type of its own, one byte wide.
func receivedAlert(err error) (tls.AlertError, bool) {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" {
		return 0, false
	}
	v := reflect.ValueOf(op.Err)
	if v.Kind() != reflect.Uint8 {
		return 0, false
	}
	return tls.AlertError(v.Uint()), true
}

// closedByPeer reports whether the peer ended the connection, with FIN or RST.
func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
