package fleetcli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
)

// lineEvery is the interval of progress where lines cannot be rewritten.
const lineEvery = 5 * time.Second

// progress shows the progress of a fleet: a step for each phase, rewritten in place on a terminal,
// a line now and then elsewhere.
type progress struct {
	console *cli.Console
	shown   time.Time // when a line was, or the beginning
	phase   fleet.Phase
	line    string // of the phase, on a terminal
}

func (b *progress) show(p fleet.Progress) {
	total, done := p.Devices, p.Done+p.Failed
	text := fmt.Sprintf("%d failed, %.1f/s", p.Failed, p.Rate())
	if left := p.Left(); left > 0 {
		text += fmt.Sprintf(", %s left", left.Round(time.Second))
	}
	if p.Done == 0 && p.Latest != nil { // no report will say why for minutes
		text += fmt.Sprintf("; %s: %s", p.Latest.Stage, p.Latest.Cause)
	}
	if p.Phase != fleet.PhaseEnroll {
		total, done, text = p.Done, p.Held, "connected"
	}
	switch {
	case b.console.Live():
		if b.phase != p.Phase {
			b.end()
		}
		b.line = fmt.Sprintf("%s %d/%d, %s", p.Phase, done, total, text)
		const width = 20
		full := min(width, width*done/max(1, total))
		bar := strings.Repeat("#", full) + strings.Repeat(".", width-full)
		b.console.ShowStep(cli.Step{Text: b.line + " [" + bar + "]", Wait: true}) // the next one replaces it
	case b.phase != "" && b.phase != p.Phase, time.Since(b.shown) >= lineEvery:
		b.shown = time.Now()
		b.console.Note(fmt.Sprintf("%s: %d of %d, %s", p.Phase, done, total, text))
	default:
		return
	}
	b.phase = p.Phase
}

// end leaves the line.
func (b *progress) end() {
	if b.line != "" {
		b.console.ShowStep(cli.Step{Text: b.line})
		_, _ = io.WriteString(b.console.Err, "") // ends it
		b.line = ""
	}
}
