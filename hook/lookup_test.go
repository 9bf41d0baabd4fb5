package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/internal/dynamotest"
	"example.com/fleety/hook/payload"
	"example.com/fleety/hook/serials"
)

// registryFunc is a registry that answers by a function.
type registryFunc func(ctx context.Context, thingName string) ([]admit.Certificate, error)

func (f registryFunc) Certificates(ctx context.Context, thingName string) ([]admit.Certificate, error) {
	return f(ctx, thingName)
}

func (registryFunc) Deactivation(id string) string { return "deactivate " + id }

// having is the registry of a fleet whose one thing has these certificates.
func having(certificates ...admit.Certificate) registryFunc {
	return func(_ context.Context, thingName string) ([]admit.Certificate, error) {
		if thingName != "fleety_2974685" {
			return nil, nil
		}
		return certificates, nil
	}
}

func TestDecideProtectsThingsInUse(t *testing.T) {
	const ours, other = "9f2b1c", "old"
	tests := map[string]struct {
		things registry
		serial string
		want   bool
	}{
		"new thing":                   {having(), "2974685", true},
		"same certificate again":      {having(admit.Certificate{ID: ours, Active: true}), "2974685", true},
		"old one deactivated":         {having(admit.Certificate{ID: other}), "2974685", true},
		"thing in use":                {having(admit.Certificate{ID: other, Active: true}), "2974685", false},
		"another thing in use":        {having(admit.Certificate{ID: other, Active: true}), "2974686", true},
		"switched off":                {nil, "2974685", true},
		"refused before it is looked": {having(), "1234567", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			answer, _, err := decider{things: test.things}.invoke(t, event(`{"serialNumber":"`+test.serial+`"}`))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(string(answer), `"allowProvisioning":true`); got != test.want {
				t.Errorf("answer %s, want allowed: %t", answer, test.want)
			}
		})
	}
}

func TestRefusalOfAThingInUseSaysHowToLetItIn(t *testing.T) {
	d := decider{things: having(admit.Certificate{ID: "old", Active: true})}
	_, logged, err := d.invoke(t, event(`{"serialNumber":"2974685"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"level": "WARN", "msg": "decision", "requestId": "request-1", "claimCertificateId": "57c92e",
		"clientId": "claim-1", "serialNumber": "2974685", "author": "", "verdict": "refused",
		"reason": "thing has another active certificate", "thingName": "fleety_2974685", "heldBy": "old",
		"remedy": "if this device may come in again, run: deactivate old"}
	if diff := cmp.Diff(want, onlyLine(t, logged)); diff != "" {
		t.Errorf("log line differs (-want +got):\n%s", diff)
	}
}

func TestLookupThatFailsRefusesAndIsAFaultOfTheFunction(t *testing.T) {
	cause := errors.New("not authorized to perform iot:ListThingPrincipals")
	d := decider{things: registryFunc(func(context.Context, string) ([]admit.Certificate, error) { return nil, cause })}
	_, logged, err := d.invoke(t, event(`{"serialNumber":"2974685"}`))
	if !errors.Is(err, cause) {
		t.Errorf("error %v, want %v", err, cause)
	}
	line := onlyLine(t, logged)
	for name, want := range map[string]string{
		"level": "ERROR", "verdict": "refused", "reason": "thing's certificates could not be looked up",
		"error": "thing's certificates could not be looked up: " + cause.Error(),
	} {
		if line[name] != want {
			t.Errorf("%s was logged as %q, want %q", name, line[name], want)
		}
	}
}

func TestNothingIsLookedUpForWhomTheRulesRefuse(t *testing.T) {
	d := decider{things: registryFunc(func(_ context.Context, thingName string) ([]admit.Certificate, error) {
		t.Errorf("asked for %s", thingName)
		return nil, nil
	})}
	if _, _, err := d.invoke(t, event(`{"serialNumber":"1234567"}`)); err != nil {
		t.Error(err)
	}
}

func TestLookupLeavesTimeToAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := decider{log: slog.New(slog.NewJSONHandler(io.Discard, nil)),
			things: registryFunc(func(ctx context.Context, _ string) ([]admit.Certificate, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})}
		began := time.Now()
		answer, err := d.decide(t.Context(), payload.Request{Parameters: payload.ParametersOf(map[string]string{payload.SerialNumber: "2974685"})})
		if answer.AllowProvisioning || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("answer %+v, error %v", answer, err)
		}
		if spare := payload.AnswerWithin - time.Since(began); spare < time.Second {
			t.Errorf("only %v were left to answer in", spare)
		}
	})
}

func TestConfigured(t *testing.T) {
	tests := map[string]struct {
		existing string
		looksUp  bool
		fails    bool
	}{
		"by default": {"", true, false},
		"refuse":     {"refuse", true, false},
		"allow":      {"allow", false, false},
		"misspelt":   {"Allow", false, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			getenv := func(name string) string { return map[string]string{"EXISTING_THINGS": test.existing}[name] }
			d, err := configured(getenv, nil)
			if (err != nil) != test.fails || (d.things != nil) != test.looksUp {
				t.Errorf("things %v, error %v", d.things, err)
			}
		})
	}
}

func TestTheListAdmitsASerialNumberOnce(t *testing.T) {
	under := dynamotest.Serve(t, "serials", serials.Key)
	d := decider{things: having(), serials: serials.New(under.Config(), "serials")}
	decide := func(serial, certificate string) (allowed bool, line map[string]any) {
		t.Helper()
		request := strings.Replace(string(event(`{"serialNumber":"`+serial+`"}`)), "9f2b1c", certificate, 1)
		answer, logged, err := d.invoke(t, []byte(request))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(answer), `"allowProvisioning":true`), onlyLine(t, logged)
	}
	if _, err := serials.New(under.Config(), "serials").Add(t.Context(), "2974685"); err != nil {
		t.Fatal(err)
	}
	if allowed, line := decide("2974686", "a"); allowed || line["reason"] != "serial number is not in the list" {
		t.Errorf("not listed: %t, %v", allowed, line)
	}
	for range 2 {
		if allowed, line := decide("2974685", "a"); !allowed {
			t.Errorf("listed: %v", line)
		}
	}
	allowed, line := decide("2974685", "b")
	if want := "if this device may come in again, run: go run ./cmd/serials release --table serials 2974685"; allowed || line["heldBy"] != "a" || line["remedy"] != want {
		t.Errorf("used: %t, %v", allowed, line)
	}
	under.Break("ProvisionedThroughputExceededException")
	if _, logged, err := d.invoke(t, event(`{"serialNumber":"2974685"}`)); err == nil || onlyLine(t, logged)["reason"] != "list of serial numbers could not be asked" {
		t.Errorf("list out of reach: %v, %s", err, logged)
	}
}

func TestWhoIsRefusedUsesNoSerialNumberUp(t *testing.T) {
	under := dynamotest.Serve(t, "serials", serials.Key)
	d := decider{things: having(admit.Certificate{ID: "old", Active: true}), serials: serials.New(under.Config(), "serials")}
	for _, serial := range []string{"2974685", "1234567"} {
		if _, _, err := d.invoke(t, event(`{"serialNumber":"`+serial+`"}`)); err != nil {
			t.Fatal(err)
		}
	}
	if called := under.Called(); len(called) != 0 {
		t.Errorf("the table was called: %v", called)
	}
}
