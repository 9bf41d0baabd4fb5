package provision_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// A fakeAWS answers as the test configures it, over pipes, so that it works in a
// bubble whose clock does not wait. It requires what AWS IoT does: certificates of
// its CA that are active, subscriptions before answers, one CONNECT a second for
// a client id.
type fakeAWS struct {
	t      *testing.T
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	server *tls.Config
	claim  *tls.Certificate
	conns  sync.WaitGroup
	rtt    time.Duration // of the network

	mu         sync.Mutex
	active     map[string]bool      // certificates, by id
	issued     []string             // ids, in order
	connected  map[string]time.Time // by client id
	rejected   map[string]any       // by operation: sent instead of an answer
	registered any                  // the accepted answer of RegisterThing; nil is the usual one
	rsaBits    int                  // of keys of the service
	cut        func(packet packets.ControlPacket) bool
	loseEarly  bool   // answers that come before the SUBACK are lost
	unknown    int    // CONNECTs of devices that are rejected first
	stuffing   string // before and after certificatePem
	chatter    int    // messages of another topic before each answer
	requests   map[string]int
}

func newFakeAWS(t *testing.T) *fakeAWS {
	f := &fakeAWS{
		t: t, active: map[string]bool{}, connected: map[string]time.Time{}, rejected: map[string]any{},
		requests: map[string]int{}, rsaBits: 2048,
	}
	f.caKey = newKey(t)
	root := &x509.Certificate{Subject: pkix.Name{CommonName: "Test Root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	f.ca = root
	f.ca = f.issue(root, f.caKey.Public())
	key := newKey(t)
	leaf := f.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "aws"}, DNSNames: []string{"localhost"}}, key.Public())
	pool := x509.NewCertPool()
	pool.AddCert(f.ca)
	f.server = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
	}
	f.claim = f.newClaim(nil)
	return f
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a certificate that is valid at all times of the tests, that of a
// bubble (2000) included.
func (f *fakeAWS) issue(c *x509.Certificate, key any) *x509.Certificate {
	c.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	if c.NotBefore.IsZero() {
		c.NotBefore = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	c.NotAfter = time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC)
	der, err := x509.CreateCertificate(rand.Reader, c, f.ca, key, f.caKey)
	if err != nil {
		f.t.Error(err)
		return c
	}
	cert, _ := x509.ParseCertificate(der)
	return cert
}

func (f *fakeAWS) newClaim(change func(*x509.Certificate)) *tls.Certificate {
	c := &x509.Certificate{Subject: pkix.Name{CommonName: "claim"}}
	if change != nil {
		change(c)
	}
	key := newKey(f.t)
	leaf := f.issue(c, key.Public())
	f.active[awsiot.CertificateID(leaf)] = true
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func (f *fakeAWS) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(f.ca)
	return pool
}

// dial opens a connection to the fake.
func (f *fakeAWS) dial(context.Context, string, string) (net.Conn, error) {
	client, near := net.Pipe()
	server := near
	if f.rtt > 0 {
		time.Sleep(f.rtt) // SYN, SYN-ACK
		var far net.Conn
		far, server = net.Pipe()
		f.conns.Go(func() { delay(far, near, f.rtt/2) })
		f.conns.Go(func() { delay(near, far, f.rtt/2) })
	}
	f.conns.Go(func() {
		defer server.Close()
		f.serve(tls.Server(server, f.server))
	})
	return client, nil
}

// delay copies from one connection to another, each byte d later.
func delay(to, from net.Conn, d time.Duration) {
	type parcel struct {
		data []byte
		due  time.Time
	}
	parcels := make(chan parcel, 1000)
	go func() {
		defer close(parcels)
		for {
			buffer := make([]byte, 16<<10)
			n, err := from.Read(buffer)
			if err != nil {
				return
			}
			parcels <- parcel{buffer[:n], time.Now().Add(d)}
		}
	}()
	for p := range parcels {
		time.Sleep(time.Until(p.due))
		to.Write(p.data)
	}
	to.Close()
}

