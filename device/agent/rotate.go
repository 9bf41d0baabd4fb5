package agent

import (
	"fmt"
	"net/http"
	"time"

	"example.com/fleety/device/awsiot"
)

// handleRotate has key and certificate replaced, and answers when the new ones are
// verified, or that has failed. Requests that come meanwhile share the result.
func (a *agent) handleRotate(w http.ResponseWriter, r *http.Request) error {
	if thing := r.URL.Query().Get("thing"); thing != "" && thing != a.thing {
		return &apiError{http.StatusConflict, fmt.Sprintf("this is the agent of thing %s", a.thing)}
	}
	if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	done := make(chan error, 1)
	a.update(func(s *state) { s.rotationRequests = append(s.rotationRequests, done) })
	select {
	case a.rotateNow <- struct{}{}:
	default:
	}
	select {
	case err := <-done:
		if err != nil && awsiot.ClassOf(err) == awsiot.Denied {
			return &apiError{http.StatusForbidden, err.Error()}
		}
		if err != nil {
			return err
		}
	case <-r.Context().Done(): // the rotation goes on
		return r.Context().Err()
	}
	id, err := a.Provision.Store.Load()
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"certificateId": id.Record.CertificateID})
	return nil
}

// answerRotation answers the requests for a rotation that has ended.
func (a *agent) answerRotation(err error) {
	a.update(func(s *state) {
		for _, done := range s.rotationRequests {
			done <- err
		}
		s.rotationRequests = nil
	})
}
