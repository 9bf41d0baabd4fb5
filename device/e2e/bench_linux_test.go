package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"testing"
	"time"
)

// BenchmarkBootstrap measures the binary from its start to its end, with a new
// device each time, over links with round trips of 0, 50 and 200 ms. x-floor is
// the time in multiples of what the bare cryptography and its round trips
// take here and now; see floor.
func BenchmarkBootstrap(b *testing.B) {
	fmt.Printf("limits: %d binary-bytes, %d peak-bytes, 7 round-trips to the second CONNACK\n", maxBinarySize, maxMemory)
	fmt.Println("peers: AWS's C++ client: 8.2 MB and 5 MB of shared libraries, 13.0 MB of memory, 2.13 to 3.08 s at 200 ms; others: 10 to 16 round trips")
	s := newSite(b, shipped)
	for _, flow := range flows {
		for _, rtt := range []time.Duration{0, 50 * time.Millisecond, 200 * time.Millisecond} {
			b.Run(fmt.Sprintf("%s-keys/%v", flow, rtt), func(b *testing.B) { s.benchmark(b, flow, rtt) })
		}
	}
}

func (s *site) benchmark(b *testing.B, flow string, rtt time.Duration) {
	link := newLink(b, s.cloud.address(), rtt/2)
	defer link.close()
	bare := newFloor(b, s.cloud, rtt)
	defer bare.close()

	var took, floor, cpu time.Duration
	var roundTrips int
	for b.Loop() {
		b.StopTimer()
		floor += bare.run(b)
		d := s.deviceAt(b, flow, link.port())
		b.StartTimer()
		o := d.mustRun(b)
		took += o.took
		cpu += o.state.UserTime() + o.state.SystemTime()
		roundTrips += o.result.RoundTrips.Total
	}
	peak := s.deviceAt(b, flow, link.port()).peakMemory(b)
	n := float64(b.N)
	b.ReportMetric(float64(took)/float64(floor), "x-floor")
	b.ReportMetric(float64(roundTrips)/n, "round-trips/op")
	b.ReportMetric(cpu.Seconds()*1e3/n, "cpu-ms/op")
	b.ReportMetric(float64(peak), "peak-bytes")
	b.ReportMetric(float64(sizeOf(b, s.binary)), "binary-bytes")
}

// A floor is what no bootstrap can do without: a key, a CSR, and two
// connections one after the other, each with TCP, mutual TLS and one answer.
// It starts no process and writes no file.
type floor struct {
	link     *link
	listener net.Listener
	claim    tls.Certificate
	roots    *x509.CertPool
}

func newFloor(b *testing.B, c *cloud, rtt time.Duration) *floor {
	b.Helper()
	claim, err := c.Claim().TLS()
	if err != nil {
		b.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	server := selfSigned(b, key)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{server},
		ClientAuth:   tls.RequireAnyClientCert,
	})
	if err != nil {
		b.Fatal(err)
	}
	go answerEach(l)
	f := &floor{link: newLink(b, l.Addr().String(), rtt/2), listener: l, claim: *claim, roots: x509.NewCertPool()}
	f.roots.AddCert(server.Leaf)
	return f
}

func (f *floor) close() {
	f.listener.Close()
	f.link.close()
}

// answerEach sends one byte over each connection once its client is known.
func answerEach(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = conn.Write([]byte{0}) // the client has its own deadline
		}()
	}
}

func (f *floor) run(b *testing.B) time.Duration {
	b.Helper()
	began := time.Now()
	f.connect(b, f.claim)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key); err != nil {
		b.Fatal(err)
	}
	f.connect(b, selfSigned(b, key))
	return time.Since(began)
}

func (f *floor) connect(b *testing.B, c tls.Certificate) {
	b.Helper()
	conn, err := tls.Dial("tcp", f.link.Addr().String(), &tls.Config{
		ServerName:   "localhost",
		RootCAs:      f.roots,
		Certificates: []tls.Certificate{c},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
}

// selfSigned returns a certificate for localhost.
func selfSigned(b *testing.B, key crypto.Signer) tls.Certificate {
	b.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "localhost"},
		DNSNames:     []string{"localhost"},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		b.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}
