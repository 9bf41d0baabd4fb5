package session_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

// A brokenKey cannot sign, as one in hardware that is gone or busy.
type brokenKey struct {
	crypto.Signer
	err error
}

func (k brokenKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, k.err }

// A busyError is temporary.
type busyError struct{ error }

func (busyError) Class() awsiot.Class { return awsiot.Temporary }

func TestKeyThatCannotSignIsNoFaultOfTheNetwork(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for want, broken := range map[awsiot.Class]error{
		awsiot.Failed:    errors.New("no such hardware"),
		awsiot.Temporary: busyError{errors.New("busy")},
	} {
		client, peer := net.Pipe()
		go func() { _ = tls.Server(peer, ca.serverConfig()).Handshake() }()
		pair, err := ca.clientCertificate()(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		certificate := *pair
		certificate.PrivateKey = brokenKey{pair.PrivateKey.(crypto.Signer), broken}
		_, err = session.Connect(t.Context(), session.Options{
			Endpoint: "localhost", ClientID: "device-1", RootCAs: ca.pool(), Proxy: "direct",
			Certificate: func(context.Context) (*tls.Certificate, error) { return &certificate, nil },
			DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil },
		})
		if !errors.Is(err, broken) || awsiot.ClassOf(err) != want {
			t.Errorf("%v of class %v, want %v", err, awsiot.ClassOf(err), want)
		}
	}
}
