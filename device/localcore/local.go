package localcore

import (
	"encoding/json"
	"net/http"
)

// localHandler serves what the local core has and AWS has not, for clients in
// other languages:
//
//	GET    /_local/events     follow the events, one JSON object a line; ?past=true begins with those kept
//	PUT    /_local/faults     set the faults: a JSON list of FaultRule
//	DELETE /_local/faults     end all faults
//	POST   /_local/lapse      let every ownership token lapse now
//	GET    /_local/fidelity   what AWS leaves open, and what is done here
func (s *Server) localHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_local/events", s.serveEvents)
	mux.HandleFunc("PUT /_local/faults", s.serveFaults)
	mux.HandleFunc("DELETE /_local/faults", func(w http.ResponseWriter, _ *http.Request) {
		s.Faults.Set(nil)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /_local/lapse", s.serveLapse)
	mux.HandleFunc("GET /_local/fidelity", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, Fidelity())
	})
	return mux
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	number := s.journal.latest()
	if r.URL.Query().Get("past") == "true" {
		number = 0
	}
	flusher := http.NewResponseController(w)
	if flusher.Flush() != nil {
		return
	}
	encoder := json.NewEncoder(w)
	for {
		e, n, err := s.journal.next(r.Context(), number)
		if err != nil || encoder.Encode(e) != nil || flusher.Flush() != nil {
			return
		}
		number = n + 1
	}
}

func (s *Server) serveFaults(w http.ResponseWriter, r *http.Request) {
	var rules []FaultRule
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPayload))
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

func (s *Server) serveLapse(w http.ResponseWriter, _ *http.Request) {
	lapsed, err := s.LapsePending()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, map[string][]string{"certificateIds": lapsed})
}
