package provision_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// always and once choose the requests that a fault spoils.
func always(int) bool      { return true }
func once(number int) bool { return number == 1 }

// issued returns how many certificates the emulator has made for devices.
func issued(core *localcore.Server) int { return len(core.Registry().ListCertificates()) - 1 }

func rejection(status int) localcore.Fault {
	return localcore.Fault{Reject: &awsiot.ErrorResponse{StatusCode: status, ErrorCode: "Test"}}
}

// TestFaultsOfTheExchange spoils each request of both flows in each way.
// Whatever happens, the run ends in time, with an identity or with an error of
// the right class, and the next run, undisturbed, ends with an identity.
func TestFaultsOfTheExchange(t *testing.T) {
	const succeeds awsiot.Class = -1
	register := awsiot.RegisterThing
	tests := map[string]struct {
		operation awsiot.Operation // empty: the flow's create operation
		fault     localcore.Fault
		when      func(int) bool
		want      awsiot.Class
		issued    int // certificates, by this run
	}{
		"create throttled once":        {"", rejection(429), once, succeeds, 1},
		"create throttled":             {"", rejection(429), always, awsiot.Temporary, 0},
		"create unavailable once":      {"", rejection(503), once, succeeds, 1},
		"create rejected":              {"", rejection(400), always, awsiot.Denied, 0},
		"create unanswered once":       {"", localcore.Fault{DropReply: true}, once, succeeds, 2},
		"create unanswered":            {"", localcore.Fault{DropReply: true}, always, awsiot.Temporary, 3},
		"create answered twice":        {"", localcore.Fault{DuplicateReply: true}, always, succeeds, 1},
		"create answered too late":     {"", localcore.Fault{DelayReply: 4 * time.Second}, once, succeeds, 2},
		"create answered late":         {"", localcore.Fault{DelayReply: 200 * time.Millisecond}, always, succeeds, 1},
		"closed before create, once":   {"", localcore.Fault{CloseBefore: true}, once, succeeds, 1},
		"closed before create":         {"", localcore.Fault{CloseBefore: true}, always, awsiot.Temporary, 0},
		"closed after create, once":    {"", localcore.Fault{CloseAfter: true}, once, succeeds, 2},
		"closed after create":          {"", localcore.Fault{CloseAfter: true}, always, awsiot.Temporary, 3},
		"register throttled once":      {register, rejection(429), once, succeeds, 1},
		"register throttled":           {register, rejection(429), always, awsiot.Temporary, 1},
		"register unavailable once":    {register, rejection(500), once, succeeds, 1},
		"register rejected":            {register, rejection(400), always, awsiot.Denied, 1},
		"register denied":              {register, rejection(403), always, awsiot.Denied, 1},
		"register unanswered once":     {register, localcore.Fault{DropReply: true}, once, succeeds, 1},
		"register unanswered":          {register, localcore.Fault{DropReply: true}, always, succeeds, 1},
		"register answered twice":      {register, localcore.Fault{DuplicateReply: true}, always, succeeds, 1},
		"register answered too late":   {register, localcore.Fault{DelayReply: 4 * time.Second}, once, succeeds, 1},
		"closed before register, once": {register, localcore.Fault{CloseBefore: true}, once, succeeds, 1},
		"closed before register":       {register, localcore.Fault{CloseBefore: true}, always, awsiot.Temporary, 1},
		"closed after register, once":  {register, localcore.Fault{CloseAfter: true}, once, succeeds, 1},
		"closed after register":        {register, localcore.Fault{CloseAfter: true}, always, succeeds, 1},
	}
	for _, keys := range []provision.Keys{provision.DeviceKeys, provision.ServiceKeys} {
		create := awsiot.CreateCertificateFromCSR
		if keys == provision.ServiceKeys {
			if testing.Short() {
				break // for each run the emulator makes an RSA key
			}
			create = awsiot.CreateKeysAndCertificate
		}
		for name, test := range tests {
			t.Run(string(keys)+"/"+name, func(t *testing.T) {
				t.Parallel()
				operation := test.operation
				if operation == "" {
					operation = create
				}
				d := newDevice(t, startEmulator(t))
				d.config.Keys = keys
				fault := test.fault
				if fault.DropReply || fault.DelayReply > time.Second {
					d.config.AnswerTimeout = 2 * time.Second
					if keys == provision.ServiceKeys { // an RSA key takes a fifth of one, on an idle machine
						d.config.AnswerTimeout, fault.DelayReply = 3*d.config.AnswerTimeout, 3*fault.DelayReply
					}
				}
				spoilt := d.spoil(operation, fault, test.when)
				d.checkFaulty(t, spoilt, test.want, test.issued, test.issued)
			})
			if keys == provision.ServiceKeys {
				continue
			}
			// So does an eager run whose early answers are lost. Each lost answer is
			// one more certificate, of which there are never more than three.
			t.Run("eager/"+name, func(t *testing.T) {
				t.Parallel()
				operation := test.operation
				if operation == "" {
					operation = create
				}
				d := newDevice(t, startEmulator(t))
				d.config.Eager = true
				d.config.AnswerTimeout = 1500 * time.Millisecond
				if test.fault.DropReply || test.fault.DelayReply > time.Second {
					d.config.AnswerTimeout = 600 * time.Millisecond
				}
				spoilt := d.spoil(operation, test.fault, test.when)
				d.core.Faults.LoseEarlyReplies(100 * time.Millisecond)
				d.checkFaulty(t, spoilt, test.want, test.issued, 3)
			})
		}
	}
}

