package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
)

const (
	ours   = "fleety_2974685" // the thing of the device that tries to break out
	theirs = "fleety_2974686" // the thing of another device

	patience = 20 * time.Second
)

// A realm is an emulator with the real policies and the real hook, in which a
// party tries to do more than its credential allows.
type realm struct {
	*localcore.Server
	claim, device, victim party
	verdicts              verdicts
}

// A party holds a certificate.
type party struct {
	tls.Certificate
	client string // the client id that its policy grants
	policy string
}

// id is the id of the party's certificate.
func (p party) id() string {
	digest := sha256.Sum256(p.Certificate.Certificate[0])
	return hex.EncodeToString(digest[:])
}

// thing is the thing that the party connects as, if it is a device.
func (p party) thing() string {
	if p.policy == localcore.DevicePolicyName {
		return p.client
	}
	return ""
}

// hook is the pre-provisioning hook, built for this machine.
var hook = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binDir, "bootstrap")
	return path, runTool("go", "-C", filepath.Join("..", "..", "hook"), "build", "-tags", "lambda.norpc", "-o", path, ".")
})

func startRealm(t *testing.T) *realm {
	t.Helper()
	r := &realm{verdicts: make(verdicts, 256)}
	s, err := localcore.Start(t.Context(), localcore.Config{
		Templates: filepath.Join("..", "..", "templates"), Hook: build(t, hook), Log: slog.New(r.verdicts),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	r.Server = s
	r.claim = claimOf(t, s.Claim(), "claim-intruder")
	r.device = r.enroll(t, "2974685")
	r.victim = r.enroll(t, "2974686")
	return r
}

func claimOf(t *testing.T, c localcore.Credential, client string) party {
	t.Helper()
	cert, err := tls.X509KeyPair(c.CertificatePEM, c.PrivateKeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return party{cert, client, localcore.ClaimPolicyName}
}

// enroll provisions a device.
func (r *realm) enroll(t *testing.T, serial string) party {
	t.Helper()
	c := r.mustConnect(t, r.claim)
	defer c.Close()
	p, token := c.certificate()
	var registered awsiot.RegisterThingResponse
	c.must(registerTopic, registration(token, serial), &registered)
	p.client = registered.ThingName
	return p
}

var registerTopic = awsiot.Topic{Operation: awsiot.RegisterThing, Template: localcore.TemplateName, Format: awsiot.JSON}

// registration asks for a thing. The fields of the request are written out, for
// requests that our own types do not allow.
func registration(token awsiot.Secret, serial string) map[string]any {
	return map[string]any{
		"certificateOwnershipToken": string(token),
		"parameters":                map[string]string{"serialNumber": serial, "deviceLocation": "USA"},
	}
}

// An intruder is an MQTT connection that sends what no client library would.
type intruder struct {
	t *testing.T
	net.Conn
}

// dial makes the TLS connection of a party.
func (r *realm) dial(t *testing.T, p party) (*intruder, error) {
	t.Helper()
	_, port := r.Endpoint()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String(), &tls.Config{
		ServerName: "localhost", RootCAs: r.RootCAs(), Certificates: []tls.Certificate{p.Certificate},
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	return &intruder{t, conn}, nil
}

// connect dials and sends a CONNECT, which adjust may change. The answer is nil
// when the connection was closed instead.
func (r *realm) connect(t *testing.T, p party, adjust func(*packets.ConnectPacket)) (*intruder, *packets.ConnackPacket) {
	t.Helper()
	c, err := r.dial(t, p)
	if err != nil {
		t.Fatal(err)
	}
	connect := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	connect.ProtocolName, connect.ProtocolVersion = "MQTT", 4
	connect.ClientIdentifier, connect.CleanSession, connect.Keepalive = p.client, true, 60
	if adjust != nil {
		adjust(connect)
	}
	c.send(connect)
	ack, _ := c.next().(*packets.ConnackPacket)
	return c, ack
}

// mustConnect connects as the party is entitled to.
func (r *realm) mustConnect(t *testing.T, p party) *intruder {
	t.Helper()
	c, ack := r.connect(t, p, nil)
	if ack == nil || ack.ReturnCode != 0 {
		t.Fatalf("%s could not connect: %v", p.client, ack)
	}
	return c
}

// send sends a packet. That the other end has closed shows when reading.
func (c *intruder) send(p packets.ControlPacket) { _ = p.Write(c.Conn) }

// next returns the next packet, nil when the connection was closed.
func (c *intruder) next() packets.ControlPacket {
	c.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	p, err := packets.ReadPacket(c.Conn)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		c.t.Fatal("the connection stays open, and nothing comes")
	}
	return p
}

// publish sends a message with QoS 1.
func (c *intruder) publish(topic string, payload []byte, retain bool) {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos, p.MessageID, p.Retain = topic, payload, 1, 1, retain
	c.send(p)
}

func (c *intruder) subscribe(filter string) {
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.Topics, p.Qoss, p.MessageID = []string{filter}, []byte{1}, 2
	c.send(p)
}

func (c *intruder) mustSubscribe(filter string) {
	c.t.Helper()
	c.subscribe(filter)
	if ack, ok := c.next().(*packets.SubackPacket); !ok || ack.ReturnCodes[0] != 1 {
		c.t.Fatalf("subscribing to %s: %v", filter, ack)
	}
}

// ask sends a provisioning request and returns the answer.
func (c *intruder) ask(topic awsiot.Topic, request any) (answer []byte, accepted bool) {
	c.t.Helper()
	p := packetAfter(c, topic, request)
	if p == nil {
		c.t.Fatalf("the connection was closed instead of answering on %s", topic)
	}
	return p.Payload, p.TopicName == topic.Accepted()
}

// must sends a provisioning request that must be accepted.
func (c *intruder) must(topic awsiot.Topic, request, response any) {
	c.t.Helper()
	answer, accepted := c.ask(topic, request)
	if !accepted {
		c.t.Fatalf("%s was rejected: %s", topic, answer)
	}
	if err := json.Unmarshal(answer, response); err != nil {
		c.t.Fatal(err)
	}
}

// certificate has a certificate made for a new key. Until a thing is registered
// with the token it is pending.
func (c *intruder) certificate() (party, awsiot.Secret) {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), key)
	if err != nil {
		c.t.Fatal(err)
	}
	var made awsiot.CreateCertificateFromCSRResponse
	c.must(awsiot.Topic{Operation: awsiot.CreateCertificateFromCSR, Format: awsiot.JSON}, awsiot.CreateCertificateFromCSRRequest{
		CertificateSigningRequest: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
	}, &made)
	block, _ := pem.Decode([]byte(made.CertificatePEM))
	return party{tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}, ours, localcore.DevicePolicyName}, made.CertificateOwnershipToken
}

// verdicts takes the reasons of the hook's decisions out of the emulator's
// log, where its lines end up.
type verdicts chan string

func (v verdicts) Enabled(context.Context, slog.Level) bool { return true }
func (v verdicts) WithAttrs([]slog.Attr) slog.Handler       { return v }
func (v verdicts) WithGroup(string) slog.Handler            { return v }

func (v verdicts) Handle(_ context.Context, line slog.Record) error {
	if line.Message != "decision" {
		return nil
	}
	line.Attrs(func(a slog.Attr) bool {
		if a.Key == "reason" {
			v <- a.Value.String()
		}
		return true
	})
	return nil
}

// await waits until the hook has decided for this reason.
func (v verdicts) await(t *testing.T, reason string) {
	t.Helper()
	var others []string
	for {
		select {
		case got := <-v:
			if got == reason {
				return
			}
			others = append(others, got)
		case <-time.After(patience):
			t.Fatalf("the hook decided because of %q, never of %q", others, reason)
		}
	}
}
