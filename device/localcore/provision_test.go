package localcore_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/hook/payload"
)

// pending gets a certificate with its token for a connected claim.
func pending(t *testing.T, claim *device) awsiot.CreateCertificateFromCSRResponse {
	t.Helper()
	csr, _ := newCSR(t)
	return accepted[awsiot.CreateCertificateFromCSRResponse](t, csrTopic,
		claim.ask(t, csrTopic, awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: csr}))
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html:
// a device connects with its claim, gets keys and certificate, registers and connects with them.
func TestDeviceProvisionsWithKeysOfTheService(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	claim := dialClaim(t, s)
	made := accepted[awsiot.CreateKeysAndCertificateResponse](t, createTopic, claim.ask(t, createTopic, nil))
	if !strings.HasPrefix(string(made.PrivateKey), "-----BEGIN RSA PRIVATE KEY-----\n") {
		t.Error("the private key is not PKCS #1 in PEM form")
	}
	done := accepted[awsiot.RegisterThingResponse](t, registerTopic,
		claim.ask(t, registerTopic, registration(made.CertificateOwnershipToken, "2974681")))
	want := awsiot.RegisterThingResponse{
		ThingName:           "fleety_2974681",
		DeviceConfiguration: map[string]any{"FallbackUrl": "https://www.example.com/test-site", "LocationUrl": "https://ameri.ca"},
	}
	if diff := cmp.Diff(want, done); diff != "" {
		t.Error(diff)
	}
	d := mustDial(t, s, done.ThingName, tlsConfig(t, s, []byte(made.CertificatePEM), []byte(made.PrivateKey)))
	if err := d.publish(t, "fleet/"+done.ThingName, 1, "born"); err != nil {
		t.Error(err)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/fleet-provision-api.html:
// RegisterThing makes the thing, activates the certificate, and attaches thing and policies to it.
func TestRegistryAfterRegisterThing(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	claim := dialClaim(t, s)
	made := pending(t, claim)
	if c, _ := s.Registry().CertificateByID(made.CertificateID); c.Status != registry.PendingActivation {
		t.Errorf("status before: %s", c.Status)
	}
	accepted[awsiot.RegisterThingResponse](t, registerTopic,
		claim.ask(t, registerTopic, registration(made.CertificateOwnershipToken, "2974682")))
	if c, _ := s.Registry().CertificateByID(made.CertificateID); c.Status != registry.Active {
		t.Errorf("status after: %s", c.Status)
	}
	thing, err := s.Registry().DescribeThing("fleety_2974682")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"version": "v1", "serialNumber": "2974682"}, thing.Attributes); thing.Type != "fleety" || diff != "" {
		t.Errorf("type %q, attributes %s", thing.Type, diff)
	}
	groups, err := s.Registry().ListThingGroupsForThing("fleety_2974682")
	if err != nil || !cmp.Equal(groups, []string{"fleet-provisioning-group"}) {
		t.Errorf("groups %q, %v", groups, err)
	}
	policies, err := s.Registry().ListAttachedPolicies(registry.CertificateTarget(made.CertificateID), false)
	if err != nil || !cmp.Equal(policies, []string{"GoIoTDevicePolicy", "GoIoTRotationPolicy"}) {
		t.Errorf("policies %q, %v", policies, err)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/fleet-provision-api.html:
// the format in the topic, JSON or CBOR, is that of both payloads.
func TestCBORIsSpokenLikeJSON(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	claim := dialClaim(t, s)
	topic := awsiot.Topic{Operation: awsiot.CreateCertificateFromCSR, Format: awsiot.CBOR}
	csr, _ := newCSR(t)
	request, err := cbor.Marshal(map[string]string{"certificateSigningRequest": csr})
	if err != nil {
		t.Fatal(err)
	}
	if err := claim.publish(t, topic.String(), 1, request); err != nil {
		t.Fatal(err)
	}
	var made map[string]string
	if m := claim.next(t); m.Topic() != topic.Accepted() || cbor.Unmarshal(m.Payload(), &made) != nil {
		t.Fatalf("answer on %s: %x", m.Topic(), m.Payload())
	}
	topic = awsiot.Topic{Operation: awsiot.RegisterThing, Template: localcore.TemplateName, Format: awsiot.CBOR}
	request, err = cbor.Marshal(map[string]any{
		"certificateOwnershipToken": made["certificateOwnershipToken"],
		"parameters":                map[string]string{"serialNumber": "2974683", "deviceLocation": "Berlin"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := claim.publish(t, topic.String(), 1, request); err != nil {
		t.Fatal(err)
	}
	var done struct {
		ThingName           string            `json:"thingName"`
		DeviceConfiguration map[string]string `json:"deviceConfiguration"`
	}
	m := claim.next(t)
	if err := cbor.Unmarshal(m.Payload(), &done); err != nil || m.Topic() != topic.Accepted() {
		t.Fatalf("answer on %s: %v", m.Topic(), err)
	}
	if done.ThingName != "fleety_2974683" || done.DeviceConfiguration["LocationUrl"] != "https://www.berlin.de" {
		t.Errorf("answer %+v", done)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/reserved-topics.html:
// answers of provisioning come directly, subscribed or not, and no other client sees them.
func TestRepliesGoToTheRequestingConnectionOnly(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{Templates: templates})
	listener := s.connect(t, 4, "listener")
	listener.mustSubscribe(1, csrTopic.String()+"/#", "$aws/certificates/#")
	asker := s.connect(t, 4, "asker") // without a subscription
	csr, _ := newCSR(t)
	asker.publish(csrTopic.String(), 1, `{"certificateSigningRequest":`+quote(t, csr)+`}`)
	asker.receive(packets.Puback)
	if m := asker.receive(packets.Publish); m.TopicName != csrTopic.Accepted() || m.FixedHeader.Qos != 0 {
		t.Errorf("answer on %s with QoS %d", m.TopicName, m.FixedHeader.Qos)
	}
	if seen := listener.settled(); len(seen) > 0 {
		t.Errorf("another client saw %d messages, on %s", len(seen), seen[0].TopicName)
	}
}

func TestReplyComesOnceAtTheQoSOfTheSubscription(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 4, "a")
	c.mustSubscribe(1, csrTopic.Accepted(), csrTopic.String()+"/+")
	csr, _ := newCSR(t)
	c.publish(csrTopic.String(), 1, `{"certificateSigningRequest":`+quote(t, csr)+`}`)
	c.receive(packets.Puback)
	m := c.receive(packets.Publish)
	if m.FixedHeader.Qos != 1 {
		t.Errorf("QoS %d", m.FixedHeader.Qos)
	}
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: m.PacketID})
	if more := c.settled(); len(more) > 0 {
		t.Errorf("%d more answers came", len(more))
	}
}

func TestRegisterThingIsRejected(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	claim := dialClaim(t, s)
	valid := map[string]string{"serialNumber": "2974684", "deviceLocation": "USA"}
	for name, test := range map[string]struct {
		request func(token awsiot.Secret) any
		want    awsiot.ErrorResponse
	}{
		"no token": {
			func(awsiot.Secret) any { return awsiot.RegisterThingRequest{Parameters: valid} },
			awsiot.ErrorResponse{StatusCode: 400, ErrorCode: "InvalidCertificateOwnershipToken", ErrorMessage: "Certificate ownership token cannot be empty."},
		},
		"unknown token": {
			func(awsiot.Secret) any {
				return awsiot.RegisterThingRequest{CertificateOwnershipToken: "x", Parameters: valid}
			},
			awsiot.ErrorResponse{StatusCode: 400, ErrorCode: "InvalidCertificateOwnershipToken"},
		},
		"missing parameter": {
			func(token awsiot.Secret) any {
				return awsiot.RegisterThingRequest{CertificateOwnershipToken: token}
			},
			awsiot.ErrorResponse{StatusCode: 400, ErrorCode: "InvalidParameters"},
		},
		"parameter that is no string": {
			func(token awsiot.Secret) any {
				return map[string]any{"certificateOwnershipToken": string(token), "parameters": map[string]any{"serialNumber": 2974684}}
			},
			awsiot.ErrorResponse{StatusCode: 400, ErrorCode: "InvalidParameters"},
		},
		"location that is not in the mapping": {
			func(token awsiot.Secret) any {
				return awsiot.RegisterThingRequest{CertificateOwnershipToken: token, Parameters: map[string]string{"serialNumber": "2974684", "deviceLocation": "Mars"}}
			},
			awsiot.ErrorResponse{StatusCode: 400, ErrorCode: "InvalidParameters"},
		},
		"not an object": {
			func(awsiot.Secret) any { return "hello" },
			awsiot.ErrorResponse{StatusCode: 400, ErrorCode: "InvalidRequest"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			token := pending(t, claim).CertificateOwnershipToken
			got := rejected(t, registerTopic, claim.ask(t, registerTopic, test.request(token)))
			if got.ErrorMessage == "" {
				t.Error("no message")
			}
			if test.want.ErrorMessage == "" {
				got.ErrorMessage = ""
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if things := s.Registry().ListThings(); len(things) != 0 {
		t.Errorf("things were made: %v", things)
	}
}

func TestUnknownTemplateIsNotFound(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{Templates: templates})
	d := mustDial(t, s.Server, "a", s.tls)
	topic := registerTopic
	topic.Template = "Other"
	got := rejected(t, topic, d.ask(t, topic, registration(pending(t, d).CertificateOwnershipToken, "2974685")))
	if got.StatusCode != 404 || got.ErrorCode != "ResourceNotFound" {
		t.Errorf("rejected with %+v", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/fleet-provision-api.html:
// an ownership token proves that the certificate is of the claim that asked for it.
func TestTokenWorksOnceAndForItsClaimOnly(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	claim := dialClaim(t, s)
	token := pending(t, claim).CertificateOwnershipToken
	other, err := s.NewClaim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stranger := mustDial(t, s, "claim-stranger", tlsConfig(t, s, other.CertificatePEM, other.PrivateKeyPEM))
	got := rejected(t, registerTopic, stranger.ask(t, registerTopic, registration(token, "2974685")))
	if got.ErrorCode != "InvalidCertificateOwnershipToken" {
		t.Errorf("stranger got %+v", got)
	}
	accepted[awsiot.RegisterThingResponse](t, registerTopic, claim.ask(t, registerTopic, registration(token, "2974685")))
	got = rejected(t, registerTopic, claim.ask(t, registerTopic, registration(token, "2974685")))
	if got.ErrorCode != "InvalidCertificateOwnershipToken" {
		t.Errorf("second use got %+v", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/fleet-provision-api.html:
// a certificate that is not registered within the hour is deleted.
func TestPendingCertificateExpiresAfterAnHour(t *testing.T) {
	t.Parallel()
	var skew atomic.Int64
	s := start(t, localcore.Config{
		Templates: templates, HookFunc: allowEvery,
		Now: func() time.Time { return time.Now().Add(time.Duration(skew.Load())) },
	})
	claim := dialClaim(t, s)
	made := pending(t, claim)
	skew.Store(int64(61 * time.Minute))
	got := rejected(t, registerTopic, claim.ask(t, registerTopic, registration(made.CertificateOwnershipToken, "2974685")))
	if got.ErrorCode != "InvalidCertificateOwnershipToken" {
		t.Errorf("rejected with %+v", got)
	}
	if expired, err := s.ExpireTokens(); err != nil || !cmp.Equal(expired, []string{made.CertificateID}) {
		t.Errorf("expired %q, %v", expired, err)
	}
	if _, ok := s.Registry().CertificateByID(made.CertificateID); ok {
		t.Error("the certificate is still there")
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/fleet-provision-api.html:
// a certificate is PENDING_ACTIVATION until RegisterThing, and cannot connect before.
func TestPendingCertificateCannotConnect(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates})
	csr, key := newCSR(t)
	claim := dialClaim(t, s)
	made := accepted[awsiot.CreateCertificateFromCSRResponse](t, csrTopic,
		claim.ask(t, csrTopic, awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: csr}))
	if _, err := dial(t, s, "any", tlsConfig(t, s, []byte(made.CertificatePEM), key)); err == nil {
		t.Error("it connected")
	}
	e := awaitRejection(t, s, localcore.ActionTLS, "PENDING_ACTIVATION")
	if e.CertificateID != made.CertificateID {
		t.Errorf("the event names certificate %q", e.CertificateID)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html:
// the pre-provisioning hook decides whether a device may be registered.
func TestHookDecides(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		hook    func(context.Context, payload.Request) (payload.Response, error)
		explain string
	}{
		"denies": {
			func(context.Context, payload.Request) (payload.Response, error) { return payload.Response{}, nil },
			"allowProvisioning",
		},
		"fails": {
			func(context.Context, payload.Request) (payload.Response, error) {
				return payload.Response{}, errors.New("no database")
			},
			"no database",
		},
		"takes too long": {
			func(ctx context.Context, _ payload.Request) (payload.Response, error) {
				<-ctx.Done()
				return payload.Response{}, ctx.Err()
			},
			"50ms",
		},
		"allows too late": {
			func(ctx context.Context, _ payload.Request) (payload.Response, error) {
				<-ctx.Done()
				return payload.Response{AllowProvisioning: true}, nil
			},
			"50ms",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, localcore.Config{Templates: templates, HookFunc: test.hook, HookTimeout: 50 * time.Millisecond})
			claim := dialClaim(t, s)
			got := rejected(t, registerTopic, claim.ask(t, registerTopic, registration(pending(t, claim).CertificateOwnershipToken, "2974685")))
			if got.StatusCode != 403 || got.ErrorCode != "AccessDenied" || strings.Contains(got.ErrorMessage, test.explain) {
				t.Errorf("rejected with %+v", got)
			}
			awaitRejection(t, s, localcore.ActionProvision, test.explain)
			if _, err := s.Registry().DescribeThing("fleety_2974685"); err == nil {
				t.Error("the thing was made")
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html:
// the hook receives claim, certificate, template and parameters, and may override the parameters.
func TestHookReceivesTheRequestAndOverridesParameters(t *testing.T) {
	t.Parallel()
	asked := make(chan payload.Request, 1)
	s := start(t, localcore.Config{Templates: templates, HookFunc: func(_ context.Context, r payload.Request) (payload.Response, error) {
		asked <- r
		return payload.Response{AllowProvisioning: true, ParameterOverrides: map[string]string{"deviceLocation": "Seattle"}}, nil
	}})
	claim := dialClaim(t, s)
	made := pending(t, claim)
	done := accepted[awsiot.RegisterThingResponse](t, registerTopic,
		claim.ask(t, registerTopic, registration(made.CertificateOwnershipToken, "2974685")))
	if done.DeviceConfiguration["LocationUrl"] != "https://www.seattle.gov" {
		t.Errorf("the override did not win: %v", done.DeviceConfiguration)
	}
	want := payload.Request{
		ClaimCertificateID: s.Claim().CertificateID,
		CertificateID:      made.CertificateID,
		CertificatePEM:     made.CertificatePEM,
		TemplateARN:        "arn:aws:iot:us-east-1:123456789012:provisioningtemplate/GoFleetProvisioningTemplate",
		ClientID:           "claim-" + t.Name(),
		Parameters:         payload.ParametersOf(map[string]string{"serialNumber": "2974685", "deviceLocation": "USA"}),
	}
	if diff := cmp.Diff(want, <-asked); diff != "" {
		t.Error(diff)
	}
}

func TestSlowHookDelaysNoOtherClient(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := start(t, localcore.Config{Templates: templates, HookFunc: func(ctx context.Context, r payload.Request) (payload.Response, error) {
		if serial, _, _ := r.Parameters.String("serialNumber"); serial == "2974681" {
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return payload.Response{AllowProvisioning: true}, nil
	}})
	slow := mustDial(t, s, "claim-slow", claimTLS(t, s))
	token := pending(t, slow).CertificateOwnershipToken
	waiting := make(chan awsiot.RegisterThingResponse, 1)
	go func() {
		m := slow.ask(t, registerTopic, registration(token, "2974681"))
		waiting <- accepted[awsiot.RegisterThingResponse](t, registerTopic, m)
	}()
	enroll(t, s, "2974682")
	close(release)
	if got := (<-waiting).ThingName; got != "fleety_2974681" {
		t.Errorf("the slow one became %q", got)
	}
}

func TestThingIsNotRenewedWhenTheGroupIsGone(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	if err := s.Registry().DeleteThingGroup(localcore.ThingGroupName, nil); err != nil {
		t.Fatal(err)
	}
	claim := dialClaim(t, s)
	made := pending(t, claim)
	got := rejected(t, registerTopic, claim.ask(t, registerTopic, registration(made.CertificateOwnershipToken, "2974685")))
	if got.StatusCode != 404 || got.ErrorCode != "ResourceNotFound" {
		t.Errorf("rejected with %+v", got)
	}
	if _, err := s.Registry().DescribeThing("fleety_2974685"); err == nil {
		t.Error("the thing was made all the same")
	}
	if c, _ := s.Registry().CertificateByID(made.CertificateID); c.Status != registry.PendingActivation {
		t.Errorf("the certificate is %s", c.Status)
	}
}

func TestFaultsAlterExchanges(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	first := func(f localcore.Fault) {
		s.Faults.Set(func(x localcore.Exchange) localcore.Fault {
			if x.Operation == awsiot.CreateCertificateFromCSR {
				return f
			}
			return localcore.Fault{}
		})
	}
	request := func(t *testing.T) (*device, []byte) {
		csr, _ := newCSR(t)
		return mustDial(t, s, "claim-"+strings.ReplaceAll(t.Name(), "/", "-"), claimTLS(t, s)),
			[]byte(`{"certificateSigningRequest":` + quote(t, csr) + `}`)
	}
	t.Run("reject", func(t *testing.T) {
		want := awsiot.ErrorResponse{StatusCode: 503, ErrorCode: "ServiceUnavailable", ErrorMessage: "later"}
		first(localcore.Fault{Reject: &want})
		d, data := request(t)
		if err := d.publish(t, csrTopic.String(), 1, data); err != nil {
			t.Fatal(err)
		}
		if got := rejected(t, csrTopic, d.next(t)); got != want {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("duplicate", func(t *testing.T) {
		first(localcore.Fault{DuplicateReply: true})
		d, data := request(t)
		if err := d.publish(t, csrTopic.String(), 1, data); err != nil {
			t.Fatal(err)
		}
		if a, b := d.next(t), d.next(t); !cmp.Equal(a.Payload(), b.Payload()) {
			t.Error("the two answers differ")
		}
	})
	t.Run("drop", func(t *testing.T) {
		if err := s.Faults.SetRules([]localcore.FaultRule{{Operation: awsiot.CreateCertificateFromCSR, Times: 1, Fault: localcore.Fault{DropReply: true}}}); err != nil {
			t.Fatal(err)
		}
		d, data := request(t)
		before := len(s.Registry().ListCertificates())
		for range 2 {
			if err := d.publish(t, csrTopic.String(), 1, data); err != nil {
				t.Fatal(err)
			}
		}
		accepted[awsiot.CreateCertificateFromCSRResponse](t, csrTopic, d.next(t))
		if n := len(s.Registry().ListCertificates()) - before; n != 2 || len(d.received) != 0 {
			t.Errorf("%d certificates were made, %d more answers came", n, len(d.received))
		}
	})
	t.Run("lose early replies", func(t *testing.T) {
		if err := s.Faults.SetRules([]localcore.FaultRule{{LoseEarlyReplies: "1s"}}); err != nil {
			t.Fatal(err)
		}
		csr, _ := newCSR(t)
		c := dialRaw(t, s, 4, claimTLS(t, s))
		c.connect("claim-early")
		c.subscribe(1, csrTopic.Accepted())
		c.publish(csrTopic.String(), 1, `{"certificateSigningRequest":`+quote(t, csr)+`}`)
		c.receive(packets.Puback)
		c.receive(packets.Suback) // and no answer before it
		c.publish(csrTopic.String(), 1, `{"certificateSigningRequest":`+quote(t, csr)+`}`)
		c.receive(packets.Puback)
		if pk := c.receive(packets.Publish); pk.TopicName != csrTopic.Accepted() {
			t.Errorf("the answer to the second request is %s", pk.TopicName)
		}
		c.alive() // the first request has none
	})
	t.Run("close after", func(t *testing.T) {
		first(localcore.Fault{CloseAfter: true})
		d, data := request(t)
		d.Publish(csrTopic.String(), 1, false, data)
		select {
		case <-d.lost:
		case <-within(t).Done():
			t.Error("the connection stays open")
		}
		if len(d.received) != 0 {
			t.Error("an answer came")
		}
	})
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: an account makes
// 10 CreateKeysAndCertificate and RegisterThing and 20 CreateCertificateFromCsr per second.
func TestThrottling(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := start(t, localcore.Config{Quotas: localcore.QuotasAWS, Now: func() time.Time { return now }})
	claim := dialClaim(t, s)
	for range 20 {
		pending(t, claim)
	}
	csr, _ := newCSR(t)
	got := rejected(t, csrTopic, claim.ask(t, csrTopic, awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: csr}))
	if got.StatusCode != 400 || got.Class() != awsiot.Temporary {
		t.Errorf("rejected with %+v", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateCertificateFromCsr.html:
// a certificate signing request that is not valid is rejected.
func TestBadCSRIsRejected(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	claim := dialClaim(t, s)
	got := rejected(t, csrTopic, claim.ask(t, csrTopic, awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: "hello"}))
	if got.StatusCode != 400 || got.ErrorCode != "InvalidRequest" {
		t.Errorf("rejected with %+v", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_Certificate.html: a
// certificate id is the lower-case SHA-256 of the certificate.
func TestIssuedCertificateIDIsItsFingerprint(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	made := pending(t, dialClaim(t, s))
	block, rest := pem.Decode([]byte(made.CertificatePEM))
	if block == nil || len(rest) != 0 || !strings.HasSuffix(made.CertificatePEM, "\n") {
		t.Fatal("not one PEM block with a newline at its end")
	}
	if sum := sha256.Sum256(block.Bytes); hex.EncodeToString(sum[:]) != made.CertificateID {
		t.Error("the id is not the fingerprint")
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		t.Error(err)
	}
}

// A blank start has a claim and its policy, and nothing else.
func TestBlankStart(t *testing.T) {
	t.Parallel()
	r := start(t, localcore.Config{Templates: localcore.NoTemplates}).Registry()
	groups, err := r.ListThingGroups("", true)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.ListThings()) + len(r.ListThingTypes("")) + len(groups) + len(r.ListProvisioningTemplates()); n != 0 {
		t.Errorf("%d things, types, groups and templates", n)
	}
	if policies := r.ListPolicies(); len(r.ListCertificates()) != 1 || len(policies) != 1 || policies[0].Name != localcore.ClaimPolicyName {
		t.Errorf("%d certificates, policies %v", len(r.ListCertificates()), policies)
	}
}

// A template from elsewhere names a type and groups that are not there.
func TestCreateMissingCreatesTypesAndGroups(t *testing.T) {
	t.Parallel()
	const body = `{"Resources":{"thing":{"Type":"AWS::IoT::Thing","Properties":{
		"ThingName":"T","ThingTypeName":"foreign","ThingGroups":["g1","g2"],"BillingGroup":"payers"}}}}`
	register := func(c localcore.Config) (*localcore.Server, error) {
		c.Templates, c.Log = localcore.NoTemplates, nil
		s := start(t, c)
		_, err := controlPlane(s).RegisterThing(within(t), &iot.RegisterThingInput{TemplateBody: aws.String(body)})
		return s, err
	}
	if _, err := register(localcore.Config{}); code(err) == "" {
		t.Errorf("registered without --create-missing: %v", err)
	}
	s, err := register(localcore.Config{CreateMissing: true})
	if err != nil {
		t.Fatal(err)
	}
	thing, err := s.Registry().DescribeThing("T")
	if err != nil || thing.Type != "foreign" || thing.BillingGroup != "payers" {
		t.Errorf("%+v, %v", thing, err)
	}
	if groups, err := s.Registry().ListThingGroupsForThing("T"); err != nil || !slices.Equal(groups, []string{"g1", "g2"}) {
		t.Errorf("%q, %v", groups, err)
	}
}
