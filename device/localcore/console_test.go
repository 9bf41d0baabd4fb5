package localcore_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore"
)

func TestConsoleIsServedUnderAStrictPolicy(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	for path, kind := range map[string]string{"/": "text/html", "/_local/console/console.css": "text/css", "/_local/console/console.js": "text/javascript"} {
		r, err := http.Get(s.APIURL() + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != http.StatusOK || len(text) == 0 || !strings.HasPrefix(r.Header.Get("Content-Type"), kind) {
			t.Errorf("%s: %s, %d bytes, %v", path, r.Header.Get("Content-Type"), len(text), err)
		}
		csp := r.Header.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'"} {
			if !strings.Contains(csp+";", part) {
				t.Errorf("%s: the policy %q lacks %s", path, csp, part)
			}
		}
		if strings.Contains(csp, "unsafe") || r.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", path, r.Header)
		}
		for _, forbidden := range []string{"https://", "innerHTML", "insertAdjacentHTML", "document.write", "eval(", "ZgotmplZ", " style="} {
			if bytes.Contains(text, []byte(forbidden)) {
				t.Errorf("%s has %q", path, forbidden)
			}
		}
	}
}

func TestConsoleEscapesItsConfiguration(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), `<script>alert(1)</script>"'`)
	s := start(t, localcore.Config{Credentials: folder})
	_, page := call(t, s, "GET", "/", "")
	if strings.Contains(page, "<script>alert") || !strings.Contains(page, "&lt;script&gt;alert(1)&lt;/script&gt;") {
		t.Error("the name of the credentials' folder is not escaped")
	}
	written, err := os.ReadFile(filepath.Join(folder, "device.yaml"))
	if shown := "server:\n  endpoint: localhost\n"; err != nil || !strings.Contains(page, shown) || !strings.Contains(string(written), shown) {
		t.Errorf("device.yaml is not on the page, or is not what was written: %v", err)
	}
}

func TestNoConsoleServesNoPage(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{NoConsole: true})
	for _, path := range []string{"/", "/_local/console/console.js", "/_local/console/console.css"} {
		if status, _ := call(t, s, "GET", path, ""); status != http.StatusNotFound {
			t.Errorf("%s answers %d", path, status)
		}
	}
	if status, _ := call(t, s, "GET", "/_local/health", ""); status != http.StatusOK {
		t.Errorf("health answers %d", status)
	}
}

// What the page does is a request of its own origin; no other site can send it.
func TestOtherSitesCannotActThroughTheBrowser(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	requests := map[string]string{
		"POST /_local/explain": `{"action":"iot:Connect","resource":"client/a"}`, "PUT /_local/faults": "[]", "DELETE /_local/faults": "",
		"POST /_local/expire-tokens": "", "POST /topics/a?qos=0": "x", "POST /_local/console/call?url=%2Ftopics%2F%252E%252E%3Fqos=0": "x",
		"POST /things/a": "{}",
	}
	for request, body := range requests {
		method, path, _ := strings.Cut(request, " ")
		for name, header := range map[string]http.Header{
			"of another site":        {"Sec-Fetch-Site": {"cross-site"}},
			"of another port":        {"Sec-Fetch-Site": {"same-site"}},
			"of an older browser":    {"Origin": {"http://evil.example"}},
			"of a page in a sandbox": {"Origin": {"null"}},
		} {
			if status, _ := call(t, s, method, path, body, func(r *http.Request) { r.Header = header }); status != http.StatusForbidden {
				t.Errorf("%s %s answers %d", request, name, status)
			}
		}
		own := http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {s.APIURL()}}
		if status, answer := call(t, s, method, path, body, func(r *http.Request) { r.Header = own }); status >= 300 {
			t.Errorf("%s of the console answers %d %s", request, status, answer)
		}
	}
	for _, path := range []string{"/", "/_local/console/console.js", "/_local/connections", "/_local/messages"} {
		if status, _ := call(t, s, "GET", path, "", func(r *http.Request) { r.Host = "evil.example" }); status != http.StatusForbidden {
			t.Errorf("GET %s under a name of another site answers %d", path, status)
		}
	}
}

func TestHealthAnswersWhenReady(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	status, answer := call(t, s, "GET", "/_local/health", "")
	var health struct{ Status string }
	if err := json.Unmarshal([]byte(answer), &health); err != nil || status != http.StatusOK || health.Status != "ready" {
		t.Errorf("%d %s %v", status, answer, err)
	}
}

func TestConnectionsAreListedWithTheirSubscriptions(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 5, "b")
	c.mustSubscribe(0, "t/2")
	c.mustSubscribe(0, "t/1")
	s.connect(t, 4, "a")
	var got struct {
		Connections []map[string]any
		Total       int
	}
	_, answer := call(t, s.Server, "GET", "/_local/connections", "")
	if err := json.Unmarshal([]byte(answer), &got); err != nil || len(got.Connections) != 2 || got.Total != 2 {
		t.Fatalf("%v in %s", err, answer)
	}
	for i, want := range []string{"a 4 []", "b 5 [t/1 t/2]"} {
		c := got.Connections[i]
		if shown := fmt.Sprint(c["clientId"], " ", c["version"], " ", c["subscriptions"]); shown != want || c["certificateId"] != s.id {
			t.Errorf("got %v, want %s", c, want)
		}
	}
	call(t, s.Server, "DELETE", "/connections/b", "")
	awaitDisconnect(t, s.Server, "b", "API_INITIATED_DISCONNECT")
	if _, answer := call(t, s.Server, "GET", "/_local/connections", ""); strings.Contains(answer, `"b"`) {
		t.Errorf("after it was disconnected: %s", answer)
	}
}

