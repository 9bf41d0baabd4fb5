package fleet

import (
	"fmt"
	"math"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The size of a chart in its own units; the page scales it.
const (
	chartWidth  = 640.0
	chartHeight = 260.0
	marginLeft  = 84.0
	marginRight = 20.0
	marginTop   = 12.0
	marginFoot  = 34.0
)

// A chart is an inline picture: ticks, shapes and a legend, all in chart units.
type chart struct {
	ID, Title, Note string
	Height          float64
	X, Y            []tick
	Bars            []bar
	Lines           []line
	Dots            []dot
	Legend          []legend
}

type tick struct {
	At    float64
	Label string
}

type bar struct {
	X, Y, W, H float64
	Class      string
	Title      string // shown under the pointer
}

type line struct {
	Path, Class string
}

type dot struct {
	X, Y  float64
	Class string
	Title string
}

type legend struct{ Class, Label string }

func (c chart) empty() bool { return len(c.Bars)+len(c.Lines) == 0 }

// Width, Left, Right, Foot and LabelFoot are for the page.
func (c chart) Width() float64     { return chartWidth }
func (c chart) Left() float64      { return marginLeft }
func (c chart) Right() float64     { return chartWidth - marginRight }
func (c chart) Foot() float64      { return c.Height - marginFoot }
func (c chart) LabelFoot() float64 { return c.Height - marginFoot + 18 }

// A scale maps values to chart units, in proportion or by their logarithm.
type scale struct {
	low, high float64
	from, to  float64
	log       bool
}

func (s scale) at(v float64) float64 {
	low, high := s.low, s.high
	if s.log {
		v, low, high = math.Log(max(v, s.low)), math.Log(low), math.Log(high)
	}
	if high == low {
		return s.from
	}
	return s.from + (v-low)/(high-low)*(s.to-s.from)
}

// ticks returns about n marks at round values.
func (s scale) ticks(n int, label func(float64) string) []tick {
	var list []tick
	if s.log {
		for v := s.low; v <= s.high*1.0001; v *= 10 {
			list = append(list, tick{s.at(v), label(v)})
		}
		return list
	}
	step := niceStep((s.high - s.low) / float64(n))
	for v := s.low; v <= s.high*1.0001; v += step {
		list = append(list, tick{s.at(v), label(v)})
	}
	return list
}

// niceStep rounds up to 1, 2 or 5 times a power of ten.
func niceStep(raw float64) float64 {
	if raw <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5} {
		if raw <= m*power {
			return m * power
		}
	}
	return 10 * power
}

// logBounds returns powers of ten around the values.
func logBounds(low, high float64) (float64, float64) {
	low, high = max(low, 0.001), max(high, 0.01)
	l, h := math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
	if l == h {
		h *= 10
	}
	return l, h
}

func plain(v float64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
}

func axisMillis(ms float64) string {
	switch {
	case ms >= 1000:
		return plain(ms/1000) + " s"
	case ms < 1:
		return fmt.Sprintf("%g ms", ms)
	}
	return plain(ms) + " ms"
}

// timelineChart shows how the enrolled devices grow over time.
func (r *Report) timelineChart() chart {
	c := chart{ID: "timeline", Title: "Enrolled over time", Height: chartHeight}
	if r.Storm != nil || len(r.Timeline.Enrolled)+len(r.Timeline.Failed) == 0 {
		return c
	}
	seconds := max(len(r.Timeline.Enrolled), len(r.Timeline.Failed))
	total := float64(max(1, r.Counts.Enrolled+r.Counts.Already, r.Counts.Failed))
	x := scale{low: 0, high: float64(seconds), from: marginLeft, to: chartWidth - marginRight}
	y := scale{low: 0, high: total, from: chartHeight - marginFoot, to: marginTop}
	c.X = x.ticks(6, func(v float64) string { return plain(v) + " s" })
	c.Y = y.ticks(4, plain)
	grown := growth(r.Timeline.Enrolled, seconds, x, y)
	foot := fmt.Sprintf("L%.1f %.1fL%.1f %.1fZ", x.at(float64(seconds)), y.at(0), x.at(0), y.at(0))
	c.Lines = []line{{grown + foot, "area"}, {grown, "one"}}
	c.Legend = []legend{{"one", "enrolled"}}
	if r.Counts.Failed > 0 {
		c.Lines = append(c.Lines, line{growth(r.Timeline.Failed, seconds, x, y), "bad"})
		c.Legend = append(c.Legend, legend{"bad", "failed"})
	}
	return c
}

// growth draws the running sum of counts by the second.
func growth(counts []int, seconds int, x, y scale) string {
	var path strings.Builder
	fmt.Fprintf(&path, "M%.1f %.1f", x.at(0), y.at(0))
	sum := 0
	for second := range seconds {
		if second < len(counts) {
			sum += counts[second]
		}
		fmt.Fprintf(&path, "L%.1f %.1f", x.at(float64(second+1)), y.at(float64(sum)))
	}
	return path.String()
}

