package controlapi_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/localcore/controlapi"
	"example.com/fleety/device/localcore/registry"
)

func is[E error](err error) bool {
	var target E
	return errors.As(err, &target)
}

// Each case is of
// https://docs.aws.amazon.com/iot/latest/apireference/API_Operations.html.
func TestExceptionsAreTyped(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	tests := map[string]struct {
		call   func(e *environment, id string) error
		typed  func(error) bool
		status int
	}{
		"ResourceNotFoundException has status 404.": {func(e *environment, id string) error {
			_, err := e.iot.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: aws.String("none")})
			return err
		}, is[*types.ResourceNotFoundException], 404},
		"ResourceAlreadyExistsException has status 409.": {func(e *environment, id string) error {
			_, err := e.iot.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: aws.String("policy"), PolicyDocument: aws.String(document)})
			return err
		}, is[*types.ResourceAlreadyExistsException], 409},
		"MalformedPolicyException has status 400.": {func(e *environment, id string) error {
			_, err := e.iot.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: aws.String("p"), PolicyDocument: aws.String("no")})
			return err
		}, is[*types.MalformedPolicyException], 400},
		"InvalidRequestException has status 400.": {func(e *environment, id string) error {
			_, err := e.iot.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("a b")})
			return err
		}, is[*types.InvalidRequestException], 400},
		"An ARN of another account is InvalidRequestException.": {func(e *environment, id string) error {
			_, err := e.iot.AttachThingPrincipal(ctx, &iot.AttachThingPrincipalInput{
				ThingName: aws.String("thing"), Principal: aws.String("arn:aws:iot:eu-west-1:210987654321:cert/" + id),
			})
			return err
		}, is[*types.InvalidRequestException], 400},
		"VersionConflictException has status 409.": {func(e *environment, id string) error {
			_, err := e.iot.UpdateThing(ctx, &iot.UpdateThingInput{ThingName: aws.String("thing"), ExpectedVersion: aws.Int64(9)})
			return err
		}, is[*types.VersionConflictException], 409},
		"CertificateStateException has status 406.": {func(e *environment, id string) error {
			_, err := e.iot.DeleteCertificate(ctx, &iot.DeleteCertificateInput{CertificateId: &id})
			return err
		}, is[*types.CertificateStateException], 406},
		"DeleteConflictException has status 409.": {func(e *environment, id string) error {
			e.registry.AttachPolicy("policy", registry.CertificateTarget(id))
			_, err := e.iot.DeletePolicy(ctx, &iot.DeletePolicyInput{PolicyName: aws.String("policy")})
			return err
		}, is[*types.DeleteConflictException], 409},
		"LimitExceededException has status 410.": {func(e *environment, id string) (err error) {
			principal := aws.String(arnPrefix + "cert/" + id)
			for i := range 11 {
				name := fmt.Sprint("limit", i)
				e.registry.CreatePolicy(name, document)
				_, err = e.iot.AttachPolicy(ctx, &iot.AttachPolicyInput{PolicyName: &name, Target: principal})
			}
			return err
		}, is[*types.LimitExceededException], 410},
		"VersionsLimitExceededException has status 409.": {func(e *environment, id string) (err error) {
			for range 5 {
				_, err = e.iot.CreatePolicyVersion(ctx, &iot.CreatePolicyVersionInput{PolicyName: aws.String("policy"), PolicyDocument: aws.String(document)})
			}
			return err
		}, is[*types.VersionsLimitExceededException], 409},
		"CertificateValidationException has status 400.": {func(e *environment, id string) error {
			_, err := e.iot.RegisterCertificateWithoutCA(ctx, &iot.RegisterCertificateWithoutCAInput{CertificatePem: aws.String("no")})
			return err
		}, is[*types.CertificateValidationException], 400},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			e := start(t)
			err := test.call(e, e.furnish(t))
			if !test.typed(err) {
				t.Fatalf("got %v", err)
			}
			var response interface{ HTTPStatusCode() int }
			if !errors.As(err, &response) || response.HTTPStatusCode() != test.status {
				t.Errorf("status of %v is not %d", err, test.status)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_ResourceAlreadyExistsException.html:
// the exception for what exists names its id and ARN.
func TestAlreadyExistsNamesTheResource(t *testing.T) {
	t.Parallel()
	e := start(t)
	text := issue()
	in := &iot.RegisterCertificateWithoutCAInput{CertificatePem: &text}
	must(e.iot.RegisterCertificateWithoutCA(t.Context(), in))(t)
	_, err := e.iot.RegisterCertificateWithoutCA(t.Context(), in)
	var exists *types.ResourceAlreadyExistsException
	if !errors.As(err, &exists) || *exists.ResourceId != fingerprint(text) || *exists.ResourceArn != arnPrefix+"cert/"+fingerprint(text) {
		t.Errorf("got %v (%+v)", err, exists)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_ListThings.html:
// lists have pages, with a token for the next.
func TestPagesLoseNothingWhenItemsAreDeletedBetween(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	for i := range 7 {
		must(e.registry.CreateThing(registry.Thing{Name: fmt.Sprint("thing", i)}))(t)
	}
	pages := iot.NewListThingsPaginator(e.iot, &iot.ListThingsInput{MaxResults: aws.Int32(3)})
	var names []string
	for pages.HasMorePages() {
		for _, thing := range must(pages.NextPage(ctx))(t).Things {
			names = append(names, *thing.ThingName)
			must(e.iot.DeleteThing(ctx, &iot.DeleteThingInput{ThingName: thing.ThingName}))(t)
		}
	}
	if len(names) != 7 {
		t.Errorf("listed %v", names)
	}
}

// A token continues the request that returned it, and no other.
func TestTokenIsOfItsRequest(t *testing.T) {
	t.Parallel()
	e := start(t)
	for i := range 3 {
		name := fmt.Sprint("a", i)
		must(e.registry.CreateThing(registry.Thing{Name: name, Attributes: map[string]string{"a": "1"}}))(t)
		must(e.registry.CreateThingType(registry.ThingType{Name: name}))(t)
		must(e.registry.CreatePolicy(name, document))(t)
	}
	get := func(target string) (code, next string) {
		t.Helper()
		r := must(http.Get(e.url + target))(t) //nolint:noctx // it is a test
		defer r.Body.Close()
		var page struct{ NextToken, NextMarker string }
		if err := json.NewDecoder(r.Body).Decode(&page); err != nil {
			t.Fatal(err)
		}
		return r.Header.Get("X-Amzn-ErrorType"), page.NextToken + page.NextMarker
	}
	_, things := get("/things?maxResults=1")
	_, policies := get("/policies?pageSize=1")
	for target, want := range map[string]string{
		"/things?maxResults=2&nextToken=" + things:                           "",
		"/things?maxResults=1&attributeName=a&nextToken=" + things:           registry.CodeInvalidRequest,
		"/thing-types?maxResults=1&nextToken=" + things:                      registry.CodeInvalidRequest,
		"/policies?pageSize=2&marker=" + policies:                            "",
		"/policies?pageSize=2&isAscendingOrder=true&marker=" + policies:      registry.CodeInvalidRequest,
		"/policies?pageSize=2&marker=" + things:                              registry.CodeInvalidRequest,
		"/things?maxResults=2&nextToken=" + strings.ToUpper(things) + "0":    registry.CodeInvalidRequest,
		"/things?maxResults=2&nextToken=" + strings.Repeat("0", len(things)): registry.CodeInvalidRequest,
		"/things?maxResults=2&nextToken=" + strings.Repeat("z", len(things)): registry.CodeInvalidRequest,
		"/things?maxResults=2&nextToken=" + things[:8]:                       registry.CodeInvalidRequest,
		"/things/a1/principals?maxResults=2&nextToken=" + things:             registry.CodeInvalidRequest,
	} {
		if code, _ := get(target); code != want {
			t.Errorf("%s: got %q, want %q", target, code, want)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_ListCertificates.html: a page of
// certificates has 25 by default.
func TestDefaultPageOfCertificates(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	for range 26 {
		must(e.registry.CreateCertificate(registry.Certificate{PEM: issue()}))(t)
	}
	first := must(e.iot.ListCertificates(ctx, &iot.ListCertificatesInput{}))(t)
	if len(first.Certificates) != 25 || first.NextMarker == nil {
		t.Fatalf("%d certificates, %v", len(first.Certificates), first.NextMarker)
	}
	rest := must(e.iot.ListCertificates(ctx, &iot.ListCertificatesInput{Marker: first.NextMarker}))(t)
	if len(rest.Certificates) != 1 || rest.NextMarker != nil {
		t.Errorf("then %d certificates", len(rest.Certificates))
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_ListCertificates.html:
// certificates are listed by their age, in the order that ascendingOrder asks
// for.
func TestCertificatesAreListedByAge(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	var oldestFirst []string
	for range 5 {
		c := must(e.registry.CreateCertificate(registry.Certificate{PEM: issue()}))(t)
		oldestFirst = append(oldestFirst, c.ID)
	}
	for _, ascending := range []bool{true, false} {
		pages := iot.NewListCertificatesPaginator(e.iot, &iot.ListCertificatesInput{PageSize: aws.Int32(2), AscendingOrder: ascending})
		var got []string
		for pages.HasMorePages() {
			for _, c := range must(pages.NextPage(ctx))(t).Certificates {
				if ascending {
					got = append(got, *c.CertificateId)
				} else {
					got = append([]string{*c.CertificateId}, got...)
				}
			}
		}
		if diff := cmp.Diff(oldestFirst, got); diff != "" {
			t.Errorf("ascending %v: %s", ascending, diff)
		}
	}
}

func TestRequestsThatNoSDKSends(t *testing.T) {
	t.Parallel()
	const text = "CREATE"
	tests := map[string]struct {
		method, target, body string
		header               http.Header
		status               int
		code                 string
	}{
		"unknown path":          {"GET", "/dimensions", "", nil, 404, "UnknownOperationException"},
		"unknown method":        {"PUT", "/things/thing", "", nil, 404, "UnknownOperationException"},
		"malformed JSON":        {"POST", "/things/new", `{"attributePayload":`, nil, 400, "InvalidRequestException"},
		"JSON of other types":   {"POST", "/things/new", `{"thingTypeName":5}`, nil, 400, "InvalidRequestException"},
		"list for an object":    {"POST", "/things/new", `[]`, nil, 400, "InvalidRequestException"},
		"null for an object":    {"POST", "/things/new", `null`, nil, 400, "InvalidRequestException"},
		"member twice":          {"POST", "/things/new", `{"thingTypeName":"none","thingTypeName":null}`, nil, 400, "InvalidRequestException"},
		"inner member twice":    {"POST", "/things/new", `{"attributePayload":{"attributes":{"a":"1","a":"2"}}}`, nil, 400, "InvalidRequestException"},
		"member of * twice":     {"PATCH", "/things/thing", `{"expectedVersion":9,"expectedVersion":1}`, nil, 400, "InvalidRequestException"},
		"nested too deep":       {"POST", "/things/new", strings.Repeat(`{"attributePayload":`, 5000) + "1" + strings.Repeat("}", 5000), nil, 400, "InvalidRequestException"},
		"more than JSON":        {"POST", "/things/new", `{} {}`, nil, 400, "InvalidRequestException"},
		"body too long":         {"POST", "/things/new", strings.Repeat(" ", 300<<10), nil, 400, "InvalidRequestException"},
		"page of no items":      {"GET", "/things?maxResults=0", "", nil, 400, "InvalidRequestException"},
		"foreign token":         {"GET", "/things?nextToken=!", "", nil, 400, "InvalidRequestException"},
		"bad boolean":           {"POST", "/keys-and-certificate?setAsActive=yes", "", nil, 400, "InvalidRequestException"},
		"QoS 2":                 {"POST", "/topics/a?qos=2", "", nil, 400, "InvalidRequestException"},
		"wildcard topic":        {"POST", "/topics/a%2F%23", "", nil, 400, "InvalidRequestException"},
		"bad properties":        {"POST", "/topics/a", "", http.Header{"X-Amz-Mqtt5-User-Properties": {"e30="}}, 400, "InvalidRequestException"},
		"property twice":        {"POST", "/topics/a", "", http.Header{"X-Amz-Mqtt5-User-Properties": {base64.StdEncoding.EncodeToString([]byte(`[{"a":"b","a":"c"}]`))}}, 400, "InvalidRequestException"},
		"two in a property":     {"POST", "/topics/a", "", http.Header{"X-Amz-Mqtt5-User-Properties": {base64.StdEncoding.EncodeToString([]byte(`[{"a":"b","c":"d"}]`))}}, 400, "InvalidRequestException"},
		"property of null":      {"POST", "/topics/a", "", http.Header{"X-Amz-Mqtt5-User-Properties": {base64.StdEncoding.EncodeToString([]byte(`[{"a":null}]`))}}, 400, "InvalidRequestException"},
		"null for properties":   {"POST", "/topics/a", "", http.Header{"X-Amz-Mqtt5-User-Properties": {base64.StdEncoding.EncodeToString([]byte(`null`))}}, 400, "InvalidRequestException"},
		"bytes in a property":   {"POST", "/topics/a", "", http.Header{"X-Amz-Mqtt5-User-Properties": {base64.StdEncoding.EncodeToString([]byte("[{\"a\":\"\xff\"}]"))}}, 400, "InvalidRequestException"},
		"U+0000 in a property":  {"POST", "/topics/a?contentType=%00", "", nil, 400, "InvalidRequestException"},
		"long response topic":   {"POST", "/topics/a?responseTopic=" + strings.Repeat("a", 1<<16), "", nil, 400, "InvalidRequestException"},
		"version of no digit":   {"GET", "/policies/policy/version/x", "", nil, 400, "InvalidRequestException"},
		"short certificate":     {"GET", "/certificates/00", "", nil, 400, "InvalidRequestException"},
		"unknown type":          {"GET", "/things/thing/principals-v2?thingPrincipalType=NONE", "", nil, 400, "InvalidRequestException"},
		"no principal":          {"GET", "/principals/things", "", nil, 400, "InvalidRequestException"},
		"authorization of none": {"POST", "/test-authorization", `{"authInfos":[{"actionType":"CONNECT"}]}`, nil, 400, "InvalidRequestException"},
		"unknown endpoint":      {"GET", "/endpoint?endpointType=iot:None", "", nil, 400, "InvalidRequestException"},
		"topic with slashes":    {"POST", "/topics/a/b", text, nil, 200, ""},
		"topic without a name":  {"POST", "/topics", text, nil, 404, "UnknownOperationException"},
		"target without a name": {"POST", "/attached-policies", "", nil, 404, "UnknownOperationException"},
		"HEAD of what GET has":  {"HEAD", "/things/thing", "", nil, 404, "UnknownOperationException"},
		"bytes that no text is": {"POST", "/thing-types/new", "{\"thingTypeProperties\":{\"thingTypeDescription\":\"\xff\"}}", nil, 400, "InvalidRequestException"},
		"no body":               {"POST", "/things/new", "", nil, 200, ""},
		"unknown member":        {"POST", "/things/new2", `{"other":1}`, nil, 400, "InvalidRequestException"},
		"unknown inner member":  {"POST", "/things/new2", `{"attributePayload":{"other":1}}`, nil, 400, "InvalidRequestException"},
		"unknown parameter":     {"GET", "/things?other=1", "", nil, 400, "InvalidRequestException"},
		"parameter twice":       {"GET", "/things?maxResults=1&maxResults=2", "", nil, 400, "InvalidRequestException"},
		"foreign parameter":     {"GET", "/things/thing?maxResults=1", "", nil, 400, "InvalidRequestException"},
		"signature in query":    {"GET", "/things?X-Amz-Signature=0&X-Amz-Date=0", "", nil, 200, ""},
		"byte order mark":       {"POST", "/things/new3", "\xef\xbb\xbf{}", nil, 200, ""},
		"from another site":     {"POST", "/things/new", "", http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403, ""},
		"read by another site":  {"GET", "/things", "", http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403, ""},
		"read by another port":  {"GET", "/things", "", http.Header{"Origin": {"http://127.0.0.1:1"}}, 403, ""},
		"from a file":           {"DELETE", "/things/new", "", http.Header{"Origin": {"null"}}, 403, ""},
		"from a page of ours":   {"GET", "/things", "", http.Header{"Sec-Fetch-Site": {"same-origin"}}, 200, ""},
	}
	e := start(t)
	e.furnish(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := must(http.NewRequestWithContext(t.Context(), test.method, e.url+test.target, strings.NewReader(test.body)))(t)
			for key, values := range test.header {
				r.Header[key] = values
			}
			response := must(http.DefaultClient.Do(r))(t)
			defer response.Body.Close()
			body := must(io.ReadAll(response.Body))(t)
			if response.StatusCode != test.status || response.Header.Get("X-Amzn-ErrorType") != test.code {
				t.Fatalf("got %d %q: %s", response.StatusCode, response.Header.Get("X-Amzn-ErrorType"), body)
			}
			var exception struct{ Message string }
			if test.code != "" && test.method != http.MethodHead && (json.Unmarshal(body, &exception) != nil || exception.Message == "") {
				t.Errorf("body %q has no message", body)
			}
		})
	}
}

func TestRejectionsAreLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	api := controlapi.New(controlapi.Config{
		Registry: must(registry.Open("", registry.Options{}))(t),
		Log:      slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	for _, target := range []string{"/things/none", "/dimensions"} {
		api.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", target, nil))
	}
	for _, want := range []string{"level=DEBUG", "operation=DescribeThing", "ResourceNotFoundException", "level=WARN", "UnknownOperationException"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %s:\n%s", want, log.String())
		}
	}
}

// The functions of each operation take the parameters that it declares.
func TestEveryOperationAnswers(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	parameter := regexp.MustCompile(`\{\w+\}`)
	call(t, h, "POST", "/policies/1", `{"policyDocument":"{}"}`)
	call(t, h, "POST", "/provisioning-templates", `{"templateName":"1","templateBody":"{}","provisioningRoleArn":"arn:aws:iam::123456789012:role/r"}`)
	emulated := 0
	for line := range strings.Lines(string(must(os.ReadFile("aws_operations.txt"))(t))) {
		words := strings.Fields(line)
		if slices.Contains(controlapi.NotEmulated(), words[0]) {
			continue
		}
		emulated++
		for _, value := range []string{"1", strings.Repeat("0", 64)} {
			for _, authorization := range []string{"", "AWS4-HMAC-SHA256 Credential=k/20260102/us-east-1/iot-jobs-data/aws4_request"} {
				r := httptest.NewRequestWithContext(t.Context(), words[1], parameter.ReplaceAllString(words[2], value), strings.NewReader("{}"))
				r.Header.Set("Authorization", authorization)
				r.Header.Set("X-Amzn-Principal", arnPrefix+"cert/"+strings.Repeat("0", 64))
				r.Header.Set("X-Amzn-Iot-Principal", arnPrefix+"cert/"+strings.Repeat("0", 64))
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, r); w.Code >= 500 || w.Code == http.StatusNotFound && w.Header().Get("X-Amzn-ErrorType") == "UnknownOperationException" {
					t.Errorf("%s: %d %s", line, w.Code, w.Body)
				}
			}
		}
	}
	for _, name := range []string{
		"OpenTunnel", "DescribeTunnel", "ListTunnels", "CloseTunnel", "RotateTunnelAccessToken", "TagResource", "UntagResource", "ListTagsForResource",
	} {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/", strings.NewReader("{}"))
		r.Header.Set("X-Amz-Target", "IoTSecuredTunneling."+name)
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != http.StatusOK && w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if emulated < 100 {
		t.Errorf("only %d operations", emulated)
	}
}

// FuzzRequest sends anything to any operation: there is an answer, never an
// internal failure, and it is JSON where there is a body.
func FuzzRequest(f *testing.F) {
	id := strings.Repeat("0", 64)
	for _, seed := range [][4]string{
		{"POST", "/things/thing", "", `{"attributePayload":{"attributes":{"a":"b"},"merge":true}}`},
		{"PATCH", "/things/thing", "", `{"expectedVersion":1,"removeThingType":true}`},
		{"GET", "/things", "maxResults=1&nextToken=YQ", ""},
		{"PUT", "/things/thing/principals", "thingPrincipalType=EXCLUSIVE_THING", ""},
		{"PUT", "/thing-groups/updateThingGroupsForThing", "", `{"thingName":"thing","thingGroupsToAdd":["group"]}`},
		{"PUT", "/thing-groups/addThingToThingGroup", "", `{"thingArn":"arn:aws:iot:us-east-1:123456789012:thing/thing","thingGroupName":"group"}`},
		{"POST", "/policies/p", "", `{"policyDocument":"{}"}`},
		{"POST", "/attached-policies/arn:aws:iot:us-east-1:123456789012:cert%2F" + id, "recursive=true", ""},
		{"PUT", "/certificates/" + id, "newStatus=ACTIVE", ""},
		{"POST", "/certificate/register-no-ca", "", `{"certificatePem":"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"}`},
		{"POST", "/provisioning-templates", "", `{"templateName":"t","templateBody":"{}","provisioningRoleArn":"arn:aws:iam::123456789012:role/r","preProvisioningHook":{"targetArn":"f"}}`},
		{"POST", "/test-authorization", "clientId=thing", `{"authInfos":[{"actionType":"CONNECT","resources":["r"]}],"policyNamesToAdd":["policy"]}`},
		{"POST", "/topics/a%2Fb", "qos=1&retain=true&messageExpiry=5", "payload"},
		{"GET", "/../../things", "%zz", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], "arn:aws:iot:us-east-1:123456789012:cert/"+id)
	}
	r, err := registry.Open("", registry.Options{})
	if err != nil {
		f.Fatal(err)
	}
	r.CreateThing(registry.Thing{Name: "thing"})
	r.CreateThingGroup(registry.ThingGroup{Name: "group"})
	r.CreatePolicy("policy", document)
	api := handler(f, r, &core{})
	f.Fuzz(func(t *testing.T, method, path, query, body, principal string) {
		request := &http.Request{
			Method: method, URL: &url.URL{Path: "/" + path, RawQuery: query}, Host: "localhost",
			Header: http.Header{"X-Amzn-Principal": {principal}, "X-Amzn-Iot-Principal": {principal}, "X-Amz-Mqtt5-User-Properties": {body}},
			Body:   io.NopCloser(strings.NewReader(body)),
		}
		if unescaped, err := url.PathUnescape(path); err == nil && strings.HasPrefix(unescaped, "/") {
			request.URL.Path, request.URL.RawPath = unescaped, path
		}
		w := httptest.NewRecorder()
		api.ServeHTTP(w, request.WithContext(t.Context()))
		if w.Code >= 500 {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
		if w.Header().Get("Content-Type") == "application/json" && !json.Valid(w.Body.Bytes()) {
			t.Errorf("no JSON: %s", w.Body)
		}
	})
}
