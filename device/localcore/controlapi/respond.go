package controlapi

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"example.com/fleety/device/localcore/registry"
)

// codeUnknownOperation answers a request that is no operation. AWS's gateways
// use this name and status 404; for AWS IoT neither is documented.
const codeUnknownOperation = "UnknownOperationException"

// An object is the JSON object of an answer.
type object map[string]any

// optional adds a member unless its value is zero or empty: what AWS leaves out
// is left out here.
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

// epoch is a time as the control plane writes it: seconds since 1970, with
// fractions.
type epoch time.Time

// MarshalJSON writes the seconds to the millisecond.
func (e epoch) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(time.Time(e).UnixMilli())/1000, 'f', 3, 64), nil
}

// serve runs an operation and writes its answer.
func (a *api) serve(op operation) http.Handler {
	limit := limiter(op.name)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.Quotas && !limit.Allow() {
			a.reject(w, r, op.name, registry.Reject(registry.CodeThrottling, "Rate exceeded"))
			return
		}
		q, err := readRequest(w, r, op)
		var out any
		if err == nil {
			out, err = op.run(q)
		}
		if err != nil {
			a.reject(w, r, op.name, err)
			return
		}
		a.write(w, r, http.StatusOK, out)
	})
}

// unknown answers what is no operation of this API, by AWS's name for it.
func (a *api) unknown(w http.ResponseWriter, r *http.Request) {
	name, message := operationOf(r), ""
	if name != "" {
		message = name + " is not emulated here."
	} else {
		name = "unknown"
		message = fmt.Sprintf("There is no operation %s %q here.", clip(r.Method), clip(r.URL.Path))
	}
	a.reject(w, r, name, &registry.Error{Code: codeUnknownOperation, Status: http.StatusNotFound, Message: message})
}

// reject writes an exception and logs it: at DEBUG if a question was answered
// with "not found", as a hook asks of each new device. What is not a *registry.Error is a
// defect of this program: the caller gets no detail of it.
func (a *api) reject(w http.ResponseWriter, r *http.Request, operation string, err error) {
	rejection, ok := errors.AsType[*registry.Error](err)
	if !ok {
		a.Log.ErrorContext(r.Context(), "control plane operation failed", "operation", operation, "error", err)
		rejection = registry.Reject(registry.CodeInternalFailure, "An internal error has happened; see the log of the emulator.")
	} else {
		level := slog.LevelWarn
		if rejection.Code == registry.CodeNotFound && r.Method == http.MethodGet {
			level = slog.LevelDebug
		}
		a.Log.Log(r.Context(), level, "control plane operation rejected", "operation", operation,
			"method", r.Method, "path", clip(r.URL.Path), "code", rejection.Code, "reason", rejection.Message)
	}
	out := object{"message": rejection.Message}
	if r.Header.Get("X-Amz-Target") != "" { // the JSON protocol
		out["__type"] = rejection.Code
	}
	if rejection.Code == registry.CodeAlreadyExists && rejection.Resource != "" {
		id, _ := registry.Target(rejection.Resource).Certificate()
		out["resourceArn"] = a.arn(rejection.Resource)
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

// printable escapes in JSON the characters that a terminal would obey: the C1
// controls and those that turn the direction of text. Encoding/json escapes
// the rest.
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

// clip shortens text that came from outside, for use in a message.
func clip(text string) string {
	const most = 200
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}

// Items of a page where the request does not say.
const (
	defaultPage      = 250
	subscriptionPage = 20 // of ListSubscriptions, which has 200 at most

	maxSubscriptionPage = 200
)

// list answers with the page of items that the request asks for, under name,
// and with the token of the next page. The items are in the order of their
// keys, ascending unless the operation has isAscendingOrder and it is not set.
// A token names the last key that was returned, so that deletions between two
// pages lose nothing.
func list[T, U any](q *request, name string, items []T, key func(T) string, show func(T) U) (any, error) {
	descending := q.op.takes("isAscendingOrder") && !q.flag("isAscendingOrder")
	compare := func(x, y string) int {
		if descending {
			return cmp.Compare(y, x)
		}
		return cmp.Compare(x, y)
	}
	token, next := cmp.Or(q.query("nextToken"), q.query("marker")), "nextToken"
	if q.op.takes("marker") {
		next = "nextMarker"
	}
	last, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return nil, invalid("the pagination token %q is not one of ours", clip(token))
	}
	items = slices.SortedStableFunc(slices.Values(items), func(x, y T) int { return compare(key(x), key(y)) })
	if token != "" {
		items = slices.DeleteFunc(items, func(item T) bool { return compare(key(item), string(last)) <= 0 })
	}
	out := object{}
	limit := int(cmp.Or(q.number("maxResults"), q.number("pageSize"), defaultPage))
	if q.op.name == "ListSubscriptions" && !q.params.Has("maxResults") {
		limit = subscriptionPage
	}
	if len(items) > limit {
		items = items[:limit]
		out[next] = base64.RawURLEncoding.EncodeToString([]byte(key(items[limit-1])))
	}
	out[name] = convert(items, show)
	return out, nil
}

// listOf is list for items that come with an error.
func listOf[T, U any](q *request, name string, key func(T) string, show func(T) U) func([]T, error) (any, error) {
	return func(items []T, err error) (any, error) {
		if err != nil {
			return nil, err
		}
		return list(q, name, items, key, show)
	}
}

// names is list for items that are their own key.
func names(q *request, name string, items []string) (any, error) {
	return list(q, name, items, self, self)
}

func self(item string) string { return item }

// ageKey is the key of an item in the order of creation.
func ageKey(created time.Time, name string) string {
	return fmt.Sprintf("%020d %s", created.UnixNano(), name)
}

// convert returns what f makes of each item; never nil, so that JSON has an
// empty list.
func convert[T, U any](items []T, f func(T) U) []U {
	out := make([]U, len(items))
	for i, item := range items {
		out[i] = f(item)
	}
	return out
}