// stageChart shows each stage from its median to its 99th percentile, with its
// slowest.
func (r *Report) stageChart() chart {
	const row = 26.0
	c := chart{
		ID: "stages", Title: "Latency by stage", Height: marginTop + marginFoot + row*float64(len(r.Stages)),
		Note:   "From the median to 99 of 100; the scale is logarithmic.",
		Legend: []legend{{"one", "p50 to p90"}, {"two", "p90 to p99"}, {"bad", "slowest"}},
	}
	if len(r.Stages) == 0 {
		return c
	}
	low, high := r.Stages[0].P50, r.Stages[0].Max
	for _, s := range r.Stages {
		low, high = min(low, s.P50), max(high, s.Max)
	}
	low, high = logBounds(low, high)
	x := scale{low: low, high: high, from: marginLeft, to: chartWidth - marginRight, log: true}
	c.X = x.ticks(0, axisMillis)
	for i, s := range r.Stages {
		top := marginTop + row*float64(i)
		title := fmt.Sprintf("%s: p50 %s, p90 %s, p99 %s, slowest %s, %d times", s.Stage, milliseconds(s.P50), milliseconds(s.P90), milliseconds(s.P99), milliseconds(s.Max), s.Count)
		c.Y = append(c.Y, tick{top + row/2, string(s.Stage)})
		c.Bars = append(c.Bars,
			bar{x.at(s.P50), top + 6, max(2, x.at(s.P90)-x.at(s.P50)), row - 12, "one", title},
			bar{x.at(s.P90), top + 6, max(0, x.at(s.P99)-x.at(s.P90)), row - 12, "two", title})
		c.Dots = append(c.Dots, dot{x.at(s.Max), top + row/2, "bad", title})
	}
	return c
}

// distributionChart shows how the latencies of one stage spread.
func (r *Report) distributionChart(stage Stage) chart {
	c := chart{
		ID: "distribution-" + string(stage), Height: chartHeight,
		Title: "How long one device took", Note: "From when it was due to its acknowledged birth message; share of devices, logarithmic scale.",
	}
	if stage == StageReturn {
		c.Title, c.Note = "How long a device was away", "From the loss of its connection to the next; share of devices, logarithmic scale."
	}
	h := r.histogram(stage)
	if h == nil || h.TotalCount() == 0 {
		return c
	}
	const bins = 48
	low, high := logBounds(float64(h.Min())/1000, float64(h.Max())/1000)
	x := scale{low: low, high: high, from: marginLeft, to: chartWidth - marginRight, log: true}
	counts, most := binned(h, low, high, bins)
	y := scale{low: 0, high: 100 * float64(most) / float64(h.TotalCount()), from: chartHeight - marginFoot, to: marginTop}
	c.X, c.Y = x.ticks(0, axisMillis), y.ticks(4, func(v float64) string { return plain(v) + " %" })
	width := (x.to - x.from) / bins
	for i, n := range counts {
		if n == 0 {
			continue
		}
		share := 100 * float64(n) / float64(h.TotalCount())
		c.Bars = append(c.Bars, bar{x.from + width*float64(i) + 0.5, y.at(share), width - 1, y.from - y.at(share), "one", fmt.Sprintf("%d devices, %.1f %%", n, share)})
	}
	return c
}

// binned counts the values of h in bins of equal width on a logarithmic scale.
func binned(h *hdrhistogram.Histogram, low, high float64, bins int) (counts []int64, most int64) {
	counts = make([]int64, bins)
	place := scale{low: low, high: high, from: 0, to: float64(bins), log: true}
	for _, b := range h.Distribution() {
		if b.Count == 0 {
			continue
		}
		i := min(bins-1, max(0, int(place.at(float64(b.To)/1000))))
		counts[i] += b.Count
		most = max(most, counts[i])
	}
	return counts, most
}

// histogram returns the latencies of a stage, nil if it was not passed.
func (r *Report) histogram(stage Stage) *hdrhistogram.Histogram {
	for _, s := range r.Stages {
		if s.Stage == stage {
			return s.h
		}
	}
	return nil
}

// stormChart shows connections by the second beside what would be ideal.
func (r *Report) stormChart() chart {
	c := chart{
		ID: "storm", Title: "Connections a second after the loss", Height: chartHeight,
		Note: "The line is the ideal: as many, spread evenly over the window.",
	}
	if r.Storm == nil || len(r.Storm.Connects) == 0 {
		return c
	}
	counts := r.Storm.Connects
	x := scale{low: 0, high: float64(len(counts)), from: marginLeft, to: chartWidth - marginRight}
	y := scale{low: 0, high: float64(max(1, r.Storm.PeakConnects)), from: chartHeight - marginFoot, to: marginTop}
	c.X = x.ticks(6, func(v float64) string { return plain(v) + " s" })
	c.Y = y.ticks(4, plain)
	for second, n := range counts {
		left := x.at(float64(second))
		c.Bars = append(c.Bars, bar{left + 0.5, y.at(float64(n)), max(1, x.at(float64(second+1))-left-1), y.from - y.at(float64(n)), "one", fmt.Sprintf("second %d: %d", second, n)})
	}
	ideal := y.at(r.Storm.IdealConnects)
	c.Lines = []line{{fmt.Sprintf("M%.1f %.1fL%.1f %.1f", x.from, ideal, x.to, ideal), "bad"}}
	c.Legend = []legend{{"one", "connections"}, {"bad", "ideal"}}
	return c
}