// spoil has the emulator answer requests with a fault, and returns the count of those.
func (d *device) spoil(operation awsiot.Operation, fault localcore.Fault, when func(int) bool) *atomic.Int64 {
	var spoilt atomic.Int64
	d.core.Faults.Set(func(e localcore.Exchange) localcore.Fault {
		if e.Operation != operation || !when(e.Number) {
			return localcore.Fault{}
		}
		spoilt.Add(1)
		return fault
	})
	return &spoilt
}

func (d *device) checkFaulty(t *testing.T, spoilt *atomic.Int64, want awsiot.Class, least, most int) {
	t.Helper()
	timeout := time.Minute
	if want == awsiot.Temporary && least < 3 { // it would go on for as long as it may
		timeout = time.Second
		if most > least {
			timeout = 5 * time.Second // an early answer is waited for in vain first
		}
	}
	c := d.config
	var err error
	for tries := 0; timeout < 10*time.Minute && spoilt.Load() == 0; timeout *= 8 { // on a busy machine the first one is too short
		if tries++; tries > 1 {
			most++ // it may have ended while a certificate was made
		}
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		c.Store = d.store(t)
		_, err = provision.RunQuickly(ctx, c)
		cancel()
	}
	if got := issued(d.core); got < least || got > most {
		t.Errorf("%d certificates were issued, want %d to %d", got, least, most)
	}
	if want < 0 {
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
		return
	}
	if got := awsiot.ClassOf(err); got != want || err == nil {
		t.Errorf("error %v of class %v, want %v", err, got, want)
	}
	if _, err := d.store(t).Load(); !errors.Is(err, identity.ErrNone) {
		t.Errorf("an identity was left: %v", err)
	}
	d.core.Faults.Set(nil)
	if _, err := d.run(t); err != nil {
		t.Fatalf("next run: %v", err)
	}
	d.check(t)
}

func TestTimedOutRunNamesWhatItWaitedFor(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	d.config.AnswerTimeout = 200 * time.Millisecond
	d.core.Faults.Set(func(localcore.Exchange) localcore.Fault { return rejection(429) })
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	c := d.config
	c.Store = d.store(t)
	_, err := provision.Run(ctx, c)
	if !errors.Is(err, context.DeadlineExceeded) || awsiot.ClassOf(err) != awsiot.Temporary {
		t.Errorf("error %v of class %v", err, awsiot.ClassOf(err))
	}
	if rejection, ok := errors.AsType[*awsiot.ErrorResponse](err); !ok || rejection.StatusCode != 429 {
		t.Errorf("the cause is lost: %v", err)
	}
}

func TestACancelledRunEndsAtOnce(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	ctx, cancel := context.WithCancel(t.Context())
	d.core.Faults.Set(func(localcore.Exchange) localcore.Fault {
		cancel()
		return localcore.Fault{DropReply: true}
	})
	c := d.config
	c.Store = d.store(t)
	_, err := provision.Run(ctx, c)
	if awsiot.ClassOf(err) != awsiot.Interrupted || !errors.Is(err, context.Canceled) {
		t.Errorf("error %v of class %v", err, awsiot.ClassOf(err))
	}
	if strings.Count(err.Error(), "context canceled") > 1 {
		t.Errorf("the cause is there twice: %v", err)
	}
}

func TestDenialByPolicyIsNamed(t *testing.T) {
	allow := func(action, resource string) string {
		return `{"Effect":"Allow","Action":"iot:` + action + `","Resource":"` + resource + `"}`
	}
	tests := map[string]struct {
		policy string // and what it allows
		allows []string
		role   string
		packet string
	}{
		"claim may not connect": {
			localcore.ClaimPolicyName, []string{allow("Subscribe", "*")}, "claim", "CONNECT",
		},
		"claim may not subscribe": {
			localcore.ClaimPolicyName, []string{allow("Connect", "*"), allow("Publish", "*"), allow("Receive", "*")}, "claim", "SUBSCRIBE",
		},
		"claim may not publish": {
			localcore.ClaimPolicyName, []string{allow("Connect", "*"), allow("Subscribe", "*"), allow("Receive", "*")}, "claim", "PUBLISH",
		},
		"device may not connect": {
			localcore.DevicePolicyName, []string{allow("Publish", "*")}, "device", "CONNECT",
		},
		"device may not publish": {
			localcore.DevicePolicyName, []string{allow("Connect", "*")}, "device", "PUBLISH",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, startEmulator(t))
			document := `{"Version":"2012-10-17","Statement":[` + strings.Join(test.allows, ",") + `]}`
			good, err := d.core.Registry().GetPolicy(test.policy)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.core.Registry().CreatePolicyVersion(test.policy, document, true); err != nil {
				t.Fatal(err)
			}
			_, err = d.run(t)
			closed, ok := errors.AsType[*session.Error](err)
			if !ok || awsiot.ClassOf(err) != awsiot.Denied {
				t.Fatalf("error %v", err)
			}
			if !strings.Contains(err.Error(), "denied to the "+test.role+" certificate") || closed.After != test.packet {
				t.Errorf("%v, after %s, want the %s certificate and %s", err, closed.After, test.role, test.packet)
			}
			if err := d.core.Registry().SetDefaultPolicyVersion(test.policy, good.DefaultVersion); err != nil {
				t.Fatal(err)
			}
			if _, err := d.run(t); err != nil {
				t.Fatalf("next run: %v", err)
			}
			d.check(t)
		})
	}
}
