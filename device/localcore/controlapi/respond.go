package controlapi

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/jobs"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/rules"
	"example.com/fleety/device/localcore/tunnel"
)

// codeUnknownOperation answers a request that is no operation. AWS's gateways
// use this name and status 404; for AWS IoT neither is documented.
const codeUnknownOperation = "UnknownOperationException"

// An object is the JSON object of an answer.
type object map[string]any

// with adds the members of another object.
func (o object) with(more object) object {
	maps.Copy(o, more)
	return o
}

// optional adds a member unless its value is zero or empty: what AWS leaves out is left out here.
func (o object) optional(name string, value any) object {
	v := reflect.ValueOf(value)
	empty := v.IsZero()
	if kind := v.Kind(); kind == reflect.Map || kind == reflect.Slice {
		empty = v.Len() == 0
	}
	if !empty {
		o[name] = value
	}
	return o
}

// epoch is a time as the control plane writes it: seconds since 1970, with fractions.
type epoch time.Time

// MarshalJSON writes the seconds to the millisecond.
func (e epoch) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(time.Time(e).UnixMilli())/1000, 'f', 3, 64), nil
}

// serve runs an operation and writes its answer.
func (a *api) serve(o operation) http.Handler {
	quota, limited := quotas[o.name]
	limit := rate.NewLimiter(rate.Limit(quota), quota)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any
		var err error
		if a.Quotas && limited && !limit.Allow() {
			err = registry.Reject(registry.CodeThrottling, "Rate exceeded")
		} else {
			answer, err = a.run(w, r, o)
		}
		if err != nil {
			a.reject(w, r, o.name, err)
			return
		}
		a.write(w, r, http.StatusOK, answer)
	})
}

// run carries out an operation. What it creates gets the tags of the request, which
// are checked first.
func (a *api) run(w http.ResponseWriter, r *http.Request, o operation) (answer any, err error) {
	var given tags
	q, err := readRequest(w, r, o)
	if err == nil {
		err = cmp.Or(q.validate(), a.resolve(q), q.read("tags", &given))
	}
	all, tagsErr := given.asMap()
	if err = cmp.Or(err, tagsErr); err != nil {
		return nil, err
	}
	if answer, err = q.call(); err != nil {
		return nil, err
	}
	if o.tagged() {
		for member, arn := range answer.(object) {
			if strings.HasSuffix(member, "Arn") {
				err = a.Registry.TagResource(strings.TrimPrefix(arn.(string), a.ARN("")), all)
			}
		}
	}
	if answer == nil && !slices.Contains(model().WithoutOutput, o.name) {
		answer = object{}
	}
	return answer, err
}

// unknown answers a request for an operation that this API does not have. Without the name, it is
// that of a header, as in JSON protocols, if there is one.
func (a *api) unknown(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		target := r.Header.Get("X-Amz-Target")
		name := cmp.Or(name, target[strings.LastIndex(target, ".")+1:])
		message := name + " is not emulated here."
		if name == "" {
			name, message = "unknown", fmt.Sprintf("There is no operation %s %q here.", awsiot.Clip(r.Method), awsiot.Clip(r.URL.Path))
		}
		a.reject(w, r, name, &registry.Error{Code: codeUnknownOperation, Status: http.StatusNotFound, Message: message})
	}
}

// The rejections of the services that are not InvalidRequestException with status 400.
var (
	jobExceptions = map[awsiot.JobsErrorCode]registry.Error{
		awsiot.JobsResourceNotFound:       {Code: registry.CodeNotFound, Status: http.StatusNotFound},
		awsiot.JobsInvalidStateTransition: {Code: "InvalidStateTransitionException", Status: http.StatusConflict},
		awsiot.JobsVersionMismatch:        {Code: "InvalidStateTransitionException", Status: http.StatusConflict},
		awsiot.JobsVersionConflict:        {Code: registry.CodeVersionConflict, Status: http.StatusConflict},
		awsiot.JobsAlreadyExists:          {Code: registry.CodeAlreadyExists, Status: http.StatusConflict},
		awsiot.JobsTerminalStateReached:   {Code: "TerminalStateException", Status: http.StatusGone},
	}
	shadowCodes = map[int]string{
		http.StatusNotFound:              registry.CodeNotFound,
		http.StatusConflict:              "ConflictException",
		http.StatusRequestEntityTooLarge: "RequestEntityTooLargeException",
		http.StatusUnsupportedMediaType:  "UnsupportedDocumentEncodingException",
		http.StatusTooManyRequests:       registry.CodeThrottling,
	}
	ruleStatuses = map[string]int{rules.AlreadyExists: http.StatusConflict, rules.Unauthorized: http.StatusUnauthorized}
)

