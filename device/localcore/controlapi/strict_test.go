package controlapi_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/aws-sdk-go-v2/service/iotdataplane"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/localcore/controlapi"
	"example.com/fleety/device/localcore/registry"
)

// call sends one request to a handler and returns the status, the error code and
// the body.
func call(t *testing.T, h http.Handler, method, target, body string) (status int, code, out string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body)))
	return w.Code, w.Header().Get("X-Amzn-ErrorType"), w.Body.String()
}

func newHandler(t *testing.T) http.Handler {
	t.Helper()
	return handler(t, must(registry.Open("", registry.Options{}))(t), &core{})
}

// Every operation that the SDK knows has a name here, emulated or not.
func TestEveryOperationOfTheSDKIsKnownByName(t *testing.T) {
	t.Parallel()
	known := string(must(os.ReadFile("aws_operations.txt"))(t))
	for _, client := range []reflect.Type{reflect.TypeFor[*iot.Client](), reflect.TypeFor[*iotdataplane.Client]()} {
		for method := range client.Methods() {
			if method.Name != "Options" && !strings.Contains("\n"+known, "\n"+method.Name+" ") {
				t.Errorf("%s is not in aws_operations.txt", method.Name)
			}
		}
	}
	if missing := controlapi.NotEmulated(); slices.Contains(missing, "CreateThing") || !slices.Contains(missing, "CreateDimension") {
		t.Errorf("not emulated: %v", missing)
	}
}

