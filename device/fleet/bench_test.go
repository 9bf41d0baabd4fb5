//go:build unix

package fleet_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/fleet"
	"example.com/fleety/hook/payload"
)

// BenchmarkEnrollment enrolls devices against an emulator in the same process, and does the bare
// cryptography of as many devices in the same run, a tenth of each in turns. Metrics:
//
//	devices/s   enrolled in a second, device and emulator together
//	floor/s     devices whose cryptography alone can be done in a second
//	%floor      the first in per cent of the second
//	%floor-CPU  the same by CPU time, which other work on the machine hardly
//	            changes
func BenchmarkEnrollment(b *testing.B) {
	defer runtime.KeepAlive(make([]byte, 32<<20)) // the ballasts of iot_core_local and iot_fleet
	core := startEmulator(b)
	f := newFloor(b)
	c := newConfig(b, core, b.N)
	c.Load.Concurrency = 4 * runtime.GOMAXPROCS(0)
	rounds := min(4, b.N)
	b.ResetTimer()

	var enrolling, enrolCPU, floor, floorCPU time.Duration
	for i := range rounds {
		c.Shard = fleet.Shard{Index: i + 1, Of: rounds}
		var r *fleet.Report
		elapsed, cpu := took(func() { r = enroll(b, c) })
		enrolling, enrolCPU = enrolling+elapsed, enrolCPU+cpu
		if r.Counts.Enrolled != r.Counts.Devices {
			b.Errorf("counts are %+v, failures %+v", r.Counts, r.Failures)
		}
		elapsed, cpu = took(func() { f.devices(b, r.Counts.Devices) })
		floor, floorCPU = floor+elapsed, floorCPU+cpu
	}
	b.ReportMetric(float64(b.N)/enrolling.Seconds(), "devices/s")
	b.ReportMetric(float64(b.N)/floor.Seconds(), "floor/s")
	b.ReportMetric(100*floor.Seconds()/enrolling.Seconds(), "%floor")
	b.ReportMetric(100*floorCPU.Seconds()/enrolCPU.Seconds(), "%floor-CPU")
	b.ReportMetric(1000*enrolCPU.Seconds()/float64(b.N), "CPU-ms/device")
}

// took returns what work took of the clock and of the processors.
func took(work func()) (elapsed, cpu time.Duration) {
	used := func() time.Duration {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			panic(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	began, before := time.Now(), used()
	work()
	return time.Since(began), used() - before
}

// A floor is the least that an enrollment takes: two mutual TLS handshakes, one certificate request
// with its key, one signature under a certificate. Keys are of the kinds that AWS and the local
// emulator use: the claim's and the issuer's RSA, the server's and the device's P-256.
type floor struct {
	server *tls.Config
	roots  *x509.CertPool
	claim  tls.Certificate
	issuer *x509.Certificate
	signer crypto.Signer
}

func newFloor(b *testing.B) *floor {
	b.Helper()
	rsaKey := func() crypto.Signer {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			b.Fatal(err)
		}
		return key
	}
	f := &floor{signer: rsaKey(), roots: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issuer"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	f.issuer = f.sign(b, template, template, f.signer.Public(), f.signer)

	rootKey, serverKey := p256(b), p256(b)
	root := f.sign(b, template, template, rootKey.Public(), rootKey)
	f.roots.AddCert(root)
	leaf := *template
	leaf.IsCA, leaf.KeyUsage, leaf.DNSNames = false, x509.KeyUsageDigitalSignature, []string{"localhost"}
	server := f.sign(b, &leaf, root, serverKey.Public(), rootKey)
	f.server = &tls.Config{
		Certificates:           []tls.Certificate{{Certificate: [][]byte{server.Raw}, PrivateKey: serverKey, Leaf: server}},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
	}
	claimKey := rsaKey()
	claim := f.sign(b, &leaf, f.issuer, claimKey.Public(), f.signer)
	f.claim = tls.Certificate{Certificate: [][]byte{claim.Raw}, PrivateKey: claimKey, Leaf: claim}
	return f
}

func (f *floor) sign(b *testing.B, template, parent *x509.Certificate, public crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		b.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func p256(b *testing.B) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	return key
}

// devices does the cryptography of n devices on all processors.
func (f *floor) devices(b *testing.B, n int) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for next.Add(1) <= int64(n) {
				f.device(b)
			}
		})
	}
	workers.Wait()
}

func (f *floor) device(b *testing.B) {
	f.handshake(b, f.claim)
	key := p256(b)
	if _, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: payload.SerialPrefix}}, key); err != nil {
		b.Error(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: f.issuer.NotBefore, NotAfter: f.issuer.NotAfter}
	der, err := x509.CreateCertificate(rand.Reader, template, f.issuer, key.Public(), f.signer)
	if err != nil {
		b.Error(err)
		return
	}
	f.handshake(b, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
}

// handshake makes a connection without a network.
func (f *floor) handshake(b *testing.B, c tls.Certificate) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	client := tls.Client(here, &tls.Config{ServerName: "localhost", RootCAs: f.roots, Certificates: []tls.Certificate{c}})
	server := tls.Server(there, f.server)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Handshake(); err != nil {
			b.Error(err)
		}
	})
	if err := client.Handshake(); err != nil {
		b.Error(err)
	}
	serving.Wait()
}
