package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/internal/dynamotest"
	"example.com/fleety/hook/payload"
	"example.com/fleety/hook/serials"
)

// An account is a thing registry. Things and certificates that it does not have are not there.
type account struct {
	mu       sync.Mutex
	things   map[string][]string     // certificate ids by thing
	statuses map[string]admit.Status // by certificate id
	broken   error
	asked    []string
}

func (a *account) ask(question string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, question)
	return a.broken
}

func (a *account) Certificates(_ context.Context, thing string) (all []admit.Certificate, err error) {
	err = a.ask("certificates of " + thing)
	for _, id := range a.things[thing] {
		all = append(all, admit.Certificate{ID: id, Status: a.statuses[id]})
	}
	return all, err
}

func (a *account) Status(_ context.Context, id string) (admit.Status, error) {
	err := a.ask("status of " + id)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.statuses[id], err
}

func (a *account) Things(_ context.Context, arn string) (all []string, err error) {
	err = a.ask("things of " + arn)
	_, id, _ := strings.Cut(arn, ":cert/")
	for thing, certificates := range a.things {
		for _, c := range certificates {
			if c == id {
				all = append(all, thing)
			}
		}
	}
	return all, err
}

func (*account) Deactivation(id string) string { return "deactivate " + id }

// decision has d answer for a serial number and the certificate to register, which the claim 57c92e
// asks for.
func (d decider) decision(t *testing.T, serial, certificate string) (allowed bool, line map[string]any) {
	t.Helper()
	request := strings.Replace(string(event(`{"serialNumber":"`+serial+`","deviceLocation":"USA"}`)), "9f2b1c", certificate, 1)
	answer, logged, err := d.invoke(t, []byte(request))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(answer), `"allowProvisioning":true`), onlyLine(t, logged)
}

func TestRevokedDeviceIsDeniedForGoodAndADeactivatedOneIsNot(t *testing.T) {
	for status, want := range map[admit.Status]bool{admit.Active: false, admit.Revoked: false, "INACTIVE": true, admit.PendingActivation: true} {
		d := decider{things: &account{
			things: map[string][]string{"fleety_2974685": {"old"}}, statuses: map[string]admit.Status{"old": status},
		}}
		if allowed, line := d.decision(t, "2974685", "new"); allowed != want {
			t.Errorf("%s: allowed %t: %v", status, allowed, line)
		}
	}
}

func TestDenialOfAThingInUseNamesTheCommandThatAllowsIt(t *testing.T) {
	d := decider{things: &account{
		things: map[string][]string{"fleety_2974685": {"old"}}, statuses: map[string]admit.Status{"old": admit.Active},
	}}
	_, line := d.decision(t, "2974685", "new")
	want := map[string]any{"level": "WARN", "msg": "decision", "requestId": "request-1", "claimCertificateId": "57c92e",
		"certificateId": "new", "clientId": "claim-1", "serialNumber": "2974685", "author": "", "verdict": "denied",
		"reason": "thing has another active certificate", "thingName": "fleety_2974685", "heldBy": "old",
		"remedy": "to allow this device, run: deactivate old"}
	if diff := cmp.Diff(want, line); diff != "" {
		t.Errorf("log line differs (-want +got):\n%s", diff)
	}
}

// TestDeviceRegistersItsOwnThingAlone: the certificate of the connection, not the one that is
// registered, says who asks.
func TestDeviceRegistersItsOwnThingAlone(t *testing.T) {
	a := &account{
		things:   map[string][]string{"fleety_2974685": {"57c92e"}, "fleety_2974686": {"other"}},
		statuses: map[string]admit.Status{"57c92e": admit.Active, "other": admit.Active},
	}
	d := decider{things: a}
	for serial, want := range map[string]admit.Reason{"2974685": admit.Rotated, "2974686": admit.OtherThing, "2974687": admit.OtherThing} {
		if allowed, line := d.decision(t, serial, "new"); line["reason"] != string(want) || allowed != (want == admit.Rotated) {
			t.Errorf("%s: allowed %t, %v, want %s", serial, allowed, line, want)
		}
	}
	a.statuses["57c92e"] = admit.Revoked
	if allowed, line := d.decision(t, "2974685", "new"); allowed {
		t.Errorf("a revoked certificate rotated: %v", line)
	}
	want := "things of arn:aws:iot:us-east-1:123456789012:cert/57c92e"
	if asked := strings.Join(a.asked, "\n"); !strings.Contains(asked, want) {
		t.Errorf("asked for\n%s\nwant %s", asked, want)
	}
}

