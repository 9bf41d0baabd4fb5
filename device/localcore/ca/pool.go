package ca

import (
	"context"
	"crypto/rsa"
	"sync"
)

// ready holds the keys that pools have made and nobody has taken. It is the process's:
// a test starts many servers, one after the other. Each key that is made, or being made,
// is counted in wanted.
var (
	ready  = make(chan *rsa.PrivateKey, 4)
	wanted = make(chan struct{}, cap(ready))
)

// A Pool makes RSA keys ahead of need, because one takes a tenth of a second.
// It starts with the first Take, and is safe for concurrent use. The zero
// value is not usable; see [NewPool].
type Pool struct {
	stop          chan struct{}
	start, finish sync.Once
	filling       sync.WaitGroup
}

// NewPool returns a pool, which the caller closes.
func NewPool() *Pool { return &Pool{stop: make(chan struct{})} }

// Take returns a key, waiting for it if none is ready. The error is ctx's, or
// [context.Canceled] when the pool is closed.
func (p *Pool) Take(ctx context.Context) (*rsa.PrivateKey, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.start.Do(func() { p.filling.Go(p.fill) })
	select {
	case key := <-ready:
		<-wanted
		return key, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.stop:
		return nil, context.Canceled
	}
}

func (p *Pool) fill() {
	for {
		select {
		case wanted <- struct{}{}:
		case <-p.stop:
			return
		}
		key, err := NewKey()
		if err != nil {
			panic("ca: making a key of a constant length: " + err.Error())
		}
		ready <- key // has room, as it is counted
	}
}

// Close stops the pool and returns when it makes no more keys.
func (p *Pool) Close() {
	p.start.Do(func() {}) // a pool that never started stays so
	p.finish.Do(func() { close(p.stop) })
	p.filling.Wait()
}
