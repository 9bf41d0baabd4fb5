package shadow_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"example.com/fleety/device/agent/shadow"
	"example.com/fleety/device/awsiot"
	emulated "example.com/fleety/device/localcore/shadow"
	"example.com/fleety/device/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const thing = "fleety_1"

// A cloud is the Device Shadow service, and the connection to it.
type cloud struct {
	service *emulated.Service
	present bool // the session

	mu       sync.Mutex
	shadow   *shadow.Shadow
	online   bool
	requests []string                                        // operations, in order
	hook     func(t awsiot.ShadowTopic, payload []byte) bool // true: it has handled a request
}

func newCloud(t *testing.T) *cloud {
	service, err := emulated.Open(emulated.Config{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return &cloud{service: service}
}

func (c *cloud) ThingName() string    { return thing }
func (c *cloud) SessionPresent() bool { return c.present }

func (c *cloud) Publish(ctx context.Context, topic string, payload []byte) error {
	t, ok := awsiot.ParseShadowTopic(topic)
	if !ok || t.Thing != thing {
		return fmt.Errorf("published to %s", topic)
	}
	c.mu.Lock()
	c.requests = append(c.requests, string(t.Operation))
	hook := c.hook
	c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if hook == nil || !hook(t, payload) {
		c.do(t, payload)
	}
	return nil
}

// do carries out a request of anybody's.
func (c *cloud) do(t awsiot.ShadowTopic, payload []byte) {
	messages, err := c.service.Request(t, payload, 0)
	if err != nil {
		messages = []awsiot.Message{emulated.Rejected(t, err)}
	}
	for _, m := range messages {
		c.deliver(m.Topic, string(m.Payload))
	}
}

func (c *cloud) deliver(topic, payload string) {
	c.mu.Lock()
	s := c.shadow
	online := c.online || c.present
	c.mu.Unlock()
	if online && s != nil && !strings.HasSuffix(topic, "/documents") && !s.Deliver(session.Message{Topic: topic, Payload: []byte(payload)}) {
		panic("a message of the shadow is not taken: " + topic)
	}
}

// sent returns the operations that the device has requested, in their order.
func (c *cloud) sent() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

func topic(o awsiot.ShadowOperation) awsiot.ShadowTopic {
	return awsiot.ShadowTopic{Thing: thing, Operation: o}
}

// desire is what an application does.
func (c *cloud) desire(state string) {
	c.do(topic(awsiot.UpdateShadow), []byte(`{"state":{"desired":`+state+`}}`))
}

// state returns what the cloud has.
func (c *cloud) state(t *testing.T) (state map[string]any, version int64) {
	t.Helper()
	messages, err := c.service.Request(topic(awsiot.GetShadow), nil, 0)
	if err != nil {
		return nil, 0
	}
	var d struct {
		State   map[string]any
		Version int64
	}
	if err := awsiot.DecodeJSON(messages[0].Payload, &d); err != nil {
		t.Fatal(err)
	}
	delete(d.State, "delta")
	return d.State, d.Version
}

// connect serves the shadow until the function that it returns is called.
func (c *cloud) connect(t *testing.T, s *shadow.Shadow) (disconnect func()) {
	t.Helper()
	c.mu.Lock()
	c.shadow, c.online = s, true
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, c) }()
	return sync.OnceFunc(func() {
		c.mu.Lock()
		c.online = false
		c.mu.Unlock()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func open(t *testing.T, c shadow.Config) *shadow.Shadow {
	t.Helper()
	s, err := shadow.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run applies desired states until the function that it returns is called.
func run(t *testing.T, s *shadow.Shadow) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx, thing) }()
	return sync.OnceFunc(func() { cancel(); <-ended })
}

func counters(s *shadow.Shadow) map[string]uint64 {
	var counts map[string]uint64
	s.Metrics(func(_, _, _ string, samples ...any) { counts = maps.Clone(samples[1].(map[string]uint64)) })
	return counts
}

func diff(t *testing.T, want string, got any) {
	t.Helper()
	var w, g any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(awsiot.EncodeJSON(got), &g); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(w, g); d != "" {
		t.Error(d)
	}
}

// Changes that were made offline survive a restart, are merged, and are sent in
// their order when there is a connection.
func TestOfflineChangesAreMergedAndSentLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, c := t.TempDir(), newCloud(t)
		c.desire(`{"mode":"day","keep":{"x":1}}`)
		s := open(t, shadow.Config{Dir: dir})
		for _, change := range []string{
			`{"state":{"reported":{"led":"on","old":1,"deep":{"a":1}}}}`,
			`{"state":{"reported":{"led":null,"deep":{"b":2}},"desired":{"keep":null}}}`,
			`{"state":{"desired":{"keep":{"y":2}}}}`, // not the same as both in one
			`{"state":{"reported":{"old":null}}}`,
		} {
			if err := s.Update([]byte(change)); err != nil {
				t.Fatal(err)
			}
		}
		s = open(t, shadow.Config{Dir: dir}) // killed
		diff(t, `{"state":{"reported":{"deep":{"a":1,"b":2}},"desired":{"keep":{"y":2}}},"version":0,"pending":true}`, s.Document())
		defer c.connect(t, s)()
		synctest.Wait()
		state, _ := c.state(t)
		diff(t, `{"desired":{"mode":"day","keep":{"y":2}},"reported":{"deep":{"a":1,"b":2}}}`, state)
		diff(t, `{"state":{"desired":{"mode":"day","keep":{"y":2}},"reported":{"deep":{"a":1,"b":2}}},"version":4,"pending":false}`, s.Document())
	})
}

