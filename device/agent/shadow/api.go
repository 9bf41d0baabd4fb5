package shadow

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Routes returns the part of the local API about shadows: /v1/shadows/NAME, and /v1/shadows for the
// classic one, also with a slash behind it. The bodies of their requests are in memory.
func Routes(shadows []*Shadow) map[string]http.Handler {
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		var answer any
		var err error = &Error{404, fmt.Errorf("the agent keeps no shadow %q (the classic one has no name); agent.shadows lists those that it keeps", name)}
		for _, s := range shadows {
			if s.config.Name == name {
				if err = nil; r.Method == http.MethodPatch {
					change, _ := io.ReadAll(r.Body) // which is in memory
					err = s.Update(change)
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
