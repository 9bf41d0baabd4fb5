package provisioning_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"testing"
	"testing/synctest"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/localcore/provisioning"
	"example.com/fleety/device/localcore/registry"
)

func newCSR(t *testing.T, subject pkix.Name) awsiot.CreateCertificateFromCSRRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
	if err != nil {
		t.Fatal(err)
	}
	return awsiot.CreateCertificateFromCSRRequest{
		CertificateSigningRequest: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
	}
}

// sign asks a service whose certificate provider does as invoke says, and returns
// the answer's topic, its payload, and the reason of a rejection.
func sign(t *testing.T, subject pkix.Name, invoke func(ctx context.Context, event []byte) ([]byte, error)) (topic string, payload []byte, reason string) {
	t.Helper()
	r, err := registry.Open("", registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreateCertificateProvider("own", "arn"); err != nil {
		t.Fatal(err)
	}
	s := provisioning.New(provisioning.Config{
		Registry: r, Now: time.Now,
		Invoke: func(ctx context.Context, arn string, event []byte) ([]byte, error) {
			if arn != "arn" {
				t.Errorf("invoked %s", arn)
			}
			return invoke(ctx, event)
		},
		Record: func(e event.Event) {
			if e.Type == event.Rejected {
				reason = e.Reason
			}
		},
	})
	request, err := json.Marshal(newCSR(t, subject))
	if err != nil {
		t.Fatal(err)
	}
	reply := s.Answer(t.Context(), provisioning.Request{
		Topic: awsiot.Topic{Operation: awsiot.CreateCertificateFromCSR, Format: awsiot.JSON}, Payload: request,
		ClientID: "claim-1", CertificateID: "c1", Event: func(kind event.Type) event.Event { return event.Event{Type: kind} },
	})
	return reply.Topic, reply.Payload, reason
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provisioning-cert-provider.html:
// a certificate provider has 5 seconds for its answer.
func TestCertificateProviderHasFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		topic, payload, reason := sign(t, pkix.Name{}, func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		if d := time.Since(began); d != 5*time.Second || topic != "$aws/certificates/create-from-csr/json/rejected" {
			t.Errorf("%s on %s after %v: %s", payload, topic, d, reason)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provisioning-cert-provider.html:
// a certificate provider gets the request, the principal and the client id, and
// returns a certificate with the subject of the request.
func TestCertificateProviderGetsTheRequestAndKeepsItsSubject(t *testing.T) {
	t.Parallel()
	for subject, want := range map[string]string{"2974685": "accepted", "another": "rejected"} {
		topic, payload, reason := sign(t, pkix.Name{CommonName: "2974685"}, func(_ context.Context, event []byte) ([]byte, error) {
			var in struct{ CertificateSigningRequest, PrincipalID, ClientID string }
			if err := json.Unmarshal(event, &in); err != nil || in.PrincipalID != "c1" || in.ClientID != "claim-1" {
				t.Errorf("event %s", event)
			}
			block, _ := pem.Decode([]byte(in.CertificateSigningRequest))
			csr, err := x509.ParseCertificateRequest(block.Bytes)
			if err != nil {
				return nil, err
			}
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				return nil, err
			}
			template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: subject}}
			der, err := x509.CreateCertificate(rand.Reader, template, template, csr.PublicKey, key)
			if err != nil {
				return nil, err
			}
			return json.Marshal(map[string]string{"certificatePem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))})
		})
		if topic != "$aws/certificates/create-from-csr/json/"+want {
			t.Errorf("subject %s: %s on %s: %s", subject, payload, topic, reason)
		}
	}
}
