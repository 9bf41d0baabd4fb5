package localcore_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
)

// https://docs.aws.amazon.com/iot/latest/apireference/API_Operations_AWS_IoT_Secure_Tunneling.html: The AWS command line opens, lists, describes, tags, rotates and closes tunnels.
func TestAWSCommandLineManagesTunnels(t *testing.T) {
	t.Parallel()
	s := startWithThings(t, "T")
	run := awsCLI(t, s.Server)
	opened := run("iotsecuretunneling", "open-tunnel", "--destination-config", "thingName=T,services=SSH,web", "--timeout-config", "maxLifetimeTimeoutMinutes=30", "--tags", "key=k,value=v")
	id, arn := opened["tunnelId"].(string), opened["tunnelArn"].(string)
	if arn != s.ARN("tunnel/"+id) || opened["sourceAccessToken"] == nil || opened["destinationAccessToken"] == nil {
		t.Errorf("opened %v", opened)
	}
	run("iotsecuretunneling", "tag-resource", "--resource-arn", arn, "--tags", "key=a,value=b")
	described := run("iotsecuretunneling", "describe-tunnel", "--tunnel-id", id)["tunnel"].(map[string]any)
	tags, _ := json.Marshal(described["tags"])
	if described["status"] != "OPEN" || described["createdAt"] == nil || string(tags) != `[{"key":"a","value":"b"},{"key":"k","value":"v"}]` ||
		described["timeoutConfig"].(map[string]any)["maxLifetimeTimeoutMinutes"] != 30.0 || described["sourceConnectionState"].(map[string]any)["status"] != "DISCONNECTED" {
		t.Errorf("described %v", described)
	}
	run("iotsecuretunneling", "untag-resource", "--resource-arn", arn, "--tag-keys", "k")
	if listed := run("iotsecuretunneling", "list-tags-for-resource", "--resource-arn", arn); len(listed["tags"].([]any)) != 1 {
		t.Errorf("tags %v", listed)
	}
	run("iotsecuretunneling", "open-tunnel", "--description", "another")
	page := run("iotsecuretunneling", "list-tunnels", "--max-results", "1")
	if newest := page["tunnelSummaries"].([]any); len(newest) != 1 || newest[0].(map[string]any)["description"] != "another" {
		t.Errorf("listed %v", newest)
	}
	page = run("iotsecuretunneling", "list-tunnels", "--next-token", page["nextToken"].(string))
	if older := page["tunnelSummaries"].([]any); len(older) != 1 || older[0].(map[string]any)["tunnelId"] != id || page["nextToken"] != nil {
		t.Errorf("then %v", page)
	}
	if of := run("iotsecuretunneling", "list-tunnels", "--thing-name", "T")["tunnelSummaries"].([]any); len(of) != 1 {
		t.Errorf("of the thing %v", of)
	}
	rotated := run("iotsecuretunneling", "rotate-tunnel-access-token", "--tunnel-id", id, "--client-mode", "DESTINATION")
	if rotated["sourceAccessToken"] != nil || rotated["destinationAccessToken"] == opened["destinationAccessToken"] {
		t.Errorf("rotated %v", rotated)
	}
	run("iotsecuretunneling", "close-tunnel", "--tunnel-id", id)
	if described := run("iotsecuretunneling", "describe-tunnel", "--tunnel-id", id)["tunnel"].(map[string]any); described["status"] != "CLOSED" {
		t.Errorf("closed %v", described)
	}
	run("iotsecuretunneling", "close-tunnel", "--tunnel-id", id, "--delete")
	if left := run("iotsecuretunneling", "list-tunnels")["tunnelSummaries"].([]any); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// callTunneling calls an operation of secure tunneling.
func callTunneling(t *testing.T, s *localcore.Server, operation, body string) (int, map[string]any) {
	t.Helper()
	status, answer := call(t, s, "POST", "/", body, func(r *http.Request) {
		r.Header.Set("X-Amz-Target", "IoTSecuredTunneling."+operation)
		r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	})
	var out map[string]any // each answer is an object, if an empty one
	if err := json.Unmarshal([]byte(answer), &out); err != nil {
		t.Fatalf("%d %s", status, answer)
	}
	return status, out
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_iot-secure-tunneling_DescribeTunnel.html: Exceptions of secure tunneling have status 400 and their name in the body.
func TestTunnelingExceptions(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	for _, test := range []struct {
		operation, body, code string
		status                int
	}{
		{"DescribeTunnel", `{"tunnelId": "none"}`, "ResourceNotFoundException", 400},
		{"CloseTunnel", `{"tunnelId": "none", "delete": true}`, "ResourceNotFoundException", 400},
		{"RotateTunnelAccessToken", `{"tunnelId": "none", "clientMode": "ALL"}`, "ResourceNotFoundException", 400},
		{"TagResource", `{"resourceArn": "` + s.ARN("tunnel/none") + `", "tags": [{"key": "k", "value": "v"}]}`, "ResourceNotFoundException", 400},
		{"ListTagsForResource", `{"resourceArn": "` + s.ARN("tunnel/none") + `"}`, "ResourceNotFoundException", 400},
		{"OpenTunnel", `{"destinationConfig": {"services": ["a", "b", "c", "d"]}}`, "LimitExceededException", 400},
		{"OpenTunnel", `{"timeoutConfig": {"maxLifetimeTimeoutMinutes": 0}}`, "ValidationException", 400},
		{"OpenTunnel", `{"lifetime": 1}`, "ValidationException", 400},
		{"OpenTunnel", `{"tags": [{"key": "k", "value": "v"}, {"key": "k", "value": "w"}]}`, "ValidationException", 400},
		{"ListTunnels", `{"maxResults": 101}`, "ValidationException", 400},
		{"ListTunnels", `{"nextToken": "!"}`, "ValidationException", 400},
		{"DescribeTunnels", `{}`, "UnknownOperationException", 404},
	} {
		if status, out := callTunneling(t, s, test.operation, test.body); status != test.status || out["__type"] != test.code {
			t.Errorf("%s %s: %d %v, want %s", test.operation, test.body, status, out, test.code)
		}
	}
	if status, out := callTunneling(t, s, "ListTunnels", ``); status != 200 || len(out["tunnelSummaries"].([]any)) != 0 {
		t.Errorf("rejected requests left %v", out)
	}
}

// Each case is of https://docs.aws.amazon.com/iot/latest/apireference/API_iot-secure-tunneling_OpenTunnel.html.
func TestTunnelParametersAreLimited(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	const invalid = "ValidationException"
	for name, test := range map[string]struct{ in, code string }{
		"A tunnel needs no parameters":                                            {`{}`, ""},
		"A description has up to 2,048 characters":                                {`{"description": "` + strings.Repeat("é", 2048) + `"}`, ""},
		"A longer description is rejected":                                        {`{"description": "` + strings.Repeat("x", 2049) + `"}`, invalid},
		"An empty description is rejected":                                        {`{"description": ""}`, invalid},
		"A description with control characters is rejected":                       {`{"description": "a\u0007"}`, invalid},
		"A tunnel lives for 1 to 720 minutes":                                     {`{"timeoutConfig": {"maxLifetimeTimeoutMinutes": 720}}`, ""},
		"A life of 0 minutes is rejected":                                         {`{"timeoutConfig": {"maxLifetimeTimeoutMinutes": 0}}`, invalid},
		"A life of 721 minutes is rejected":                                       {`{"timeoutConfig": {"maxLifetimeTimeoutMinutes": 721}}`, invalid},
		"A destination needs a service":                                           {`{"destinationConfig": {"thingName": "t"}}`, invalid},
		"A destination needs no thing":                                            {`{"destinationConfig": {"services": ["SSH"]}}`, ""},
		"The name of a service has letters, digits, colon, underscore and hyphen": {`{"destinationConfig": {"services": ["aZ0:_-"]}}`, ""},
		"Another name of a service is rejected":                                   {`{"destinationConfig": {"services": ["a b"]}}`, invalid},
		"Another name of a thing is rejected":                                     {`{"destinationConfig": {"thingName": "a/b", "services": ["SSH"]}}`, invalid},
		"A tunnel has at most 3 services; LimitExceededException beyond":          {`{"destinationConfig": {"services": ["a", "b", "c", "d"]}}`, "LimitExceededException"},
	} {
		if status, out := callTunneling(t, s, "OpenTunnel", test.in); (status == 200) != (test.code == "") || test.code != "" && out["__type"] != test.code {
			t.Errorf("%s: %d %v, want %q", name, status, out, test.code)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_iot-secure-tunneling_RotateTunnelAccessToken.html: A client mode that does not exist is rejected.
func TestTunnelClientModeIsOneOfThree(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	if status, out := callTunneling(t, s, "RotateTunnelAccessToken", `{"tunnelId": "t", "clientMode": "source"}`); status != 400 || out["__type"] != "ValidationException" {
		t.Errorf("%d %v", status, out)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/how-secure-tunneling-works.html: The thing gets its token over MQTT and connects with it, and closing the tunnel ends the connections of both sides.
func TestNotifiedThingConnectsToItsTunnel(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 4, "a")
	c.mustSubscribe(1, awsiot.TunnelNotify("T"))
	_, opened := callTunneling(t, s.Server, "OpenTunnel", `{"destinationConfig": {"thingName": "T", "services": ["SSH"]}}`)
	var n awsiot.TunnelNotification
	m := c.receive(packets.Publish)
	if err := json.Unmarshal(m.Payload, &n); err != nil || m.FixedHeader.Qos != 1 || m.FixedHeader.Retain {
		t.Fatalf("%v: QoS %d, %s", err, m.FixedHeader.Qos, m.Payload)
	}
	var sides []*websocket.Conn
	for mode, token := range map[string]string{"destination": string(n.ClientAccessToken), "source": opened["sourceAccessToken"].(string)} {
		dialer := websocket.Dialer{Subprotocols: []string{awsiot.TunnelV1}}
		ws, r, err := dialer.Dial("ws"+strings.TrimPrefix(s.APIURL(), "http")+"/tunnel?local-proxy-mode="+mode, http.Header{"access-token": {token}})
		if err != nil {
			t.Fatalf("%s: %v, %v", mode, err, r)
		}
		defer ws.Close()
		sides = append(sides, ws)
	}
	if status, out := callTunneling(t, s.Server, "CloseTunnel", `{"tunnelId": "`+opened["tunnelId"].(string)+`"}`); status != 200 || len(out) != 0 {
		t.Errorf("%d %v", status, out)
	}
	for _, ws := range sides {
		if _, _, err := ws.ReadMessage(); err == nil {
			t.Error("a side of a closed tunnel goes on")
		}
	}
}
