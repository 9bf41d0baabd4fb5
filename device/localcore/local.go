package localcore

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/policy"
)

const (
	maxRequestBody = 1 << 20 // bytes
	maxConnections = 1000    // in one answer
	bodyTimeout    = 30 * time.Second
)

// localHandler serves what the emulator has and AWS has not, for clients in other languages. The
// endpoints are in docs/local-core.md.
func (s *Server) localHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_local/events", s.serveEvents)
	mux.HandleFunc("GET /_local/messages", s.serveMessages)
	for pattern, serve := range map[string]func(w http.ResponseWriter, r *http.Request) (any, error){
		"GET /_local/health": func(http.ResponseWriter, *http.Request) (any, error) {
			return map[string]string{"status": "ready"}, nil
		},
		"GET /_local/connections": func(http.ResponseWriter, *http.Request) (any, error) {
			all := s.broker.Connections()
			return map[string]any{"connections": all[:min(len(all), maxConnections)], "total": len(all)}, nil
		},
		"POST /_local/explain": s.explain,
		"GET /_local/faults": func(http.ResponseWriter, *http.Request) (any, error) {
			return append([]FaultRule{}, s.Faults.Rules()...), nil
		},
		"PUT /_local/faults": func(w http.ResponseWriter, r *http.Request) (any, error) {
			rules, err := readJSON[[]FaultRule](w, r)
			if err == nil {
				err = s.Faults.SetRules(rules)
			}
			return nil, err
		},
		"DELETE /_local/faults": func(http.ResponseWriter, *http.Request) (any, error) {
			s.Faults.Set(nil)
			return nil, nil
		},
		"POST /_local/expire-tokens": func(http.ResponseWriter, *http.Request) (any, error) {
			expired, err := s.ExpireTokens()
			return map[string][]string{"certificateIds": append([]string{}, expired...)}, err // no null
		},
		"GET /_local/fidelity": func(http.ResponseWriter, *http.Request) (any, error) { return Ambiguities(), nil },
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			switch v, err := serve(w, r); {
			case err != nil:
				http.Error(w, err.Error(), http.StatusBadRequest)
			case v == nil:
				w.WriteHeader(http.StatusNoContent)
			default:
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(v) // the client may be gone
			}
		})
	}
	return mux
}

func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	number := s.history.End()
	if r.URL.Query().Get("past") == "true" {
		number = 0
	}
	stream(w, func() (any, error) {
		e, n, err := s.history.Next(r.Context(), number)
		number = n + 1
		return e, err
	})
}

// stream writes what next returns, one JSON object a line, until an error.
func stream(w http.ResponseWriter, next func() (any, error)) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	controller := http.NewResponseController(w)
	encoder := json.NewEncoder(w)
	for controller.Flush() == nil {
		v, err := next()
		if err != nil || encoder.Encode(v) != nil {
			return
		}
	}
}

// readJSON reads the body of a request, strictly and in bounded time.
func readJSON[T any](w http.ResponseWriter, r *http.Request) (v T, err error) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout)) // only a recorder of a test has none to set
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBody))
	decoder.DisallowUnknownFields()
	err = decoder.Decode(&v)
	if err == nil {
		if _, end := decoder.Token(); end != io.EOF {
			err = errors.New("more than one JSON value")
		}
	}
	if err != nil { // the deadline stays, for net/http would read on
		return v, fmt.Errorf("reading the request: %w", err)
	}
	_ = control.SetReadDeadline(time.Time{})
	return v, nil
}

// An explainRequest asks whether a client may do something. It is evaluated with the certificate's
// policies, those of its thing's groups among them, or with Policy alone.
type explainRequest struct {
	CertificateID string `json:"certificateId"`
	ClientID      string `json:"clientId"`
	SourceIP      string `json:"sourceIp"` // optional
	Action        string `json:"action"`   // such as iot:Publish
	Resource      string `json:"resource"` // an ARN, or its last part, such as topic/a
	Policy        string `json:"policy"`   // a policy document; optional
}

