package provision_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// What passes by itself, or cannot be distinguished from that, ends with --timeout and is
// temporary; what passes in time ends with an identity.
func TestWhatPassesIsRetriedUntilTheTimeout(t *testing.T) {
	closeAll := func(d *fakeDevice, until time.Time) {
		d.aws.cut = func(packets.ControlPacket) bool { return time.Now().Before(until) }
	}
	reject := func(status int, code string) func(*fakeDevice, time.Time) {
		return func(d *fakeDevice, until time.Time) {
			rejection := map[string]any{"statusCode": status, "errorCode": code, "errorMessage": "later"}
			d.aws.rejected["RegisterThing"] = rejection
			time.AfterFunc(time.Until(until), func() {
				d.aws.mu.Lock()
				defer d.aws.mu.Unlock()
				delete(d.aws.rejected, "RegisterThing")
			})
		}
	}
	for name, fault := range map[string]func(d *fakeDevice, until time.Time){
		"connections closed silently":    closeAll,
		"throttled with status 400":      reject(400, "ThrottlingException"),
		"throttled, other spelling":      reject(400, "Throttling"),
		"too many requests":              reject(400, "TooManyRequestsException"),
		"conflicting update":             reject(409, "ConflictingResourceUpdateException"),
		"internal failure, status wrong": reject(400, "InternalFailureException"),
		"service unavailable":            reject(503, "ServiceUnavailable"),
		"no name": func(d *fakeDevice, until time.Time) {
			dial := d.config.Session.DialContext
			d.config.Session.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				if time.Now().Before(until) {
					return nil, &net.DNSError{Err: "no such host", Name: "localhost", IsNotFound: true}
				}
				return dial(ctx, network, address)
			}
		},
		"clock at 1970": func(d *fakeDevice, until time.Time) {
			d.config.Session.Now = func() time.Time {
				if time.Now().Before(until) {
					return time.Unix(60, 0)
				}
				return time.Now()
			}
		},
		"captive portal": func(d *fakeDevice, until time.Time) {
			dial := d.config.Session.DialContext
			d.config.Session.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				if !time.Now().Before(until) {
					return dial(ctx, network, address)
				}
				client, portal := net.Pipe()
				go func() {
					portal.Read(make([]byte, 5000))
					portal.Write([]byte("HTTP/1.1 302 Found\r\n\r\n"))
					portal.Close()
				}()
				return client, nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, d *fakeDevice) {
				began := time.Now()
				fault(d, began.Add(90*time.Second))
				_, err := d.run(t, time.Minute)
				if awsiot.ClassOf(err) != awsiot.Temporary || time.Since(began) != time.Minute {
					t.Fatalf("after %v: error %v, class %v", time.Since(began), err, awsiot.ClassOf(err))
				}
				result, err := d.run(t, 2*time.Minute)
				if err != nil || !result.Provisioned {
					t.Errorf("result %+v, error %v", result, err)
				}
				if len(d.aws.issued) != 1 {
					t.Errorf("%d certificates were issued", len(d.aws.issued))
				}
			})
		})
	}
}

func TestSilenceOverMinutesIsDeniedUnlessTheDeviceWasProved(t *testing.T) {
	inBubble(t, func(t *testing.T, d *fakeDevice) {
		d.aws.cut = func(packets.ControlPacket) bool { return true }
		began := time.Now()
		_, err := d.run(t, time.Hour)
		if closed, ok := errors.AsType[*session.Error](err); !ok || closed.After != "CONNECT" || awsiot.ClassOf(err) != awsiot.Denied || !strings.Contains(err.Error(), "denied to the claim certificate") {
			t.Errorf("error %v, class %v", err, awsiot.ClassOf(err))
		}
		if took := time.Since(began); took < 2*time.Minute || took > 10*time.Minute {
			t.Errorf("denied after %v", took)
		}
		d.aws.cut = nil
		if _, err := d.run(t, time.Minute); err != nil {
			t.Fatal(err)
		}
		d.aws.cut = func(packets.ControlPacket) bool { return true }
		for _, reprovision := range []bool{false, true} {
			_, err = d.run(t, time.Hour, func(c *provision.Config) { c.Reprovision = reprovision })
			if awsiot.ClassOf(err) != awsiot.Temporary {
				t.Errorf("reprovision %v: error %v, class %v", reprovision, err, awsiot.ClassOf(err))
			}
		}
	})
}

