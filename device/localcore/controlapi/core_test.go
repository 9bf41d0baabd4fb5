package controlapi_test

import (
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/aws-sdk-go-v2/service/iotdataplane"
	datatypes "github.com/aws/aws-sdk-go-v2/service/iotdataplane/types"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/registry"
)

// https://docs.aws.amazon.com/iot/latest/apireference/API_DescribeEndpoint.html:
// DescribeEndpoint returns the address for devices.
func TestDescribeEndpoint(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	got := must(e.iot.DescribeEndpoint(ctx, &iot.DescribeEndpointInput{EndpointType: aws.String("iot:Data-ATS")}))(t)
	if *got.EndpointAddress != "localhost" {
		t.Errorf("got %s", *got.EndpointAddress)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_RegisterThing.html:
// RegisterThing gives the ARNs by logical name, and fails as
// ResourceRegistrationFailureException.
func TestRegisterThing(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	in := &iot.RegisterThingInput{Parameters: map[string]string{"Name": "t"}, TemplateBody: aws.String(`{"Parameters": {"Name": {"Type": "String"}},
		"Resources": {"thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Name"}, "ThingGroups": ["g"]}}}}`)}
	_, err := e.iot.RegisterThing(ctx, in)
	var failure *types.ResourceRegistrationFailureException
	if !errors.As(err, &failure) {
		t.Errorf("got %v", err)
	}
	must(e.registry.CreateThingGroup(registry.ThingGroup{Name: "g"}))(t)
	if got := must(e.iot.RegisterThing(ctx, in))(t); got.ResourceArns["thing"] != arnPrefix+"thing/t" {
		t.Errorf("got %+v", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_TestAuthorization.html:
// TestAuthorization answers ALLOWED, IMPLICIT_DENY or EXPLICIT_DENY, with
// policies added or left out, and lists the policies by what each decides.
func TestAuthorizationByTheEffectivePolicies(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	id := e.furnish(t)
	must(e.registry.CreatePolicy("deny", document))(t)
	if err := e.registry.AttachPolicy("policy", registry.CertificateTarget(id)); err != nil {
		t.Fatal(err)
	}
	ask := func(add, skip []string) []types.AuthResult {
		return must(e.iot.TestAuthorization(ctx, &iot.TestAuthorizationInput{
			Principal: aws.String(arnPrefix + "cert/" + id), ClientId: aws.String("thing"),
			PolicyNamesToAdd: add, PolicyNamesToSkip: skip,
			AuthInfos: []types.AuthInfo{
				{ActionType: types.ActionTypeConnect, Resources: []string{arnPrefix + "client/thing"}},
				{ActionType: types.ActionTypePublish, Resources: []string{arnPrefix + "topic/t"}},
			},
		}))(t).AuthResults
	}
	decisions := func(results []types.AuthResult) (out []types.AuthDecision) {
		for _, r := range results {
			out = append(out, r.AuthDecision)
		}
		return out
	}
	if diff := cmp.Diff([]types.AuthDecision{"ALLOWED", "IMPLICIT_DENY"}, decisions(ask(nil, nil))); diff != "" {
		t.Error(diff)
	}
	names := func(policies []types.Policy) (out string) {
		for _, p := range policies {
			if *p.PolicyArn != arnPrefix+"policy/"+*p.PolicyName {
				t.Errorf("%s is %s", *p.PolicyName, *p.PolicyArn)
			}
			out += *p.PolicyName + " "
		}
		return out
	}
	for i, want := range [][3]string{{"policy ", "", "deny "}, {"", "policy ", "deny "}} {
		r := ask([]string{"deny"}, nil)[i]
		if got := [3]string{names(r.Allowed.Policies), names(r.Denied.ImplicitDeny.Policies), names(r.Denied.ExplicitDeny.Policies)}; got != want {
			t.Errorf("allowed, implicitly and explicitly denied by %q, want %q", got, want)
		}
	}
	if diff := cmp.Diff([]types.AuthDecision{"EXPLICIT_DENY", "EXPLICIT_DENY"}, decisions(ask([]string{"deny"}, nil))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]types.AuthDecision{"IMPLICIT_DENY", "IMPLICIT_DENY"}, decisions(ask(nil, []string{"policy"}))); diff != "" {
		t.Error(diff)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_GetEffectivePolicies.html:
// effective policies are the certificate's and those of the thing's groups.
func TestEffectivePolicies(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	id := e.furnish(t)
	must(e.registry.CreatePolicy("ofGroup", document))(t)
	if err := errors.Join(
		e.registry.AttachPolicy("policy", registry.CertificateTarget(id)),
		e.registry.AttachPolicy("ofGroup", registry.ThingGroupTarget("group")),
		e.registry.AddThingToThingGroup("thing", "group")); err != nil {
		t.Fatal(err)
	}
	got := must(e.iot.GetEffectivePolicies(ctx, &iot.GetEffectivePoliciesInput{
		Principal: aws.String(arnPrefix + "cert/" + id), ThingName: aws.String("thing"),
	}))(t)
	var names []string
	for _, p := range got.EffectivePolicies {
		names = append(names, *p.PolicyName)
	}
	if diff := cmp.Diff([]string{"policy", "ofGroup"}, names); diff != "" {
		t.Error(diff)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_Publish.html:
// Publish carries the properties of MQTT 5.
func TestPublishCarriesItsProperties(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	must(e.data.Publish(ctx, &iotdataplane.PublishInput{
		Topic: aws.String("a/b c//$d"), Payload: []byte{0, 1, 2}, Qos: 1, Retain: true,
		ContentType: aws.String("text/plain"), ResponseTopic: aws.String("answer/here"), MessageExpiry: 60,
		CorrelationData: aws.String("aWQ="), PayloadFormatIndicator: datatypes.PayloadFormatIndicatorUtf8Data,
		UserProperties: aws.String(`[{"k":"v"},{"k":"w"}]`),
	}))(t)
	want := []*broker.Message{{
		Topic: "a/b c//$d", Payload: []byte{0, 1, 2}, QoS: 1, Retain: true,
		ContentType: "text/plain", ResponseTopic: "answer/here", Expiry: time.Minute,
		CorrelationData: []byte("id"), UTF8: true, UserProperties: []broker.UserProperty{{Key: "k", Val: "v"}, {Key: "k", Val: "w"}},
	}}
	if diff := cmp.Diff(want, e.core.published); diff != "" {
		t.Error(diff)
	}
	e.core.full = errors.New("no space left on device")
	if _, err := e.data.Publish(ctx, &iotdataplane.PublishInput{Topic: aws.String("a"), Retain: true}); err == nil {
		t.Error("a message that could not be retained was published")
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_ListRetainedMessages.html:
// retained messages are listed in pages and read by topic.
func TestRetainedMessages(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	e.core.retained = []*broker.Message{
		{Topic: "b/c", Payload: []byte("payload"), QoS: 1, Time: epoch},
		{Topic: "a", Time: epoch},
	}
	got := must(e.data.GetRetainedMessage(ctx, &iotdataplane.GetRetainedMessageInput{Topic: aws.String("b/c")}))(t)
	if string(got.Payload) != "payload" || got.Qos != 1 || got.LastModifiedTime != epoch.UnixMilli() {
		t.Errorf("got %+v", got)
	}
	pages := iotdataplane.NewListRetainedMessagesPaginator(e.data, &iotdataplane.ListRetainedMessagesInput{MaxResults: aws.Int32(1)})
	var topics []string
	for pages.HasMorePages() {
		for _, m := range must(pages.NextPage(ctx))(t).RetainedTopics {
			topics = append(topics, *m.Topic)
		}
	}
	if diff := cmp.Diff([]string{"a", "b/c"}, topics); diff != "" {
		t.Error(diff)
	}
	_, err := e.data.GetRetainedMessage(ctx, &iotdataplane.GetRetainedMessageInput{Topic: aws.String("none")})
	var missing *datatypes.ResourceNotFoundException
	if !errors.As(err, &missing) {
		t.Errorf("got %v", err)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_DeleteConnection.html:
// DeleteConnection of a client that is not connected is
// ResourceNotFoundException.
func TestDeleteConnection(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	must(e.data.DeleteConnection(ctx, &iotdataplane.DeleteConnectionInput{ClientId: aws.String("known"), CleanSession: true}))(t)
	if diff := cmp.Diff([]string{"known with options"}, e.core.disconnected); diff != "" {
		t.Error(diff)
	}
	_, err := e.data.DeleteConnection(ctx, &iotdataplane.DeleteConnectionInput{ClientId: aws.String("else")})
	var missing *datatypes.ResourceNotFoundException
	if !errors.As(err, &missing) {
		t.Errorf("got %v", err)
	}
}
