package shadow_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/records"
	"example.com/fleety/device/localcore/shadow"
)

const now = 1700000000 // of every request, in seconds since 1970

// A memory is a store of the test.
type memory map[string][]byte

func (m memory) Each(f func(string, []byte) error) error {
	for key, value := range m {
		if err := f(key, value); err != nil {
			return err
		}
	}
	return nil
}

func (m memory) Save(records map[string][]byte) error {
	maps.Copy(m, records)
	maps.DeleteFunc(m, func(_ string, value []byte) bool { return value == nil })
	return nil
}

// open returns a service whose clock stands at now until it is set.
func open(t *testing.T, store records.Store) (*shadow.Service, *time.Time) {
	t.Helper()
	clock := time.Unix(now, 0)
	s, err := shadow.Open(shadow.Config{Store: store, Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	return s, &clock
}

const classic, named = "$aws/things/T/shadow", "$aws/things/T/shadow/name/S"

// publish sends a request, "PREFIX/operation payload", and returns what the
// service publishes, by topic below the prefix.
func publish(t *testing.T, s *shadow.Service, request string) map[string]string {
	t.Helper()
	name, payload, _ := strings.Cut(request, " ")
	topic, ok := awsiot.ParseShadowTopic(name)
	if !ok {
		t.Fatalf("%s is no request topic", name)
	}
	messages, err := s.Request(topic, []byte(payload), 0)
	if err != nil {
		messages = []awsiot.Message{shadow.Rejected(topic, err)}
	}
	prefix := strings.TrimSuffix(name, string(topic.Operation))
	out := map[string]string{}
	for _, m := range messages {
		out[strings.TrimPrefix(m.Topic, prefix)] = string(m.Payload)
	}
	if len(out) != len(messages) {
		t.Errorf("%d messages on %d topics", len(messages), len(out))
	}
	return out
}

// compare compares JSON; T stands for the time of the test.
func compare(t *testing.T, want, got string) {
	t.Helper()
	var w, g any
	if err := json.Unmarshal([]byte(strings.ReplaceAll(want, "TIME", fmt.Sprint(now))), &w); err != nil {
		t.Fatalf("%v in %s", err, want)
	}
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("%v in %s", err, got)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("got %s\n%s", got, diff)
	}
}

// Each case is of https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-document.html.
func TestShadowDocuments(t *testing.T) {
	t.Parallel()
	const desired = classic + `/update {"state":{"desired":{"color":"RED","light":{"r":1,"g":2}}}}`
	for name, test := range map[string]struct {
		page   string
		before []string
		last   string
		want   map[string]string // messages by topic; others are not compared
		absent string            // a topic without a message
	}{
		"the response update/accepted has the fields of the request alone, each leaf with its time": {
			before: []string{desired},
			last:   classic + `/update {"state":{"reported":{"light":{"r":1}}},"clientToken":"a"}`,
			want: map[string]string{"update/accepted": `{"state":{"reported":{"light":{"r":1}}},
				"metadata":{"reported":{"light":{"r":{"timestamp":TIME}}}},"version":2,"timestamp":TIME,"clientToken":"a"}`},
		},
		"the response get/accepted has desired, reported and delta, and the metadata of all three": {
			before: []string{desired, classic + `/update {"state":{"reported":{"color":"RED","light":{"r":1,"g":0},"engine":"ON"}}}`},
			last:   classic + `/get {"clientToken":"c"}`,
			want: map[string]string{"get/accepted": `{
				"state":{"desired":{"color":"RED","light":{"r":1,"g":2}},"reported":{"color":"RED","light":{"r":1,"g":0},"engine":"ON"},
					"delta":{"light":{"g":2}}},
				"metadata":{"desired":{"color":{"timestamp":TIME},"light":{"r":{"timestamp":TIME},"g":{"timestamp":TIME}}},
					"reported":{"color":{"timestamp":TIME},"light":{"r":{"timestamp":TIME},"g":{"timestamp":TIME}},"engine":{"timestamp":TIME}},
					"delta":{"light":{"g":{"timestamp":TIME}}}},
				"version":2,"timestamp":TIME,"clientToken":"c"}`},
		},
		"the message update/delta is the difference itself, with the path from the root": {
			before: []string{desired},
			last:   classic + `/update {"state":{"reported":{"color":"RED","light":{"r":1,"g":0}}},"clientToken":"d"}`,
			want: map[string]string{"update/delta": `{"state":{"light":{"g":2}},"metadata":{"light":{"g":{"timestamp":TIME}}},
				"version":2,"timestamp":TIME,"clientToken":"d"}`},
		},
		"the message update/documents has the document before and after the update": {
			before: []string{classic + `/update {"state":{"reported":{"a":1}}}`},
			last:   classic + `/update {"state":{"reported":{"a":2}},"clientToken":"e"}`,
			want: map[string]string{"update/documents": `{
				"previous":{"state":{"reported":{"a":1}},"metadata":{"reported":{"a":{"timestamp":TIME}}},"version":1},
				"current":{"state":{"reported":{"a":2}},"metadata":{"reported":{"a":{"timestamp":TIME}}},"version":2},
				"timestamp":TIME,"clientToken":"e"}`},
		},
		"a field that is only reported is in no delta": {
			before: []string{classic + `/update {"state":{"desired":{"a":1}}}`},
			last:   classic + `/update {"state":{"reported":{"a":1,"b":2}}}`,
			want:   map[string]string{}, absent: "update/delta",
		},
		"numbers are kept as they are written": {
			before: []string{classic + `/update {"state":{"desired":{"id":9007199254740993,"t":20}}}`},
			last:   classic + `/update {"state":{"reported":{"id":9007199254740992,"t":20.0}}}`,
			want: map[string]string{"update/delta": `{"state":{"id":9007199254740993},"metadata":{"id":{"timestamp":TIME}},
				"version":2,"timestamp":TIME}`},
		},
		"null removes a key and leaves the others": {
			before: []string{desired, classic + `/update {"state":{"desired":{"light":{"r":null},"color":null}}}`},
			last:   classic + `/get`,
			want: map[string]string{"get/accepted": `{"state":{"desired":{"light":{"g":2}},"delta":{"light":{"g":2}}},
				"metadata":{"desired":{"light":{"g":{"timestamp":TIME}}},"delta":{"light":{"g":{"timestamp":TIME}}}},
				"version":2,"timestamp":TIME}`},
		},
		"null removes a whole section": {
			before: []string{desired, classic + `/update {"state":{"desired":null,"reported":{"a":1}}}`},
			last:   classic + `/get`,
			want: map[string]string{"get/accepted": `{"state":{"reported":{"a":1}},"metadata":{"reported":{"a":{"timestamp":TIME}}},
				"version":2,"timestamp":TIME}`},
		},
		"a document with neither section is valid": {
			before: []string{desired, classic + `/update {"state":{"desired":null}}`},
			last:   classic + `/get`,
			want:   map[string]string{"get/accepted": `{"state":{},"metadata":{},"version":2,"timestamp":TIME}`},
		},
		"null as the whole state removes both sections": {
			before: []string{desired},
			last:   classic + `/update {"state":null,"clientToken":"n"}`,
			want: map[string]string{
				"update/accepted": `{"state":null,"metadata":{"timestamp":TIME},"version":2,"timestamp":TIME,"clientToken":"n"}`,
				"update/documents": `{"previous":{"state":{"desired":{"color":"RED","light":{"r":1,"g":2}}},
					"metadata":{"desired":{"color":{"timestamp":TIME},"light":{"r":{"timestamp":TIME},"g":{"timestamp":TIME}}}},"version":1},
					"current":{"state":{},"metadata":{},"version":2},"timestamp":TIME,"clientToken":"n"}`,
			},
			absent: "update/delta",
		},
		"a shadow whose state is null is empty, and exists": {
			before: []string{classic + `/update {"state":null}`},
			last:   classic + `/get`,
			want:   map[string]string{"get/accepted": `{"state":{},"metadata":{},"version":1,"timestamp":TIME}`},
		},
		"an array is replaced whole, with a time for each element": {
			before: []string{classic + `/update {"state":{"desired":{"colors":["RED","GREEN","BLUE"]}}}`},
			last:   classic + `/update {"state":{"desired":{"colors":["RED",{"x":1}]}}}`,
			want: map[string]string{"update/delta": `{"state":{"colors":["RED",{"x":1}]},
				"metadata":{"colors":[{"timestamp":TIME},{"x":{"timestamp":TIME}}]},"version":2,"timestamp":TIME}`},
		},
		"an array that differs in one element is in the delta as a whole": {
			before: []string{classic + `/update {"state":{"desired":{"a":[1,2,3]}}}`},
			last:   classic + `/update {"state":{"reported":{"a":[1,2]}}}`,
			want: map[string]string{"update/delta": `{"state":{"a":[1,2,3]},"metadata":{"a":[{"timestamp":TIME},{"timestamp":TIME},{"timestamp":TIME}]},
				"version":2,"timestamp":TIME}`},
		},
		"an update without a version skips the check of versions": {
			before: []string{desired, desired, desired},
			last:   desired,
			want:   map[string]string{}, absent: "update/rejected",
		},
		"an update with the current version is accepted": {
			before: []string{desired},
			last:   classic + `/update {"state":{"reported":{"a":1}},"version":1}`,
			want: map[string]string{"update/accepted": `{"state":{"reported":{"a":1}},"metadata":{"reported":{"a":{"timestamp":TIME}}},
				"version":2,"timestamp":TIME}`},
		},
		"a clientToken is returned in every message about its request": {
			before: []string{classic + `/update {"state":{"desired":{"a":1}},"clientToken":"first"}`},
			last:   classic + `/update {"state":{"reported":{"b":1}},"clientToken":"second"}`,
			want: map[string]string{
				"update/accepted": `{"state":{"reported":{"b":1}},"metadata":{"reported":{"b":{"timestamp":TIME}}},"version":2,"timestamp":TIME,"clientToken":"second"}`,
				"update/delta":    `{"state":{"a":1},"metadata":{"a":{"timestamp":TIME}},"version":2,"timestamp":TIME,"clientToken":"second"}`,
			},
		},
		"what stands outside desired and reported is not stored": {
			before: []string{classic + `/update {"state":{"reported":{"a":1}},"metadata":{"x":1},"note":"y"}`},
			last:   classic + `/get`,
			want: map[string]string{"get/accepted": `{"state":{"reported":{"a":1}},"metadata":{"reported":{"a":{"timestamp":TIME}}},
				"version":1,"timestamp":TIME}`},
		},
		"the delta has all differing fields whichever the update changed": {
			page:   "device-shadow-mqtt",
			before: []string{classic + `/update {"state":{"desired":{"a":1,"b":1}}}`},
			last:   classic + `/update {"state":{"reported":{"other":1}}}`,
			want: map[string]string{"update/delta": `{"state":{"a":1,"b":1},"metadata":{"a":{"timestamp":TIME},"b":{"timestamp":TIME}},
				"version":2,"timestamp":TIME}`},
		},
		"no delta is published when desired and reported agree": {
			page:   "device-shadow-mqtt",
			before: []string{classic + `/update {"state":{"desired":{"a":{"b":[1,true]}}}}`},
			last:   classic + `/update {"state":{"reported":{"a":{"b":[1,true]}}}}`,
			want:   map[string]string{}, absent: "update/delta",
		},
		"a field that was removed from reported and is desired is in the delta": {
			page:   "device-shadow-mqtt",
			before: []string{classic + `/update {"state":{"desired":{"a":1},"reported":{"a":1}}}`},
			last:   classic + `/update {"state":{"reported":{"a":null}}}`,
			want:   map[string]string{"update/delta": `{"state":{"a":1},"metadata":{"a":{"timestamp":TIME}},"version":2,"timestamp":TIME}`},
		},
		"the first update creates the shadow": {
			page: "device-shadow-comms-device",
			last: classic + `/update {"state":{"reported":{"a":1}}}`,
			want: map[string]string{"update/documents": `{"previous":null,
				"current":{"state":{"reported":{"a":1}},"metadata":{"reported":{"a":{"timestamp":TIME}}},"version":1},"timestamp":TIME}`},
		},
		"desired stays when reported has reached it": {
			page:   "device-shadow-data-flow",
			before: []string{classic + `/update {"state":{"desired":{"a":1}}}`, classic + `/update {"state":{"reported":{"a":1}}}`},
			last:   classic + `/get`,
			want: map[string]string{"get/accepted": `{"state":{"desired":{"a":1},"reported":{"a":1}},
				"metadata":{"desired":{"a":{"timestamp":TIME}},"reported":{"a":{"timestamp":TIME}}},"version":2,"timestamp":TIME}`},
		},
		"a named shadow is apart from the classic one": {
			page:   "iot-device-shadows",
			before: []string{desired, named + `/update {"state":{"reported":{"x":1}}}`},
			last:   named + `/get`,
			want: map[string]string{"get/accepted": `{"state":{"reported":{"x":1}},"metadata":{"reported":{"x":{"timestamp":TIME}}},
				"version":1,"timestamp":TIME}`},
		},
		"the response delete/accepted has version and time, whatever the request's payload": {
			page:   "device-shadow-mqtt",
			before: []string{desired},
			last:   classic + `/delete what ever`,
			want:   map[string]string{"delete/accepted": `{"version":1,"timestamp":TIME}`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := memory{}
			s, _ := open(t, store)
			for _, request := range test.before {
				if got := publish(t, s, request); got["update/rejected"] != "" {
					t.Fatalf("%s: %s", request, got["update/rejected"])
				}
			}
			s, _ = open(t, store) // what is stored is what counts
			got := publish(t, s, test.last)
			for topic, want := range test.want {
				compare(t, want, got[topic])
			}
			if test.absent != "" && got[test.absent] != "" {
				t.Errorf("got %s: %s", test.absent, got[test.absent])
			}
		})
	}
}

// Each case is of https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-error-messages.html.
func TestShadowErrors(t *testing.T) {
	t.Parallel()
	nested := func(levels int) string {
		return strings.Repeat(`{"k":`, levels) + "1" + strings.Repeat("}", levels)
	}
	for name, test := range map[string]struct {
		page    string
		request string
		code    int
		message string
		token   string
	}{
		"a payload that is no JSON object is Invalid JSON":      {"", classic + `/update {"state":`, 400, "Invalid JSON", ""},
		"JSON with a tail is Invalid JSON":                      {"", classic + `/update {"state":{}} {}`, 400, "Invalid JSON", ""},
		"an update without state lacks a required node":         {"", classic + `/update {"clientToken":"t"}`, 400, "Missing required node: state", "t"},
		"a state that is no object is rejected":                 {"", classic + `/update {"state":[1]}`, 400, "State node must be an object", ""},
		"a desired node that is no object is rejected":          {"", classic + `/update {"state":{"desired":"x"}}`, 400, "Desired node must be an object", ""},
		"a reported node that is no object is rejected":         {"", classic + `/update {"state":{"reported":[]}}`, 400, "Reported node must be an object", ""},
		"a version that is no number is Invalid version":        {"", classic + `/update {"state":{},"version":"1"}`, 400, "Invalid version", ""},
		"a clientToken of more than 64 bytes is rejected":       {"", classic + `/update {"state":{},"clientToken":"` + strings.Repeat("é", 33) + `"}`, 400, "Invalid clientToken", ""},
		"a node of state that is neither section is rejected":   {"diagnosing-shadows", classic + `/update {"state":{"wanted":{}}}`, 400, "State contains an invalid node", ""},
		"an array with null in it is rejected":                  {"device-shadow-document", classic + `/update {"state":{"desired":{"a":{"b":[1,[null]]}}}}`, 400, "State contains an invalid node", ""},
		"state that is nested too deeply is rejected":           {"", classic + `/update {"state":{"desired":` + nested(9) + `}}`, 400, "JSON contains too many levels of nesting; maximum is 6", ""},
		"a get of a classic shadow that is missing is a 404":    {"", classic + `/get {"clientToken":"t"}`, 404, "No shadow exists with name: 'T'", "t"},
		"a get of a named shadow that is missing is a 404":      {"", named + `/get`, 404, "No shadow exists with name: 'S'", ""},
		"a delete of a shadow that is missing is a 404":         {"", named + `/delete`, 404, "No shadow exists with name: 'S'", ""},
		"another version than the current one is a conflict":    {"", classic + `/update {"state":{"reported":{"a":1}},"version":7,"clientToken":"t"}`, 409, "Version conflict", "t"},
		"a document of more than 8 KB is too large":             {"", classic + `/update {"state":{"reported":{"a":"` + strings.Repeat("x", 8192) + `"}}}`, 413, "The payload exceeds the maximum size allowed", ""},
		"a payload that is not UTF-8 has the wrong encoding":    {"", classic + "/update {\"state\":{\"reported\":{\"a\":\"\xff\"}}}", 415, "Unsupported documented encoding; supported encoding is UTF-8", ""},
		"a get request with a payload that is no JSON is a 400": {"", classic + `/get x`, 400, "Invalid JSON", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := open(t, nil)
			name, payload, _ := strings.Cut(test.request, " ")
			topic, _ := awsiot.ParseShadowTopic(name)
			_, err := s.Request(topic, []byte(payload), 0)
			want := &awsiot.ShadowError{Code: test.code, Message: test.message, Timestamp: now, ClientToken: test.token}
			got, _ := errors.AsType[*awsiot.ShadowError](err)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if got := s.NamedShadows("T"); got != nil {
				t.Errorf("a rejected request left shadows %q", got)
			}
		})
	}
	t.Run("eight levels are allowed", func(t *testing.T) {
		s, _ := open(t, nil)
		if got := publish(t, s, classic+`/update {"state":{"desired":`+nested(8)+`}}`); got["update/accepted"] == "" {
			t.Error(got)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/diagnosing-shadows.html:
// the 8 KB count for the document after the update, so that a small update can
// be too large.
func TestSmallUpdateOfFullShadowIsTooLarge(t *testing.T) {
	t.Parallel()
	s, _ := open(t, nil)
	publish(t, s, classic+`/update {"state":{"desired":{"a":"`+strings.Repeat("x", 8100)+`"}}}`)
	got := publish(t, s, classic+`/update {"state":{"reported":{"b":"`+strings.Repeat("y", 100)+`"}}}`)
	compare(t, `{"code":413,"message":"The payload exceeds the maximum size allowed","timestamp":TIME}`, got["update/rejected"])
	got = publish(t, s, classic+`/get`)
	if strings.Contains(got["get/accepted"], "reported") || !strings.Contains(got["get/accepted"], `"version":1,`) {
		t.Error("the rejected update changed the shadow")
	}
	got = publish(t, s, classic+`/update {"state":{"desired":null,"reported":{"b":"`+strings.Repeat("y", 8100)+`"}}}`)
	if got["update/accepted"] == "" {
		t.Errorf("an update that makes room was rejected: %s", got["update/rejected"])
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-data-flow.html:
// a shadow that is created again within 48 hours continues the version of the
// deleted one; later it starts at 1.
func TestVersionOutlivesDeletionFor48Hours(t *testing.T) {
	t.Parallel()
	const update = named + `/update {"state":{"reported":{"a":1}}}`
	for wait, want := range map[time.Duration]string{48 * time.Hour: `"version":3,`, 48*time.Hour + time.Second: `"version":1,`} {
		store := memory{}
		s, _ := open(t, store)
		publish(t, s, update)
		publish(t, s, update)
		publish(t, s, named+`/delete`)
		if names := s.NamedShadows("T"); names != nil {
			t.Errorf("a deleted shadow is listed: %q", names)
		}
		if got := publish(t, s, named+`/get`); got["get/rejected"] == "" {
			t.Error("a deleted shadow was returned")
		}
		s, clock := open(t, store)
		*clock = clock.Add(wait)
		if got := publish(t, s, update); !strings.Contains(got["update/accepted"], want) {
			t.Errorf("after %v: %s, want %s", wait, got["update/accepted"], want)
		}
	}
}

// What is kept of a deleted shadow goes when its version has no meaning any more, from the store too.
func TestDeletedShadowsAreForgotten(t *testing.T) {
	t.Parallel()
	store := memory{}
	s, clock := open(t, store)
	publish(t, s, named+`/update {"state":{"reported":{"a":1}}}`)
	publish(t, s, classic+`/update {"state":{"reported":{"a":1}}}`)
	publish(t, s, named+`/delete`)
	for _, test := range []struct {
		wait time.Duration
		kept int
	}{{48 * time.Hour, 2}, {time.Second, 1}} {
		*clock = clock.Add(test.wait)
		if err := s.Sweep(); err != nil || len(store) != test.kept {
			t.Errorf("after %v more: %d records are kept, want %d (%v)", test.wait, len(store), test.kept, err)
		}
	}
	if got := publish(t, s, classic+`/get`); got["get/accepted"] == "" {
		t.Error("a shadow that was not deleted is gone")
	}
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a shadow takes 20
// requests per second, what is beyond is rejected with 429.
func TestRequestsForAShadowAreLimited(t *testing.T) {
	t.Parallel()
	clock := time.Unix(now, 0)
	s, err := shadow.Open(shadow.Config{EnforceRates: true, Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	const update = `/update {"state":{"reported":{"a":1}},"clientToken":"t"}`
	for range 20 {
		if got := publish(t, s, classic+update); got["update/accepted"] == "" {
			t.Fatalf("rejected: %s", got["update/rejected"])
		}
	}
	compare(t, `{"code":429,"message":"Too many requests","timestamp":TIME,"clientToken":"t"}`, publish(t, s, classic+update)["update/rejected"])
	if got := publish(t, s, named+update); got["update/accepted"] == "" {
		t.Error("the limit of one shadow holds for another")
	}
	clock = clock.Add(time.Second)
	if got := publish(t, s, classic+update); got["update/accepted"] == "" {
		t.Error("rejected a second later")
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-error-messages.html:
// more than 10 requests in flight on one connection are rejected with 429, where rates are enforced.
func TestRequestsInFlightAreLimited(t *testing.T) {
	t.Parallel()
	topic := awsiot.ShadowTopic{Thing: "T", Operation: awsiot.UpdateShadow}
	for _, test := range []struct {
		rates  bool
		ahead  int
		reject bool
	}{{true, 9, false}, {true, 10, true}, {false, 10, false}} {
		s, err := shadow.Open(shadow.Config{EnforceRates: test.rates, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Request(topic, []byte(`{"state":{}}`), test.ahead)
		if e, ok := errors.AsType[*awsiot.ShadowError](err); ok != test.reject || ok && e.Code != 429 {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_ListNamedShadowsForThing.html:
// the named shadows of a thing are listed without its classic one.
func TestNamedShadowsAreListed(t *testing.T) {
	t.Parallel()
	s, _ := open(t, nil)
	for _, prefix := range []string{classic, named, "$aws/things/T/shadow/name/A", "$aws/things/U/shadow/name/B"} {
		publish(t, s, prefix+`/update {"state":{"reported":{"a":1}}}`)
	}
	if diff := cmp.Diff([]string{"A", "S"}, s.NamedShadows("T")); diff != "" {
		t.Error(diff)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(`{"state":{"desired":{"a":{"b":1,"c":[1,{"d":null}]}}}}`, `{"state":{"reported":{"a":{"b":null}},"desired":null},"version":1}`)
	f.Add(`{"state":{"desired":{"a":1e400},"reported":{"a":{}}}}`, `{"state":{"reported":{"a":1.0}}}`)
	f.Fuzz(func(t *testing.T, first, second string) {
		store := memory{}
		s, _ := open(t, store)
		topic, _ := awsiot.ParseShadowTopic(classic + "/update")
		for _, payload := range []string{first, second} {
			before := maps.Clone(store)
			messages, err := s.Request(topic, []byte(payload), 0)
			if _, rejected := errors.AsType[*awsiot.ShadowError](err); err != nil && (!rejected || !maps.EqualFunc(before, store, func(a, b []byte) bool { return string(a) == string(b) })) {
				t.Fatalf("%v; stored %s", err, store)
			}
			for _, m := range messages {
				if !json.Valid(m.Payload) {
					t.Fatalf("%s %s", m.Topic, m.Payload)
				}
			}
		}
		// What is reported as desired leaves no delta.
		got := publish(t, s, classic+"/get")
		var document struct{ State map[string]json.RawMessage }
		if json.Unmarshal([]byte(got["get/accepted"]), &document) != nil || document.State["delta"] == nil {
			return
		}
		if got = publish(t, s, classic+`/update {"state":{"reported":null}}`); got["update/rejected"] != "" {
			t.Fatal(got)
		}
		got = publish(t, s, classic+`/update {"state":{"reported":`+string(document.State["desired"])+`}}`)
		if got["update/rejected"] == "" && got["update/delta"] != "" {
			t.Fatalf("delta %s of %s", got["update/delta"], document.State["desired"])
		}
	})
}
