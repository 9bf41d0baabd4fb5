package localcore_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iotdataplane"
	"github.com/aws/aws-sdk-go-v2/service/iotdataplane/types"

	"example.com/fleety/device/localcore"
)

func dataPlane(s *localcore.Server) *iotdataplane.Client {
	url := s.APIURL()
	return iotdataplane.New(iotdataplane.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: aws.AnonymousCredentials{}})
}

// subscribe subscribes at QoS 1 and waits for the SUBACK.
func (d *device) subscribe(t *testing.T, filters ...string) {
	t.Helper()
	all := map[string]byte{}
	for _, f := range filters {
		all[f] = 1
	}
	if token := d.SubscribeMultiple(all, nil); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
}

// topics receives n messages and returns their topics below the prefix, sorted, and their payloads.
func (d *device) topics(t *testing.T, n int, prefix string) (topics []string, payloads map[string]map[string]any) {
	t.Helper()
	payloads = map[string]map[string]any{}
	for range n {
		m := d.next(t)
		topic := strings.TrimPrefix(m.Topic(), prefix)
		var payload map[string]any
		if err := json.Unmarshal(m.Payload(), &payload); err != nil {
			t.Fatalf("%s: %v", m.Payload(), err)
		}
		topics, payloads[topic] = append(topics, topic), payload
	}
	slices.Sort(topics)
	return topics, payloads
}

