package fleet

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
	"time"
)

//go:embed report.html
var pageSource string

var page = template.Must(template.New("report.html").Funcs(template.FuncMap{
	"ms":      milliseconds,
	"seconds": FormatSeconds,
	"add":     func(a, b int) int { return a + b },
	"fixed":   func(x float64) string { return fmt.Sprintf("%.1f", x) },
	"milli":   func(x float64) string { return fmt.Sprintf("%.1f", 1000*x) },
	"kilo":    func(x float64) string { return fmt.Sprintf("%.1f", x/1000) },
	"float":   func(n int64) float64 { return float64(n) },
	"time":    func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04:05 UTC") },
}).Parse(pageSource))

// HTML writes the report as one page that needs nothing else: no network, no
// script.
func (r *Report) HTML(w io.Writer) error {
	data := struct {
		*Report
		Charts []chart
	}{r, r.charts()}
	if err := page.Execute(w, data); err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	return nil
}

// milliseconds writes a latency with the digits that matter.
func milliseconds(ms float64) string {
	switch {
	case ms >= 10_000:
		return fmt.Sprintf("%.1f s", ms/1000)
	case ms >= 100:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f ms", ms)
}

// A chart is an inline picture, drawn for wide and for narrow screens.
type chart struct {
	Title, Note string
	Legend      []legend
	Views       []*view
}

type legend struct{ Class, Label string }

// A view is a chart in the units of its picture, which the page scales.
type view struct {
	ID, Class                        string // Class is wide or narrow
	Width, Height, Left, Right, Foot float64
	X, Y                             []tick
	Bars                             []bar
	Lines                            []line
	Dots                             []dot
}

type tick struct {
	At    float64
	Label string // may be empty
}

type bar struct {
	X, Y, W, H   float64
	Class, Title string // Title is shown under the pointer
}

type line struct{ Path, Class string }

type dot struct {
	X, Y         float64
	Class, Title string
}

const top = 12.0 // of the drawing, in a view

// LabelFoot is the line of the labels under the drawing.
func (v *view) LabelFoot() float64 { return v.Foot + 21 }

// draw returns a chart of both views. rows is the number of rows of fixed
// height, 0 for a chart of the usual height.
func draw(id, title, note string, rows int, paint func(*view), legends ...legend) chart {
	c := chart{Title: title, Note: note, Legend: legends}
	for _, v := range []*view{
		{ID: id + "-wide", Class: "wide", Width: 640, Height: 260, Left: 84, Right: 620},
		{ID: id + "-narrow", Class: "narrow", Width: 350, Height: 230, Left: 66, Right: 334},
	} {
		if rows > 0 {
			v.Height = 46 + rowHeight*float64(rows)
		}
		v.Foot = v.Height - 34
		paint(v)
		c.Views = append(c.Views, v)
	}
	return c
}

const rowHeight = 26.0

// An axis maps values to the units of a view, linearly or by their logarithm.
type axis struct {
	low, high, from, to float64
	log                 bool
}

func (a axis) at(v float64) float64 {
	low, high := a.low, a.high
	if a.log {
		v, low, high = math.Log(max(v, a.low)), math.Log(low), math.Log(high)
	}
	return a.from + (v-low)/(high-low)*(a.to-a.from)
}

// linear returns an axis from 0, and about n ticks at round values.
func linear(high, from, to float64, n int, label func(float64) string) (axis, []tick) {
	a := axis{high: high, from: from, to: to}
	var ticks []tick
	for step, v := round125(high/float64(n), 1), 0.0; v <= high*1.0001; v += step {
		ticks = append(ticks, tick{a.at(v), label(v)})
	}
	return a, ticks
}

// millis returns a logarithmic axis of milliseconds around the values, from one
// of 1, 2, 5, 10 … to another, with a tick at each. Those between powers of ten
// have a label where there is room for it.
func (v *view) millis(low, high float64) (axis, []tick) {
	a := axis{low: round125(max(low, 0.001), 0), high: round125(max(high, 0.002), 1), from: v.Left, to: v.Right, log: true}
	if a.high <= a.low {
		a.high = round125(a.low*1.01, 1)
	}
	const room = 48
	decade := (a.to - a.from) / math.Log10(a.high/a.low)
	var ticks []tick
	for at := a.low; at <= a.high*1.0001; at = round125(at*1.01, 1) {
		t := tick{At: a.at(at)}
		power := math.Abs(math.Remainder(math.Log10(at), 1)) < 0.01
		if power && decade >= room || decade*math.Log10(2) >= room || power && math.Abs(math.Remainder(math.Log10(at), 2)) < 0.01 {
			t.Label = axisMillis(at)
		}
		ticks = append(ticks, t)
	}
	return a, ticks
}

// round125 rounds to 1, 2 or 5 times a power of ten: down, or up if up is 1.
func round125(x float64, up int) float64 {
	if x <= 0 {
		return 1
	}
	steps := [...]float64{1, 2, 5, 10, 20}
	power := math.Pow(10, math.Floor(math.Log10(x)))
	i := 0
	for i < 3 && steps[i+1]*power <= x*1.0001 {
		i++
	}
	if up == 1 && steps[i]*power < x*0.9999 {
		i++
	}
	return steps[i] * power
}

func axisMillis(ms float64) string {
	if ms >= 1000 {
		return fmt.Sprintf("%.4g s", ms/1000)
	}
	return fmt.Sprintf("%.3g ms", ms)
}

func plain(v float64) string         { return fmt.Sprintf("%.4g", v) }
func axisSeconds(v float64) string   { return plain(v) + " s" }
func (v *view) path(class, d string) { v.Lines = append(v.Lines, line{d, class}) }

func (r *Report) charts() []chart {
	var list []chart
	if len(r.Timeline.Enrolled)+len(r.Timeline.Failed) > 0 {
		list = append(list, r.timelineChart())
	}
	if r.Hold != nil && r.Hold.Reconnect != nil {
		list = append(list, r.Hold.Reconnect.chart())
	}
	if len(r.Stages) > 0 {
		list = append(list, r.stageChart())
	}
	for _, s := range r.Stages {
		switch {
		case s.h == nil || s.Count == 0:
		case s.Stage == StageDevice:
			list = append(list, s.distributionChart("Time to enroll", "From when a device was due to the acknowledgment of its first message."))
		case s.Stage == StageReturn:
			list = append(list, s.distributionChart("Time to reconnect", "From the loss of a connection to the next one."))
		}
	}
	return list
}

// timelineChart shows how the number of enrolled devices grows.
func (r *Report) timelineChart() chart {
	legends := []legend{{"one", "enrolled"}}
	if r.Counts.Failed > 0 {
		legends = append(legends, legend{"bad", "failed"})
	}
	return draw("timeline", "Enrolled over time", "", 0, func(v *view) {
		seconds := max(len(r.Timeline.Enrolled), len(r.Timeline.Failed))
		var x, y axis
		x, v.X = linear(float64(seconds), v.Left, v.Right, int(v.Width/110), axisSeconds)
		y, v.Y = linear(float64(max(1, r.Counts.Enrolled+r.Counts.Already, r.Counts.Failed)), v.Foot, top, 4, plain)
		growth := func(counts []int) string {
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
		enrolled := growth(r.Timeline.Enrolled)
		v.path("area", fmt.Sprintf("%sL%.1f %.1fZ", enrolled, v.Right, v.Foot))
		v.path("one", enrolled)
		if r.Counts.Failed > 0 {
			v.path("bad", growth(r.Timeline.Failed))
		}
	}, legends...)
}

// stageChart shows each stage from its median to its 99th percentile, with its
// maximum.
func (r *Report) stageChart() chart {
	note := "From the median to the 99th percentile, on a logarithmic scale."
	return draw("stages", "Latency by stage", note, len(r.Stages), func(v *view) {
		low, high := r.Stages[0].P50, r.Stages[0].Max
		for _, s := range r.Stages {
			low, high = min(low, s.P50), max(high, s.Max)
		}
		var x axis
		x, v.X = v.millis(low, high)
		for i, s := range r.Stages {
			y := top + rowHeight*float64(i)
			title := fmt.Sprintf("%s: p50 %s, p90 %s, p99 %s, max %s, %d times", s.Stage, milliseconds(s.P50), milliseconds(s.P90), milliseconds(s.P99), milliseconds(s.Max), s.Count)
			v.Y = append(v.Y, tick{y + rowHeight/2, string(s.Stage)})
			v.Bars = append(v.Bars, bar{x.at(s.P50), y + 6, max(2, x.at(s.P90)-x.at(s.P50)), rowHeight - 12, "one", title})
			v.Bars = append(v.Bars, bar{x.at(s.P90), y + 6, max(0, x.at(s.P99)-x.at(s.P90)), rowHeight - 12, "two", title})
			v.Dots = append(v.Dots, dot{x.at(s.Max), y + rowHeight/2, "bad", title})
		}
	}, legend{"one", "p50 to p90"}, legend{"two", "p90 to p99"}, legend{"bad", "max"})
}

// distributionChart shows how the latencies of a stage are distributed.
func (s Latency) distributionChart(title, note string) chart {
	return draw("distribution-"+string(s.Stage), title, note+" Share of devices, on a logarithmic scale.", 0, func(v *view) {
		var x, y axis
		x, v.X = v.millis(float64(s.h.Min())/1000, s.Max)
		counts := make([]int64, int(v.Width/14))
		width := (v.Right - v.Left) / float64(len(counts))
		most := int64(1)
		for _, b := range s.h.Distribution() {
			i := min(len(counts)-1, max(0, int((x.at(float64(b.To)/1000)-v.Left)/width)))
			counts[i] += b.Count
			most = max(most, counts[i])
		}
		share := func(n int64) float64 { return 100 * float64(n) / float64(s.Count) }
		y, v.Y = linear(share(most), v.Foot, top, 4, func(p float64) string { return plain(p) + " %" })
		for i, n := range counts {
			if n > 0 {
				at := y.at(share(n))
				v.Bars = append(v.Bars, bar{v.Left + width*float64(i) + 0.5, at, width - 1, v.Foot - at, "one", fmt.Sprintf("%d devices, %.1f %%", n, share(n))})
			}
		}
	})
}

// chart shows the connections per second beside the ideal.
func (r *Reconnect) chart() chart {
	return draw("reconnect", "Connections per second after the first loss", "", 0, func(v *view) {
		var x, y axis
		x, v.X = linear(float64(max(1, len(r.Connects))), v.Left, v.Right, int(v.Width/110), axisSeconds)
		y, v.Y = linear(max(1, float64(r.PeakConnects), r.IdealConnects), v.Foot, top, 4, plain)
		for second, n := range r.Connects {
			left, right := x.at(float64(second)), x.at(float64(second+1))
			v.Bars = append(v.Bars, bar{left + 0.5, y.at(float64(n)), max(1, right-left-1), v.Foot - y.at(float64(n)), "one", fmt.Sprintf("second %d: %d", second, n)})
		}
		ideal := y.at(r.IdealConnects)
		v.path("bad", fmt.Sprintf("M%.1f %.1fL%.1f %.1f", v.Left, ideal, v.Right, ideal))
	}, legend{"one", "connections"}, legend{"bad", "ideal: the same number, spread evenly over the window"})
}
