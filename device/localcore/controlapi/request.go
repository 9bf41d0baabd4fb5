package controlapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/jsontree"
	"example.com/fleety/device/localcore/registry"
)

const (
	// maxBody is the greatest body that is read: twice the payload of the
	// greatest message.
	maxBody = 256 << 10
	// readTimeout bounds how long a body may take to arrive.
	readTimeout = 30 * time.Second
)

// A request is one call of an operation. Its query parameters, and what its path
// has of certificate and version ids, are checked before the operation runs, so
// that reading them cannot fail.
type request struct {
	*http.Request
	op     operation
	params url.Values
	body   []byte
}

// numeric are the query parameters that are numbers, with their ranges.
var numeric = map[string]struct{ min, max int64 }{
	"expectedVersion": {0, 1 << 62},
	"maxResults":      {1, 250},
	"pageSize":        {1, 250},
	"messageExpiry":   {0, 1 << 31},
	"qos":             {0, 1},
	"executionNumber": {0, 1 << 62},
	"timeout":         {1, 15},
}

// boolean are the query parameters that are true or false.
var boolean = map[string]bool{
	"setAsActive": true, "setAsDefault": true, "forceDelete": true, "recursive": true, "isAscendingOrder": true,
	"usePrefixAttributeValue": true, "retain": true, "cleanSession": true, "preventWillMessage": true,
	"allowAutoRegistration": true, "force": true, "includeJobDocument": true, "ruleDisabled": true,
	"confirmation": true, "includeSocketInformation": true,
}

func readRequest(w http.ResponseWriter, r *http.Request, op operation) (*request, error) {
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query cannot be read: %v", err)
	}
	for name := range params {
		if err := op.checkParam(name, params.Get(name)); err != nil {
			return nil, err
		}
	}
	if id := r.PathValue("certificateId"); id != "" {
		if err := checkCertificateID(id); err != nil {
			return nil, err
		}
	}
	if id := r.PathValue("versionId"); id != "" {
		if n, err := strconv.Atoi(id); err != nil || n < 1 {
			return nil, invalid("version %q must be a number from 1 up", clip(id))
		}
	}
	// Recorders of tests have no deadline to set.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(readTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge) && (op.name == "SendDirectMessage" || op.name == "UpdateThingShadow"):
		return nil, payloadTooLarge(maxBody)
	case errors.As(err, &tooLarge):
		return nil, invalid("the body is longer than %d bytes", maxBody)
	case err != nil: // the deadline stays, for net/http would read on
		return nil, invalid("the body cannot be read: %v", err)
	}
	_ = control.SetReadDeadline(time.Time{})
	return &request{Request: r, op: op, params: params, body: body}, nil
}

// checkParam rejects a parameter that would otherwise be dropped in silence.
// Those of a signature in the query are for nobody here.
func (o operation) checkParam(name, value string) error {
	if !o.takes(name) && !strings.HasPrefix(strings.ToLower(name), "x-amz-") {
		return invalid("query parameter %q of %s is not emulated", clip(name), o.name)
	}
	if limits, ok := numeric[name]; ok {
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < limits.min || n > limits.max {
			return invalid("%s is %q, it must be a number from %d to %d", name, clip(value), limits.min, limits.max)
		}
	}
	if boolean[name] && value != "true" && value != "false" {
		return invalid("%s is %q, it must be true or false", name, clip(value))
	}
	return nil
}

func (q *request) path(name string) string  { return q.PathValue(name) }
func (q *request) query(name string) string { return q.params.Get(name) }
func (q *request) flag(name string) bool    { return q.query(name) == "true" }

// number returns a query parameter of numeric, zero where it is absent.
func (q *request) number(name string) int64 {
	n, _ := strconv.ParseInt(q.query(name), 10, 64)
	return n
}

// version returns the id of a version in the path.
func (q *request) version() int {
	n, _ := strconv.Atoi(q.path("versionId"))
	return n
}

// with returns an operation that reads the body as a T before it runs.
func with[T any](run func(*request, T) (any, error)) func(*request) (any, error) {
	return func(q *request) (any, error) {
		var in T
		if err := q.decode(&in); err != nil {
			return nil, err
		}
		return run(q, in)
	}
}

// decode reads the body as JSON into v, a pointer to a struct. No body is an
// empty object. A member that v does not have is rejected by its name, so that
// nothing is dropped in silence; AWS ignores what its model does not have.
func (q *request) decode(v any) error {
	body := bytes.TrimPrefix(q.body, []byte("\xef\xbb\xbf"))
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	var whole json.RawMessage
	if e := jsontree.SyntaxError(body, json.Unmarshal(body, &whole)); e != nil {
		return invalid("The body cannot be read: line %d, column %d: %s.", e.Line, e.Column, e.Reason)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(v)
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return invalid("the body is malformed: member %q cannot be a %s", e.Field, e.Value)
	}
	if err != nil {
		member, unknown := strings.CutPrefix(err.Error(), "json: unknown field ")
		if unknown {
			return invalid("parameter %s of %s is not emulated", clip(member), q.op.name)
		}
		return invalid("the body is malformed: %v", err)
	}
	return nil
}

// arn returns the ARN of a resource, "thing/NAME" for instance.
func (a *api) arn(resource string) string {
	return awsiot.ARN{Partition: a.Partition, Service: "iot", Region: a.Region, Account: a.Account, Resource: resource}.String()
}

// targetARN returns how AWS names a target: by its ARN, a Cognito identity by
// its id.
func (a *api) targetARN(t registry.Target) string {
	if t.Cognito() {
		return string(t)
	}
	return a.arn(string(t))
}

// resource returns the part of an ARN after the account.
func (a *api) resource(arn string) (string, error) {
	rest, ok := strings.CutPrefix(arn, a.arn(""))
	if !ok {
		return "", invalid("%q is not an ARN of this account and Region, which begin with %s", clip(arn), a.arn(""))
	}
	return rest, nil
}

// target reads what a policy is attached to, or shall be.
func (a *api) target(arn string) (registry.Target, error) {
	if t := registry.Target(arn); t.Cognito() {
		return t, nil
	}
	resource, err := a.resource(arn)
	return registry.Target(resource), err
}

// principal reads a principal: the ARN of a certificate, or a Cognito identity.
func (a *api) principal(arn string) (registry.Target, error) {
	if arn == "" {
		return "", invalid("a principal is required")
	}
	t, err := a.target(arn)
	if err != nil || t.Cognito() {
		return t, err
	}
	id, ok := t.Certificate()
	if !ok {
		return "", invalid("%q is not the ARN of a certificate", clip(arn))
	}
	return t, checkCertificateID(id)
}

// certificate returns the id of the certificate that is the principal. Things
// have no Cognito identities here.
func (a *api) certificate(arn string) (id string, err error) {
	t, err := a.principal(arn)
	if err == nil && t.Cognito() {
		err = invalid("an Amazon Cognito identity as the principal of a thing is not emulated")
	}
	id, _ = t.Certificate()
	return id, err
}

// named returns name or, where that is empty, the name in an ARN of that kind.
func (a *api) named(name, arn, kind string) (string, error) {
	if name != "" || arn == "" {
		return name, nil
	}
	resource, err := a.resource(arn)
	if err != nil {
		return "", err
	}
	name, ok := strings.CutPrefix(resource, kind+"/")
	if !ok {
		return "", invalid("%q is not the ARN of a %s", clip(arn), kind)
	}
	return name, nil
}

func checkCertificateID(id string) error {
	if !awsiot.ValidCertificateID(id) {
		return invalid("certificate id %q must be 64 lower-case hexadecimal digits", clip(id))
	}
	return nil
}
