package controlapi

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"example.com/fleety/device/localcore/registry"
)

// codeUnknownOperation answers a request that is no operation. AWS's gateways
// use this name and status 404; for AWS IoT neither is documented.
const codeUnknownOperation = "UnknownOperationException"

// epoch is a time as the control plane writes it: seconds since 1970, with
// fractions.
type epoch time.Time

// MarshalJSON writes the seconds to the millisecond.
func (e epoch) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(time.Time(e).UnixMilli())/1000, 'f', 3, 64), nil
}

// IsZero lets omitzero leave out a time that is not set.
func (e epoch) IsZero() bool { return time.Time(e).IsZero() }

// serve runs an operation and writes its answer.
func (a *api) serve(op operation) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := readRequest(w, r)
		var out any
		if err == nil {
			out, err = op.run(q)
		}
		if err != nil {
			a.reject(w, r, op.name, err)
			return
		}
		writeJSON(w, http.StatusOK, out)
	})
}

func (a *api) unknown(w http.ResponseWriter, r *http.Request) {
	a.reject(w, r, "unknown", &registry.Error{
		Code:    codeUnknownOperation,
		Status:  http.StatusNotFound,
		Message: "There is no operation " + r.Method + " " + clip(r.URL.Path) + " here.",
	})
}

// reject writes an exception and logs it: at INFO if a question was answered
// with "not found", which is no refusal. What is not a *registry.Error is ours to
// mend: the caller learns no more than that.
func (a *api) reject(w http.ResponseWriter, r *http.Request, operation string, err error) {
	refusal, ok := errors.AsType[*registry.Error](err)
	if !ok {
		a.Log.ErrorContext(r.Context(), "control plane operation failed", "operation", operation, "error", err)
		refusal = registry.Reject(registry.CodeInternalFailure, "An internal error has happened; the log of the local core tells more.")
	} else {
		level := slog.LevelWarn
		if refusal.Code == registry.CodeNotFound && r.Method == http.MethodGet {
			level = slog.LevelInfo
		}
		a.Log.Log(r.Context(), level, "control plane operation refused", "operation", operation,
			"method", r.Method, "path", clip(r.URL.Path), "code", refusal.Code, "reason", refusal.Message)
	}
	w.Header().Set("X-Amzn-ErrorType", refusal.Code)
	writeJSON(w, refusal.Status, a.exception(refusal))
}

// An exception is the body of a refusal.
type exception struct {
	Message     string `json:"message"`
	ResourceARN string `json:"resourceArn,omitempty"`
	ResourceID  string `json:"resourceId,omitempty"`
}

func (a *api) exception(e *registry.Error) exception {
	x := exception{Message: e.Message}
	if e.Code == registry.CodeAlreadyExists && e.Resource != "" {
		x.ResourceARN = a.names.arn(e.Resource)
		x.ResourceID, _ = registry.Target(e.Resource).Certificate()
	}
	return x
}

// writeJSON writes v, or no body at all for nil.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("x-amzn-RequestId", rand.Text())
	if v == nil {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // its only error is that of a client that has gone
}

func invalid(format string, args ...any) error {
	return registry.Reject(registry.CodeInvalidRequest, format, args...)
}

// unavailable refuses an operation whose part of the core is missing.
func unavailable(what string) error {
	return registry.Reject(registry.CodeServiceUnavailable, "This server has no %s.", what)
}

// clip shortens text that came from outside, for use in a message.
func clip(text string) string {
	const most = 200
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
