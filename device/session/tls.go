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

// tlsConfig is the client's side of AWS IoT's TLS: SNI always, ALPN on port
// 443 alone. Session tickets are not used, since AWS IoT knows none.
// https://docs.aws.amazon.com/iot/latest/developerguide/transport-security.html
func (o *Options) tlsConfig(certificate func(context.Context) (*tls.Certificate, error)) *tls.Config {
	c := &tls.Config{
		ServerName: o.Endpoint,
		RootCAs:    o.RootCAs,
		MinVersion: tls.VersionTLS12,
		Time:       o.Now,

		CurvePreferences: o.CurvePreferences,
		GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return certificate(info.Context())
		},
	}
	if o.Port == 443 {
		c.NextProtos = []string{ALPNProtocol}
	}
	return c
}

// A ValidityError is a certificate of the server's chain that is not valid at
// the time that the device's clock shows. When it is not valid yet, the clock
// is probably behind, and the error is temporary: a clock is often set a
// while after boot.
type ValidityError struct {
	Certificate *x509.Certificate
	Now         time.Time // what the device's clock said
	err         error
}

// Early reports whether the certificate is not valid yet.
func (e *ValidityError) Early() bool { return e.Now.Before(e.Certificate.NotBefore) }

// Error names the certificate, its limit and the clock.
func (e *ValidityError) Error() string {
	what, when := "expired on", e.Certificate.NotAfter
	if e.Early() {
		what, when = "is not valid before", e.Certificate.NotBefore
	}
	return fmt.Sprintf("server certificate %q %s %s, and this device's clock says %s",
		e.Certificate.Subject, what, when.UTC().Format(time.RFC3339), e.Now.UTC().Format(time.RFC3339))
}

// Unwrap returns the error of crypto/tls.
func (e *ValidityError) Unwrap() error { return e.err }

func (e *ValidityError) class() Class {
	if e.Early() {
		return ClassTemporary
	}
	return ClassConfig
}

// explain turns what a connection returned into a cause that can be told and
// tested.
func (o *Options) explain(err error) error {
	if alert, ok := receivedAlert(err); ok {
		return fmt.Errorf("server sent a TLS alert: %w", alert)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return &ValidityError{Certificate: invalid.Cert, Now: o.Now(), err: err}
	}
	if hungUp(err) {
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

// hungUp reports whether the peer ended the connection, with FIN or RST.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// alertClass judges an alert that the server sent (RFC 8446, section 6.2).
func alertClass(a tls.AlertError) Class {
	switch a {
	case 42, 43, 44, 45, 46, 48, 49, 116: // about the client's certificate
		return ClassRefused
	case 80, 90: // internal_error, user_canceled
		return ClassTemporary
	}
	return ClassConfig
}