// https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-mqtt.html:
// the responses of the Device Shadow service go through the broker to everyone who subscribed, and
// to nobody else.
func TestShadowResponsesGoToSubscribers(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	const prefix = "$aws/things/T/shadow/"
	app, device := mustDial(t, s.Server, "app", s.tls), mustDial(t, s.Server, "T", s.tls)
	app.subscribe(t, prefix+"update/#")
	if err := device.publish(t, prefix+"update", 1, `{"state":{"desired":{"a":1},"reported":{"a":2}},"clientToken":"c"}`); err != nil {
		t.Fatal(err)
	}
	got, payloads := app.topics(t, 3, prefix)
	if want := []string{"update/accepted", "update/delta", "update/documents"}; !slices.Equal(got, want) {
		t.Errorf("the subscriber got %q, want %q", got, want)
	}
	if p := payloads["update/accepted"]; p["version"] != 1.0 || p["clientToken"] != "c" {
		t.Errorf("accepted with %v", p)
	}
	device.subscribe(t, prefix+"get/+", prefix+"name/S/get/+")
	for _, topic := range []string{prefix + "get", prefix + "name/S/get"} {
		if err := device.publish(t, topic, 1, ""); err != nil {
			t.Fatal(err)
		}
	}
	got, payloads = device.topics(t, 2, prefix)
	if want := []string{"get/accepted", "name/S/get/rejected"}; !slices.Equal(got, want) {
		t.Errorf("the device got %q, want %q", got, want)
	}
	if p := payloads["name/S/get/rejected"]; p["code"] != 404.0 {
		t.Errorf("rejected with %v", p)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-mqtt.html:
// other clients can subscribe to the topics of shadow requests.
func TestShadowRequestsAreSeenBySubscribers(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	app, device := mustDial(t, s.Server, "app", s.tls), mustDial(t, s.Server, "T", s.tls)
	app.subscribe(t, "$aws/things/T/shadow/update")
	const request = `{"state":{"reported":{"a":1}}}`
	if err := device.publish(t, "$aws/things/T/shadow/update", 1, request); err != nil {
		t.Fatal(err)
	}
	if got := string(app.next(t).Payload()); got != request {
		t.Errorf("got %s", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-mqtt.html:
// a shadow request over MQTT needs iot:Publish on its topic, and no action of shadows.
func TestShadowRequestsNeedPublishOnly(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{}, `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":"iot:Connect","Resource":"*"},
		{"Effect":"Allow","Action":"iot:Publish","Resource":"arn:aws:iot:us-east-1:123456789012:topic/$aws/things/T/shadow/update"},
		{"Effect":"Allow","Action":["iot:Subscribe","iot:Receive"],"Resource":"*"},
		{"Effect":"Deny","Action":["iot:GetThingShadow","iot:UpdateThingShadow"],"Resource":"*"}]}`)
	device := mustDial(t, s.Server, "T", s.tls)
	device.subscribe(t, "$aws/things/T/shadow/update/accepted")
	if err := device.publish(t, "$aws/things/T/shadow/update", 1, `{"state":{"reported":{"a":1}}}`); err != nil {
		t.Fatal(err)
	}
	device.next(t)
	_ = device.publish(t, "$aws/things/T/shadow/delete", 0, "")
	awaitRejection(t, s.Server, localcore.ActionPublish, "iot:Publish")
}

// https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-data-flow.html:
// an update over HTTPS is published over MQTT as one over MQTT is.
func TestShadowUpdateOverHTTPSIsPublished(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	const prefix = "$aws/things/T/shadow/name/S/"
	device := mustDial(t, s.Server, "T", s.tls)
	device.subscribe(t, prefix+"#")
	data, ctx := dataPlane(s.Server), t.Context()
	thing, name := aws.String("T"), aws.String("S")
	updated, err := data.UpdateThingShadow(ctx, &iotdataplane.UpdateThingShadowInput{ThingName: thing, ShadowName: name, Payload: []byte(`{"state":{"desired":{"a":1}}}`)})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(updated.Payload), `"version":1`) {
		t.Errorf("updated: %s", updated.Payload)
	}
	got, _ := device.topics(t, 3, prefix)
	if want := []string{"update/accepted", "update/delta", "update/documents"}; !slices.Equal(got, want) {
		t.Errorf("the device got %q, want %q", got, want)
	}
	if _, err := data.DeleteThingShadow(ctx, &iotdataplane.DeleteThingShadowInput{ThingName: thing, ShadowName: name}); err != nil {
		t.Fatal(err)
	}
	if got := device.next(t).Topic(); got != prefix+"delete/accepted" {
		t.Errorf("the device got %s", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-error-messages.html:
// an error over HTTPS is answered with its status, and not published over MQTT.
func TestShadowErrorsOverHTTPSAreExceptions(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	device := mustDial(t, s.Server, "T", s.tls)
	device.subscribe(t, "$aws/things/T/shadow/#")
	data, ctx := dataPlane(s.Server), t.Context()
	update := func(payload string) error {
		_, err := data.UpdateThingShadow(ctx, &iotdataplane.UpdateThingShadowInput{ThingName: aws.String("T"), Payload: []byte(payload)})
		return err
	}
	_, missing := data.GetThingShadow(ctx, &iotdataplane.GetThingShadowInput{ThingName: aws.String("T")})
	if _, ok := errors.AsType[*types.ResourceNotFoundException](missing); !ok {
		t.Error(missing)
	}
	if _, ok := errors.AsType[*types.InvalidRequestException](update(`{`)); !ok {
		t.Error("no InvalidRequestException")
	}
	if _, ok := errors.AsType[*types.ConflictException](update(`{"state":{},"version":7}`)); !ok {
		t.Error("no ConflictException")
	}
	if _, ok := errors.AsType[*types.RequestEntityTooLargeException](update(`{"state":{"desired":{"a":"` + strings.Repeat("x", 9000) + `"}}}`)); !ok {
		t.Error("no RequestEntityTooLargeException")
	}
	if _, ok := errors.AsType[*types.UnsupportedDocumentEncodingException](update("{\"state\":{\"desired\":{\"a\":\"\xff\"}}}")); !ok {
		t.Error("no UnsupportedDocumentEncodingException")
	}
	if err := update(`{"state":{"reported":{"a":1}}}`); err != nil {
		t.Fatal(err)
	}
	if got := device.next(t).Topic(); !strings.HasSuffix(got, "update/accepted") && !strings.HasSuffix(got, "update/documents") {
		t.Errorf("published on %s", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_ListNamedShadowsForThing.html:
// named shadows are listed page by page.
func TestNamedShadowsAreListedOverHTTPS(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{State: t.TempDir()})
	data, ctx := dataPlane(s.Server), t.Context()
	for _, name := range []string{"a", "b", "c"} {
		if _, err := data.UpdateThingShadow(ctx, &iotdataplane.UpdateThingShadowInput{ThingName: aws.String("T"), ShadowName: aws.String(name), Payload: []byte(`{"state":{}}`)}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	in := &iotdataplane.ListNamedShadowsForThingInput{ThingName: aws.String("T"), PageSize: aws.Int32(2)}
	for {
		page, err := data.ListNamedShadowsForThing(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, page.Results...)
		if page.Timestamp == 0 || len(page.Results) > 2 {
			t.Errorf("page %+v", page)
		}
		if in.NextToken = page.NextToken; in.NextToken == nil {
			break
		}
	}
	if want := []string{"a", "b", "c"}; !slices.Equal(names, want) {
		t.Errorf("got %q", names)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/iot-device-shadows.html:
// shadows, jobs and rules outlive a restart of the service.
func TestStateKeepsShadowsJobsAndRules(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startFree(t, localcore.Config{State: dir})
	status, answer := call(t, s.Server, "POST", "/things/T/shadow", `{"state":{"reported":{"a":1}}}`)
	if status != 200 {
		t.Fatal(answer)
	}
	if status, answer = call(t, s.Server, "POST", "/things/T", ``); status != 200 {
		t.Fatal(answer)
	}
	if status, answer = call(t, s.Server, "PUT", "/jobs/j", `{"targets":["`+s.ARN("thing/T")+`"],"document":"{}"}`); status != 200 {
		t.Fatal(answer)
	}
	if status, answer = call(t, s.Server, "POST", "/rules/r", `{"sql":"SELECT * FROM 'a'","actions":[]}`); status != 200 {
		t.Fatal(answer)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := start(t, localcore.Config{State: dir})
	for path, want := range map[string]string{"/things/T/shadow": `"version":1`, "/things/T/jobs": `"jobId":"j"`, "/rules/r": `"ruleName":"r"`} {
		if status, answer := call(t, again, "GET", path, ""); status != 200 || !strings.Contains(answer, want) {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
}