func TestLookupThatFailsIsAnErrorOfTheFunction(t *testing.T) {
	cause := errors.New("not authorized to perform iot:ListThingPrincipals")
	for name, test := range map[string]struct {
		d    decider
		want admit.Reason
	}{
		"of AWS IoT":   {decider{things: &account{broken: cause}}, admit.ThingUnknown},
		"of the table": {decider{things: &account{}, serials: brokenRegistry{cause}}, admit.SerialRegistryFailed},
	} {
		t.Run(name, func(t *testing.T) {
			answer, logged, err := test.d.invoke(t, event(`{"serialNumber":"2974685"}`))
			if !errors.Is(err, cause) || strings.Contains(string(answer), `"allowProvisioning":true`) {
				t.Errorf("answer %s, error %v, want %v", answer, err, cause)
			}
			line := onlyLine(t, logged)
			for name, want := range map[string]string{
				"level": "ERROR", "verdict": "failed", "reason": string(test.want), "error": string(test.want) + ": " + cause.Error(),
			} {
				if line[name] != want {
					t.Errorf("%s was logged as %q, want %q", name, line[name], want)
				}
			}
		})
	}
}

type brokenRegistry struct{ error }

func (b brokenRegistry) Mark(context.Context, string) (admit.Mark, error) {
	return admit.Mark{}, b.error
}

func (b brokenRegistry) Take(context.Context, string, string, admit.Mark, time.Time) (bool, error) {
	return false, b.error
}

func TestNothingIsLookedUpForDevicesThatTheRulesDeny(t *testing.T) {
	a := &account{}
	d := decider{things: a, serials: brokenRegistry{errors.New("it was asked")}}
	if allowed, line := d.decision(t, "1234567", "new"); allowed || len(a.asked) != 0 {
		t.Errorf("asked for %q: %v", a.asked, line)
	}
}

// A waitingAccount answers when all that a decision asks for is being asked for.
type waitingAccount struct {
	account
	questions *sync.WaitGroup
}

func (w *waitingAccount) Certificates(ctx context.Context, thing string) ([]admit.Certificate, error) {
	w.questions.Done()
	w.questions.Wait()
	return w.account.Certificates(ctx, thing)
}

func (w *waitingAccount) Things(ctx context.Context, arn string) ([]string, error) {
	w.questions.Done()
	w.questions.Wait()
	return w.account.Things(ctx, arn)
}

type waitingRegistry struct{ questions *sync.WaitGroup }

func (w waitingRegistry) Mark(context.Context, string) (admit.Mark, error) {
	w.questions.Done()
	w.questions.Wait()
	return admit.Mark{}, nil
}

func (waitingRegistry) Take(context.Context, string, string, admit.Mark, time.Time) (bool, error) {
	return true, nil
}

func TestLookupsGoOutAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which ends a deadlock
		var questions sync.WaitGroup
		questions.Add(3)
		d := decider{things: &waitingAccount{questions: &questions}, serials: waitingRegistry{&questions}}
		if allowed, line := d.decision(t, "2974685", "new"); !allowed {
			t.Errorf("denied: %v", line)
		}
	})
}

type hangingAccount struct{ account }

