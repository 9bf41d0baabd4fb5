package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/session"
)

func TestClaimClientIDsAreUniqueAndShort(t *testing.T) {
	tests := map[string]struct{ serial, prefix string }{
		"plain":   {"2974685", "claim-2974685-"},
		"odd":     {"297/#+ü", "claim-297____-"},
		"endless": {strings.Repeat("9", 500), "claim-" + strings.Repeat("9", 90) + "-"},
		"empty":   {"", "claim--"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			one, two := claimClientID(test.serial), claimClientID(test.serial)
			if one == two {
				t.Errorf("two runs share %q", one)
			}
			if !strings.HasPrefix(one, test.prefix) || len(one) > session.MaxClientIDLength {
				t.Errorf("client id %q", one)
			}
		})
	}
}

// newTestRun returns a run that only retries.
func newTestRun(t *testing.T) *run {
	c, err := Config{Store: new(identity.Store), Template: "x"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return &run{Config: c, timing: awsTiming, connected: map[string]time.Time{}, silence: map[string]int{}}
}

func TestConnectsWithOneClientIDAreASecondApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRun(t)
		began := time.Now()
		for _, id := range []string{"a", "b", "a", "a"} {
			if err := r.awaitTurn(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(began); got != 2*time.Second {
			t.Errorf("four turns took %v, want 2s", got)
		}
	})
}

func TestDelaysAreExponentialWithFullJitter(t *testing.T) {
	limits := []time.Duration{1, 2, 4, 8, 16, 20, 20, 20}
	seen := make([]time.Duration, len(limits))
	for range 2000 {
		delays := awsTiming.newBackOff()
		for i, limit := range limits {
			d := delays.NextBackOff()
			if d < 0 || d > limit*time.Second {
				t.Fatalf("delay %d is %v, limit %v", i, d, limit*time.Second)
			}
			seen[i] = max(seen[i], d)
		}
	}
	for i, limit := range limits {
		if seen[i] < limit*time.Second*9/10 {
			t.Errorf("delay %d never came near its limit %v: %v", i, limit*time.Second, seen[i])
		}
	}
}

func TestOnlyTemporaryFailuresAreTriedAgain(t *testing.T) {
	throttled := &awsiot.ErrorResponse{StatusCode: 429, ErrorCode: "Throttled"}
	refused := &awsiot.ErrorResponse{StatusCode: 403, ErrorCode: "AccessDenied"}
	tests := map[string]struct {
		fail []error
		want error
	}{
		"temporary, then good":    {[]error{throttled, throttled, nil}, nil},
		"refused":                 {[]error{refused}, refused},
		"temporary, then refused": {[]error{throttled, refused}, refused},
		"local":                   {[]error{fs.ErrPermission}, fs.ErrPermission},
		"enough of it":            {[]error{enough{throttled}}, throttled},
		"again":                   {[]error{again{refused}, nil}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				attempts := 0
				err := newTestRun(t).retry(t.Context(), func(context.Context) error {
					attempts++
					return test.fail[attempts-1]
				})
				if !errors.Is(err, test.want) {
					t.Errorf("error %v, want %v", err, test.want)
				}
				if attempts != len(test.fail) {
					t.Errorf("%d attempts, want %d", attempts, len(test.fail))
				}
			})
		})
	}
}

func TestRetryingEndsWithTheContextAndTellsTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		throttled := &awsiot.ErrorResponse{StatusCode: 429, ErrorCode: "Throttled"}
		began := time.Now()
		err := newTestRun(t).retry(ctx, func(context.Context) error { return throttled })
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, throttled) {
			t.Errorf("error %v", err)
		}
		if got := time.Since(began); got != time.Minute {
			t.Errorf("it took %v", got)
		}
	})
}

func TestClassOf(t *testing.T) {
	tests := map[string]struct {
		err  error
		want Class
	}{
		"disk full":              {&fs.PathError{Op: "write", Path: "x", Err: errors.New("no space left on device")}, Local},
		"locked":                 {&identity.LockedError{PID: 7}, Temporary},
		"strange certificate":    {&identity.CertificateError{Reason: "x"}, Local},
		"no claim":               {&ConfigError{Setting: "claim"}, Misconfigured},
		"thing name":             {&ThingNameError{}, Misconfigured},
		"access denied":          {&awsiot.ErrorResponse{StatusCode: 403}, Refused},
		"conflict":               {&awsiot.ErrorResponse{StatusCode: 409}, Refused},
		"throttled":              {&awsiot.ErrorResponse{StatusCode: 429}, Temporary},
		"unavailable":            {&awsiot.ErrorResponse{StatusCode: 503}, Temporary},
		"no answer":              {&TimeoutError{To: "x"}, Temporary},
		"bad answer":             {&ReplyError{Topic: "x"}, Temporary},
		"denied":                 {&DeniedError{Err: &session.Error{Err: session.ErrClosedSilently}}, Refused},
		"closed":                 {&session.Error{Err: session.ErrClosedSilently}, Temporary},
		"connack":                {&session.Error{Authenticated: true, Err: &session.ConnackError{Code: 5}}, Refused},
		"time is up":             {context.DeadlineExceeded, Temporary},
		"interrupted":            {&session.Error{Err: context.Canceled}, Interrupted},
		"no answer in a session": {&session.Error{Err: &TimeoutError{To: "x"}}, Temporary},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := ClassOf(fmt.Errorf("wrapped: %w", test.err)); got != test.want {
				t.Errorf("class %v, want %v", got, test.want)
			}
		})
	}
}

