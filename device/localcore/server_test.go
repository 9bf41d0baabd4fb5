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
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/hook/payload"
)

func TestMain(m *testing.M) {
	if task := os.Getenv(childTask); task != "" {
		os.Exit(runChild(task))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(hookFolder)
		os.Exit(code)
	}))
}

const templates = "../../templates"

// start starts a server that ends with the test.
func start(t *testing.T, c localcore.Config) *localcore.Server {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := localcore.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// allowEvery is a hook that allows every device.
func allowEvery(context.Context, payload.Request) (payload.Response, error) {
	return payload.Response{AllowProvisioning: true}, nil
}

// within bounds a wait.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// tlsConfig returns what a client with this certificate uses.
func tlsConfig(t *testing.T, s *localcore.Server, certPEM, keyPEM []byte) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{RootCAs: s.RootCAs(), Certificates: []tls.Certificate{pair}, ServerName: "localhost"}
}

// A device is a paho client of MQTT 3.1.1 that keeps what it receives.
type device struct {
	paho.Client
	received chan paho.Message
	lost     chan error
}

// dial connects a device, or returns why not.
func dial(t *testing.T, s *localcore.Server, id string, config *tls.Config, adjust ...func(*paho.ClientOptions)) (*device, error) {
	t.Helper()
	d := &device{received: make(chan paho.Message, 100), lost: make(chan error, 1)}
	host, port := s.Endpoint()
	o := paho.NewClientOptions().
		AddBroker(fmt.Sprintf("ssl://%s:%d", host, port)).
		SetClientID(id).SetTLSConfig(config).SetAutoReconnect(false).SetProtocolVersion(4).
		SetConnectTimeout(5 * time.Second).SetOrderMatters(false).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { d.received <- m }).
		SetConnectionLostHandler(func(_ paho.Client, err error) { d.lost <- err })
	for _, f := range adjust {
		f(o)
	}
	d.Client = paho.NewClient(o)
	token := d.Connect()
	if !token.WaitTimeout(10 * time.Second) {
		t.Fatal("no answer to CONNECT")
	}
	t.Cleanup(func() { d.Disconnect(100) })
	return d, token.Error()
}

