package localcore

import (
	"encoding/json"
	"net/http"
)

// maxRequestBody bounds the body of a request, in bytes.
const maxRequestBody = 1 << 20

// localHandler serves what the emulator has and AWS has not, for clients in
// other languages:
//
//	GET    /_local/events     follow the events, one JSON object a line; ?past=true begins with those kept
//	PUT    /_local/faults     set the faults: a JSON list of FaultRule
//	DELETE /_local/faults     end all faults
//	POST   /_local/expire-tokens  expire the pending certificate ownership tokens
//	GET    /_local/fidelity   undocumented AWS behavior and how it is emulated
func (s *Server) localHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_local/events", s.serveEvents)
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
	w.Header().Set("Content-Type", "application/x-ndjson")
	number := s.history.End()
	if r.URL.Query().Get("past") == "true" {
		number = 0
	}
	flusher := http.NewResponseController(w)
	if flusher.Flush() != nil {
		return
	}
	encoder := json.NewEncoder(w)
	for {
		e, n, err := s.history.Next(r.Context(), number)
		if err != nil || encoder.Encode(e) != nil || flusher.Flush() != nil {
			return
		}
		number = n + 1
	}
}

func (s *Server) serveFaults(w http.ResponseWriter, r *http.Request) {
	var rules []FaultRule
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&rules); err != nil {
		http.Error(w, "not a list of faults: "+err.Error(), http.StatusBadRequest)
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