func (*hangingAccount) Certificates(ctx context.Context, _ string) ([]admit.Certificate, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestLookupLeavesTimeToAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := decider{log: slog.New(slog.NewJSONHandler(io.Discard, nil)), things: &hangingAccount{}, now: time.Now}
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
	for name, test := range map[string]struct {
		env           map[string]string
		rules         admit.Rules
		looksUp, once bool
	}{
		"by default":             {nil, admit.Rules{}, true, false},
		"as the stack says":      {map[string]string{"EXISTING_THINGS": "refuse", "ROTATION": "allow", "SERIAL_TABLE": "t", "SERIAL_REGISTRY": "once"}, admit.Rules{}, true, true},
		"listed":                 {map[string]string{"SERIAL_TABLE": "t", "SERIAL_REGISTRY": "listed"}, admit.Rules{ListedOnly: true}, true, true},
		"no look-ups":            {map[string]string{"EXISTING_THINGS": "allow"}, admit.Rules{TakeExisting: true}, false, false},
		"any thing, by rotation": {map[string]string{"EXISTING_THINGS": "allow", "ROTATION": "allow"}, admit.Rules{TakeExisting: true}, true, false},
		"any thing, once":        {map[string]string{"EXISTING_THINGS": "allow", "SERIAL_TABLE": "t"}, admit.Rules{TakeExisting: true}, true, true},
		"any thing, no rotation": {map[string]string{"EXISTING_THINGS": "allow", "ROTATION": "deny"}, admit.Rules{TakeExisting: true, NoRotation: true}, true, false},
		"no rotation":            {map[string]string{"ROTATION": "deny"}, admit.Rules{NoRotation: true}, true, false},
		"another fleet": {
			map[string]string{"SERIAL_PREFIX": "A-", "THING_PREFIX": "acme-", "DEVICE_LOCATIONS": `["Mars, Utopia","Moon"]`},
			admit.Rules{SerialPrefix: "A-", ThingPrefix: "acme-", Locations: []string{"Mars, Utopia", "Moon"}}, true, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := configured(func(name string) string { return test.env[name] }, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.rules, d.rules); diff != "" {
				t.Errorf("rules differ (-want +got):\n%s", diff)
			}
			if (d.things != nil) != test.looksUp || (d.serials != nil) != test.once {
				t.Errorf("things %v, serials %v", d.things, d.serials)
			}
		})
	}
	for name, value := range map[string]string{
		"EXISTING_THINGS": "Allow", "ROTATION": "true", "SERIAL_REGISTRY": "none", "DEVICE_LOCATIONS": "USA",
	} {
		if _, err := configured(func(n string) string { return map[string]string{name: value, "SERIAL_TABLE": "t"}[n] }, nil); err == nil {
			t.Errorf("%s=%s: no error", name, value)
		}
	}
	if _, err := configured(func(n string) string { return map[string]string{"SERIAL_REGISTRY": "listed"}[n] }, nil); err == nil {
		t.Error("a list without a table: no error")
	}
}

// once is a decider with an account and a registry of serial numbers.
func once(t *testing.T) (decider, *account) {
	a := &account{things: map[string][]string{}, statuses: map[string]admit.Status{}}
	return decider{things: a, serials: serials.New(dynamotest.Serve(t), dynamotest.Table)}, a
}

// TestConcurrentRegistrationAdmitsOne: claims that race for one new serial number, each with a
// certificate of its own.
func TestConcurrentRegistrationAdmitsOne(t *testing.T) {
	t.Parallel()
	d, a := once(t)
	for round := range 10 {
		serial := fmt.Sprint("297468", round)
		var group sync.WaitGroup
		var mu sync.Mutex
		var admitted []string
		var late error // on a busy machine a look-up may take too long, and admits nobody
		for i := range 30 {
			id := fmt.Sprint("certificate-", round, "-", i)
			a.mu.Lock()
			a.statuses[id] = admit.PendingActivation
			a.mu.Unlock()
			group.Go(func() {
				request := strings.Replace(string(event(`{"serialNumber":"`+serial+`"}`)), "9f2b1c", id, 1)
				answer, _, err := d.invoke(t, []byte(request))
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					late = err
				} else if strings.Contains(string(answer), `"allowProvisioning":true`) {
					admitted = append(admitted, id)
				}
			})
		}
		if group.Wait(); late != nil && len(admitted) == 0 {
			t.Logf("round %d: %v", round, late)
			continue
		}
		if len(admitted) != 1 {
			t.Fatalf("serial number %s was admitted with %q", serial, admitted)
		}
		for range 2 { // the winner's answer may be lost
			if allowed, line := d.decision(t, serial, admitted[0]); !allowed {
				t.Errorf("the winner asks again: %v", line)
			}
		}
	}
}

