// Package controlapi speaks the REST control plane of AWS IoT and its data planes over a registry
// and the services beside it: the AWS CLI and SDKs work with it by their endpoint option.
//
// It does not authenticate callers: signatures are neither needed nor checked. It is meant for the
// loopback interface; anyone who reaches it owns the registry. Requests that a browser sends on
// behalf of another site are rejected.
//
// Operations, bindings, pagination and exceptions are those of AWS's service models iot/2015-05-28,
// iot-data/2015-05-28, iot-jobs-data/2017-09-29 and iotsecuretunneling/2018-10-05. Nothing is
// dropped in silence: an operation or a parameter that is not emulated is rejected by its name.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/
package controlapi

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"strings"

	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/jobs"
	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/provisioning"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/rules"
	"example.com/fleety/device/localcore/shadow"
	"example.com/fleety/device/localcore/tunnel"
)

// A Config says what the API stands on. All but Quotas and Log is required.
type Config struct {
	Registry *registry.Registry
	Account  string
	ARN      func(resource string) string // returns the full name of a resource such as thing/NAME
	Endpoint string                       // what DescribeEndpoint answers, a host with or without port

	Provisioning *provisioning.Service
	Shadows      *shadow.Service
	Jobs         *jobs.Service
	Rules        *rules.Service
	Tunnels      *tunnel.Service
	Broker       Broker
	Publish      func(*broker.Message) error // publishes a valid message, whatever policies say; the error is that of retaining it
	// Session returns the session that a client would have, without certificate for an empty id,
	// and Evaluate the decision of policies on an action such as "iot:Publish" in it.
	Session  func(certificateID, clientID string) *policy.Session
	Evaluate func(policies []registry.PolicyDocument, action, resource string, s *policy.Session) policy.Decision

	Quotas bool // enforces AWS's request quotas, by ThrottlingException

	Log *slog.Logger // receives rejected and unknown operations; nil means discard
}

// A Broker holds the connections, sessions and retained messages of MQTT, as [broker.Broker] does.
type Broker interface {
	Retained(topic string) (*broker.Message, bool)
	AllRetained() []*broker.Message
	Disconnect(clientID string, cleanSession, preventWill bool) (found bool)
	ConnectionState(clientID string) (state broker.ConnectionState, found bool)
	Subscriptions(clientID string) (qos map[string]byte, found bool)
	SendDirect(ctx context.Context, clientID string, m *broker.Message, confirm bool) error
}

type api struct{ Config }

// New returns the handler. It is safe for concurrent use.
func New(c Config) http.Handler {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	a := &api{c}
	mux := http.NewServeMux()
	handlers := map[string]http.Handler{}
	ops := a.operations()
	for _, op := range ops {
		if control, ok := handlers[op.pattern]; ok {
			op.service = jobsSigner + "."
			handlers[op.pattern] = byPlane(control, a.serve(op))
		} else {
			handlers[op.pattern] = a.serve(op)
		}
	}
	for _, missing := range notEmulated(ops) {
		if pattern := missing[1] + " " + missing[2]; handlers[pattern] == nil {
			handlers[pattern] = a.unknown(missing[0])
		}
	}
	for pattern, handler := range handlers {
		mux.Handle(pattern, handler)
		if parent := pattern[:strings.LastIndexByte(pattern, '/')]; strings.HasSuffix(pattern, "...}") && handlers[parent] == nil {
			mux.Handle(parent, a.unknown("")) // from which ServeMux would redirect
		}
	}
	mux.Handle("POST /{$}", a.byTarget())
	mux.Handle("/", a.unknown(""))
	// Net/http exempts reading; no page of another site has a reason to read here.
	safe := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		check := r.WithContext(r.Context()) // a copy
		check.Method = http.MethodPost
		if err := safe.Check(check); err != nil {
			a.Log.WarnContext(r.Context(), "rejected a request from another site", "origin", r.Header.Get("Origin"))
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		switch {
		case r.Header.Get(rules.ActionHeader) != "":
			a.reject(w, r, "of a rule", &registry.Error{Code: "MissingAuthenticationTokenException", Status: http.StatusForbidden, Message: "HTTP actions sign no requests."})
		case r.Method == http.MethodHead: // which ServeMux takes for GET
			a.unknown("")(w, r)
		default:
			mux.ServeHTTP(w, r)
		}
	})
}
