package provision

import (
	"context"
	"crypto/x509"
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
	return &run{Config: c, timing: awsTiming, connected: map[string]time.Time{}, silentCloses: map[string]silentCloses{}}
}

func TestConnectsWithOneClientIDAreASecondApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRun(t)
		began := time.Now()
		for _, id := range []string{"a", "b", "a", "a"} {
			if err := r.awaitConnectInterval(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(began); got != 2*time.Second {
			t.Errorf("four connects took %v, want 2s", got)
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

func TestOnlyFailuresThatMayPassAreRetried(t *testing.T) {
	throttled := &awsiot.ErrorResponse{StatusCode: 429, ErrorCode: "Throttled"}
	invalid := &awsiot.ErrorResponse{StatusCode: 400, ErrorCode: "InvalidParameters"}
	denied := &awsiot.ErrorResponse{StatusCode: 403, ErrorCode: "AccessDenied"}
	tests := map[string]struct {
		fail []error
		want error
	}{
		"temporary, then good":     {[]error{throttled, throttled, nil}, nil},
		"rejected":                 {[]error{invalid}, invalid},
		"temporary, then rejected": {[]error{throttled, invalid}, invalid},
		"a hook that failed once":  {[]error{denied, nil}, nil},
		"denied":                   {[]error{denied, throttled, denied, denied}, denied},
		"local":                    {[]error{fs.ErrPermission}, fs.ErrPermission},
		"too often":                {[]error{decided{throttled, false}}, throttled},
		"at once":                  {[]error{decided{invalid, true}, nil}, nil},
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

func TestRetryingEndsWithTheContextAndNamesTheCause(t *testing.T) {
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

func TestFirstAttemptThatLastsTooLongNamesWhatItAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timeout := errors.New("gave up")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, fmt.Errorf("%w: %w", timeout, context.DeadlineExceeded))
		defer cancel()
		err := newTestRun(t).retry(ctx, func(ctx context.Context) error {
			<-ctx.Done()
			return &session.Error{Stage: session.StageProxy, Err: context.Cause(ctx)}
		})
		if e, ok := errors.AsType[*session.Error](err); !ok || e.Stage != session.StageProxy || !errors.Is(err, timeout) || awsiot.ClassOf(err) != awsiot.Temporary {
			t.Errorf("error %v", err)
		}
	})
}

func TestClassOfErrors(t *testing.T) {
	tests := map[string]struct {
		err  error
		want awsiot.Class
	}{
		"disk full":              {&fs.PathError{Op: "write", Path: "x", Err: errors.New("no space left on device")}, awsiot.Failed},
		"strange certificate":    {&identity.CertificateError{Reason: "x"}, awsiot.Failed},
		"thing name":             {&ThingNameError{}, awsiot.Misconfigured},
		"no thing name":          {&ThingNameError{CertificateID: "ab"}, awsiot.Misconfigured},
		"no answer":              {&TimeoutError{To: "x"}, awsiot.Temporary},
		"bad answer":             {&replyError{topic: "x"}, awsiot.Temporary},
		"clock behind":           {fmt.Errorf("%w (%w)", &awsiot.ValidityError{Certificate: &x509.Certificate{}}, &session.Error{Authenticated: true, Err: &session.ConnackError{Code: 5}}), awsiot.Temporary},
		"interrupted":            {&session.Error{Err: context.Canceled}, awsiot.Interrupted},
		"no answer in a session": {&session.Error{Err: &TimeoutError{To: "x"}}, awsiot.Temporary},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := awsiot.ClassOf(fmt.Errorf("wrapped: %w", test.err)); got != test.want {
				t.Errorf("class %v, want %v", got, test.want)
			}
		})
	}
}

func TestSilentClosesAreDeniedOnlyAfterMinutesAndNeverOnceProved(t *testing.T) {
	closed := &session.Error{Authenticated: true, Stage: session.StageConnect, After: "CONNECT", Err: session.ErrClosedSilently}
	tests := map[string]struct {
		proved   bool
		every    time.Duration
		closes   int
		other    int // after as many closes comes another error
		deniedAt int // 0: never
	}{
		"five within ten seconds": {every: 2 * time.Second, closes: 5},
		"many within a minute":    {every: time.Second, closes: 60},
		"few over an hour":        {every: 15 * time.Minute, closes: 4},
		"over minutes":            {every: 20 * time.Second, closes: 12, deniedAt: 10},
		"rare":                    {every: 10 * time.Minute, closes: 6, deniedAt: 5},
		"interrupted":             {every: 20 * time.Second, closes: 12, other: 6},
		"proved before":           {proved: true, every: time.Minute, closes: 100},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTestRun(t)
				r.proved = test.proved
				for n := 1; n <= test.closes; n++ {
					if n == test.other {
						r.countSilentCloses(&session.Error{Stage: session.StageDial, Err: errors.New("unreachable")}, claimRole, "CONNECT")
					}
					err := r.countSilentCloses(closed, claimRole, "CONNECT")
					if denied := awsiot.ClassOf(err) == awsiot.Denied; denied != (test.deniedAt > 0 && n >= test.deniedAt) {
						t.Fatalf("close %d: denied %v", n, denied)
					}
					time.Sleep(test.every)
				}
			})
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
		got := DeactivateCommand(identity.Record{Endpoint: endpoint, Replaces: "ab"})
		if got != "aws iot update-certificate --certificate-id ab --new-status INACTIVE"+want {
			t.Errorf("%s: %s", endpoint, got)
		}
	}
}

var (
	createTopic   = awsiot.Topic{Operation: awsiot.CreateKeysAndCertificate, Format: awsiot.JSON}
	registerTopic = awsiot.Topic{Operation: awsiot.RegisterThing, Template: "T", Format: awsiot.JSON}
)

func TestUnreadableAnswersAreNamed(t *testing.T) {
	whole := `{"certificateId":"i","certificatePem":"p","privateKey":"k","certificateOwnershipToken":"t"}`
	tests := map[string]struct {
		topic, payload string
	}{
		"not JSON":               {createTopic.Accepted(), whole[:40]},
		"two objects":            {createTopic.Accepted(), whole + whole},
		"null":                   {createTopic.Accepted(), "null"},
		"empty":                  {createTopic.Accepted(), ""},
		"without a key":          {createTopic.Accepted(), strings.Replace(whole, "privateKey", "x", 1)},
		"without a token":        {createTopic.Accepted(), strings.Replace(whole, "certificateOwnershipToken", "x", 1)},
		"of another type":        {createTopic.Accepted(), `{"certificateId":7}`},
		"oversized":              {createTopic.Accepted(), strings.Repeat(" ", session.MaxPayload+1)},
		"rejection not JSON":     {createTopic.Rejected(), "<html>"},
		"rejection without code": {createTopic.Rejected(), "{}"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var answer awsiot.CreateKeysAndCertificateResponse
			mine, err := read(createTopic, session.Message{Topic: test.topic, Payload: []byte(test.payload)}, &answer)
			if reply, ok := errors.AsType[*replyError](err); !mine || !ok || reply.topic != test.topic {
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
