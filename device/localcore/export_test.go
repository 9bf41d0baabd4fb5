package localcore

import (
	"runtime"
	"time"
)

// LapseKeepAlive makes the keep-alive of a client lapse now, and returns when
// its connection has ended. The reader may set its own deadline once more, so
// that one attempt is not enough.
func (s *Server) LapseKeepAlive(clientID string) {
	s.broker.mu.Lock()
	c := s.broker.current[clientID]
	s.broker.mu.Unlock()
	for {
		_ = c.SetReadDeadline(time.Unix(1, 0)) // fails when it has ended
		select {
		case <-c.ended:
			return
		default:
			runtime.Gosched()
		}
	}
}

// Retry lets the writer of a client look for overdue acknowledgements now.
func (s *Server) Retry(clientID string) {
	o := s.broker.outboxOf(clientID)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ring()
}

// Matches is matches.
var Matches = matches
