package shadow

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Routes returns the part of the local API about shadows: /v1/shadows/NAME, and /v1/shadows/ for the classic one.
func Routes(shadows []*Shadow) map[string]http.Handler {
	handle := func(act func(*Shadow, *http.Request) error) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			status, answer := http.StatusOK, any(nil)
			s, err := find(shadows, r.PathValue("name"))
			if err == nil {
				err = act(s, r)
			}
			if e, ok := errors.AsType[*Error](err); ok {
				status, answer = e.StatusCode, map[string]string{"error": err.Error()}
			} else {
				answer = s.Document()
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(answer) // the program has gone away
		})
	}
	return map[string]http.Handler{
		"GET /v1/shadows/{name...}": handle(func(*Shadow, *http.Request) error { return nil }),
		"PATCH /v1/shadows/{name...}": handle(func(s *Shadow, r *http.Request) error {
			change, err := io.ReadAll(io.LimitReader(r.Body, maxMessage+1))
			switch {
			case err != nil:
				return &Error{400, fmt.Errorf("reading the change: %w", err)}
			case len(change) > maxMessage:
				return &Error{413, errTooLarge}
			}
			return s.Update(change)
		}),
	}
}

func find(shadows []*Shadow, name string) (*Shadow, error) {
	for _, s := range shadows {
		if s.config.Name == name {
			return s, nil
		}
	}
	return nil, &Error{404, fmt.Errorf("the agent keeps no shadow %q; agent.shadows lists those that it keeps", name)}
}
