package localcore

import "time"

// LapseKeepAlive makes the keep-alive of a connected client lapse now.
func (s *Server) LapseKeepAlive(clientID string) error {
	s.broker.mu.Lock()
	c := s.broker.current[clientID]
	s.broker.mu.Unlock()
	return c.SetReadDeadline(time.Unix(1, 0))
}

// Matches is matches.
var Matches = matches