// AWS IoT answers a hook that failed as one that denied.
func TestDenialByTheHookIsRetriedSlowly(t *testing.T) {
	inBubble(t, func(t *testing.T, d *fakeDevice) {
		d.aws.rejected["RegisterThing"] = map[string]any{"statusCode": 403, "errorCode": "AccessDenied", "errorMessage": "Access denied"}
		began := time.Now()
		_, err := d.run(t, time.Minute)
		if awsiot.ClassOf(err) != awsiot.Denied || d.aws.requests["RegisterThing"] != 3 {
			t.Errorf("%d requests, error %v, class %v", d.aws.requests["RegisterThing"], err, awsiot.ClassOf(err))
		}
		if took := time.Since(began); took < 3*time.Second || took > 20*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// AWS IoT rejects a certificate that is not active with an alert or a silent
// close, never for the device's clock; but if the claim looks too new, the clock
// is the likelier cause.
func TestRejectedClaimThatLooksTooNewIsTemporary(t *testing.T) {
	inBubble(t, func(t *testing.T, d *fakeDevice) {
		d.aws.server.Time = func() time.Time { return time.Now() }
		d.config.Claims[0] = d.aws.newClaim(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * 24 * time.Hour) })
		_, err := d.run(t, 10*time.Second)
		if _, ok := errors.AsType[*awsiot.ValidityError](err); !ok || awsiot.ClassOf(err) != awsiot.Temporary {
			t.Errorf("error %v, class %v", err, awsiot.ClassOf(err))
		}
	})
}

// From the moment that AWS IoT accepts RegisterThing the certificate is active.
// Whatever the answer lacks, no run leaves another one behind.
func TestRegistrationWithoutAUsableNameKeepsItsCertificate(t *testing.T) {
	for name, answer := range map[string]any{
		"no name":          map[string]any{"deviceConfiguration": map[string]any{"a": "b"}},
		"empty name":       map[string]any{"deviceConfiguration": map[string]any{"a": "b"}, "thingName": ""},
		"path as a name":   map[string]any{"deviceConfiguration": map[string]any{"a": "b"}, "thingName": "../../x"},
		"name is a number": map[string]any{"thingName": 7},
		"not JSON":         "<html>",
		"empty":            "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, d *fakeDevice) {
				d.aws.registered = answer
				for range 3 {
					_, err := d.run(t, time.Minute)
					if unnamed, ok := errors.AsType[*provision.ThingNameError](err); !ok || unnamed.Got != "" || unnamed.CertificateID != d.aws.issued[0] || awsiot.ClassOf(err) != awsiot.Misconfigured {
						t.Fatalf("error %v, class %v", err, awsiot.ClassOf(err))
					}
				}
				result, err := d.run(t, time.Minute, func(c *provision.Config) { c.ThingName = "pump-7" })
				if err != nil {
					t.Fatal(err)
				}
				if result.Identity.Record.ThingName != "pump-7" || result.Identity.Record.CertificateID != d.aws.issued[0] || len(d.aws.issued) != 1 || d.aws.requests["RegisterThing"] != 1 {
					t.Errorf("record %+v, %d certificates, requests %v", result.Identity.Record, len(d.aws.issued), d.aws.requests)
				}
			})
		})
	}
}

func TestNewCertificateMayBeUnknownForAMoment(t *testing.T) {
	for rejected, want := range map[int]awsiot.Class{2: awsiot.Failed, 100: awsiot.Denied} {
		inBubble(t, func(t *testing.T, d *fakeDevice) {
			d.aws.unknown = rejected
			_, err := d.run(t, time.Minute)
			if (err == nil) != (want == awsiot.Failed) || awsiot.ClassOf(err) != want {
				t.Errorf("%d rejections: error %v, class %v", rejected, err, awsiot.ClassOf(err))
			}
			d.aws.unknown = 1 // an identity that was proved is denied at once
			time.Sleep(time.Second)
			began := time.Now()
			if _, err := d.run(t, time.Minute); want == awsiot.Failed && (awsiot.ClassOf(err) != awsiot.Denied || time.Since(began) > time.Second) {
				t.Errorf("after %v: error %v", time.Since(began), err)
			}
		})
	}
}