func TestFailedRegistrationUsesUpNoSerialNumber(t *testing.T) {
	t.Parallel()
	d, a := once(t)
	clock := time.Now()
	d.now = func() time.Time { return clock }
	a.statuses["first"], a.statuses["second"] = admit.PendingActivation, admit.PendingActivation // the first never becomes active
	if allowed, line := d.decision(t, "2974685", "first"); !allowed {
		t.Fatal(line)
	}
	if allowed, line := d.decision(t, "2974685", "second"); allowed || line["reason"] != string(admit.SerialPending) {
		t.Errorf("while the first may still be registered: %v", line)
	}
	clock = clock.Add(admit.Lease)
	if allowed, line := d.decision(t, "2974685", "second"); !allowed {
		t.Errorf("after the lease: %v", line)
	}
	if allowed, _ := d.decision(t, "2974685", "first"); allowed {
		t.Error("the first was admitted again after the second took over")
	}
	a.statuses["second"] = admit.Active
	clock = clock.Add(24 * time.Hour)
	allowed, line := d.decision(t, "2974685", "third")
	if want := "to allow this device, run: deactivate second"; allowed || line["remedy"] != want {
		t.Errorf("a used serial number: %v", line)
	}
	a.statuses["second"] = admit.Revoked
	if allowed, line := d.decision(t, "2974685", "third"); allowed {
		t.Errorf("the holder is revoked: %v", line)
	}
	a.statuses["second"] = "INACTIVE"
	if allowed, line := d.decision(t, "2974685", "third"); !allowed {
		t.Errorf("the holder is inactive: %v", line)
	}
}

// TestDeviceThatIsDeniedUsesUpNoSerialNumber: nobody can take a serial number from a device by
// asking for what is denied anyway.
func TestDeviceThatIsDeniedUsesUpNoSerialNumber(t *testing.T) {
	t.Parallel()
	c := dynamotest.Serve(t)
	d := decider{
		rules:   admit.Rules{Locations: []string{"USA"}},
		things:  &account{things: map[string][]string{"fleety_2974685": {"old"}}, statuses: map[string]admit.Status{"old": admit.Active}},
		serials: serials.New(c, dynamotest.Table),
	}
	for _, parameters := range []string{
		`{"serialNumber":"2974685","deviceLocation":"USA"}`, `{"serialNumber":"2974686","deviceLocation":"Mars"}`,
		`{"serialNumber":"2974686"}`, `{"serialNumber":"2974686","deviceLocation":"USA","author":7}`, `{"serialNumber":"1234567","deviceLocation":"USA"}`,
	} {
		if answer, _, err := d.invoke(t, event(parameters)); err != nil || strings.Contains(string(answer), "true") {
			t.Errorf("%s: answer %s, error %v", parameters, answer, err)
		}
	}
	if items := dynamotest.Items(t, c); len(items) != 0 {
		t.Errorf("marked %v", items)
	}
}

func TestRotationMovesTheMark(t *testing.T) {
	t.Parallel()
	d, a := once(t)
	a.statuses["old"] = admit.PendingActivation
	if allowed, line := d.decision(t, "2974685", "old"); !allowed {
		t.Fatal(line)
	}
	a.statuses["old"], a.statuses["57c92e"] = admit.Active, admit.Active
	a.things["fleety_2974685"] = []string{"old", "57c92e"}
	if allowed, line := d.decision(t, "2974685", "new"); !allowed {
		t.Fatal(line)
	}
	if m, err := d.serials.Mark(t.Context(), "2974685"); err != nil || m.HeldBy != "new" {
		t.Errorf("mark %+v, error %v, want held by new", m, err)
	}
}

// TestListedSerialNumbersCannotBeFound: a claim gets the same answer for a listed serial number as
// for others, whatever else it sends, unless it registers it.
func TestListedSerialNumbersCannotBeFound(t *testing.T) {
	t.Parallel()
	c := dynamotest.Serve(t)
	registry := serials.New(c, dynamotest.Table)
	if _, err := registry.Add(t.Context(), "2974685"); err != nil {
		t.Fatal(err)
	}
	d := decider{rules: admit.Rules{ListedOnly: true, Locations: []string{"USA"}}, things: &account{}, serials: registry}
	for _, rest := range []string{`"deviceLocation":"Mars"`, `"deviceLocation":7`, `"x":1`, `"deviceLocation":"USA","author":[]`} {
		answers := map[string]bool{}
		for _, serial := range []string{"2974685", "2974686"} {
			answer, _, err := d.invoke(t, event(`{"serialNumber":"`+serial+`",`+rest+`}`))
			answers[fmt.Sprint(string(answer), err)] = true
		}
		if len(answers) != 1 {
			t.Errorf("%s: the answers differ: %v", rest, answers)
		}
	}
	if allowed, line := d.decision(t, "2974686", "new"); allowed || line["reason"] != string(admit.SerialUnlisted) {
		t.Errorf("not listed: %v", line)
	}
	if allowed, line := d.decision(t, "2974685", "new"); !allowed {
		t.Errorf("listed: %v", line)
	}
}
