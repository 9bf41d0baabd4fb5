package localcore_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/lambdahost"
)

func (f free) createRule(t *testing.T, name, sql string, actions ...types.Action) {
	t.Helper()
	_, err := controlPlane(f.Server).CreateTopicRule(t.Context(), &iot.CreateTopicRuleInput{RuleName: &name, TopicRulePayload: &types.TopicRulePayload{
		Sql: &sql, AwsIotSqlVersion: aws.String("2016-03-23"), Actions: actions,
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func republish(topic string) types.Action {
	return types.Action{Republish: &types.RepublishAction{Topic: &topic, RoleArn: aws.String("arn:aws:iam::123456789012:role/r"), Qos: aws.Int32(1)}}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/iot-rules.html: a rule
// sees what devices publish and who they are.
func TestRuleSeesWhatDevicesPublish(t *testing.T) {
	t.Parallel()
	s := startWithThings(t, "T")
	s.createRule(t, "r", `SELECT temperature, topic(2) AS device, clientid() AS client, principal() AS principal, thingname() AS thing FROM 'in/+' WHERE temperature > 50`, republish("out/${topic(2)}"))
	app, device := mustDial(t, s.Server, "app", s.tls), mustDial(t, s.Server, "T", s.tls)
	s.attach(t, "T", "")
	app.subscribe(t, "out/#")
	for _, payload := range []string{`{"temperature":50}`, `{"temperature":51.50}`} {
		if err := device.publish(t, "in/a", 1, payload); err != nil {
			t.Fatal(err)
		}
	}
	m := app.next(t)
	if want := `{"client":"T","device":"a","principal":"` + s.id + `","temperature":51.5,"thing":"T"}`; m.Topic() != "out/a" || string(m.Payload()) != want {
		t.Errorf("got %s %s, want %s", m.Topic(), m.Payload(), want)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/iot-basic-ingest.html:
// a message of Basic Ingest reaches its rule and no subscriber.
func TestBasicIngestPassesTheBroker(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	s.createRule(t, "r", `SELECT *, topic() AS topic`, republish("out"))
	app, device := mustDial(t, s.Server, "app", s.tls), mustDial(t, s.Server, "T", s.tls)
	app.subscribe(t, "out", "$aws/rules/#")
	for topic, publish := range map[string]func(topic string){
		"a/b": func(topic string) {
			if err := device.publish(t, topic, 1, `{}`); err != nil {
				t.Error(err)
			}
		},
		"c": func(topic string) {
			if status, answer := call(t, s.Server, "POST", "/topics/"+topic, `{}`); status != http.StatusOK {
				t.Error(answer)
			}
		},
	} {
		publish("$aws/rules/r/" + topic)
		if m := app.next(t); m.Topic() != "out" || string(m.Payload()) != `{"topic":"`+topic+`"}` {
			t.Errorf("got %s %s", m.Topic(), m.Payload())
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-data-flow.html:
// a rule can follow a shadow, read it, and update another by republishing.
func TestRuleFollowsAndUpdatesShadows(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	s.createRule(t, "copy", `SELECT get_thing_shadow('A', 'arn:r').state.reported AS state.reported FROM '$aws/things/A/shadow/update/accepted'`,
		republish("$$aws/things/B/shadow/update"))
	app := mustDial(t, s.Server, "app", s.tls)
	app.subscribe(t, "$aws/things/B/shadow/update/accepted")
	if status, answer := call(t, s.Server, "POST", "/things/A/shadow", `{"state":{"reported":{"color":"red"}}}`); status != http.StatusOK {
		t.Fatal(answer)
	}
	if m := app.next(t); !strings.Contains(string(m.Payload()), `"reported":{"color":"red"}`) {
		t.Errorf("got %s", m.Payload())
	}
}

func TestRulesThatUpdateTheShadowTheyFollowEnd(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	s.createRule(t, "loop", `SELECT state FROM '$aws/things/A/shadow/update/accepted'`, republish("$$aws/things/A/shadow/update"))
	s.createRule(t, "after", `SELECT * FROM 'after'`, republish("after/all"))
	app := mustDial(t, s.Server, "app", s.tls, func(o *paho.ClientOptions) { o.SetOrderMatters(true) })
	app.subscribe(t, "after/all", "$aws/things/A/shadow/update/accepted")
	if status, answer := call(t, s.Server, "POST", "/things/A/shadow", `{"state":{"reported":{"a":1}}}`); status != http.StatusOK {
		t.Fatal(answer)
	}
	for range 11 {
		app.next(t)
	}
	if err := app.publish(t, "after", 1, ""); err != nil { // the rules take it after the eleventh
		t.Fatal(err)
	}
	if m := app.next(t); m.Topic() != "after/all" {
		t.Errorf("got %s %s", m.Topic(), m.Payload())
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html:
// a rule can follow the lifecycle events.
func TestRuleFollowsLifecycleEvents(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	s.createRule(t, "r", `SELECT clientId, eventType FROM '$aws/events/presence/connected/T'`, republish("out"))
	app := mustDial(t, s.Server, "app", s.tls)
	app.subscribe(t, "out")
	mustDial(t, s.Server, "T", s.tls)
	if got := string(app.next(t).Payload()); got != `{"clientId":"T","eventType":"connected"}` {
		t.Errorf("got %s", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/rule-error-handling.html:
// an HTTP action that fails is reported by the error action. One that calls this account's API, by
// which it could cause itself, fails for want of a signature.
func TestErrorActionReportsAnHTTPActionThatFails(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	requests := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- string(body)
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(server.Close)
	failed := republish("errors")
	for name, url := range map[string]string{"other": server.URL, "own": s.APIURL() + "/topics/in"} {
		_, err := controlPlane(s.Server).CreateTopicRule(t.Context(), &iot.CreateTopicRuleInput{RuleName: &name, TopicRulePayload: &types.TopicRulePayload{
			Sql: aws.String("SELECT a FROM 'in'"), Actions: []types.Action{{Http: &types.HttpAction{Url: &url}}}, ErrorAction: &failed,
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	device := mustDial(t, s.Server, "T", s.tls)
	device.subscribe(t, "errors")
	if err := device.publish(t, "in", 1, `{"a":1}`); err != nil {
		t.Fatal(err)
	}
	if got := <-requests; got != `{"a":1}` {
		t.Errorf("posted %s", got)
	}
	for range 2 {
		if got := string(device.next(t).Payload()); !strings.Contains(got, `"failedAction":"HttpAction"`) || !strings.Contains(got, "403") || !strings.Contains(got, `"clientId":"T"`) {
			t.Errorf("reported %s", got)
		}
	}
}

// A awaitedLog is a log that is read while it is written.
type awaitedLog struct {
	mu      sync.Mutex
	text    bytes.Buffer
	written chan struct{} // receives after each line
}

func (b *awaitedLog) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.written <- struct{}{}:
	default:
	}
	return b.text.Write(p)
}

// await waits for a line with this part.
func (b *awaitedLog) await(t *testing.T, part string) {
	t.Helper()
	for ctx := within(t); ; {
		b.mu.Lock()
		found := strings.Contains(b.text.String(), part)
		b.mu.Unlock()
		if found {
			return
		}
		select {
		case <-b.written:
		case <-ctx.Done():
			t.Fatalf("no %q in the log:\n%s", part, b.text.String())
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/lambda-rule-action.html:
// a Lambda action invokes the function's own binary.
func TestLambdaActionInvokesTheRealBinary(t *testing.T) {
	t.Parallel()
	hook := buildHook(t)
	for name, c := range map[string]localcore.Config{
		"the hook":          {Hook: hook},
		"a function beside": {Functions: map[string]lambdahost.Config{"fleet-provisioning-hook": {Path: hook}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &awaitedLog{written: make(chan struct{}, 1)}
			c.Log = slog.New(slog.NewTextHandler(log, nil))
			s := startFree(t, c)
			s.createRule(t, "r", `SELECT *, clientid() AS clientId FROM 'ask'`, types.Action{Lambda: &types.LambdaAction{
				FunctionArn: aws.String("arn:aws:lambda:us-east-1:123456789012:function:fleet-provisioning-hook:$LATEST"),
			}})
			device := mustDial(t, s.Server, "claim-1", s.tls)
			if err := device.publish(t, "ask", 1, `{"claimCertificateId":"`+s.id+`","certificateId":"`+s.id+`","templateArn":"arn","parameters":{"SerialNumber":"1234567","serialNumber":"1234567"}}`); err != nil {
				t.Fatal(err)
			}
			log.await(t, "1234567")
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateTopicRule.html:
// topic rules are managed with AWS's own SDK.
func TestTopicRulesWithTheSDK(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	ctx, control := t.Context(), controlPlane(s.Server)
	s.createRule(t, "r", `SELECT * FROM 'a/+'`, republish("b"))
	name := aws.String("r")
	got := must(control.GetTopicRule(ctx, &iot.GetTopicRuleInput{RuleName: name}))(t)
	if *got.RuleArn != s.ARN("rule/r") || *got.Rule.Sql != `SELECT * FROM 'a/+'` || *got.Rule.RuleDisabled || got.Rule.CreatedAt == nil || *got.Rule.AwsIotSqlVersion != "2016-03-23" {
		t.Errorf("got %+v", got.Rule)
	}
	if action := got.Rule.Actions[0].Republish; *action.Topic != "b" || *action.Qos != 1 {
		t.Errorf("action %+v", action)
	}
	must(control.DisableTopicRule(ctx, &iot.DisableTopicRuleInput{RuleName: name}))(t)
	must(control.ReplaceTopicRule(ctx, &iot.ReplaceTopicRuleInput{RuleName: name, TopicRulePayload: &types.TopicRulePayload{
		Sql: aws.String(`SELECT b FROM 'c'`), Description: aws.String("new"), Actions: []types.Action{republish("d")}, RuleDisabled: aws.Bool(true),
	}}))(t)
	for disabled, want := range map[bool]int{true: 1, false: 0} {
		listed := must(control.ListTopicRules(ctx, &iot.ListTopicRulesInput{Topic: aws.String("c"), RuleDisabled: &disabled}))(t).Rules
		if len(listed) != want || want == 1 && *listed[0].TopicPattern != "c" {
			t.Errorf("disabled %v: %+v", disabled, listed)
		}
	}
	must(control.EnableTopicRule(ctx, &iot.EnableTopicRuleInput{RuleName: name}))(t)
	must(control.DeleteTopicRule(ctx, &iot.DeleteTopicRuleInput{RuleName: name}))(t)

	codes := map[string]string{}
	for want, err := range map[string]error{
		"UnauthorizedException": func() error { _, err := control.GetTopicRule(ctx, &iot.GetTopicRuleInput{RuleName: name}); return err }(),
		"SqlParseException": func() error {
			_, err := control.CreateTopicRule(ctx, &iot.CreateTopicRuleInput{RuleName: name, TopicRulePayload: &types.TopicRulePayload{Sql: aws.String("SELECT"), Actions: []types.Action{republish("b")}}})
			return err
		}(),
		"InvalidRequestException": func() error {
			_, err := control.CreateTopicRule(ctx, &iot.CreateTopicRuleInput{RuleName: name, TopicRulePayload: &types.TopicRulePayload{
				Sql: aws.String("SELECT * FROM 'a'"), Actions: []types.Action{{Sqs: &types.SqsAction{QueueUrl: aws.String("q"), RoleArn: aws.String("r")}}}}})
			return err
		}(),
	} {
		var e interface{ ErrorCode() string }
		if errors.As(err, &e) {
			codes[want] = e.ErrorCode()
		}
	}
	if diff := cmp.Diff(map[string]string{"UnauthorizedException": "UnauthorizedException", "SqlParseException": "SqlParseException", "InvalidRequestException": "InvalidRequestException"}, codes); diff != "" {
		t.Error(diff)
	}
}
