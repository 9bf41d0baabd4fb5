package lambdahost

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"example.com/fleety/device/awsiot"
)

const (
	maxLine   = 64 << 10 // bytes; a longer line is split
	keptLines = 32       // of standard error, for ErrExited
)

// An output turns what a function writes into log records, one per line.
type output struct {
	log *slog.Logger

	streams   []*stream
	requestID atomic.Value // a string, of the invocation under way
	stderr    []string     // the last lines; of the stream, until the process has ended
}

// A stream is standard output or standard error. It is written by one goroutine.
type stream struct {
	out     *output
	name    string
	partial []byte // the start of a line
}

func (o *output) stream(name string) io.Writer {
	s := &stream{out: o, name: name}
	o.streams = append(o.streams, s)
	return s
}

// flush logs what did not end with a newline. It must not run beside a write.
func (o *output) flush() {
	for _, s := range o.streams {
		s.emit(s.partial)
		s.partial = nil
	}
}

// Write never fails, so that the function never blocks on its output.
func (s *stream) Write(b []byte) (int, error) {
	s.partial = append(s.partial, b...)
	for {
		line, rest, whole := bytes.Cut(s.partial, []byte("\n"))
		switch {
		case len(line) > maxLine:
			line, rest = s.partial[:maxLine], s.partial[maxLine:]
		case !whole:
			return len(b), nil
		}
		s.emit(line)
		s.partial = rest
	}
}

func (s *stream) emit(line []byte) {
	text := strings.TrimRight(string(line), "\r")
	if text == "" {
		return
	}
	if s.name == "stderr" {
		s.out.stderr = append(s.out.stderr, text)
		s.out.stderr = s.out.stderr[max(0, len(s.out.stderr)-keptLines):]
	}

	level, message, attrs := readLine(text)
	if _, named := attrs["requestId"]; !named && s.out.requestID.Load() != nil {
		attrs["requestId"] = s.out.requestID.Load()
	}
	attrs["stream"] = s.name
	list := make([]slog.Attr, 0, len(attrs))
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		list = append(list, slog.Any(key, attrs[key]))
	}
	s.out.log.LogAttrs(context.Background(), level, message, list...)
}

// readLine reads a line that a structured logger wrote as a JSON object with a message. Any other
// line is itself the message.
func readLine(line string) (level slog.Level, message string, attrs map[string]any) {
	if line[0] != '{' || awsiot.DecodeJSON([]byte(line), &attrs) != nil {
		return slog.LevelInfo, line, map[string]any{}
	}
	for _, key := range []string{slog.MessageKey, "message"} {
		if text, ok := attrs[key].(string); ok {
			name, _ := attrs[slog.LevelKey].(string)
			_ = level.UnmarshalText([]byte(name))                              // what is no level leaves INFO
			for _, known := range []string{key, slog.LevelKey, slog.TimeKey} { // the record has its own time
				delete(attrs, known)
			}
			return level, text, attrs
		}
	}
	return slog.LevelInfo, line, map[string]any{}
}