// A request may be sent late, on a link that is busy with others: its answer is awaited from then on.
func TestAnswerIsAwaitedFromWhenTheRequestIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		s := open(t, shadow.Config{Dir: t.TempDir()})
		c.hook = func(o awsiot.ShadowTopic, payload []byte) bool {
			time.Sleep(31 * time.Second)
			time.AfterFunc(time.Second, func() { c.do(o, payload) })
			return true
		}
		if err := s.Update([]byte(`{"state":{"reported":{"a":1}}}`)); err != nil {
			t.Fatal(err)
		}
		defer c.connect(t, s)()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if sent := strings.Join(c.sent(), " "); sent != "get update" || s.Document().Pending {
			t.Errorf("requested %s, pending: %t", sent, s.Document().Pending)
		}
	})
}

// A change is in flight until its answer: what comes meanwhile waits.
func TestOneUpdateIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		s := open(t, shadow.Config{Dir: t.TempDir()})
		var held []byte
		c.hook = func(o awsiot.ShadowTopic, payload []byte) bool {
			if o.Operation == awsiot.UpdateShadow && held == nil {
				held = payload
				return true
			}
			return false
		}
		defer c.connect(t, s)()
		for i := range 5 {
			if err := s.Update(fmt.Appendf(nil, `{"state":{"reported":{"n%d":%d}}}`, i, i)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if d := cmp.Diff([]string{"get", "update"}, c.sent()); d != "" {
			t.Error(d)
		}
		c.do(topic(awsiot.UpdateShadow), held)
		synctest.Wait()
		if d := cmp.Diff([]string{"get", "update", "update"}, c.sent()); d != "" {
			t.Error(d)
		}
		state, _ := c.state(t)
		diff(t, `{"reported":{"n0":0,"n1":1,"n2":2,"n3":3,"n4":4}}`, state)
	})
}