// openStream opens a stream of JSON objects, which ends with the test.
func openStream(t *testing.T, s *localcore.Server, path string) *json.Decoder {
	t.Helper()
	request, err := http.NewRequestWithContext(within(t), "GET", s.APIURL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return json.NewDecoder(response.Body)
}

func TestMessagesAreFollowedByFilter(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 4, "a")
	stream := openStream(t, s.Server, "/_local/messages?filter=t/%23")
	c.publish("other", 1, "x")
	c.receive(packets.Puback)
	c.publish("t/1", 1, "text")
	c.receive(packets.Puback)
	call(t, s.Server, "POST", "/topics/t%2F2?qos=0", "\xff")
	for _, want := range []string{"t/1 a text false", "t/2  /w== true"} {
		var m struct {
			Topic, ClientID, Payload string
			Base64                   bool
		}
		if err := stream.Decode(&m); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s %s %s %v", m.Topic, m.ClientID, m.Payload, m.Base64); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// A request with an ownership token goes to its service alone.
func TestFollowedMessagesHoldNoOwnershipToken(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	stream := openStream(t, s, "/_local/messages?filter=%24aws/%23")
	_, _ = enroll(t, s, "2974685")
	call(t, s, "POST", "/things/fleety_2974685/shadow", `{"state":{}}`)
	for {
		var m struct{ Topic string }
		if err := stream.Decode(&m); err != nil {
			t.Fatal(err)
		}
		if m.Topic == "$aws/things/fleety_2974685/shadow/update/accepted" {
			return
		}
		if !strings.HasPrefix(m.Topic, "$aws/events/") {
			t.Errorf("a message on %s", m.Topic)
		}
	}
}

func TestExplainNamesTheStatementThatDecided(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	claim := s.Claim().CertificateID
	for name, test := range map[string]struct {
		body    string
		status  int
		allowed bool
		policy  string
	}{
		"allowed by the attached policy": {fmt.Sprintf(`{"certificateId":%q,"clientId":"claim-1","action":"iot:Connect","resource":"client/claim-1"}`, claim), 200, true, localcore.ClaimPolicyName},
		"denied by default":              {fmt.Sprintf(`{"certificateId":%q,"clientId":"claim-1","action":"iot:Publish","resource":"topic/a"}`, claim), 200, false, ""},
		"by its ARN":                     {fmt.Sprintf(`{"certificateId":%q,"clientId":"claim-1","action":"iot:Connect","resource":%q}`, claim, s.ARN("client/claim-1")), 200, true, localcore.ClaimPolicyName},
		"with a policy of its own":       {`{"action":"iot:Publish","resource":"topic/a","policy":"{\"Version\":\"2012-10-17\",\"Statement\":{\"Effect\":\"Allow\",\"Action\":\"iot:*\",\"Resource\":\"*\"}}"}`, 200, true, "the given policy"},
		"unreadable policy":              {`{"action":"iot:Publish","resource":"topic/a","policy":"{"}`, 400, false, ""},
		"without a resource":             {`{"action":"iot:Publish"}`, 400, false, ""},
		"not JSON":                       {`x`, 400, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer := call(t, s, "POST", "/_local/explain", test.body)
			var got struct {
				Allowed             bool
				Policy, Explanation string
			}
			if status != test.status {
				t.Fatalf("%d %s", status, answer)
			}
			if status != http.StatusOK {
				return
			}
			if err := json.Unmarshal([]byte(answer), &got); err != nil || got.Allowed != test.allowed || got.Policy != test.policy || got.Explanation == "" {
				t.Errorf("%s %v", answer, err)
			}
		})
	}
}

func TestFaultsAreReadBack(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	read := func() string { _, answer := call(t, s, "GET", "/_local/faults", ""); return strings.TrimSpace(answer) }
	rules := `[{"operation":"RegisterThing","times":1,"dropReply":true},{"delayReply":"2s"}]`
	if status, answer := call(t, s, "PUT", "/_local/faults", rules); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, answer)
	}
	if got := read(); got != rules {
		t.Errorf("got %s", got)
	}
	call(t, s, "DELETE", "/_local/faults", "")
	if got := read(); got != "[]" {
		t.Errorf("after the end of all faults: %s", got)
	}
}

// The steps of a provisioning appear in the order in which they happen.
func TestEventsOfAProvisioningNameTheHook(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	stream := openStream(t, s, "/_local/events?past=true")
	_, _ = enroll(t, s, "2974685")
	for _, want := range []localcore.EventType{localcore.Connected, localcore.Issued, localcore.Invoked, localcore.Returned, localcore.Provisioned} {
		for {
			var e localcore.Event
			if err := stream.Decode(&e); err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			if strings.Contains(e.Reason, "2974685") && e.Type == localcore.Invoked {
				t.Errorf("the event shows the value of a parameter: %s", e.Reason)
			}
			if e.Type == want {
				break
			}
		}
	}
}