func mustDial(t *testing.T, s *localcore.Server, id string, config *tls.Config, adjust ...func(*paho.ClientOptions)) *device {
	t.Helper()
	d, err := dial(t, s, id, config, adjust...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// dialClaim connects with the claim of the server.
func dialClaim(t *testing.T, s *localcore.Server) *device {
	t.Helper()
	return mustDial(t, s, "claim-"+t.Name(), claimTLS(t, s))
}

func claimTLS(t *testing.T, s *localcore.Server) *tls.Config {
	t.Helper()
	claim := s.Claim()
	return tlsConfig(t, s, claim.CertificatePEM, claim.PrivateKeyPEM)
}

func (d *device) publish(t *testing.T, topic string, qos byte, payload any) error {
	t.Helper()
	token := d.Publish(topic, qos, false, payload)
	if !token.WaitTimeout(10 * time.Second) {
		t.Fatalf("no PUBACK for %s", topic)
	}
	return token.Error()
}

// next returns the next message.
func (d *device) next(t *testing.T) paho.Message {
	t.Helper()
	select {
	case m := <-d.received:
		return m
	case <-time.After(10 * time.Second):
		t.Fatal("no message came")
		return nil
	}
}

// ask sends a provisioning request and returns the answer.
func (d *device) ask(t *testing.T, topic awsiot.Topic, request any) paho.Message {
	t.Helper()
	data := []byte{}
	if request != nil {
		var err error
		if data, err = json.Marshal(request); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.publish(t, topic.String(), 1, data); err != nil {
		t.Fatal(err)
	}
	return d.next(t)
}

var (
	createTopic   = awsiot.Topic{Operation: awsiot.CreateKeysAndCertificate, Format: awsiot.JSON}
	csrTopic      = awsiot.Topic{Operation: awsiot.CreateCertificateFromCSR, Format: awsiot.JSON}
	registerTopic = awsiot.Topic{Operation: awsiot.RegisterThing, Template: localcore.TemplateName, Format: awsiot.JSON}
)

// accepted decodes an answer that must be one of acceptance.
func accepted[T any](t *testing.T, topic awsiot.Topic, m paho.Message) T {
	t.Helper()
	var answer T
	if m.Topic() != topic.Accepted() {
		t.Fatalf("answer on %s: %s", m.Topic(), m.Payload())
	}
	if err := json.Unmarshal(m.Payload(), &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// rejected decodes an answer that must reject.
func rejected(t *testing.T, topic awsiot.Topic, m paho.Message) awsiot.ErrorResponse {
	t.Helper()
	var answer awsiot.ErrorResponse
	if m.Topic() != topic.Rejected() {
		t.Fatalf("answer on %s: %s", m.Topic(), m.Payload())
	}
	if err := json.Unmarshal(m.Payload(), &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// newCSR makes a P-256 key and a request for it.
func newCSR(t *testing.T) (csrPEM string, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

// enrol provisions a device with a CSR and returns its thing name and how it connects.
func enroll(t *testing.T, s *localcore.Server, serial string) (thing string, config *tls.Config) {
	t.Helper()
	claim := mustDial(t, s, "claim-"+serial, claimTLS(t, s))
	defer claim.Disconnect(100)
	csr, key := newCSR(t)
	made := accepted[awsiot.CreateCertificateFromCSRResponse](t, csrTopic,
		claim.ask(t, csrTopic, awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: csr}))
	done := accepted[awsiot.RegisterThingResponse](t, registerTopic,
		claim.ask(t, registerTopic, registration(made.CertificateOwnershipToken, serial)))
	return done.ThingName, tlsConfig(t, s, []byte(made.CertificatePEM), key)
}

func registration(token awsiot.Secret, serial string) awsiot.RegisterThingRequest {
	return awsiot.RegisterThingRequest{
		CertificateOwnershipToken: token,
		Parameters:                map[string]string{payload.SerialNumber: serial, payload.DeviceLocation: "USA"},
	}
}

func TestCancelledStartFails(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := localcore.Start(ctx, localcore.Config{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestZeroConfigStartsAndCloses(t *testing.T) {
	t.Parallel()
	s, err := localcore.Start(t.Context(), localcore.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestConfigurationThatAWSCannotHaveIsRejected(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]localcore.Config{
		"account of 11 digits": {Account: "12345678901"},
		"no Region":            {Region: "mars"},
		"an endpoint":          {Region: "iot.us-east-1.amazonaws.com"},
		"a zone":               {Region: "us-east-1a"},
		"quotas":               {Quotas: "some"},
		"a function's name":    {Functions: map[string]lambdahost.Config{"a:b": {Path: "x"}}},
		"the hook's name":      {HookFunc: allowEvery, Functions: map[string]lambdahost.Config{"fleet-provisioning-hook": {Path: "x"}}},
	} {
		if s, err := localcore.Start(t.Context(), c); err == nil {
			s.Close()
			t.Errorf("%s: the emulator starts", name)
		}
	}
	for region, partition := range map[string]string{
		"us-gov-west-1": "aws-us-gov", "cn-northwest-1": "aws-cn", "ap-southeast-2": "aws", "us-isob-east-1": "aws-iso-b", "eusc-de-east-1": "aws-eusc",
	} {
		s := start(t, localcore.Config{Region: region})
		if got := s.ARN("thing/a"); got != "arn:"+partition+":iot:"+region+":123456789012:thing/a" {
			t.Errorf("%s: ARN %s", region, got)
		}
	}
}

func TestProvisionedDeviceUsesItsOwnTopic(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	name, config := enroll(t, s, "2974685")
	if name != "fleety_2974685" {
		t.Errorf("thing name %q", name)
	}
	if _, err := s.AwaitThing(within(t), name); err != nil {
		t.Error(err)
	}
	d := mustDial(t, s, name, config)
	if err := d.publish(t, "fleet/"+name, 1, "hello"); err != nil {
		t.Error(err)
	}
}

// quote returns a string as JSON.
func quote(t *testing.T, s string) string {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