// A rejected update is repeated or dropped, as its code says, and an answer that
// does not come is not waited for for ever.
func TestRejectedUpdates(t *testing.T) {
	reject := func(c *cloud, o awsiot.ShadowTopic, payload []byte, code int) {
		var q struct{ ClientToken string }
		if err := json.Unmarshal(payload, &q); err != nil {
			panic(err)
		}
		c.deliver(o.Rejected(), fmt.Sprintf(`{"code":%d,"message":"no","clientToken":%q}`, code, q.ClientToken))
	}
	for name, tc := range map[string]struct {
		code     int // 0: no answer
		times    int
		counter  string
		count    uint64
		arrives  bool
		requests []string
	}{
		"conflict":            {409, 1, "conflict", 1, true, []string{"get", "update", "get", "update"}},
		"conflict again":      {409, 2, "conflict", 2, true, []string{"get", "update", "get", "update", "get", "update"}},
		"throttled":           {429, 4, "throttled", 4, true, []string{"get", "update", "update", "update", "update", "update"}},
		"too large":           {413, 1, "dropped", 1, false, []string{"get", "update"}},
		"invalid":             {400, 1, "dropped", 1, false, []string{"get", "update"}},
		"forbidden for a day": {403, 3, "failed", 3, true, []string{"get", "update", "update", "update", "update"}},
		"internal failure":    {500, 2, "failed", 2, true, []string{"get", "update", "update", "update"}},
		"no answer":           {0, 2, "failed", 2, true, []string{"get", "update", "update", "update"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCloud(t)
				s := open(t, shadow.Config{Dir: t.TempDir()})
				left := tc.times
				c.hook = func(o awsiot.ShadowTopic, payload []byte) bool {
					if o.Operation != awsiot.UpdateShadow || left == 0 {
						return false
					}
					if left--; tc.code != 0 {
						reject(c, o, payload, tc.code)
					}
					return true
				}
				defer c.connect(t, s)()
				if err := s.Update([]byte(`{"state":{"reported":{"a":1}}}`)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if d := cmp.Diff(tc.requests, c.sent()); d != "" {
					t.Error(d)
				}
				if got := counters(s)[tc.counter]; got != tc.count {
					t.Errorf("%s: %d, want %d", tc.counter, got, tc.count)
				}
				if state, _ := c.state(t); (state != nil) != tc.arrives {
					t.Errorf("the cloud has %v", state)
				}
				if d := s.Document(); d.Pending {
					t.Errorf("%+v", d)
				}
			})
		})
	}
}

// Of two that change the shadow at once, none loses a change: AWS IoT rejects the
// update that was made for an older version.
func TestConflictIsMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		c.desire(`{"a":1}`)
		s := open(t, shadow.Config{Dir: t.TempDir()})
		first := true
		c.hook = func(o awsiot.ShadowTopic, payload []byte) bool {
			if o.Operation == awsiot.UpdateShadow && first {
				first = false
				if _, err := c.service.Request(topic(awsiot.UpdateShadow), []byte(`{"state":{"desired":{"b":2}}}`), 0); err != nil { // not seen by the device
					t.Error(err)
				}
			}
			return false
		}
		defer c.connect(t, s)()
		if err := s.Update([]byte(`{"state":{"desired":{"c":3}}}`)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		diff(t, `{"state":{"desired":{"a":1,"b":2,"c":3}},"version":3,"pending":false}`, s.Document())
		if n := counters(s)["conflict"]; n != 1 {
			t.Errorf("%d conflicts", n)
		}
	})
}

