package agent

import (
	"context"
	"crypto/x509"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/fleety/device/agent/outbox"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/session"
)

func TestDelaysGrowToFiveMinutesAndBeginAnewAfterAConnectionThatLasted(t *testing.T) {
	var b backoff
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
		if d := b.next(0); d < 0 || d >= want*time.Second || b.limit != want*time.Second {
			t.Errorf("attempt %d: delay %v of at most %v, want %v", i, d, b.limit, want*time.Second)
		}
	}
	// Of two clients that take the client id from each other, each connection lasts as long as the
	// other one's delay, and at most as long as its limit.
	if b.next(maxDelay - 1); b.limit != maxDelay {
		t.Errorf("the limit after a takeover is %v", b.limit)
	}
	if b.next(maxDelay); b.limit != firstDelay {
		t.Errorf("the limit after a connection that lasted is %v", b.limit)
	}
	if b.next(time.Second); b.limit != 2*firstDelay {
		t.Errorf("the limit after a short connection is %v", b.limit)
	}
	if b.next(time.Minute); b.limit != firstDelay {
		t.Errorf("the limit after a minute is %v", b.limit)
	}
}

// AWS IoT discards what exceeds 100 publishes per second, and delays what exceeds 512 KB.
func TestPublishesKeepWithinAWSRates(t *testing.T) {
	for _, size := range []int{100, 20 << 10} {
		synctest.Test(t, func(t *testing.T) {
			var p pace
			type publish struct {
				at    time.Time
				bytes int
			}
			var all []publish
			began := time.Now()
			for len(all) < 1000 {
				n, err := p.wait(t.Context(), 7)
				if err != nil || n < 1 || n > 7 {
					t.Fatal(n, err)
				}
				for range n {
					all = append(all, publish{time.Now(), size})
				}
				p.sent(n, n*size)
				time.Sleep(20 * time.Millisecond) // a round trip
			}
			first, bytes := 0, 0
			for i, m := range all {
				for bytes += m.bytes; m.at.Sub(all[first].at) >= time.Second; first++ {
					bytes -= all[first].bytes
				}
				if i+1-first > publishesPerSecond || bytes > bytesPerSecond+7*size {
					t.Fatalf("%d publishes and %d bytes within a second", i+1-first, bytes)
				}
			}
			least := max(time.Duration(len(all)/publishesPerSecond), time.Duration(len(all)*size/bytesPerSecond)) * time.Second
			if took := time.Since(began); took > least*5/4 {
				t.Errorf("%d publishes of %d bytes took %v", len(all), size, took)
			}
		})
	}
}

// A slow link must not take so long for what was sent at once that the connection is given up.
func TestSlowLinkIsSentLessAtOnce(t *testing.T) {
	var w window
	for _, rate := range []int{10 << 10, 2 << 10, 100 << 20} { // bytes per second
		for range 10 {
			w.adapt(min(time.Duration(w.bytes())*time.Second/time.Duration(rate), answerTimeout))
		}
		if took := time.Duration(w.bytes()) * time.Second / time.Duration(rate); took > answerTimeout/6 {
			t.Errorf("with %d bytes per second %d bytes take %v", rate, w.bytes(), took)
		}
	}
	if w.bytes() != bytesPerSecond {
		t.Errorf("the fast link gets %d bytes", w.bytes())
	}
}

func TestWaitingToPublishEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		p.sent(publishesPerSecond, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := p.wait(ctx, 1); err == nil {
			t.Error("waited longer than its context")
		}
	})
}

// A system that was suspended, or whose clock was set, has its connection replaced within 1.5
// keep-alives, and a device that is not connected tries again.
func TestJumpOfTheClockIsNoticedWithinOneAndAHalfKeepAlives(t *testing.T) {
	id := &identity.Identity{Certificate: &x509.Certificate{NotBefore: time.Now(), NotAfter: time.Now().AddDate(20, 0, 0)}}
	for name, jump := range map[string]time.Duration{"suspended": 8 * time.Hour, "clock set": 27 * 365 * 24 * time.Hour, "set back": -time.Minute, "adjusted": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var offset atomic.Int64
				a := &agent{now: func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }}
				within := func(what string, wait func(ctx context.Context)) {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
					defer cancel()
					offset.Store(0)
					time.AfterFunc(20*time.Second, func() { offset.Store(int64(jump)) })
					began := time.Now()
					wait(ctx)
					took, most := time.Since(began)-20*time.Second, session.DefaultKeepAlive*3/2
					if noticed := took <= most; noticed != (jump.Abs() > time.Second) {
						t.Errorf("%s: ended %v after the jump", what, took)
					}
				}
				within("the connection", func(ctx context.Context) {
					using, cancel := context.WithCancel(context.WithoutCancel(ctx))
					defer cancel()
					a.outbox = outbox.New(outbox.Config{Path: filepath.Join(t.TempDir(), "outbox.db")}) // to be drained
					defer a.outbox.Close()
					if err := a.awaitEnd(ctx, using, new(session.Session), id); (causeOf(err) == "clock") != (ctx.Err() == nil) {
						t.Errorf("the connection ended with %v", err)
					}
				})
				within("the delay", func(ctx context.Context) { a.sleepUntilJump(ctx, 5*time.Minute) })
			})
		})
	}
}