func TestReprovisioningReplacesARegistrationWithoutAName(t *testing.T) {
	inBubble(t, func(t *testing.T, d *fakeDevice) {
		d.aws.registered = map[string]any{}
		if _, err := d.run(t, time.Minute); awsiot.ClassOf(err) != awsiot.Misconfigured {
			t.Fatal(err)
		}
		d.aws.registered = nil // the template has a thing now
		result, err := d.run(t, time.Minute, func(c *provision.Config) { c.Reprovision = true })
		if err != nil || result.Identity.Record.CertificateID != d.aws.issued[1] {
			t.Errorf("result %+v, error %v", result, err)
		}
	})
}

func TestDeviceConfigurationIsKeptAsItCame(t *testing.T) {
	const configuration = `{"big":12345678901234567890,"exact":1.10,"flag":true,"list":[1,"a"],"none":null,"text":"x","tree":{"a":{"b":2}}}`
	inBubble(t, func(t *testing.T, d *fakeDevice) {
		d.aws.registered = `{"thingName":"fleety_1","deviceConfiguration":` + configuration + `}`
		result, err := d.run(t, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := d.store.Load()
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []*identity.Identity{result.Identity, loaded} {
			got, err := json.Marshal(id.Record.DeviceConfiguration)
			if diff := cmp.Diff(configuration, string(got)); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		}
	})
}

// The answer of RegisterThing is lost; while the token lives, AWS IoT may give it
// once more.
func TestLostDeviceConfigurationIsRequestedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, d *fakeDevice) {
		d.aws.registered = map[string]any{"thingName": "fleety_1", "deviceConfiguration": map[string]any{"url": "x"}}
		pubacks := 0
		d.aws.cut = func(p packets.ControlPacket) bool {
			if publish, ok := p.(*packets.PublishPacket); ok && strings.Contains(publish.TopicName, "/provision/") {
				pubacks++
				if pubacks == 1 {
					d.aws.answer(awsiot.Topic{Operation: awsiot.RegisterThing}, publish.Payload)
					return true
				}
			}
			return false
		}
		result, err := d.run(t, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if result.Identity.Record.DeviceConfiguration["url"] != "x" || len(d.aws.issued) != 1 {
			t.Errorf("record %+v, %d certificates", result.Identity.Record, len(d.aws.issued))
		}
	})
}

