package localcore

import (
	"context"
	"log/slog"
)

// A brokerLog passes mochi's log on at DEBUG: what matters of it is recorded
// as events. It drops whole packets, whose payloads may hold secrets.
type brokerLog struct{ next slog.Handler }

func (h brokerLog) Enabled(ctx context.Context, _ slog.Level) bool {
	return h.next.Enabled(ctx, slog.LevelDebug)
}

func (h brokerLog) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, slog.LevelDebug, "broker: "+r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "pk" && a.Key != "packet" && a.Key != "will" {
			out.AddAttrs(a)
		}
		return true
	})
	return h.next.Handle(ctx, out)
}

func (h brokerLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return brokerLog{h.next.WithAttrs(attrs)}
}
func (h brokerLog) WithGroup(name string) slog.Handler { return brokerLog{h.next.WithGroup(name)} }