// exception returns AWS's exception for the rejection of a service, nil for an error that is none.
func exception(err error) *registry.Error {
	if e, ok := errors.AsType[*registry.Error](err); ok {
		return new(*e)
	} else if e, ok := errors.AsType[*awsiot.JobsError](err); ok {
		x := jobExceptions[e.Code]
		return &registry.Error{
			Code: cmp.Or(x.Code, registry.CodeInvalidRequest), Status: cmp.Or(x.Status, http.StatusBadRequest), Message: e.Message,
		}
	} else if e, ok := errors.AsType[*awsiot.ShadowError](err); ok {
		return &registry.Error{Code: cmp.Or(shadowCodes[e.Code], registry.CodeInvalidRequest), Status: e.Code, Message: e.Message}
	} else if e, ok := errors.AsType[*rules.Error](err); ok {
		return &registry.Error{Code: e.Code + "Exception", Status: cmp.Or(ruleStatuses[e.Code], http.StatusBadRequest), Message: e.Message}
	} else if e, ok := errors.AsType[*tunnel.Error](err); ok {
		return &registry.Error{Code: e.Code, Status: http.StatusBadRequest, Message: e.Message}
	}
	return nil
}

// reject writes an exception and logs it: at DEBUG if a question was answered
// with "not found", as a hook asks of each new device. An error that is no rejection is a
// defect of this program: the caller gets no detail of it.
func (a *api) reject(w http.ResponseWriter, r *http.Request, operation string, err error) {
	rejection := exception(err)
	if rejection == nil {
		a.Log.ErrorContext(r.Context(), "control plane operation failed", "operation", operation, "error", err)
		rejection = registry.Reject(registry.CodeInternalFailure, "An internal error has happened; see the log of the emulator.")
	} else {
		level := slog.LevelWarn
		if rejection.Code == registry.CodeNotFound && r.Method == http.MethodGet {
			level = slog.LevelDebug
		}
		a.Log.Log(r.Context(), level, "control plane operation rejected", "operation", operation,
			"method", r.Method, "path", awsiot.Clip(r.URL.Path), "code", rejection.Code, "reason", rejection.Message)
	}
	out := object{"message": rejection.Message}
	if r.Header.Get("X-Amz-Target") != "" { // the JSON protocol, whose operations answer with one status
		if rejection.Code == registry.CodeInvalidRequest { // as secure tunneling has it
			rejection.Code = tunnel.CodeValidation
		}
		out["__type"] = rejection.Code
		if rejection.Code != codeUnknownOperation && rejection.Status < http.StatusInternalServerError {
			rejection.Status = http.StatusBadRequest
		}
	}
	if rejection.Code == registry.CodeAlreadyExists && rejection.Resource != "" {
		id, _ := registry.Target(rejection.Resource).Certificate()
		out["resourceArn"] = a.ARN(rejection.Resource)
		out.optional("resourceId", id)
	}
	w.Header().Set("X-Amzn-ErrorType", rejection.Code)
	a.write(w, r, rejection.Status, out)
}

