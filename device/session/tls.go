package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"syscall"
	"time"
)

// ClassicCurves are the key exchanges without ML-KEM. A ClientHello with
// ML-KEM has 1.5 kB and needs two TCP segments, which some devices on the way
// drop or reset.
var ClassicCurves = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}

// cipherSuites are those of TLS 1.2 that are offered: authenticated encryption
// only, no CBC.
var cipherSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// tlsConfig is the client's side of AWS IoT's TLS: SNI always, ALPN on port
// 443 alone. Session tickets are not used, since AWS IoT does not support them.
// https://docs.aws.amazon.com/iot/latest/developerguide/transport-security.html
func (o *Options) tlsConfig(certificate func(context.Context) (*tls.Certificate, error)) *tls.Config {
	c := &tls.Config{
		ServerName:       o.Endpoint,
		RootCAs:          o.RootCAs,
		MinVersion:       tls.VersionTLS12,
		CipherSuites:     cipherSuites,
		CurvePreferences: o.CurvePreferences,
		Time:             o.Now,
		GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return certificate(info.Context())
		},
	}
	switch {
	case o.https:
		c.NextProtos = []string{"http/1.1"}
	case o.Port == 443:
		c.NextProtos = []string{ALPNProtocol}
	}
	return c
}

// A ValidityError is a certificate of the server's chain that is not valid at
// the time that the device's clock shows. Its class is temporary: a clock is
// often set a while after boot.
type ValidityError struct {
	Certificate *x509.Certificate
	Now         time.Time // the device's clock
	err         error
}

// NotYetValid reports whether the certificate is not valid yet: the clock is
// probably behind.
func (e *ValidityError) NotYetValid() bool { return e.Now.Before(e.Certificate.NotBefore) }

func (e *ValidityError) Error() string {
	what, when := "expired on", e.Certificate.NotAfter
	if e.NotYetValid() {
		what, when = "is not valid before", e.Certificate.NotBefore
	}
	return fmt.Sprintf("server certificate %q %s %s, and this device's clock says %s",
		e.Certificate.Subject, what, when.UTC().Format(time.RFC3339), e.Now.UTC().Format(time.RFC3339))
}

func (e *ValidityError) Unwrap() error { return e.err }

// explain turns what a connection returned into a cause that can be shown and
// compared.
func (o *Options) explain(err error) error {
	if alert, ok := receivedAlert(err); ok {
		return fmt.Errorf("server sent a TLS alert: %w", alert)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return &ValidityError{Certificate: invalid.Cert, Now: o.Now(), err: err}
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
