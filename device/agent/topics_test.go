package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/session"
)

// What the agent takes from programs is what the shipped policy allows.
func TestAgentAllowsWhatTheDevicePolicyAllows(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "templates", "device_policy.json"))
	if err != nil {
		t.Fatal(err)
	}
	var policy struct {
		Statement []struct {
			Effect, Action string
			Resource       any
		}
	}
	if err := json.Unmarshal(text, &policy); err != nil {
		t.Fatal(err)
	}
	allowed := map[string][]string{}
	for _, s := range policy.Statement {
		resources, _ := s.Resource.([]any)
		for _, r := range resources {
			_, topic, _ := strings.Cut(r.(string), "${AWS::AccountId}:")
			_, topic, _ = strings.Cut(topic, "/") // topic/ or topicfilter/
			allowed[s.Effect+s.Action] = append(allowed[s.Effect+s.Action], strings.ReplaceAll(topic, "${iot:Connection.Thing.ThingName}", "THING"))
		}
	}
	for action, ours := range map[string][]string{"Allowiot:Publish": publishable, "Allowiot:Subscribe": subscribable, "Allowiot:Receive": subscribable} {
		if !slices.Equal(allowed[action], ours) {
			t.Errorf("%s: the policy has %q, the agent %q", action, allowed[action], ours)
		}
	}
}

func TestTopicsAreResolvedAndChecked(t *testing.T) {
	long := strings.Repeat("x", 240)
	for topic, want := range map[string]any{
		"telemetry":                          "fleet/t/up/telemetry",
		"a/b/c":                              "fleet/t/up/a/b/c",
		"fleet":                              "fleet/t/up/fleet",
		"fleet/t":                            "fleet/t",
		"fleet/t/up/x":                       "fleet/t/up/x",
		"$aws/things/t/shadow/get":           "$aws/things/t/shadow/get",
		"$aws/things/t/shadow/name/n/update": "$aws/things/t/shadow/name/n/update",
		"$aws/things/t/jobs/start-next":      "$aws/things/t/jobs/start-next",
		"a/b/c/d":                            "fleet/t/up/a/b/c/d",
		"":                                   400,
		"a/+":                                400,
		"a#":                                 400,
		"a\x00b":                             400,
		"a\nb":                               400,
		"a\u0085b":                           400,
		"a\uffffb":                           400,
		"\xff":                               400,
		long:                                 "fleet/t/up/" + long,
		long + "123456":                      400,
		"1/2/3/4/5":                          "fleet/t/up/1/2/3/4/5",
		"1/2/3/4/5/6":                        400,
		"fleet/other":                        403,
		"fleet/t2/up/x":                      403,
		"fleet/t/down/x":                     403,
		"fleet/t/up":                         403,
		"fleet/t/":                           403,
		"$aws/things/t/jobs/1/2/3/get":       "$aws/things/t/jobs/1/2/3/get",
		"$aws/things/t/jobs/1/2/3/4/get":     400,
		"$aws/things/t/get":                  403,
		"$aws/things/u/shadow/get":           403,
		"$aws/things/t/shadow/delete":        403,
		"$aws/rules/x/fleet/t/up/y":          403,
	} {
		got, err := resolveTopic("t", topic)
		checkResolved(t, topic, got, err, want)
		if err == nil && broker.CheckMessage(&broker.Message{Topic: got}) != nil {
			t.Errorf("%q is accepted, and not by AWS IoT", topic)
		}
	}
	for filter, want := range map[string]any{
		"commands/+":                   "fleet/t/down/commands/+",
		"#":                            "fleet/t/down/#",
		"+/x/#":                        "fleet/t/down/+/x/#",
		"$aws/things/t/jobs/notify":    "$aws/things/t/jobs/notify",
		"$aws/things/t/shadow/#":       "$aws/things/t/shadow/#",
		"$aws/things/t/tunnels/notify": "$aws/things/t/tunnels/notify",
		"$aws/things/t/jobs/+/+/+/#":   "$aws/things/t/jobs/+/+/+/#",
		"$aws/things/t/jobs/+/+/+/+/#": 400,
		"":                             400,
		"#/x":                          400,
		"a+":                           400,
		"a#":                           400,
		"fleet/+/down/x":               403,
		"fleet/#":                      403,
		"fleet/t/up/#":                 403,
		"$aws/things/t/tunnels/#":      403,
		"$aws/events/#":                403,
	} {
		got, err := resolveFilter("t", filter)
		checkResolved(t, filter, got, err, want)
	}
}

func checkResolved(t *testing.T, topic, got string, err error, want any) {
	t.Helper()
	if e, ok := errors.AsType[*Error](err); ok && e.StatusCode != want || !ok && got != want {
		t.Errorf("%q: %q, %v; want %v", topic, got, err, want)
	}
}

// The id is one member more; the rest of the message stays as it is, byte by byte.
func TestMessageGetsAnID(t *testing.T) {
	t.Parallel()
	for payload, want := range map[string]string{
		`{"b": 1, "a":[1.50]}`: `{"id":"X","b": 1, "a":[1.50]}`,
		" {\n}\n":              `{"id":"X"}`,
		"\t{\"nested\":{}}":    `{"id":"X","nested":{}}`,
		`{"ID":"other case"}`:  `{"id":"X","ID":"other case"}`,
		`{"id":1}`:             "400", // it would be there twice
		`[]`:                   "400",
		`null`:                 "400",
		`"text"`:               "400",
		``:                     "400",
		`{"a":1}{}`:            "400",
		`{"a":"` + strings.Repeat("x", session.MaxPayload-8) + `"}`: "413",
	} {
		got, err := withID([]byte(payload), "id", "X")
		if failure, ok := errors.AsType[*Error](err); ok {
			got = fmt.Append(nil, failure.StatusCode)
		}
		if string(got) != want {
			t.Errorf("%.40q: %.60q, %v", payload, got, err)
		}
	}
	if got, err := withID([]byte(`{}`), "a \"quoted\" name", "X"); err != nil || !json.Valid(got) {
		t.Errorf("%s, %v", got, err)
	}
}

// A message that arrives too slowly is not malformed: its program may try again.
func TestSlowMessageIsRejectedAsSuch(t *testing.T) {
	a := &agent{requests: make(chan struct{}, 1)}
	a.setRoutes(map[string]http.Handler{"PATCH /v1/shadows": http.NotFoundHandler()})
	for _, r := range []string{"POST /v1/publish?topic=a", "GET /v1/subscribe?filter=a", "POST /v1/rotate", "PATCH /v1/shadows"} {
		method, path, _ := strings.Cut(r, " ")
		for status, body := range map[int]io.Reader{408: iotest.ErrReader(os.ErrDeadlineExceeded), 413: bytes.NewReader(make([]byte, session.MaxPayload+1))} {
			w := httptest.NewRecorder()
			a.routes.Load().ServeHTTP(w, httptest.NewRequest(method, path, body))
			if w.Code != status {
				t.Errorf("%s: %d %s, want %d", r, w.Code, w.Body, status)
			}
		}
	}
	if class := (&Error{StatusCode: 408}).Class(); class != awsiot.Temporary {
		t.Errorf("class %v", class)
	}
}
