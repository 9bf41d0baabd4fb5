package localcore_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
)

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html: a
// provisioning claim of a trusted user connects and provisions by its template, and nothing else.
func TestClaimOfATrustedUserProvisionsByItsTemplate(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	claim := must(controlPlane(s).CreateProvisioningClaim(t.Context(), &iot.CreateProvisioningClaimInput{TemplateName: aws.String(localcore.TemplateName)}))(t)
	config := tlsConfig(t, s, []byte(*claim.CertificatePem), []byte(*claim.KeyPair.PrivateKey))
	d := mustDial(t, s, "installer", config)
	made := pending(t, d)
	done := accepted[awsiot.RegisterThingResponse](t, registerTopic, d.ask(t, registerTopic, registration(made.CertificateOwnershipToken, "2974685")))
	if done.ThingName != "fleety_2974685" {
		t.Errorf("thing %q", done.ThingName)
	}
	for _, topic := range []string{"fleet/installer", "$aws/provisioning-templates/other/provision/json"} {
		d := mustDial(t, s, "installer", config)
		d.Publish(topic, 1, false, "{}") // MQTT 3.1.1 is disconnected
		select {
		case <-d.lost:
		case <-within(t).Done():
			t.Errorf("published to %s", topic)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html: a
// provisioning claim of a trusted user is valid for five minutes.
func TestClaimOfATrustedUserExpiresAfterFiveMinutes(t *testing.T) {
	t.Parallel()
	clock := newClock()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery, Now: clock.Now})
	claim := must(controlPlane(s).CreateProvisioningClaim(t.Context(), &iot.CreateProvisioningClaimInput{TemplateName: aws.String(localcore.TemplateName)}))(t)
	config := tlsConfig(t, s, []byte(*claim.CertificatePem), []byte(*claim.KeyPair.PrivateKey))
	clock.advance(5*time.Minute - time.Second)
	d := mustDial(t, s, "claim-1", config)
	clock.advance(time.Second)
	if _, err := dial(t, s, "claim-2", config); err == nil {
		t.Error("an expired claim was accepted")
	}
	select {
	case <-d.lost: // within the interval in which expired certificates are deleted
	case <-time.After(30 * time.Second):
		t.Error("the session of the expired claim goes on")
	}
}
