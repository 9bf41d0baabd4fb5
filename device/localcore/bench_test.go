package localcore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

func startBench(b *testing.B, c localcore.Config) *localcore.Server {
	b.Helper()
	s, err := localcore.Start(context.Background(), c)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

func dialBench(b *testing.B, s *localcore.Server, id string, config *tls.Config, received func(paho.Message)) paho.Client {
	b.Helper()
	host, port := s.Endpoint()
	o := paho.NewClientOptions().AddBroker(fmt.Sprintf("ssl://%s:%d", host, port)).
		SetClientID(id).SetTLSConfig(config).SetAutoReconnect(false).SetProtocolVersion(4).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { received(m) })
	client := paho.NewClient(o)
	if token := client.Connect(); token.Wait() && token.Error() != nil {
		b.Fatal(token.Error())
	}
	return client
}

func claimTLSBench(b *testing.B, s *localcore.Server) *tls.Config {
	b.Helper()
	claim, err := s.Claim().TLS()
	if err != nil {
		b.Fatal(err)
	}
	return &tls.Config{RootCAs: s.RootCAs(), Certificates: []tls.Certificate{*claim}, ServerName: "localhost"}
}

// The aim is under 50 ms.
func BenchmarkStartAndClose(b *testing.B) {
	for b.Loop() {
		s, err := localcore.Start(b.Context(), localcore.Config{Templates: templates})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// One TLS handshake with mutual authentication, CONNECT and CONNACK.
func BenchmarkConnect(b *testing.B) {
	s := startBench(b, localcore.Config{})
	config := claimTLSBench(b, s)
	for b.Loop() {
		dialBench(b, s, "claim-bench", config, nil).Disconnect(0)
	}
}

// A whole enrolment by CSR on an open claim connection, key not counted.
func BenchmarkEnroll(b *testing.B) {
	s := startBench(b, localcore.Config{Templates: templates, HookFunc: allowEvery})
	answers := make(chan paho.Message, 1)
	client := dialBench(b, s, "claim-bench", claimTLSBench(b, s), func(m paho.Message) { answers <- m })
	defer client.Disconnect(0)
	csr := csrBench(b)
	ask := func(topic awsiot.Topic, request, answer any) {
		data, err := json.Marshal(request)
		if err != nil {
			b.Fatal(err)
		}
		client.Publish(topic.String(), 0, false, data)
		select {
		case m := <-answers:
			if m.Topic() != topic.Accepted() {
				b.Fatalf("%s: %s", m.Topic(), m.Payload())
			}
			if err := json.Unmarshal(m.Payload(), answer); err != nil {
				b.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			b.Fatal("no answer")
		}
	}
	n := 0
	for b.Loop() {
		n++
		var made awsiot.CreateCertificateFromCSRResponse
		ask(csrTopic, awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: csr}, &made)
		var done awsiot.RegisterThingResponse
		ask(registerTopic, registration(made.CertificateOwnershipToken, fmt.Sprintf("297468%d", n)), &done)
	}
}

func csrBench(b *testing.B) string {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		b.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// One message of QoS 0 to one subscriber, and to 100, policies evaluated for each.
func BenchmarkPublish(b *testing.B) {
	for _, subscribers := range []int{1, 100} {
		b.Run(fmt.Sprint("to ", subscribers), func(b *testing.B) { benchPublish(b, subscribers) })
	}
}

func benchPublish(b *testing.B, subscribers int) {
	s := startBench(b, localcore.Config{API: localcore.NoAPI})
	if _, err := s.Registry().CreatePolicy("all", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}`); err != nil {
		b.Fatal(err)
	}
	if err := s.Registry().AttachPolicy("all", registry.CertificateTarget(s.Claim().CertificateID)); err != nil {
		b.Fatal(err)
	}
	config := claimTLSBench(b, s)
	var heard sync.WaitGroup
	for i := range subscribers {
		client := dialBench(b, s, fmt.Sprintf("subscriber-%d", i), config, func(paho.Message) { heard.Done() })
		defer client.Disconnect(0)
		if token := client.Subscribe("t", 0, nil); token.Wait() && token.Error() != nil {
			b.Fatal(token.Error())
		}
	}
	publisher := dialBench(b, s, "publisher", config, nil)
	defer publisher.Disconnect(0)
	for b.Loop() {
		heard.Add(subscribers)
		publisher.Publish("t", 0, false, "x")
		heard.Wait()
	}
}

// What a connection costs the server in resident memory: 1,000 are held by a server in a process of
// its own.
func BenchmarkHeldConnections(b *testing.B) {
	const held = 1000
	for b.Loop() {
		r, kill := startChild(b, b.TempDir())
		pair, err := tls.X509KeyPair(r.Claim.CertificatePEM, r.Claim.PrivateKeyPEM)
		if err != nil {
			b.Fatal(err)
		}
		config := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}, ServerName: "localhost"}
		hold(b, r.Port, config, "warm-up")
		before := residentBytes(b, r.PID)
		for i := range held {
			hold(b, r.Port, config, fmt.Sprint("client-", i))
		}
		b.ReportMetric(float64(residentBytes(b, r.PID)-before)/held, "B/connection")
		kill()
	}
}

// hold connects a client of MQTT 3.1.1 that stays.
func hold(b *testing.B, port int, config *tls.Config, id string) {
	b.Helper()
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	variable := "\x00\x04MQTT\x04\x02\x04\xb0\x00" + string(rune(len(id))) + id // clean, 1200 s
	if _, err := conn.Write([]byte("\x10" + string(rune(len(variable))) + variable)); err != nil {
		b.Fatal(err)
	}
	answer := make([]byte, 4)
	if _, err := io.ReadFull(conn, answer); err != nil || answer[3] != 0 {
		b.Fatalf("CONNACK %x, %v", answer, err)
	}
}

// residentBytes returns the resident memory of a process.
func residentBytes(b *testing.B, pid int) int {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		b.Skip("needs /proc: ", err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(data), &size, &resident); err != nil {
		b.Fatal(err)
	}
	return resident * os.Getpagesize()
}

// The first start of a process, which has no keys to share yet. The aim is under 50 ms.
func BenchmarkFirstStart(b *testing.B) {
	var took time.Duration
	for b.Loop() {
		r, kill := startChild(b, "measure")
		kill()
		took += r.Started
	}
	b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "ms/start")
}

// The same with credentials on disk, which an RSA key of the issuer and one of the claim must be
// made for.
func BenchmarkFirstStartWithCredentials(b *testing.B) {
	var took time.Duration
	for b.Loop() {
		r, kill := startChild(b, "measure", childTask+"_CREDENTIALS="+b.TempDir())
		kill()
		took += r.Started
	}
	b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "ms/start")
}
