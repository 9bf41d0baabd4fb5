package shadow

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
)

// Routes returns the part of the local API about shadows: /v1/shadows/NAME, and /v1/shadows for the
// classic one, also with a slash behind it.
func Routes(shadows []*Shadow) map[string]http.Handler {
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		var answer any
		var err error = &Error{404, fmt.Errorf("the agent keeps no shadow %q (the classic one has no name); agent.shadows lists those that it keeps", name)}
		for _, s := range shadows {
			if s.config.Name == name {
				if err = nil; r.Method == http.MethodPatch {
					err = s.patch(r.Body)
				}
				answer = s.Document()
			}
		}
		w.Header().Set("Content-Type", "application/json")
		if e, ok := errors.AsType[*Error](err); ok {
			w.WriteHeader(e.StatusCode)
			answer = map[string]string{"error": err.Error()}
		}
		_ = json.NewEncoder(w).Encode(answer) // the program has gone away
	})
	routes := map[string]http.Handler{}
	for _, path := range []string{"/v1/shadows", "/v1/shadows/{name...}"} {
		routes["GET "+path], routes["PATCH "+path] = serve, serve
	}
	return routes
}

func (s *Shadow) patch(body io.Reader) error {
	change, err := io.ReadAll(io.LimitReader(body, maxMessage+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &Error{408, errors.New("the change has not arrived in time")}
	case err != nil:
		return &Error{400, fmt.Errorf("reading the change: %w", err)}
	case len(change) > maxMessage:
		return &Error{413, errTooLarge}
	}
	return s.Update(change)
}