// Differences are taken in the order of their versions, older ones are ignored, and
// a version that was missed has the shadow got again.
func TestDeltasAreTakenByVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		c.desire(`{"a":1}`) // version 1
		s := open(t, shadow.Config{Dir: t.TempDir()})
		defer c.connect(t, s)()
		synctest.Wait()
		delta := topic(awsiot.UpdateShadow).Delta()
		c.deliver(delta, `{"state":{"a":2},"version":2,"timestamp":1}`)
		synctest.Wait()
		c.deliver(delta, `{"state":{"a":1},"version":1,"timestamp":1}`)
		synctest.Wait()
		diff(t, `{"state":{"desired":{"a":2}},"version":2,"pending":false}`, s.Document())
		if n := counters(s)["old"]; n != 1 {
			t.Errorf("%d old messages", n)
		}
		if d := cmp.Diff([]string{"get"}, c.sent()); d != "" {
			t.Error(d)
		}
		// The shadow is deleted, and its versions begin anew: the old ones do not hold for ever.
		time.Sleep(2 * time.Minute)
		c.deliver(delta, `{"state":{"a":1},"version":1,"timestamp":1}`)
		synctest.Wait()
		diff(t, `{"state":{"desired":{"a":1}},"version":1,"pending":false}`, s.Document())
		c.desire(`{"b":1,"a":null}`) // version 2
		synctest.Wait()
		diff(t, `{"state":{"desired":{"b":1}},"version":2,"pending":false}`, s.Document())
		if _, err := c.service.Request(topic(awsiot.UpdateShadow), []byte(`{"state":{"desired":{"b":null}}}`), 0); err != nil { // 3, lost on the way
			t.Fatal(err)
		}
		c.desire(`{"c":1}`) // version 4
		synctest.Wait()
		diff(t, `{"state":{"desired":{"c":1}},"version":4,"pending":false}`, s.Document())
	})
}

// A shadow that an application deletes has no desired state any more: neither by
// itself, nor when the application makes it again.
func TestDeletionEmptiesTheShadow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		c.desire(`{"old":1}`)
		s := open(t, shadow.Config{Dir: t.TempDir()})
		defer c.connect(t, s)()
		synctest.Wait()
		c.do(topic(awsiot.DeleteShadow), nil)
		synctest.Wait()
		diff(t, `{"state":{},"version":0,"pending":false}`, s.Document())
		c.desire(`{"new":1}`)
		synctest.Wait()
		diff(t, `{"state":{"desired":{"new":1}},"version":2,"pending":false}`, s.Document())

		// The response of a get that the deletion has overtaken is of the past.
		time.Sleep(2 * time.Minute)
		var held func()
		c.mu.Lock()
		c.hook = func(o awsiot.ShadowTopic, payload []byte) bool {
			messages, err := c.service.Request(o, payload, 0)
			if err != nil || held != nil {
				return false
			}
			held = func() { c.deliver(messages[0].Topic, string(messages[0].Payload)) }
			return true
		}
		c.mu.Unlock()
		c.deliver(topic(awsiot.UpdateShadow).Delta(), `{"state":{"new":1},"version":1,"timestamp":1}`) // old: it has the shadow got
		synctest.Wait()
		c.do(topic(awsiot.DeleteShadow), nil)
		synctest.Wait()
		held()
		synctest.Wait()
		diff(t, `{"state":{},"version":0,"pending":false}`, s.Document())
	})
}

// With its session and its state, a device that comes back has missed nothing;
// without the session it gets the shadow.
func TestShadowIsGotAfterAConnectWithoutSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		c.desire(`{"a":1}`)
		c.present = true
		dir := t.TempDir()
		s := open(t, shadow.Config{Dir: dir})
		c.connect(t, s)()
		disconnect := c.connect(t, s)
		synctest.Wait()
		disconnect()
		c.desire(`{"a":2}`) // kept by the session
		disconnect = c.connect(t, s)
		synctest.Wait()
		diff(t, `{"state":{"desired":{"a":2}},"version":2,"pending":false}`, s.Document())
		c.mu.Lock()
		if gets := len(c.requests); gets < 1 || gets > 2 { // the first connection may have ended before its own
			t.Errorf("requests: %v", c.requests)
		}
		c.requests = nil
		c.mu.Unlock()
		disconnect()
		c.present = false
		c.desire(`{"a":3}`)
		disconnect = c.connect(t, s)
		synctest.Wait()
		disconnect()
		diff(t, `{"state":{"desired":{"a":3}},"version":3,"pending":false}`, s.Document())
		c.present = true
		s = open(t, shadow.Config{Dir: dir}) // another process
		disconnect = c.connect(t, s)
		synctest.Wait()
		disconnect()
		if d := cmp.Diff([]string{"get", "get"}, c.sent()); d != "" {
			t.Error(d)
		}
	})
}

