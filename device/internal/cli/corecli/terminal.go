package corecli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"example.com/fleety/device/internal/term"
	"example.com/fleety/device/localcore"
)

// A terminalHandler writes logs for people who watch a terminal: a line for each
// record, in color, with short certificate ids. It stands over the handler that
// knows the level.
type terminalHandler struct {
	slog.Handler
	out   io.Writer // safe for concurrent use
	color bool
	attrs []slog.Attr
}

const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	dim   = "\x1b[2m"
	reset = "\x1b[0m"
)

func (h *terminalHandler) Handle(_ context.Context, r slog.Record) error {
	message, at := fmt.Sprintf("%-12s", term.Clean(r.Message)), r.Time.Local().Format("15:04:05.000")
	if h.color {
		at = dim + at + reset
		switch {
		case r.Level >= slog.LevelWarn:
			message = red + message + reset
		case r.Message == string(localcore.Provisioned), r.Message == string(localcore.Connected):
			message = green + message + reset
		}
	}
	var b strings.Builder
	write := func(a slog.Attr) bool {
		value := a.Value.Resolve().String()
		switch {
		case a.Key == "certificate" && len(value) > 8:
			value = value[:8] + "…"
		case value == "" || strings.ContainsAny(value, " \"="):
			value = strconv.Quote(value)
		}
		fmt.Fprintf(&b, " %s=%s", a.Key, term.Clean(value))
		return true
	}
	for _, a := range h.attrs {
		write(a)
	}
	r.Attrs(write)
	_, err := io.WriteString(h.out, at+" "+message+b.String()+"\n")
	return err
}

// WithAttrs implements [slog.Handler].
func (h *terminalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = slices.Concat(h.attrs, attrs)
	return &with
}

// WithGroup implements [slog.Handler]: the emulator has no groups.
func (h *terminalHandler) WithGroup(string) slog.Handler { return h }
