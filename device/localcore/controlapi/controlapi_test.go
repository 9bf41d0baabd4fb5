package controlapi_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iotdataplane"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/controlapi"
	"example.com/fleety/device/localcore/jobs"
	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/provisioning"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/rules"
	"example.com/fleety/device/localcore/shadow"
	"example.com/fleety/device/localcore/tunnel"
)

const (
	account   = "123456789012"
	arnPrefix = "arn:aws:iot:us-east-1:" + account + ":"
	document  = `{"Version":"2012-10-17","Statement":[]}`
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)

// A core stands in for the parts of the emulator that the API asks.
type core struct {
	published    []*broker.Message
	retained     []*broker.Message
	disconnected []string
	full         error // of publish
}

// evaluate allows connecting and lets policy "deny" deny, as long as they count.
func evaluate(policies []registry.PolicyDocument, action, _ string, _ *policy.Session) policy.Decision {
	for _, p := range policies {
		if p.Name == "deny" {
			return policy.Decision{Policy: "deny", Statement: &policy.Statement{Effect: policy.Deny}}
		}
	}
	if action == "iot:Connect" && len(policies) > 0 {
		return policy.Decision{Allowed: true, Policy: policies[0].Name, Statement: &policy.Statement{Effect: policy.Allow}}
	}
	return policy.Decision{}
}

func (c *core) publish(m *broker.Message) error {
	c.published = append(c.published, m)
	return c.full
}

func (c *core) Retained(topic string) (*broker.Message, bool) {
	for _, m := range c.retained {
		if m.Topic == topic {
			return m, true
		}
	}
	return nil, false
}

func (c *core) AllRetained() []*broker.Message { return c.retained }

func (c *core) Disconnect(clientID string, cleanSession, preventWill bool) bool {
	if cleanSession || preventWill {
		clientID += " with options"
	}
	c.disconnected = append(c.disconnected, clientID)
	return strings.HasPrefix(clientID, "known")
}

// Connections are shown by the tests of package localcore, where there are some.
func (c *core) ConnectionState(string) (broker.ConnectionState, bool) {
	return broker.ConnectionState{}, false
}

func (c *core) Subscriptions(string) (map[string]byte, bool) { return nil, false }

func (c *core) SendDirect(context.Context, string, *broker.Message, bool) error { return nil }

func (c *core) HasThing(string) bool { return false }

func (c *core) Members(string) ([]string, error) { return nil, errors.New("no such group") }

// issue returns a new self-signed certificate in PEM form.
func issue() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(epoch.UnixNano()), NotBefore: epoch, NotAfter: epoch.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func fingerprint(certificatePEM string) string {
	block, _ := pem.Decode([]byte(certificatePEM))
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

// An environment is the API with the SDK's clients for it.
type environment struct {
	core     *core
	registry *registry.Registry
	url      string
	iot      *iot.Client
	data     *iotdataplane.Client
}

func start(t *testing.T) *environment {
	t.Helper()
	e := &environment{core: &core{}}
	now := epoch
	var err error
	object := func(text []byte) error { return json.Unmarshal(text, &map[string]any{}) }
	e.registry, err = registry.Open("", registry.Options{CheckPolicy: object, CheckTemplate: object, Now: func() time.Time {
		now = now.Add(time.Second)
		return now
	}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler(t, e.registry, e.core))
	t.Cleanup(server.Close)
	e.url = server.URL
	e.iot = iot.New(iot.Options{
		Region: "us-east-1", BaseEndpoint: &e.url, Credentials: aws.AnonymousCredentials{}, RetryMaxAttempts: 1,
	})
	e.data = iotdataplane.New(iotdataplane.Options{
		Region: "us-east-1", BaseEndpoint: &e.url, Credentials: aws.AnonymousCredentials{}, RetryMaxAttempts: 1,
	})
	return e
}

func handler(t testing.TB, r *registry.Registry, c *core) http.Handler {
	t.Helper()
	arn := func(resource string) string { return arnPrefix + resource }
	all, err := jobs.Open(jobs.Config{HasThing: c.HasThing, Members: c.Members, ARN: arn, Publish: func(awsiot.Message) {}, Event: func(jobs.Event) {}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	topicRules, err := rules.Open(rules.Config{
		Account: account, Publish: func(rules.Message, byte) error { return nil },
		Thing: func(_, _ string) string { return "" }, HasFunction: func(string) bool { return false },
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		panic(err)
	}
	shadows, err := shadow.Open(shadow.Config{Now: time.Now})
	if err != nil {
		panic(err)
	}
	authority, err := ca.Open("", true)
	if err != nil {
		panic(err)
	}
	return controlapi.New(controlapi.Config{
		Registry: r, Account: account, ARN: arn, Endpoint: "localhost",
		Provisioning: provisioning.New(provisioning.Config{Registry: r, Authority: authority, ARN: arn, Now: time.Now}),
		Session:      func(_, clientID string) *policy.Session { return &policy.Session{ClientID: clientID} }, Evaluate: evaluate,
		Broker: c, Publish: c.publish, Shadows: shadows, Jobs: all, Rules: topicRules,
		Tunnels: tunnel.New(tunnel.Config{
			ARN: arn, Region: "us-east-1", Publish: func(string, []byte) {}, Deleted: func(string) {}, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		}),
	})
}

// must returns v, or ends the test.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// furnish makes a thing, a group, a policy and an active certificate, whose id
// it returns.
func (e *environment) furnish(t *testing.T) (certificateID string) {
	t.Helper()
	must(e.registry.CreateThing(registry.Thing{Name: "thing"}))(t)
	must(e.registry.CreateThingGroup(registry.ThingGroup{Name: "group"}))(t)
	must(e.registry.CreatePolicy("policy", document))(t)
	c := must(e.registry.CreateCertificate(registry.Certificate{PEM: issue(), Status: registry.Active}))(t)
	return c.ID
}