// What is no shadow document, or of another thing, or too large, changes nothing.
func TestMalformedMessagesAreIgnoredAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		c.desire(`{"a":1}`)
		s := open(t, shadow.Config{Dir: t.TempDir()})
		defer c.connect(t, s)()
		synctest.Wait()
		before := s.Document()
		update := topic(awsiot.UpdateShadow)
		n := uint64(0)
		for _, payload := range []string{
			``, `{`, `null`, `[]`, `{}`, `{"state":{"a":2}}`, `{"version":3}`, `{"state":{"a":2},"version":"3"}`, `{"state":[],"version":3}`,
			`{"state":null,"version":3}`, `{"state":{"a":2},"version":-3}`, `{"state":{"a":2},"version":3.5}`, `{"state":{"a":2},"version":3}{}`,
			"{\"state\":{\"a\":\"\xff\"},\"version\":3}", `{"state":{"a":"` + strings.Repeat("x", 20<<10) + `"},"version":3}`,
			`{"state":{"a":"` + strings.Repeat("x", 200<<10) + `"},"version":3}`,
			`{"state":` + strings.Repeat(`{"a":`, 20_000) + `1` + strings.Repeat(`}`, 20_000) + `,"version":3}`,
		} {
			c.deliver(update.Delta(), payload)
			synctest.Wait()
			n++
		}
		for _, payload := range []string{``, `{"state":{"desired":1},"version":3}`, `{"state":{"reported":[]},"version":3}`} {
			c.deliver(update.Accepted(), payload)
			synctest.Wait()
			n++
		}
		for _, payload := range []string{``, `{}`, `{"code":"x"}`, `[]`} {
			c.deliver(update.Rejected(), payload)
			synctest.Wait()
			n++
		}
		if got := counters(s)["malformed"]; got != n {
			t.Errorf("%d malformed messages counted, want %d", got, n)
		}
		other := awsiot.ShadowTopic{Thing: "another", Operation: awsiot.UpdateShadow}
		c.deliver(other.Delta(), `{"state":{"a":2},"version":3}`)
		synctest.Wait()
		if got := counters(s)["foreign"]; got != 1 {
			t.Errorf("%d messages of other things counted", got)
		}
		if d := cmp.Diff(before, s.Document()); d != "" {
			t.Error(d)
		}
		for _, topic := range []string{"a", "$aws/things/fleety_1/shadow/name/x/update/delta", "$aws/things/fleety_1/shadow/update", "$aws/things/fleety_1/shadow/get/delta"} {
			if s.Deliver(session.Message{Topic: topic}) {
				t.Errorf("%s is taken", topic)
			}
		}
		for range 500 { // while nobody reads
			s.Deliver(session.Message{Topic: update.Delta(), Payload: []byte("x")})
		}
	})
}

