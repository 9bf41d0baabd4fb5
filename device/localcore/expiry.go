package localcore

import (
	"sync"
	"time"

	"example.com/fleety/device/localcore/registry"
)

// sweepInterval is how often what has expired is looked for.
const sweepInterval = 5 * time.Second

// An expiry deletes pending certificates whose token has expired, and ends the
// connections of certificates that may no longer connect.
type expiry struct {
	server  *Server
	done    chan struct{} // closed by stop
	unwatch func()
	wg      sync.WaitGroup

	mu      sync.Mutex
	stopped bool // under mu; then nothing is added to wg
}

func (s *Server) watchExpiry() *expiry {
	x := &expiry{server: s, done: make(chan struct{})}
	x.wg.Go(x.run)
	x.unwatch = s.registry.Watch(func(change registry.Change) {
		x.mu.Lock()
		defer x.mu.Unlock()
		if change.Status != registry.Active && !x.stopped {
			x.wg.Go(func() { x.disconnect(change.CertificateID) })
		}
	})
	return x
}

// stop returns when no goroutine is left.
func (x *expiry) stop() {
	x.unwatch()
	x.mu.Lock()
	x.stopped = true
	x.mu.Unlock()
	close(x.done)
	x.wg.Wait()
}

func (x *expiry) run() {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if _, err := x.server.registry.Expire(x.server.config.Now()); err != nil {
				x.server.config.Log.Error("deleting expired certificates", "error", err)
			}
			x.server.broker.Sweep()
			x.server.tunnels.Sweep()
		case <-x.done:
			return
		}
	}
}

// disconnect ends the connections of a certificate that left ACTIVE, after the
// delay that AWS leaves open (U22).
func (x *expiry) disconnect(certificateID string) {
	if d := x.server.config.AmbiguousBehavior.DisconnectDelay; d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-x.done:
			return
		}
	}
	cert, ok := x.server.registry.CertificateByID(certificateID)
	if ok && cert.Status == registry.Active {
		return // it became ACTIVE again meanwhile
	}
	x.server.broker.DisconnectCertificate(certificateID)
}