func TestOnlyTheCertificateIsStored(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, d *fakeDevice) {
		d.aws.stuffing = "\x1b]0;owned\x07\n" + strings.Repeat("junk\n", 1000)
		var err error
		if d.config.Store, err = identity.NewStore(identity.Config{SerialNumber: serial, Dir: dir}); err != nil {
			t.Fatal(err)
		}
		result, err := d.run(t, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := os.ReadFile(result.Identity.Files.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		want := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: result.Identity.Certificate.Raw})
		if diff := cmp.Diff(string(want), string(stored)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWeakKeysOfTheServiceAreRejected(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	inBubble(t, func(t *testing.T, d *fakeDevice) {
		d.config.Keys = provision.ServiceKeys
		d.aws.rsaBits = 1024
		_, err := d.run(t, time.Minute)
		if _, ok := errors.AsType[*identity.CertificateError](err); !ok || awsiot.ClassOf(err) != awsiot.Failed {
			t.Errorf("error %v, class %v", err, awsiot.ClassOf(err))
		}
	})
}

func TestTalkativeServerDoesNotFillTheLog(t *testing.T) {
	inBubble(t, func(t *testing.T, d *fakeDevice) {
		d.aws.chatter = 5000
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		if _, err := d.run(t, time.Minute, func(c *provision.Config) { c.Log, c.Session.Log = logger, logger }); err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(log.String(), "\n"); lines > 20 {
			t.Errorf("%d lines were logged", lines)
		}
	})
}

func TestRejectionsArePrintableInOneLine(t *testing.T) {
	inBubble(t, func(t *testing.T, d *fakeDevice) {
		d.aws.rejected["RegisterThing"] = map[string]any{"statusCode": 400, "errorCode": "x\u009b", "errorMessage": "no\niot_device: all is well\u202e\x1b[31m"}
		_, err := d.run(t, time.Minute)
		if err == nil || strings.ContainsAny(err.Error(), "\n\u009b\u202e\x1b") {
			t.Errorf("error %q", err)
		}
	})
}

// With Eager one round trip is left out. An answer that is lost costs one careful
// attempt, remembered for the run. What is counted is what the clock shows, from
// the first SYN to the CONNACK with the new certificate.
func TestRoundTripsOfARun(t *testing.T) {
	const rtt = 400 * time.Millisecond
	for name, test := range map[string]struct {
		version     uint16
		eager, lose bool
		want        provision.RoundTrips
		issued      int
	}{
		"TLS 1.3":            {tls.VersionTLS13, false, false, provision.RoundTrips{Claim: 3, Exchange: 3, Device: 1, Total: 7}, 1},
		"TLS 1.2":            {tls.VersionTLS12, false, false, provision.RoundTrips{Claim: 4, Exchange: 3, Device: 2, Total: 9}, 1},
		"eager, TLS 1.3":     {tls.VersionTLS13, true, false, provision.RoundTrips{Claim: 3, Exchange: 2, Device: 1, Total: 6}, 1},
		"eager, TLS 1.2":     {tls.VersionTLS12, true, false, provision.RoundTrips{Claim: 4, Exchange: 2, Device: 2, Total: 8}, 1},
		"eager, answer lost": {tls.VersionTLS13, true, true, provision.RoundTrips{Claim: 3, Exchange: 3, Device: 1, Total: 7}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, d *fakeDevice) {
				d.aws.rtt = rtt
				d.config.Eager = test.eager
				d.aws.server.MaxVersion = test.version
				d.aws.loseEarly = test.lose
				began := time.Now()
				var took time.Duration
				d.config.Progress = func(e provision.Event) {
					switch {
					case e.Step == provision.StepSubscribe && e.Ended && e.Err == nil && test.lose:
						time.Sleep(2 * time.Second) // it takes effect a second after its SUBACK
					case e.Step == provision.StepConnectDevice && e.Ended && e.Err == nil:
						took = time.Since(began)
					}
				}
				result, err := d.run(t, time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				if want := time.Duration(test.want.Total) * rtt; !test.lose && took != want {
					t.Errorf("it took %v, that is %.2f round trips", took, float64(took)/float64(rtt))
				}
				if diff := cmp.Diff(test.want, result.RoundTrips); diff != "" {
					t.Errorf("round trips (-want +got):\n%s", diff)
				}
				if len(d.aws.issued) != test.issued {
					t.Errorf("%d certificates were issued", len(d.aws.issued))
				}
			})
		})
	}
}

func TestDamagedJournalDoesNotStopAProvedIdentity(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	if _, err := d.run(t); err != nil {
		t.Fatal(err)
	}
	d.core.Faults.Set(func(localcore.Exchange) localcore.Fault { return rejection(400) })
	if _, err := d.run(t, func(c *provision.Config) { c.Reprovision = true }); err == nil {
		t.Fatal("the replacement succeeded")
	}
	slots, err := filepath.Glob(filepath.Join(d.dir, "*", "journal.*"))
	if hidden, _ := filepath.Glob(filepath.Join(d.dir, ".*", "journal.*")); err != nil || len(slots)+len(hidden) == 0 {
		t.Fatalf("journal: %v, %v", slots, err)
	} else {
		slots = append(slots, hidden...)
	}
	for _, path := range slots {
		if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if result, err := d.run(t); err != nil || result.Provisioned {
		t.Errorf("result %+v, error %v", result, err)
	}
}
