package ca

import (
	"context"
	"crypto/rsa"
	"sync"
)

// A Pool makes RSA keys ahead of need, because one takes a tenth of a second.
// It starts with the first Take, and is safe for concurrent use. The zero
// value is not usable; see [NewPool].
type Pool struct {
	ready  chan made
	stop   chan struct{}
	start  sync.Once
	finish sync.Once
	wg     sync.WaitGroup
}

type made struct {
	key *rsa.PrivateKey
	err error
}

// spare holds keys that closed pools had made and nobody took. They serve the
// next pools of the process: a test starts many servers.
var spare = make(chan *rsa.PrivateKey, 16)

// NewPool returns a pool that keeps size keys ready.
func NewPool(size int) *Pool {
	return &Pool{ready: make(chan made, size), stop: make(chan struct{})}
}

// Take returns a key, waiting for it if none is ready.
func (p *Pool) Take(ctx context.Context) (*rsa.PrivateKey, error) {
	p.start.Do(func() { p.wg.Go(p.fill) })
	select {
	case m := <-p.ready:
		return m.key, m.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.stop:
		return nil, context.Canceled
	}
}

func (p *Pool) fill() {
	for {
		var m made
		select {
		case m.key = <-spare:
		default:
			m.key, m.err = NewKey()
		}
		select {
		case p.ready <- m:
		case <-p.stop:
			m.save()
			return
		}
	}
}

// save keeps a key that nobody took, as long as there is room.
func (m made) save() {
	if m.err == nil {
		select {
		case spare <- m.key:
		default:
		}
	}
}

// Close stops the pool and returns when it makes no more keys.
func (p *Pool) Close() {
	p.start.Do(func() {}) // a pool that never started stays so
	p.finish.Do(func() { close(p.stop) })
	p.wg.Wait()
	for {
		select {
		case m := <-p.ready:
			m.save()
		default:
			return
		}
	}
}
