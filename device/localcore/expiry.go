package localcore

import (
	"context"
	"sync"
	"time"

	"example.com/fleety/device/localcore/registry"
)

// sweepInterval is how often what has expired is looked for.
const sweepInterval = 5 * time.Second

// sweep ends what has expired, until ctx ends.
func (s *Server) sweep(ctx context.Context) {
	for wait(ctx, sweepInterval) {
		if _, err := s.registry.Expire(s.config.Now()); err != nil {
			s.config.Log.Error("deleting expired certificates", "error", err)
		}
		s.broker.Sweep()
		s.tunnels.Sweep()
	}
}

// wait reports false if ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// disconnectInactive ends the connections of certificates that leave ACTIVE, after
// the delay that AWS leaves open (U22), until ctx ends. Then stop must be called.
func (s *Server) disconnectInactive(ctx context.Context) (stop func()) {
	var mu sync.Mutex // so that nothing starts after stop
	unwatch := s.registry.Watch(func(change registry.Change) {
		mu.Lock()
		defer mu.Unlock()
		if change.Status == registry.Active || ctx.Err() != nil {
			return
		}
		s.running.Go(func() {
			if !wait(ctx, s.config.AmbiguousBehavior.DisconnectDelay) {
				return
			}
			if cert, ok := s.registry.CertificateByID(change.CertificateID); !ok || cert.Status != registry.Active {
				s.broker.DisconnectCertificate(change.CertificateID)
			}
		})
	})
	return func() {
		unwatch()
		mu.Lock()
		defer mu.Unlock()
	}
}