// What AWS IoT would reject is rejected before it is stored.
func TestChangesThatAWSWouldRejectAreErrors(t *testing.T) {
	s := open(t, shadow.Config{Dir: t.TempDir()})
	for change, want := range map[string]int{
		``:                            400,
		`{}`:                          400,
		`[]`:                          400,
		`{"state":{}}`:                400,
		`{"state":{"other":{}}}`:      400,
		`{"state":{"reported":1}}`:    400,
		`{"state":{"reported":[]}}`:   400,
		`{"state":{"reported":{}}}{}`: 400,
		"{\"state\":{\"reported\":{\"a\":\"\xff\"}}}":                               400,
		`{"state":{"reported":{"a":[1,null]}}}`:                                     400,
		`{"state":{"reported":{"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h":{}}}}}}}}}}}`: 400,
		`{"state":{"reported":{"a":1}},"version":7}`:                                409,
		`{"state":{"reported":{"a":"` + strings.Repeat("x", 9<<10) + `"}}}`:         413,
		`{"state":{"reported":{"a":"` + strings.Repeat("x", 90<<10) + `"}}}`:        413,
	} {
		e, ok := errors.AsType[*shadow.Error](s.Update([]byte(change)))
		if !ok || e.StatusCode != want {
			t.Errorf("%.60s: %v, want %d", change, e, want)
		}
	}
	if d := s.Document(); d.Pending {
		t.Errorf("%+v", d)
	}
	// Each fits, both do not.
	half := strings.Repeat("x", 5<<10)
	if err := s.Update([]byte(`{"state":{"reported":{"a":"` + half + `"}}}`)); err != nil {
		t.Fatal(err)
	}
	if e, ok := errors.AsType[*shadow.Error](s.Update([]byte(`{"state":{"reported":{"b":"` + half + `"}}}`))); !ok || e.StatusCode != 413 {
		t.Errorf("a shadow of 10 KiB: %v", e)
	}
	// A disk that is full.
	full := open(t, shadow.Config{Dir: filepath.Join(t.TempDir(), "missing")})
	if e, ok := errors.AsType[*shadow.Error](full.Update([]byte(`{"state":{"reported":{"a":1}}}`))); !ok || e.StatusCode != 503 || full.Document().Pending {
		t.Errorf("without a disk: %v", e)
	}
}

func TestNamesThatAWSDoesNotAllowAreErrors(t *testing.T) {
	for _, name := range []string{"a/b", "#", " ", strings.Repeat("x", 65)} {
		if _, err := shadow.New(shadow.Config{Name: name, Dir: t.TempDir()}); err == nil {
			t.Errorf("%q is accepted", name)
		}
	}
	for _, name := range []string{"", "a:b-c_1", strings.Repeat("x", 64)} {
		if _, err := shadow.New(shadow.Config{Name: name, Dir: t.TempDir()}); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// A state that cannot be read is begun anew: AWS IoT has the document. What was not sent is kept.
func TestDamagedStateIsBegunAnew(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, shadow.Config{Dir: dir}).Update([]byte(`{"state":{"reported":{"a":1}}}`)); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	for _, text := range []string{"", "{", "[]", `{"known":1}`, "\x00\x00"} {
		if err := os.WriteFile(files[0], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		diff(t, `{"state":{},"version":0,"pending":false}`, open(t, shadow.Config{Dir: dir}).Document())
		kept, err := filepath.Glob(files[0] + ".damaged-*")
		if err != nil || len(kept) != 1 {
			t.Fatal(kept, err)
		}
		if data, err := os.ReadFile(kept[0]); string(data) != text || err != nil {
			t.Errorf("%q, %v; want %q", data, err, text)
		}
		if err := os.Remove(kept[0]); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add("delta", []byte(`{"state":{"a":{"b":null}},"version":2}`))
	f.Add("accepted", []byte(`{"state":{"desired":null,"reported":{"a":[1,{}]}},"version":2,"clientToken":"x"}`))
	f.Add("rejected", []byte(`{"code":409,"message":"Version conflict"}`))
	f.Fuzz(func(t *testing.T, response string, payload []byte) {
		synctest.Test(t, func(t *testing.T) {
			c := newCloud(t)
			s := open(t, shadow.Config{Dir: t.TempDir()})
			defer c.connect(t, s)()
			synctest.Wait()
			s.Deliver(session.Message{Topic: topic(awsiot.UpdateShadow).String() + "/" + response, Payload: payload})
			synctest.Wait()
			// It still works, and what it has stored can be read.
			if err := s.Update([]byte(`{"state":{"reported":{"works":true}}}`)); err != nil {
				if e, ok := errors.AsType[*shadow.Error](err); !ok || e.StatusCode != 413 {
					t.Fatal(err)
				}
				return
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if state, _ := c.state(t); state["reported"] == nil {
				t.Errorf("the cloud has %v, the device %+v", state, s.Document())
			}
		})
	})
}
