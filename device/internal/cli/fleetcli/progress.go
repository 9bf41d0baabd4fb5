package fleetcli

import (
	"fmt"
	"os"
	"strings"
	"time"

	xterm "golang.org/x/term"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
)

// lineEvery is the interval of progress where lines cannot be rewritten.
const lineEvery = 5 * time.Second

// progress shows the progress of a fleet: one line rewritten in place on a terminal, a line now and
// then elsewhere.
type progress struct {
	console *cli.Console
	width   func() int // columns of the terminal
	shown   time.Time
	phase   fleet.Phase
	open    bool // a line is unfinished
}

func newProgress(console *cli.Console) *progress {
	return &progress{console: console, shown: time.Now(), width: func() int {
		if columns, _, err := xterm.GetSize(int(os.Stderr.Fd())); err == nil && columns > 0 {
			return columns
		}
		return 80
	}}
}

func (b *progress) show(p fleet.Progress) {
	total, done := p.Devices, p.Done+p.Failed
	text := fmt.Sprintf("%d failed, %.1f/s", p.Failed, p.Rate())
	if left := p.Left(); left > 0 {
		text += fmt.Sprintf(", %s left", left.Round(time.Second))
	}
	if p.Phase != fleet.PhaseEnroll {
		total, done, text = p.Done, p.Held, "connected"
	}
	switch {
	case b.console.Live():
		if b.phase != p.Phase {
			b.end()
		}
		fmt.Fprint(b.console.Err, "\r", line(string(p.Phase), done, total, text, b.width()), eraseRest)
		b.open = true
	case b.phase != p.Phase && (b.phase != "" || p.Elapsed >= lineEvery), time.Since(b.shown) >= lineEvery:
		b.shown = time.Now()
		b.console.Note(fmt.Sprintf("%s: %d of %d, %s", p.Phase, done, total, text))
	default:
		return
	}
	b.phase = p.Phase
}

const eraseRest = "\x1b[K"

// line returns a line of progress that is narrower than the terminal: in the last column some would
// wrap. The bar takes what is left, or is left out.
func line(phase string, done, total int, text string, columns int) string {
	text = fmt.Sprintf("%s %d/%d, %s", phase, done, total, text)
	columns = max(0, columns-1)
	if room := min(30, columns-len(text)-3); room >= 5 && total > 0 {
		full := min(room, room*done/total)
		text = "[" + strings.Repeat("#", full) + strings.Repeat(".", room-full) + "] " + text
	}
	return text[:min(len(text), columns)]
}

// end leaves the line.
func (b *progress) end() {
	if b.open {
		fmt.Fprintln(b.console.Err)
		b.open = false
	}
}
