package fleetcli

import (
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
)

// lineEvery is how often progress is told where lines cannot be rewritten.
const lineEvery = 5 * time.Second

// A bar shows the progress of a fleet: rewritten in place on a terminal, as a
// plain line now and then elsewhere.
type bar struct {
	console *cli.Console
	bar     *progressbar.ProgressBar // nil for plain lines
	told    time.Time
	phase   string
}

func newBar(console *cli.Console) *bar { return &bar{console: console, told: time.Now()} }

func (b *bar) show(p fleet.Progress) {
	if !b.console.Live() {
		b.line(p)
		return
	}
	total, done := p.Devices, p.Done+p.Failed
	if p.Phase != fleet.PhaseEnrol {
		total, done = p.Done, p.Held
	}
	if b.bar == nil || b.phase != p.Phase {
		b.end()
		b.phase = p.Phase
		b.bar = progressbar.NewOptions(total,
			progressbar.OptionSetWriter(b.console.Err),
			progressbar.OptionSetWidth(24),
			progressbar.OptionShowCount(),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionUseANSICodes(true),
			progressbar.OptionEnableColorCodes(false),
		)
	}
	b.bar.Describe(text(p))
	_ = b.bar.Set(done) // a terminal that is gone is no reason to stop
}

// line tells of progress in a line of its own, not too often.
func (b *bar) line(p fleet.Progress) {
	if time.Since(b.told) < lineEvery && b.phase == p.Phase || b.phase == "" && p.Elapsed < lineEvery {
		return
	}
	b.told, b.phase = time.Now(), p.Phase
	b.console.Note(fmt.Sprintf("%d of %d: %s", p.Done+p.Failed, p.Devices, text(p)))
}

// text says how fast it goes, what failed, and how long it will take.
func text(p fleet.Progress) string {
	if p.Phase != fleet.PhaseEnrol {
		return fmt.Sprintf("%s, %d connected", p.Phase, p.Held)
	}
	t := fmt.Sprintf("%s, %.1f/s, %d failed", p.Phase, p.Rate(), p.Failed)
	if left := p.Left(); left > 0 {
		t += fmt.Sprintf(", about %s left", left.Round(time.Second))
	}
	return t
}

// end leaves the line of the bar.
func (b *bar) end() {
	if b.bar != nil {
		fmt.Fprintln(b.console.Err)
		b.bar = nil
	}
}
