package provision_test

import (
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/provision"
)

// withdraw deactivates a claim: AWS IoT closes its connections silently.
func (f *fakeAWS) withdraw(claim *tls.Certificate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.active, awsiot.CertificateID(claim.Leaf))
}

// withSecondClaim gives a device another claim.
func (d *fakeDevice) withSecondClaim() *tls.Certificate {
	second := d.aws.newClaim(nil)
	d.config.Claims = append(d.config.Claims, second)
	return second
}

// A claim that was withdrawn is followed by the next one, within the time-out of
// one run.
func TestWithdrawnClaimIsFollowedByTheNext(t *testing.T) {
	for name, test := range map[string]struct {
		withdraw func(*fakeDevice)
		most     time.Duration
	}{
		"by silence": {func(d *fakeDevice) { d.aws.withdraw(d.aws.claim) }, 2 * time.Minute},
		// It is not of the CA that the server knows.
		"by an alert": {func(d *fakeDevice) { d.config.Claims[0] = newFakeAWS(t).claim }, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, d *fakeDevice) {
				second := d.withSecondClaim()
				test.withdraw(d)
				result, err := d.run(t, test.most)
				if err != nil {
					t.Fatal(err)
				}
				if got := result.Identity.Record.RequestedBy; got != awsiot.CertificateID(second.Leaf) {
					t.Errorf("requested by %s", got)
				}
			})
		})
	}
}

// What is no denial of the claim does not change it: a network that is away, a hook
// that denies the device.
func TestClaimThatIsNotDeniedStaysInUse(t *testing.T) {
	t.Run("hook", func(t *testing.T) {
		inBubble(t, func(t *testing.T, d *fakeDevice) {
			d.aws.withdraw(d.withSecondClaim())
			d.aws.rejected["RegisterThing"] = map[string]any{"statusCode": 403, "errorCode": "AccessDenied", "errorMessage": "Access denied"}
			_, err := d.run(t, 2*time.Minute)
			if rejection, ok := errors.AsType[*awsiot.ErrorResponse](err); !ok || rejection.StatusCode != 403 {
				t.Errorf("error %v", err)
			}
		})
	})
	t.Run("silence for a moment", func(t *testing.T) {
		inBubble(t, func(t *testing.T, d *fakeDevice) {
			d.withSecondClaim()
			cuts := 0
			d.aws.cut = func(packets.ControlPacket) bool { cuts++; return cuts < 5 }
			result, err := d.run(t, 2*time.Minute)
			if err != nil || result.Identity.Record.RequestedBy != awsiot.CertificateID(d.aws.claim.Leaf) {
				t.Errorf("%+v, %v", result, err)
			}
		})
	})
}

// Where no claim is left, the device is denied as with one claim.
func TestWithdrawnClaimsAreDenied(t *testing.T) {
	inBubble(t, func(t *testing.T, d *fakeDevice) {
		d.aws.withdraw(d.withSecondClaim())
		d.aws.withdraw(d.aws.claim)
		began := time.Now()
		_, err := d.run(t, time.Hour)
		if awsiot.ClassOf(err) != awsiot.Denied || !strings.Contains(err.Error(), "denied to the claim certificate") {
			t.Errorf("error %v, class %v", err, awsiot.ClassOf(err))
		}
		if took := time.Since(began); took < 2*time.Minute || took > 20*time.Minute {
			t.Errorf("denied after %v", took)
		}
	})
}

// A certificate that is held is registered with the claim that requested it.
func TestRunContinuesWithTheClaimThatHoldsTheCertificate(t *testing.T) {
	inBubble(t, func(t *testing.T, d *fakeDevice) {
		second := d.withSecondClaim()
		d.aws.withdraw(d.aws.claim)
		d.aws.cut = func(p packets.ControlPacket) bool { // of RegisterThing
			publish, ok := p.(*packets.PublishPacket)
			if !ok {
				return false
			}
			topic, ok := awsiot.ParseTopic(publish.TopicName)
			return ok && topic.Operation == awsiot.RegisterThing
		}
		if _, err := d.run(t, 2*time.Minute); err == nil {
			t.Fatal("registered")
		}
		d.aws.cut = nil
		var steps []string
		result, err := d.run(t, time.Minute, func(c *provision.Config) {
			c.Progress = func(e provision.Event) {
				if e.Step == provision.StepConnectClaim && !e.Ended {
					steps = append(steps, e.Detail)
				}
			}
		})
		if err != nil || result.Identity.Record.RequestedBy != awsiot.CertificateID(second.Leaf) {
			t.Fatalf("%+v, %v", result, err)
		}
		if len(d.aws.issued) != 1 || len(steps) != 1 || steps[0] != "localhost, claim 2 of 2" {
			t.Errorf("issued %v, connected %q", d.aws.issued, steps)
		}
	})
}

// A rotation asks with the present certificate, whatever claims there are.
func TestRecordNamesWhoRequestedTheCertificate(t *testing.T) {
	inBubble(t, func(t *testing.T, d *fakeDevice) {
		d.withSecondClaim()
		first, err := d.run(t, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the quota of CONNECT
		second, err := d.run(t, time.Minute, func(c *provision.Config) { c.Rotate = true })
		if err != nil {
			t.Fatal(err)
		}
		for id, want := range map[*identity.Identity]string{
			first.Identity:  awsiot.CertificateID(d.aws.claim.Leaf),
			second.Identity: first.Identity.Record.CertificateID,
		} {
			if id.Record.RequestedBy != want {
				t.Errorf("requested by %s, want %s", id.Record.RequestedBy, want)
			}
		}
	})
}
