package localcore

import (
	"context"
	"sync"
	"time"

	"example.com/fleety/device/localcore/registry"
)

// expiryInterval is how often lapsed certificates and sessions are looked for.
const expiryInterval = 10 * time.Second

// An expiry deletes pending certificates whose token has lapsed, and ends the
// connections of certificates that may no longer connect.
type expiry struct {
	broker  *broker
	ctx     context.Context // ends with stop
	cancel  context.CancelFunc
	unwatch func()
	wg      sync.WaitGroup

	mu      sync.Mutex
	stopped bool // under mu; then nothing is added to wg
}

func watchCertificates(b *broker) *expiry {
	x := &expiry{broker: b}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	x.wg.Go(x.run)
	x.unwatch = b.registry.Watch(func(change registry.Change) {
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
	x.cancel()
	x.wg.Wait()
}

func (x *expiry) run() {
	ticker := time.NewTicker(expiryInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			x.sweep(x.broker.config.Now())
		case <-x.ctx.Done():
			return
		}
	}
}

// sweep ends what has lapsed: pending certificates, and sessions whose clients
// have been away too long.
func (x *expiry) sweep(now time.Time) {
	if _, err := x.broker.registry.Expire(now); err != nil {
		x.broker.config.Log.Error("deleting lapsed certificates", "error", err)
	}
	x.broker.dropLapsed(now)
}

// disconnect ends the connections of a certificate that left ACTIVE, after the
// delay that U22 leaves open.
func (x *expiry) disconnect(certificateID string) {
	if d := x.broker.config.Choices.DisconnectDelay; d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-x.ctx.Done():
			return
		}
	}
	cert, ok := x.broker.registry.CertificateByID(certificateID)
	if ok && cert.Status == registry.Active {
		return // it came back meanwhile
	}
	x.broker.disconnectCertificate(certificateID)
}
