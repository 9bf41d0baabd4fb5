package e2e

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"example.com/fleety/device/awsiot"
)

// BenchmarkBroker compares the emulator with mosquitto: QoS 1, mutual TLS, a
// policy or an access control list for each message. Publishers to subscribers
// are 1 to 1, 100 to 1 and 1 to 100; each publisher has ten messages that are not
// acknowledged at most. The time of a message is from its publish to its arrival
// at a subscriber. Each setting is measured in turns of both, so that other work on
// the machine meets both.
func BenchmarkBroker(b *testing.B) {
	brokers := []struct {
		name  string
		start func(testing.TB) (string, int, *tls.Config)
	}{{"iot_core_local", startEmulator}, {"mosquitto", startMosquitto}}
	for _, size := range []int{128, 4096} {
		for _, shape := range [][2]int{{1, 1}, {100, 1}, {1, 100}} {
			for _, broker := range brokers {
				b.Run(fmt.Sprintf("%d-bytes/%d-to-%d/%s", size, shape[0], shape[1], broker.name), func(b *testing.B) {
					server, pid, config := broker.start(b)
					benchmarkBroker(b, server, pid, config, shape[0], shape[1], size)
				})
			}
		}
	}
}

func benchmarkBroker(b *testing.B, server string, pid int, config *tls.Config, publishers, subscribers, size int) {
	connect := func(id string, received mqtt.MessageHandler) mqtt.Client {
		options := mqtt.NewClientOptions().AddBroker("tls://" + server).SetClientID(id).SetTLSConfig(config).SetOrderMatters(true).SetDefaultPublishHandler(received)
		client := mqtt.NewClient(options)
		if token := client.Connect(); token.Wait() && token.Error() != nil {
			b.Fatal(token.Error())
		}
		b.Cleanup(func() { client.Disconnect(0) })
		return client
	}
	var mu sync.Mutex
	var took []time.Duration
	var arrived atomic.Int64
	began := time.Now()
	for i := range subscribers {
		client := connect(fmt.Sprint("s", i), func(_ mqtt.Client, m mqtt.Message) {
			d := time.Since(began) - time.Duration(binary.BigEndian.Uint64(m.Payload()))
			mu.Lock()
			took = append(took, d)
			mu.Unlock()
			arrived.Add(1)
		})
		if token := client.Subscribe("bench/#", 1, nil); token.Wait() && token.Error() != nil {
			b.Fatal(token.Error())
		}
	}
	clients := make([]mqtt.Client, publishers)
	for i := range clients {
		clients[i] = connect(fmt.Sprint("p", i), nil)
	}
	var next atomic.Int64
	var publishing sync.WaitGroup
	b.ResetTimer()
	cpu, started := cpuTime(b, pid), time.Now()
	for i, client := range clients {
		for range 10 {
			publishing.Go(func() {
				for next.Add(1) <= int64(b.N) {
					payload := make([]byte, size)
					binary.BigEndian.PutUint64(payload, uint64(time.Since(began)))
					if token := client.Publish(fmt.Sprint("bench/", i), 1, false, payload); token.Wait() && token.Error() != nil {
						b.Error(token.Error())
						return
					}
				}
			})
		}
	}
	publishing.Wait()
	want := int64(b.N * subscribers)
	for deadline := time.Now().Add(20 * time.Second); arrived.Load() < want && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	elapsed := time.Since(started)
	b.StopTimer()
	cpu = cpuTime(b, pid) - cpu
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(took)
	b.ReportMetric(float64(len(took))/elapsed.Seconds(), "messages/s")
	b.ReportMetric(float64(want-arrived.Load()), "lost")
	b.ReportMetric(cpu.Seconds()*1e6/float64(b.N), "cpu-µs/message")
	if len(took) > 0 {
		b.ReportMetric(took[len(took)/2].Seconds()*1e3, "ms-median")
		b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "ms-p99")
	}
}

// startEmulator starts the built emulator and gives its claim the right to do
// everything.
func startEmulator(t testing.TB) (server string, pid int, config *tls.Config) {
	return startServe(t, build(t, localCore))
}

func startServe(t testing.TB, binary string) (server string, pid int, config *tls.Config) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), binary, "serve", "--json", "--log-level", "error", "--hook", "none",
		"--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--credentials", dir)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var ready struct {
		Port int
		API  string
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, stdout) }()
	claim := filepath.Join(dir, "fleet-provisioning")
	pair, err := tls.LoadX509KeyPair(claim+".certificate.pem", claim+".private.key")
	if err != nil {
		t.Fatal(err)
	}
	post(t, http.MethodPost, ready.API+"/policies/all", nil, `{"policyDocument": "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"iot:*\",\"Resource\":\"*\"}]}"}`)
	post(t, http.MethodPut, ready.API+"/principal-policies/all", http.Header{"X-Amzn-Iot-Principal": {"arn:aws:iot:us-east-1:123456789012:cert/" + awsiot.CertificateID(pair.Leaf)}}, "")
	return fmt.Sprintf("localhost:%d", ready.Port), cmd.Process.Pid, &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: rootsIn(t, filepath.Join(dir, "root.ca.bundle.pem")), ServerName: "localhost"}
}

func post(t testing.TB, method, url string, header http.Header, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		request.Header = header
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, _ := io.ReadAll(answer.Body); answer.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s %s", method, url, answer.Status, text)
	}
}

func rootsIn(t testing.TB, path string) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(path)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(text) {
		t.Fatalf("%s has no certificate: %v", path, err)
	}
	return roots
}

// startMosquitto starts mosquitto as it is used with certificates: the client's
// name is that of its certificate, and a list says which topics it may use.
func startMosquitto(t testing.TB) (server string, pid int, config *tls.Config) {
	binary := needTool(t, "mosquitto")
	dir, port := t.TempDir(), stablePort(t)
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root, err := x509.CreateCertificate(rand.Reader, template, template, rootKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	parent, err := x509.ParseCertificate(root)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		writeFile(t, path, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})), 0o600)
		return path
	}
	write("root.pem", "CERTIFICATE", root)
	for i, name := range []string{"localhost", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		leaf := &x509.Certificate{SerialNumber: big.NewInt(int64(2 + i)), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, leaf, parent, key.Public(), rootKey)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".pem", "CERTIFICATE", der)
		write(name+".key", "PRIVATE KEY", keyDER)
	}
	writeFile(t, filepath.Join(dir, "acl"), "user client\ntopic readwrite bench/#\n", 0o600)
	writeFile(t, filepath.Join(dir, "mosquitto.conf"), fmt.Sprintf(`user root
listener %d 127.0.0.1
cafile %[2]s/root.pem
certfile %[2]s/localhost.pem
keyfile %[2]s/localhost.key
require_certificate true
use_identity_as_username true
acl_file %[2]s/acl
set_tcp_nodelay true
max_queued_messages 0
`, port, dir), 0o600)
	cmd := exec.CommandContext(t.Context(), binary, "-c", filepath.Join(dir, "mosquitto.conf"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	server = fmt.Sprintf("localhost:%d", port)
	for {
		if conn, err := net.Dial("tcp", server); err == nil {
			conn.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.pem"), filepath.Join(dir, "client.key"))
	if err != nil {
		t.Fatal(err)
	}
	return server, cmd.Process.Pid, &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: rootsIn(t, filepath.Join(dir, "root.pem")), ServerName: "localhost"}
}
