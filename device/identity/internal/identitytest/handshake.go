// Package identitytest measures keys for the benchmarks of their stores.
package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"
)

// BenchmarkHandshake measures TLS 1.3 handshakes in which the client proves
// possession of a key: as "store" for the one given, and as "file" for one in
// memory, in the same run.
func BenchmarkHandshake(b *testing.B, key crypto.Signer) {
	file, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"store": key, "file": file} {
		client := certificate(b, key)
		server := certificate(b, file)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				handshake(b, client, server)
			}
		})
	}
}

func certificate(b *testing.B, key crypto.Signer) tls.Certificate {
	b.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func handshake(b *testing.B, client, server tls.Certificate) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	done := make(chan error, 1)
	go func() {
		done <- tls.Server(there, &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true}).Handshake()
	}()
	// The benchmark's own server has no name to verify.
	if err := tls.Client(here, &tls.Config{Certificates: []tls.Certificate{client}, InsecureSkipVerify: true}).Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