// write writes v as JSON, or no body at all for nil.
func (a *api) write(w http.ResponseWriter, r *http.Request, status int, v any) {
	w.Header().Set("x-amzn-RequestId", rand.Text())
	if v == nil {
		w.WriteHeader(status)
		return
	}
	body, err := json.Marshal(v)
	if err != nil {
		a.Log.ErrorContext(r.Context(), "encoding an answer", "error", err)
		status, body = http.StatusInternalServerError, []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(printable(body)) // its only error is that of a client that has gone
}

// printable escapes in JSON the characters that a terminal would obey: the C1 controls and those
// that turn the direction of text. Encoding/json escapes the rest.
func printable(body []byte) []byte {
	var out bytes.Buffer
	for _, c := range string(body) {
		if c >= utf8.RuneSelf && (unicode.IsControl(c) || unicode.Is(unicode.Cf, c)) && c <= 0xffff {
			fmt.Fprintf(&out, `\u%04x`, c)
		} else {
			out.WriteRune(c)
		}
	}
	return out.Bytes()
}

func invalid(format string, args ...any) error {
	return registry.Reject(registry.CodeInvalidRequest, format, args...)
}

// defaultPages are how many items a page has where the request does not say, of the operations whose
// documentation says it; the others have defaultPage.
var defaultPages = map[string]int{"ListCertificates": 25, "ListCACertificates": 25, "ListSubscriptions": 20, "ListTunnels": 100}

const defaultPage = 250

// paging are the query parameters that [page] reads.
var paging = []string{"maxResults", "nextToken", "pageSize", "marker", "isAscendingOrder"}

// page answers with the page of items that the request asks for, under name, and with the token of
// the next page. The items are in the order of their keys, ascending unless the operation has
// isAscendingOrder and it is not set. A token names the last key that was returned, so that
// deletions between two pages lose nothing, and the request that it continues. No two items have the
// same key.
func page[T, U any](name string, key func(T) string, show func(T) U) func(*request, []T) (object, error) {
	return func(q *request, items []T) (object, error) {
		descending := q.op.takes("isAscendingOrder") && !value[bool](q, "isAscendingOrder")
		compare := func(x, y string) int {
			if descending {
				x, y = y, x
			}
			return cmp.Compare(x, y)
		}
		token, next := cmp.Or(value[string](q, "nextToken"), value[string](q, "marker")), "nextToken"
		if q.op.takes("marker") {
			next = "nextMarker"
		}
		text, err := hex.DecodeString(token)
		last, ours := strings.CutPrefix(string(text), q.listing())
		if err != nil || token != "" && !ours {
			return nil, invalid("the pagination token %q is none that this request returned", awsiot.Clip(token))
		}
		byKey := make(map[string]T, len(items))
		for _, item := range items {
			byKey[key(item)] = item
		}
		keys := slices.SortedFunc(maps.Keys(byKey), compare)
		if token != "" {
			keys = slices.DeleteFunc(keys, func(key string) bool { return compare(key, last) <= 0 })
		}
		out := object{}
		limit := cmp.Or(value[int](q, "maxResults"), value[int](q, "pageSize"), defaultPages[q.op.name], defaultPage)
		if len(keys) > limit {
			keys = keys[:limit]
			out[next] = hex.EncodeToString([]byte(q.listing() + keys[limit-1]))
		}
		out[name] = convert(keys, func(key string) U { return show(byKey[key]) })
		return out, nil
	}
}

// listing identifies a list in its pagination tokens: a short hash of the operation and its filters.
func (q *request) listing() string {
	filters := maps.Clone(q.members)
	for _, name := range []string{"maxResults", "nextToken", "pageSize", "marker"} {
		delete(filters, name)
	}
	text, _ := json.Marshal(filters) // of what was JSON before
	sum := sha256.Sum256(append(text, q.op.service+q.op.name...))
	return string(sum[:8])
}

// Keys of items, by which they are listed: names, and ages where the API has an order of creation.
func thingName(t registry.Thing) string                   { return t.Name }
func thingTypeName(t registry.ThingType) string           { return t.Name }
func billingGroupName(g registry.ThingGroup) string       { return g.Name }
func templateName(t registry.ProvisioningTemplate) string { return t.Name }
func providerName(p registry.CertificateProvider) string  { return p.Name }
func roleAliasName(alias registry.RoleAlias) string       { return alias.Name }
func policyAge(p registry.Policy) string                  { return ageKey(p.Created, p.Name) }
func certificateAge(c registry.Certificate) string        { return ageKey(c.Created, c.ID) }
func caAge(c registry.CACertificate) string               { return certificateAge(c.Certificate) }
func attachedThing(at registry.Attachment) string         { return at.Thing }
func attachedCertificate(at registry.Attachment) string   { return at.CertificateID }
func ruleName(r rules.Rule) string                        { return r.Name }
func retainedTopic(m *broker.Message) string              { return m.Topic }
func tagKey(t tag) string                                 { return t.Key }
func newestJob(j jobs.Job) string                         { return fmt.Sprintf("%020d %s", 1<<62-j.CreatedAt, j.ID) }
func self[T any](item T) T                                { return item }

// ageKey is the key of an item in the order of creation.
func ageKey(created time.Time, name string) string {
	return fmt.Sprintf("%020d %s", created.UnixNano(), name)
}

// convert returns what f makes of each item; never nil, so that JSON has an empty list.
func convert[T, U any](items []T, f func(T) U) []U {
	out := make([]U, len(items))
	for i, item := range items {
		out[i] = f(item)
	}
	return out
}
