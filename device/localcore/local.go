package localcore

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"example.com/fleety/device/localcore/policy"
)

const (
	maxRequestBody = 1 << 20 // bytes
	maxConnections = 1000    // in one answer
	bodyTimeout    = 30 * time.Second
)

// localHandler serves what the emulator has and AWS has not, for clients in
// other languages:
//
//	GET    /_local/events     follow the events, one JSON object a line; ?past=true begins with those kept
//	GET    /_local/health     answers as soon as devices can connect, and their credentials are written
//	GET    /_local/messages   follow the messages, one JSON object a line; ?filter=FILTER selects
//	GET    /_local/connections  open connections with their subscriptions, 1,000 at most, and how many there are
//	POST   /_local/explain    evaluate policies: see explainRequest
//	GET    /_local/faults     the faults that were set here
//	PUT    /_local/faults     set the faults: a JSON list of FaultRule
//	DELETE /_local/faults     end all faults
//	POST   /_local/expire-tokens  expire the pending certificate ownership tokens
//	GET    /_local/fidelity   undocumented AWS behavior and how it is emulated
func (s *Server) localHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_local/events", s.serveEvents)
	mux.HandleFunc("GET /_local/health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]string{"status": "ready"})
	})
	mux.HandleFunc("GET /_local/messages", s.serveMessages)
	mux.HandleFunc("GET /_local/connections", func(w http.ResponseWriter, _ *http.Request) {
		all := s.broker.Connections()
		writeJSON(w, map[string]any{"connections": all[:min(len(all), maxConnections)], "total": len(all)})
	})
	mux.HandleFunc("POST /_local/explain", s.serveExplain)
	mux.HandleFunc("GET /_local/faults", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, append([]FaultRule{}, s.Faults.Rules()...))
	})
	mux.HandleFunc("PUT /_local/faults", s.serveFaults)
	mux.HandleFunc("DELETE /_local/faults", func(w http.ResponseWriter, _ *http.Request) {
		s.Faults.Set(nil)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /_local/expire-tokens", s.serveExpireTokens)
	mux.HandleFunc("GET /_local/fidelity", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, Ambiguities())
	})
	return mux
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
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

// An explainRequest asks whether a client may do something. It is evaluated
// with the certificate's policies, those of its thing's groups among them, or
// with Policy alone.
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
	// Thing is the one that policy variables stand for. Policies are those that
	// were evaluated.
	Thing    string   `json:"thing,omitempty"`
	Policies []string `json:"policies"`
}

// readJSON reads the body of a request, strictly and in bounded time, or answers
// what is wrong with it.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout)) // only a recorder of a test has none to set
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil { // the deadline stays, for net/http would read on
		http.Error(w, "reading the request: "+err.Error(), http.StatusBadRequest)
		return false
	}
	_ = control.SetReadDeadline(time.Time{})
	return true
}

func (s *Server) serveExplain(w http.ResponseWriter, r *http.Request) {
	var q explainRequest
	if !readJSON(w, r, &q) {
		return
	}
	policies := new(documentCache).parse(s.registry.PoliciesFor(q.CertificateID, q.ClientID))
	if q.Policy != "" {
		document, err := policy.Parse([]byte(q.Policy))
		if err != nil {
			http.Error(w, "reading the policy: "+err.Error(), http.StatusBadRequest)
			return
		}
		policies = []policy.Policy{{Name: "the given policy", Document: document}}
	}
	if q.Action == "" || q.Resource == "" {
		http.Error(w, "action and resource must be given", http.StatusBadRequest)
		return
	}
	if !strings.HasPrefix(q.Resource, "arn:") {
		q.Resource = s.ARN(q.Resource)
	}
	session := s.policySession(q.CertificateID, q.ClientID)
	session.DomainName, _ = s.Endpoint()
	session.SourceIP, _ = netip.ParseAddr(q.SourceIP) // the zero value does not resolve
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
	writeJSON(w, out)
}

func (s *Server) serveFaults(w http.ResponseWriter, r *http.Request) {
	var rules []FaultRule
	if !readJSON(w, r, &rules) {
		return
	}
	if err := s.Faults.SetRules(rules); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) serveExpireTokens(w http.ResponseWriter, _ *http.Request) {
	expired, err := s.ExpireTokens()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, map[string][]string{"certificateIds": expired})
}