// An explanation answers it.
type explanation struct {
	Allowed     bool   `json:"allowed"`
	Policy      string `json:"policy,omitempty"`    // that decided
	Statement   string `json:"statement,omitempty"` // that decided
	Explanation string `json:"explanation"`
	// Thing is the one that policy variables stand for. Policies are those that were evaluated.
	Thing    string   `json:"thing,omitempty"`
	Policies []string `json:"policies"`
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) (any, error) {
	q, err := readJSON[explainRequest](w, r)
	if err != nil {
		return nil, err
	}
	policies := s.parse(s.registry.PoliciesFor(q.CertificateID, q.ClientID))
	if q.Policy != "" {
		document, err := policy.Parse([]byte(q.Policy))
		if err != nil {
			return nil, fmt.Errorf("reading the policy: %w", err)
		}
		policies = []policy.Policy{{Name: "the given policy", Document: document}}
	}
	if q.Action == "" || q.Resource == "" {
		return nil, errors.New("action and resource must be given")
	}
	address, err := netip.ParseAddr(q.SourceIP) // the zero value does not resolve
	if err != nil && q.SourceIP != "" {
		return nil, fmt.Errorf("sourceIp %q is not an IP address", q.SourceIP)
	}
	if !strings.HasPrefix(q.Resource, "arn:") {
		q.Resource = s.ARN(q.Resource)
	}
	session := s.policySession(q.CertificateID, q.ClientID, nil)
	session.DomainName, _ = s.Endpoint()
	session.SourceIP = address
	d := policy.Evaluate(policies, &policy.Request{Action: q.Action, Resource: q.Resource, Session: session})
	out := explanation{Allowed: d.Allowed, Policy: d.Policy, Explanation: d.Explain(), Policies: []string{}}
	if d.Statement != nil {
		out.Statement = cmp.Or(d.Statement.Sid, d.Statement.String())
	}
	if session.Thing != nil {
		out.Thing = session.Thing.Name
	}
	for _, p := range policies {
		out.Policies = append(out.Policies, p.Name)
	}
	return out, nil
}

// waitingMessages is how many messages wait for one observer; further ones are lost to it.
const waitingMessages = 256

// An observedMessage is a message as /_local/messages shows it.
type observedMessage struct {
	Time     time.Time `json:"time"`
	Topic    string    `json:"topic"`
	ClientID string    `json:"clientId,omitempty"` // empty if no client published it
	QoS      byte      `json:"qos"`
	Retain   bool      `json:"retain,omitempty"`
	Payload  string    `json:"payload"` // text, or, where it is not UTF-8, Base64
	Base64   bool      `json:"base64,omitempty"`
	Lost     int32     `json:"lost,omitempty"` // counts the messages that the observer was too slow for
}

// An observer follows the messages that one filter selects.
type observer struct {
	filter   string
	messages chan *broker.Message
	lost     atomic.Int32
}

// showObservers hands a message to those whose filter selects it. It does not block.
func (s *Server) showObservers(m *broker.Message) {
	for key := range s.observers.Range {
		o := key.(*observer)
		if !awsiot.MatchFilter(o.filter, m.Topic) {
			continue
		}
		select {
		case o.messages <- m:
		default:
			o.lost.Add(1)
		}
	}
}

// serveMessages follows messages as a subscriber would that every policy allows. What goes to one
// connection only is not among them.
func (s *Server) serveMessages(w http.ResponseWriter, r *http.Request) {
	o := &observer{filter: cmp.Or(r.URL.Query().Get("filter"), "#"), messages: make(chan *broker.Message, waitingMessages)}
	s.observers.Store(o, nil)
	defer s.observers.Delete(o)
	stream(w, func() (any, error) {
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case m := <-o.messages:
			v := observedMessage{
				Time: m.Time.UTC(), Topic: m.Topic, ClientID: m.ClientID, QoS: m.QoS, Retain: m.Retain,
				Payload: string(m.Payload), Base64: !utf8.Valid(m.Payload), Lost: o.lost.Swap(0),
			}
			if v.Base64 {
				v.Payload = base64.StdEncoding.EncodeToString(m.Payload)
			}
			return v, nil
		}
	})
}
