package corecli

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
)

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestIdentitiesOfAnEarlierRunAreReported has a folder whose name would be a pattern, and no reader
// of the ready line, which ends the command.
func TestIdentitiesOfAnEarlierRunAreReported(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a[1*")
	devices := filepath.Join(dir, "devices")
	if err := errors.Join(os.MkdirAll(devices, 0o700), os.WriteFile(filepath.Join(devices, "fleety_1.certificate.pem"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cli.Main(Program(), []string{"serve", "--listen", "127.0.0.1:0", "--api", "none", "--hook", "none", "--credentials", dir}, term.New(strings.NewReader(""), closed{}, &log, nil))
	if !strings.Contains(log.String(), devices) {
		t.Error(log.String())
	}
}

func TestLogsOnATerminalAreShort(t *testing.T) {
	certificate := strings.Repeat("0123456789abcdef", 4)
	for name, test := range map[string]struct {
		color bool
		log   func(*slog.Logger)
		want  string
	}{
		"an event": {false, func(l *slog.Logger) { l.Info("published", "client", "a", "certificate", certificate) }, "published    client=a certificate=01234567…"},
		"a rejection": {true, func(l *slog.Logger) { l.With("client", "a").Warn("rejected", "reason", "not allowed") },
			term.Red + "rejected    " + term.Reset + ` client=a reason="not allowed"`},
		"a registration":   {true, func(l *slog.Logger) { l.Info("provisioned") }, term.Green + "provisioned " + term.Reset},
		"text of a client": {false, func(l *slog.Logger) { l.Info("x\x1b[2J", "topic", "a\nb\x07") }, "x\uFFFD[2J        topic=a b\uFFFD"},
		"a debug record":   {false, func(l *slog.Logger) { l.Debug("subscribed") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			test.log(slog.New(&terminalHandler{Handler: slog.NewTextHandler(&out, nil), out: &out, color: test.color}))
			line, whole := strings.CutSuffix(out.String(), "\n")
			line = strings.NewReplacer(term.Dim, "", term.Reset+" ", " ").Replace(line)
			if _, err := time.Parse("15:04:05.000", line[:min(12, len(line))]); test.want != "" && (err != nil || !whole) {
				t.Fatalf("%q begins with no time: %v", line, err)
			}
			if got := strings.TrimPrefix(line[min(12, len(line)):], " "); got != strings.ReplaceAll(test.want, term.Reset+" ", " ") {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// A port that this user may not have is no place on the disk.
func TestPortThatTakesRootIsNamed(t *testing.T) {
	err := &net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", syscall.EACCES)}
	if hint := explain(err).Hint; !strings.Contains(hint, "ports below 1024") {
		t.Errorf("the hint is %q", hint)
	}
}