func TestMissingOperationAnswersWithItsName(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	for request, name := range map[string]string{
		"GET /job-templates":              "ListJobTemplates",
		"POST /dynamic-thing-groups/g":    "CreateDynamicThingGroup",
		"POST /authorizer/a":              "CreateAuthorizer",
		"POST /dimensions/a":              "CreateDimension",
		"PATCH /packages/p":               "UpdatePackage",
		"GET /domainConfigurations/a%2Fb": "DescribeDomainConfiguration",
		"POST /indices/search":            "SearchIndex",
	} {
		method, path, _ := strings.Cut(request, " ")
		status, code, body := call(t, h, method, path, "")
		if status != http.StatusNotFound || code != "UnknownOperationException" || !strings.Contains(body, name+" ") {
			t.Errorf("%s: got %d %s %s, want the name %s", request, status, code, body, name)
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/", nil)
	r.Header.Set("X-Amz-Target", "IoTSecuredTunneling.OpenTunnels")
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); !strings.Contains(w.Body.String(), "OpenTunnels ") {
		t.Errorf("got %s", w.Body)
	}
}

func TestBodyThatIsNotJSONIsAnsweredWithLineAndColumn(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	for body, place := range map[string]string{
		"{\n  \"attributePayload\": {,}}": "line 2, column 24:",
		"{\"äöü\": x}":                    "line 1, column 9:",
		"{\n\n":                           "line 3, column 1:",
		"{}\n{}":                          "line 2, column 1:",
		"<html>":                          "line 1, column 1:",
	} {
		if _, code, out := call(t, h, "POST", "/things/t", body); code != registry.CodeInvalidRequest || !strings.Contains(out, place) {
			t.Errorf("%q: got %s %s, want %s", body, code, out, place)
		}
	}
}

// A parameter that is not emulated is rejected by its name.
func TestParameterThatIsNotEmulatedIsNamed(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	principal := aws.String(arnPrefix + "cert/" + strings.Repeat("0", 64))
	for _, err := range []error{
		func() error {
			_, err := e.iot.GetEffectivePolicies(ctx, &iot.GetEffectivePoliciesInput{Principal: principal, CognitoIdentityPoolId: aws.String("pool")})
			return err
		}(),
		func() error {
			_, err := e.iot.TestAuthorization(ctx, &iot.TestAuthorizationInput{
				Principal: principal, CognitoIdentityPoolId: aws.String("pool"), AuthInfos: []types.AuthInfo{{Resources: []string{"r"}}},
			})
			return err
		}(),
	} {
		if codeOf(err) != registry.CodeInvalidRequest || !strings.Contains(err.Error(), "cognitoIdentityPoolId") {
			t.Errorf("got %v", err)
		}
	}
}

// A request with several faults gets the same answer each time.
func TestSameOfSeveralFaultsIsReported(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	for name, request := range map[string]struct{ method, target, body string }{
		"query":   {"GET", "/things?d=1&b=1&a=1&c=1", ""},
		"members": {"POST", "/role-aliases/r", `{"roleArn":"x","d":1,"b":1,"a":1,"c":1}`},
		"tags":    {"POST", "/tags", `{"resourceArn":"arn:aws:iot:us-east-1:123456789012:policy/p","tags":[{"Key":"d","Value":"["},{"Key":"b","Value":"["},{"Key":"a","Value":"["}]}`},
		"shadow":  {"POST", "/things/t/shadow", `{"state":{"desired":1,"reported":1,"other":1}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, _, want := call(t, h, request.method, request.target, request.body)
			for range 30 {
				if _, _, got := call(t, h, request.method, request.target, request.body); got != want || status < 400 {
					t.Fatalf("%d %s, before %s", status, got, want)
				}
			}
		})
	}
}

// A parameter that is there counts, also if it is zero or repeats what another says.
func TestNoParameterIsDropped(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	const config = `"registrationConfig":{"templateBody":"{}","roleArn":"arn:aws:iam::123456789012:role/role"}`
	call(t, h, "POST", "/things/thing", "")
	for _, kind := range []string{"thing-groups", "billing-groups"} {
		call(t, h, "POST", "/"+kind+"/group", "")
	}
	call(t, h, "POST", "/provisioning-templates", `{"templateName":"template","templateBody":"{}","provisioningRoleArn":"arn:aws:iam::123456789012:role/r"}`)
	_, _, registered := call(t, h, "POST", "/cacertificate", string(must(json.Marshal(map[string]any{
		"caCertificate": newAuthority(t, "ca").pem, "certificateMode": "SNI_ONLY",
	}))(t)))
	var ca struct{ CertificateID string }
	if err := json.Unmarshal([]byte(registered), &ca); err != nil || ca.CertificateID == "" {
		t.Fatal(registered)
	}
	for name, test := range map[string]struct{ method, target, body, code string }{
		"version 0 of a thing to update":          {"PATCH", "/things/thing", `{"expectedVersion":0}`, "VersionConflictException"},
		"version 0 of a thing to delete":          {"DELETE", "/things/thing?expectedVersion=0", "", "VersionConflictException"},
		"version 0 of a group to update":          {"PATCH", "/thing-groups/group", `{"thingGroupProperties":{},"expectedVersion":0}`, "VersionConflictException"},
		"version 0 of a group to delete":          {"DELETE", "/thing-groups/group?expectedVersion=0", "", "VersionConflictException"},
		"version 0 of a billing group to update":  {"PATCH", "/billing-groups/group", `{"billingGroupProperties":{},"expectedVersion":0}`, "VersionConflictException"},
		"version 0 of a billing group to delete":  {"DELETE", "/billing-groups/group?expectedVersion=0", "", "VersionConflictException"},
		"version 0 as the default of a template":  {"PATCH", "/provisioning-templates/template", `{"defaultVersionId":0}`, "ResourceNotFoundException"},
		"the ARN of another group than the name":  {"PUT", "/thing-groups/addThingToThingGroup", `{"thingName":"thing","thingGroupName":"group","thingGroupArn":"` + arnPrefix + `thinggroup/other"}`, "InvalidRequestException"},
		"the ARN of another thing than the name":  {"PUT", "/billing-groups/removeThingFromBillingGroup", `{"thingName":"thing","thingArn":"` + arnPrefix + `thing/other","billingGroupName":"group"}`, "InvalidRequestException"},
		"a member in another case":                {"POST", "/thing-types/type", `{"thingTypeProperties":{"ThingTypeDescription":"d"}}`, "InvalidRequestException"},
		"a member of a job in another case":       {"PUT", "/jobs/job", `{"targets":["` + arnPrefix + `thing/thing"],"document":"{}","Description":"d"}`, "InvalidRequestException"},
		"a member of a rule in another case":      {"POST", "/rules/rule", `{"sql":"SELECT 1","actions":[],"RuleDisabled":true}`, "InvalidRequestException"},
		"a tag of secure tunneling":               {"POST", "/billing-groups/other", `{"tags":[{"key":"a","value":"b"}]}`, "InvalidRequestException"},
		"a configuration that is removed at once": {"PUT", "/cacertificate/" + ca.CertificateID, `{` + config + `,"removeAutoRegistration":true}`, "InvalidRequestException"},
	} {
		if status, code, out := call(t, h, test.method, test.target, test.body); code != test.code {
			t.Errorf("%s: %d %s", name, status, out)
		}
	}
}

// What a client sent cannot steer the terminal of those who read the answer.
func TestAnswersHoldNoControlCharacters(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	for _, c := range "\u0000\u001b\u007f\u0085\u009b\u200e\u202e\u2066\u2028\ufeff" {
		text := fmt.Sprintf("a%cb", c)
		body := must(json.Marshal(map[string]any{"sql": "SELECT * FROM 'a'", "actions": []string{}, "description": text}))(t)
		name := fmt.Sprintf("/rules/r%d", c)
		if status, _, out := call(t, h, "POST", name, string(body)); status != http.StatusOK {
			t.Fatal(out)
		}
		_, _, out := call(t, h, "GET", name, "")
		if strings.ContainsFunc(strings.TrimSpace(out), func(r rune) bool { return unicode.IsControl(r) && r != '\u007f' || unicode.Is(unicode.Cf, r) }) {
			t.Errorf("%U: got %q", c, out)
		}
		var got struct{ Rule struct{ Description string } }
		if err := json.Unmarshal([]byte(out), &got); err != nil || got.Rule.Description != text {
			t.Errorf("%U: read back %q, %v", c, got.Rule.Description, err)
		}
	}
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: requests beyond
// a quota are throttled, with status 400, and pass a second later.
func TestThrottlingIsThatOfTheServiceModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := controlapi.New(controlapi.Config{Registry: must(registry.Open("", registry.Options{}))(t), Quotas: true})
		counts := map[string]int{}
		for range 15 {
			status, code, _ := call(t, h, "GET", "/endpoint", "")
			counts[fmt.Sprint(status, code)]++
		}
		if diff := cmp.Diff(map[string]int{"200": 10, "400ThrottlingException": 5}, counts); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Second)
		if status, _, out := call(t, h, "GET", "/endpoint", ""); status != http.StatusOK {
			t.Errorf("a second later: %d %s", status, out)
		}
		if status, _, out := call(t, h, "GET", "/things", ""); status != http.StatusOK {
			t.Errorf("an operation without a quota: %d %s", status, out)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/tagging-iot.html: tags
// are kept with the resource, and go with it.
func TestTagsLiveAsLongAsTheirResource(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	const tags = `"tags":[{"Key":"b","Value":"2"},{"Key":"a","Value":""}]`
	for resource, tc := range map[string]struct{ create, body, destroy string }{
		"policy/r":       {"POST /policies/r", `{"policyDocument":"{}",` + tags + `}`, "DELETE /policies/r"},
		"thingtype/r":    {"POST /thing-types/r", `{` + tags + `}`, "POST /thing-types/r/deprecate,DELETE /thing-types/r"},
		"thinggroup/r":   {"POST /thing-groups/r", `{` + tags + `}`, "DELETE /thing-groups/r"},
		"billinggroup/r": {"POST /billing-groups/r", `{` + tags + `}`, "DELETE /billing-groups/r"},
		"certificateprovider/r": {"POST /certificate-providers/r",
			`{"lambdaFunctionArn":"arn","accountDefaultForOperations":["CreateCertificateFromCsr"],` + tags + `}`, "DELETE /certificate-providers/r"},
		"provisioningtemplate/r": {"POST /provisioning-templates",
			`{"templateName":"r","templateBody":"{}","provisioningRoleArn":"arn:aws:iam::123456789012:role/r",` + tags + `}`, "DELETE /provisioning-templates/r"},
	} {
		t.Run(resource, func(t *testing.T) {
			run := func(request, body string) (code, out string) {
				t.Helper()
				method, target, _ := strings.Cut(request, " ")
				_, code, out = call(t, h, method, target, body)
				return code, out
			}
			arn := arnPrefix + resource
			if code, out := run(tc.create, strings.ReplaceAll(tc.body, `"Key":"b"`, `"Key":"aws:b"`)); code != registry.CodeInvalidRequest {
				t.Errorf("reserved key: %s %s", code, out)
			}
			if code, out := run(tc.create, tc.body); code != "" {
				t.Fatal(out)
			}
			_, out := run("GET /tags?resourceArn="+arn, "")
			if want := `{"tags":[{"Key":"a","Value":""},{"Key":"b","Value":"2"}]}`; out != want {
				t.Errorf("got %s, want %s", out, want)
			}
			if code, out := run("POST /untag", `{"resourceArn":"`+arn+`","tagKeys":["a","none"]}`); code != "" {
				t.Error(out)
			}
			if code, out := run("POST /tags", `{"resourceArn":"`+arn+`","tags":[{"Key":"b","Value":"3"}]}`); code != "" {
				t.Error(out)
			}
			if _, out := run("GET /tags?resourceArn="+arn, ""); out != `{"tags":[{"Key":"b","Value":"3"}]}` {
				t.Errorf("got %s", out)
			}
			for request := range strings.SplitSeq(tc.destroy, ",") {
				if code, out := run(request, ""); code != "" {
					t.Fatal(out)
				}
			}
			if code, out := run("GET /tags?resourceArn="+arn, ""); code != registry.CodeNotFound {
				t.Errorf("after deletion: %s %s", code, out)
			}
			if code, out := run(tc.create, strings.Replace(tc.body, tags, `"tags":[]`, 1)); code != "" {
				t.Fatal(out)
			}
			if _, out := run("GET /tags?resourceArn="+arn, ""); out != `{"tags":[]}` {
				t.Errorf("a new resource of the name has %s", out)
			}
		})
	}
	tunneling := func(operation, body string) (out string) {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/", strings.NewReader(body))
		r.Header.Set("X-Amz-Target", "IoTSecuredTunneling."+operation)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Body.String()
	}
	var opened struct{ TunnelARN string }
	if err := json.Unmarshal([]byte(tunneling("OpenTunnel", "{}")), &opened); err != nil {
		t.Fatal(err)
	}
	if _, code, out := call(t, h, "POST", "/tags", `{"resourceArn":"`+opened.TunnelARN+`","tags":[]}`); code != registry.CodeNotFound {
		t.Errorf("a tunnel, by the registry's operation: %s", out)
	}
	call(t, h, "POST", "/policies/other", `{"policyDocument":"{}"}`)
	if out := tunneling("ListTagsForResource", `{"resourceArn":"`+arnPrefix+`policy/other"}`); !strings.Contains(out, registry.CodeNotFound) {
		t.Errorf("a policy, by the operation of secure tunneling: %s", out)
	}
	call(t, h, "POST", "/policies/full", `{"policyDocument":"{}"}`)
	for i, want := range []string{"", registry.CodeLimitExceeded} { // 50 tags, then one more
		var some []string
		for n := range 50 - 49*i {
			some = append(some, fmt.Sprintf(`{"Key":"k%d-%d"}`, i, n))
		}
		body := `{"resourceArn":"` + arnPrefix + `policy/full","tags":[` + strings.Join(some, ",") + `]}`
		if _, code, out := call(t, h, "POST", "/tags", body); code != want {
			t.Errorf("%d tags: %s %s, want %q", len(some), code, out, want)
		}
	}
	for name, body := range map[string]string{
		"a thing":         `{"resourceArn":"` + arnPrefix + `thing/t","tags":[]}`,
		"another account": `{"resourceArn":"arn:aws:iot:us-east-1:000000000000:policy/r","tags":[]}`,
		"a key twice":     `{"resourceArn":"` + arnPrefix + `policy/r","tags":[{"Key":"a"},{"Key":"a"}]}`,
		"an empty key":    `{"resourceArn":"` + arnPrefix + `policy/r","tags":[{"Key":"","Value":"v"}]}`,
		"a key of 129":    `{"resourceArn":"` + arnPrefix + `policy/r","tags":[{"Key":"` + strings.Repeat("k", 129) + `"}]}`,
		"a value of 257":  `{"resourceArn":"` + arnPrefix + `policy/r","tags":[{"Key":"k","Value":"` + strings.Repeat("v", 257) + `"}]}`,
		"a control in it": `{"resourceArn":"` + arnPrefix + `policy/r","tags":[{"Key":"k","Value":"\u001b"}]}`,
	} {
		if _, code, out := call(t, h, "POST", "/tags", body); code != registry.CodeInvalidRequest {
			t.Errorf("%s: %s %s", name, code, out)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/tagging-iot-billing-groups.html:
// a thing is in one billing group at most, which exists.
func TestBillingGroups(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	name := aws.String("payers")
	create := &iot.CreateThingInput{ThingName: aws.String("thing"), BillingGroupName: name}
	if _, err := e.iot.CreateThing(ctx, create); codeOf(err) != registry.CodeNotFound {
		t.Errorf("before the group exists: %v", err)
	}
	for _, group := range []string{"payers", "others"} {
		must(e.iot.CreateBillingGroup(ctx, &iot.CreateBillingGroupInput{BillingGroupName: &group}))(t)
	}
	must(e.iot.CreateThing(ctx, create))(t)
	members := func(group string) []string {
		return must(e.iot.ListThingsInBillingGroup(ctx, &iot.ListThingsInBillingGroupInput{BillingGroupName: &group}))(t).Things
	}
	must(e.iot.AddThingToBillingGroup(ctx, &iot.AddThingToBillingGroupInput{
		ThingArn: aws.String(arnPrefix + "thing/thing"), BillingGroupArn: aws.String(arnPrefix + "billinggroup/others"),
	}))(t)
	if len(members("payers")) != 0 || !slices.Equal(members("others"), []string{"thing"}) {
		t.Errorf("payers has %v, others %v", members("payers"), members("others"))
	}
	must(e.iot.RemoveThingFromBillingGroup(ctx, &iot.RemoveThingFromBillingGroupInput{ThingName: aws.String("thing"), BillingGroupName: name}))(t)
	if got := must(e.iot.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: aws.String("thing")}))(t); *got.BillingGroupName != "others" {
		t.Errorf("billing group %s", *got.BillingGroupName)
	}
	listed := must(e.iot.ListBillingGroups(ctx, &iot.ListBillingGroupsInput{NamePrefixFilter: aws.String("pay")}))(t)
	if len(listed.BillingGroups) != 1 || *listed.BillingGroups[0].GroupArn != arnPrefix+"billinggroup/payers" {
		t.Errorf("listed %+v", listed.BillingGroups)
	}
	must(e.iot.DeleteBillingGroup(ctx, &iot.DeleteBillingGroupInput{BillingGroupName: aws.String("others")}))(t)
	if got := must(e.iot.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: aws.String("thing")}))(t); got.BillingGroupName != nil {
		t.Errorf("billing group %s of a group that is gone", *got.BillingGroupName)
	}
	_, err := e.iot.UpdateBillingGroup(ctx, &iot.UpdateBillingGroupInput{BillingGroupName: name, ExpectedVersion: aws.Int64(9), BillingGroupProperties: &types.BillingGroupProperties{}})
	if codeOf(err) != registry.CodeVersionConflict {
		t.Errorf("other version: %v", err)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/cog-iot-policies.html:
// policies are attached to Amazon Cognito identities by their id.
func TestPoliciesOfCognitoIdentities(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	e.furnish(t)
	const identity = "us-east-1:0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
	//lint:ignore SA1019 AWS still offers it
	must(e.iot.AttachPrincipalPolicy(ctx, &iot.AttachPrincipalPolicyInput{PolicyName: aws.String("policy"), Principal: aws.String(identity)}))(t) //nolint:staticcheck // deprecated, which AWS still offers
	targets := must(e.iot.ListTargetsForPolicy(ctx, &iot.ListTargetsForPolicyInput{PolicyName: aws.String("policy")}))(t)
	if diff := cmp.Diff([]string{identity}, targets.Targets); diff != "" {
		t.Error(diff)
	}
	effective := must(e.iot.GetEffectivePolicies(ctx, &iot.GetEffectivePoliciesInput{Principal: aws.String(identity)}))(t)
	if len(effective.EffectivePolicies) != 1 {
		t.Errorf("effective %+v", effective.EffectivePolicies)
	}
	tested := must(e.iot.TestAuthorization(ctx, &iot.TestAuthorizationInput{
		Principal: aws.String(identity), AuthInfos: []types.AuthInfo{{ActionType: "CONNECT", Resources: []string{"r"}}},
	}))(t)
	if tested.AuthResults[0].AuthDecision != types.AuthDecisionAllowed {
		t.Errorf("decided %s", tested.AuthResults[0].AuthDecision)
	}
	if _, err := e.iot.AttachThingPrincipal(ctx, &iot.AttachThingPrincipalInput{ThingName: aws.String("thing"), Principal: aws.String(identity)}); codeOf(err) != registry.CodeInvalidRequest {
		t.Errorf("as the principal of a thing: %v", err)
	}
	if _, err := e.iot.AttachPolicy(ctx, &iot.AttachPolicyInput{PolicyName: aws.String("policy"), Target: aws.String("us-east-1:none")}); codeOf(err) != registry.CodeInvalidRequest {
		t.Errorf("an identity of another form: %v", err)
	}
}

// What AWS leaves out of an answer is left out.
func TestAbsentIsAbsent(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	for _, request := range []string{
		"POST /thing-groups/g", "POST /thing-types/t", "POST /billing-groups/b", "POST /things/thing",
	} {
		method, target, _ := strings.Cut(request, " ")
		if status, _, out := call(t, h, method, target, "{}"); status != http.StatusOK {
			t.Fatal(out)
		}
	}
	for target, want := range map[string][]string{
		"/thing-groups/g":   {"thingGroupArn", "thingGroupId", "thingGroupMetadata.creationDate", "thingGroupName", "thingGroupProperties", "version"},
		"/thing-types/t":    {"thingTypeArn", "thingTypeId", "thingTypeMetadata.creationDate", "thingTypeMetadata.deprecated", "thingTypeName", "thingTypeProperties"},
		"/billing-groups/b": {"billingGroupArn", "billingGroupId", "billingGroupMetadata.creationDate", "billingGroupName", "billingGroupProperties", "version"},
		"/things/thing":     {"attributes", "defaultClientId", "thingArn", "thingId", "thingName", "version"},
		"/things":           {"things"},
	} {
		_, _, out := call(t, h, "GET", target, "")
		var document map[string]any
		if err := json.Unmarshal([]byte(out), &document); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, paths("", document)); diff != "" {
			t.Errorf("%s: %s", target, diff)
		}
	}
}

// paths returns the paths of all members, sorted.
func paths(prefix string, document map[string]any) (all []string) {
	for _, key := range slices.Sorted(maps.Keys(document)) {
		if inner, ok := document[key].(map[string]any); ok && len(inner) > 0 {
			all = append(all, paths(prefix+key+".", inner)...)
			continue
		}
		all = append(all, prefix+key)
	}
	return all
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CertificateDescription.html:
// a certificate is kept in the standard form, whatever stood around it.
func TestCertificateIsKeptInTheStandardForm(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	text := issue()
	untidy := "subject=CN=x\n\n" + strings.ReplaceAll(text, "\n", "\r\n") + "\n\n"
	made := must(e.iot.RegisterCertificateWithoutCA(ctx, &iot.RegisterCertificateWithoutCAInput{CertificatePem: &untidy}))(t)
	got := must(e.iot.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: made.CertificateId}))(t)
	if !bytes.Equal([]byte(*got.CertificateDescription.CertificatePem), []byte(text)) {
		t.Errorf("kept %q", *got.CertificateDescription.CertificatePem)
	}
}

// A pipeListener accepts the one connection that it holds.
type pipeListener struct {
	conns chan net.Conn
}

func (l pipeListener) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l pipeListener) Close() error   { return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// A client that stops in the middle of its body does not hold a request for ever.
func TestBodyThatDoesNotArriveEndsTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		l := pipeListener{make(chan net.Conn, 1)}
		l.conns <- server
		s := &http.Server{Handler: newHandler(t)}
		go s.Serve(l)
		began := time.Now()
		fmt.Fprint(client, "POST /things/t HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
		response := must(http.ReadResponse(bufio.NewReader(client), nil))(t)
		if response.StatusCode != http.StatusBadRequest || time.Since(began) > time.Minute {
			t.Errorf("status %d after %v", response.StatusCode, time.Since(began))
		}
		client.Close()
		close(l.conns)
		s.Close()
	})
}