func TestTheCommandNamesTheEndpointsRegion(t *testing.T) {
	tests := map[string]string{
		"abc-ats.iot.eu-central-1.amazonaws.com":  " --region eu-central-1",
		"abc.ats.iot.cn-north-1.amazonaws.com.cn": " --region cn-north-1",
		"localhost":          "",
		"device.example.com": "",
		"abc-ats.iot.us-east-1.amazonaws.com.evil.x": "",
	}
	for endpoint, want := range tests {
		got := retiredBy(&identity.Identity{Record: identity.Record{Endpoint: endpoint, Replaces: "ab"}}).Command
		if got != "aws iot update-certificate --certificate-id ab --new-status INACTIVE"+want {
			t.Errorf("%s: %s", endpoint, got)
		}
	}
}

var (
	createTopic   = awsiot.Topic{Operation: awsiot.CreateKeysAndCertificate, Format: awsiot.JSON}
	registerTopic = awsiot.Topic{Operation: awsiot.RegisterThing, Template: "T", Format: awsiot.JSON}
)

func TestAnswersThatCannotBeUsedAreTold(t *testing.T) {
	whole := `{"certificateId":"i","certificatePem":"p","privateKey":"k","certificateOwnershipToken":"t"}`
	tests := map[string]struct {
		topic, payload, reason string
	}{
		"not JSON":             {createTopic.Accepted(), whole[:40], "not the JSON that AWS documents"},
		"null":                 {createTopic.Accepted(), "null", "certificateId is missing"},
		"empty":                {createTopic.Accepted(), "", "not the JSON that AWS documents"},
		"without a key":        {createTopic.Accepted(), strings.Replace(whole, "privateKey", "x", 1), "privateKey is missing"},
		"without a token":      {createTopic.Accepted(), strings.Replace(whole, "certificateOwnershipToken", "x", 1), "certificateOwnershipToken is missing"},
		"of another type":      {createTopic.Accepted(), `{"certificateId":7}`, "not the JSON that AWS documents"},
		"oversized":            {createTopic.Accepted(), strings.Repeat(" ", session.MaxPayload+1), "bytes long"},
		"refusal not JSON":     {createTopic.Rejected(), "<html>", "not the JSON that AWS documents"},
		"refusal without code": {createTopic.Rejected(), "{}", "without a status code"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var answer awsiot.CreateKeysAndCertificateResponse
			mine, err := read(createTopic, session.Message{Topic: test.topic, Payload: []byte(test.payload)}, &answer)
			reply, ok := errors.AsType[*ReplyError](err)
			if !mine || !ok || !strings.Contains(reply.Reason, test.reason) {
				t.Errorf("read: %v, %v", mine, err)
			}
		})
	}
}

func TestMessagesOfOtherTopicsAreNoAnswer(t *testing.T) {
	for _, topic := range []string{createTopic.String(), registerTopic.Accepted(), registerTopic.Rejected(), "fleet/x", ""} {
		var answer awsiot.CreateKeysAndCertificateResponse
		if mine, err := read(createTopic, session.Message{Topic: topic, Payload: []byte("{}")}, &answer); mine || err != nil {
			t.Errorf("%q: %v, %v", topic, mine, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(true, []byte(`{"deviceConfiguration":{"a":"b"},"thingName":"fleety_1"}`))
	f.Add(true, []byte(`{"certificateId":"i","certificatePem":"p","privateKey":"k","certificateOwnershipToken":"t"}`))
	f.Add(false, []byte(`{"statusCode":403,"errorCode":"AccessDenied","errorMessage":"no"}`))
	f.Fuzz(func(t *testing.T, accepted bool, payload []byte) {
		for topic, answer := range map[awsiot.Topic]any{
			createTopic:   new(awsiot.CreateKeysAndCertificateResponse),
			registerTopic: new(awsiot.RegisterThingResponse),
		} {
			m := session.Message{Topic: topic.Rejected(), Payload: payload}
			if accepted {
				m.Topic = topic.Accepted()
			}
			mine, err := read(topic, m, answer)
			if !mine || !accepted && err == nil {
				t.Errorf("mine %v, error %v", mine, err)
			}
			if err == nil && !json.Valid(payload) {
				t.Error("accepted what is not JSON")
			}
		}
	})
}