func (f *fakeAWS) serve(conn *tls.Conn) {
	if conn.Handshake() != nil {
		return
	}
	id := awsiot.CertificateID(conn.ConnectionState().PeerCertificates[0])
	subscribed := map[string]bool{}
	connected := false
	for {
		packet, err := packets.ReadPacket(conn)
		if err != nil {
			return
		}
		f.mu.Lock()
		cut := f.cut != nil && f.cut(packet) || !f.active[id]
		f.mu.Unlock()
		if cut {
			return
		}
		switch p := packet.(type) {
		case *packets.ConnectPacket:
			f.mu.Lock()
			last, again := f.connected[p.ClientIdentifier]
			f.connected[p.ClientIdentifier] = time.Now()
			f.mu.Unlock()
			if again && time.Since(last) < time.Second {
				f.t.Errorf("client id %s connected twice within a second", p.ClientIdentifier)
			}
			connack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
			f.mu.Lock()
			if !strings.HasPrefix(p.ClientIdentifier, "claim-") && f.unknown > 0 {
				f.unknown--
				connack.ReturnCode = packets.ErrRefusedNotAuthorised
			}
			f.mu.Unlock()
			connack.Write(conn)
			if connected = connack.ReturnCode == packets.Accepted; !connected {
				return
			}
		case *packets.SubscribePacket:
			suback := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			suback.MessageID, suback.ReturnCodes = p.MessageID, p.Qoss
			suback.Write(conn)
			if f.loseEarly {
				time.AfterFunc(time.Second, func() {
					f.mu.Lock()
					defer f.mu.Unlock()
					for _, topic := range p.Topics {
						subscribed[topic] = true
					}
				})
				break
			}
			for _, topic := range p.Topics {
				subscribed[topic] = true
			}
		case *packets.PublishPacket:
			if !connected {
				f.t.Error("PUBLISH before CONNECT")
			}
			puback := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			puback.MessageID = p.MessageID
			puback.Write(conn)
			topic, ok := awsiot.ParseTopic(p.TopicName)
			if !ok {
				continue
			}
			f.mu.Lock()
			suffix, answer := f.answer(topic, p.Payload)
			lost := f.loseEarly && !subscribed[p.TopicName+suffix]
			f.mu.Unlock()
			if lost {
				continue
			}
			if !subscribed[p.TopicName+suffix] {
				f.t.Errorf("%s was requested before its answer was subscribed to", p.TopicName)
			}
			for range f.chatter {
				send(conn, "other/topic", "x")
			}
			send(conn, p.TopicName+suffix, answer)
		}
	}
}

func send(conn net.Conn, topic string, payload any) {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName = topic
	if text, ok := payload.(string); ok {
		p.Payload = []byte(text)
	} else {
		p.Payload, _ = json.Marshal(payload)
	}
	p.Write(conn)
}

// answer does what a request asks for. The caller holds mu.
func (f *fakeAWS) answer(topic awsiot.Topic, payload []byte) (suffix string, answer any) {
	f.requests[string(topic.Operation)]++
	if rejection := f.rejected[string(topic.Operation)]; rejection != nil {
		return "/rejected", rejection
	}
	if topic.Operation == awsiot.RegisterThing {
		var request struct {
			Token      string            `json:"certificateOwnershipToken"`
			Parameters map[string]string `json:"parameters"`
		}
		if err := json.Unmarshal(payload, &request); err != nil || !strings.HasPrefix(request.Token, "token-") {
			f.t.Errorf("RegisterThing with %s", payload)
		}
		f.active[strings.TrimPrefix(request.Token, "token-")] = true
		if f.registered != nil {
			return "/accepted", f.registered
		}
		return "/accepted", map[string]any{"thingName": "fleety_" + request.Parameters["serialNumber"], "deviceConfiguration": map[string]any{}}
	}
	response := map[string]any{}
	var key any
	if topic.Operation == awsiot.CreateKeysAndCertificate {
		private, err := rsa.GenerateKey(rand.Reader, f.rsaBits)
		if err != nil {
			f.t.Error(err)
		}
		key = private.Public()
		response["privateKey"] = string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}))
	} else {
		var request struct{ CertificateSigningRequest string }
		json.Unmarshal(payload, &request)
		block, _ := pem.Decode([]byte(request.CertificateSigningRequest))
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			f.t.Error(err)
		}
		key = csr.PublicKey
	}
	cert := f.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "AWS IoT Certificate"}}, key)
	id := awsiot.CertificateID(cert)
	f.issued = append(f.issued, id)
	response["certificateId"] = id
	response["certificatePem"] = f.stuffing + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})) + f.stuffing
	response["certificateOwnershipToken"] = "token-" + id
	return "/accepted", response
}

// A fakeDevice provisions against a fakeAWS, with AWS's timing, in a bubble.
type fakeDevice struct {
	aws    *fakeAWS
	store  *identity.Store
	config provision.Config
}

// inBubble runs a test with a fake that was made outside, since keys take time.
func inBubble(t *testing.T, test func(t *testing.T, d *fakeDevice)) {
	t.Helper()
	aws := newFakeAWS(t)
	synctest.Test(t, func(t *testing.T) {
		store, err := identity.NewMemoryStore(identity.Config{SerialNumber: serial})
		if err != nil {
			t.Fatal(err)
		}
		test(t, &fakeDevice{aws: aws, store: store, config: provision.Config{
			Store:      store,
			Session:    session.Options{Endpoint: "localhost", RootCAs: aws.roots(), Proxy: "direct", DialContext: aws.dial},
			Claims:     []*tls.Certificate{aws.claim},
			Template:   "T",
			Parameters: map[string]string{"serialNumber": serial},
		}})
		aws.conns.Wait()
	})
}

// run runs once, for at most timeout.
func (d *fakeDevice) run(t *testing.T, timeout time.Duration, change ...func(*provision.Config)) (*provision.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	c := d.config
	for _, f := range change {
		f(&c)
	}
	defer synctest.Wait() // until the fake has dealt with the last packets
	return provision.Run(ctx, c)
}
