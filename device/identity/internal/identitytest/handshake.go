// Package identitytest has what the tests of every store of keys do with a key.
package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"
)

// SelfSigned returns a certificate for a key, as a client and a server have it.
func SelfSigned(t testing.TB, key crypto.Signer) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"server"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Handshake has both sides prove in this version of TLS that they have their keys.
func Handshake(t testing.TB, version uint16, client, server tls.Certificate) {
	t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	done := make(chan error, 1)
	go func() {
		config := &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true}
		done <- tls.Server(there, config).Handshake()
	}()
	// The test's own server has no name to verify.
	config := &tls.Config{Certificates: []tls.Certificate{client}, InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}
	if err := errors.Join(tls.Client(here, config).Handshake(), <-done); err != nil {
		t.Errorf("%s: %v", tls.VersionName(version), err)
	}
}

// BenchmarkHandshake measures handshakes in which the client proves possession of a key: "store"
// for the one given, and "file" for one in memory, in the same run.
func BenchmarkHandshake(b *testing.B, key crypto.Signer) {
	file, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	server := SelfSigned(b, file)
	for name, client := range map[string]tls.Certificate{"store": SelfSigned(b, key), "file": server} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				Handshake(b, tls.VersionTLS13, client, server)
			}
		})
	}
}
