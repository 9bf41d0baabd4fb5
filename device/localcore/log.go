package localcore

import (
	"context"
	"log/slog"
	"sync"
)

// A brokerLog passes mochi's log on at DEBUG: what matters of it is recorded
// as events. It drops whole packets, whose payloads may hold secrets.
type brokerLog struct {
	next slog.Handler
	gag  *gag
}

// A gag silences a log for good. mochi does not wait for the last line of its
// event loop; the caller's log must not get it after Close.
type gag struct {
	mu     sync.RWMutex
	silent bool // under mu
}

func (g *gag) apply() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.silent = true
}

// Enabled implements [slog.Handler].
func (h brokerLog) Enabled(ctx context.Context, _ slog.Level) bool {
	return h.next.Enabled(ctx, slog.LevelDebug)
}

// Handle implements [slog.Handler].
func (h brokerLog) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, slog.LevelDebug, "broker: "+r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "pk" && a.Key != "packet" && a.Key != "will" {
			out.AddAttrs(a)
		}
		return true
	})
	h.gag.mu.RLock()
	defer h.gag.mu.RUnlock()
	if h.gag.silent {
		return nil
	}
	return h.next.Handle(ctx, out)
}

// WithAttrs implements [slog.Handler].
func (h brokerLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return brokerLog{h.next.WithAttrs(attrs), h.gag}
}

// WithGroup implements [slog.Handler].
func (h brokerLog) WithGroup(name string) slog.Handler {
	return brokerLog{h.next.WithGroup(name), h.gag}
}
