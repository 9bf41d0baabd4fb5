package fleet

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"
)

//go:embed report.html
var pageSource string

var page = template.Must(template.New("report.html").Funcs(template.FuncMap{
	"charts":  (*Report).charts,
	"ms":      milliseconds,
	"seconds": FormatSeconds,
	"add":     func(a, b int) int { return a + b },
	"percent": func(x float64) string { return fmt.Sprintf("%.2f%%", x) },
	"milli":   func(x float64) string { return fmt.Sprintf("%.1f", 1000*x) },
	"kilo":    func(x float64) string { return fmt.Sprintf("%.1f", x/1000) },
	"float":   func(n int64) float64 { return float64(n) },
}).Parse(pageSource))

// HTML writes the report as one page that needs nothing else: no network, no script.
func (r *Report) HTML(w io.Writer) error {
	if err := page.Execute(w, r); err != nil {
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

// A chart is an inline picture. Its positions are in percent of its width and height, from the top
// left, so that it fits every screen.
type chart struct {
	ID, Title, Note string
	Legend          []legend
	Height          int // in pixels
	X, Y            []tick
	Bars            []bar
	Lines           []line
	Dots            []bar // at its corner
}

type legend struct{ Class, Label string }

type tick struct {
	At    float64
	Label string // may be empty
}

type bar struct {
	X, Y, W, H   float64
	Class, Title string // Title is shown under the pointer
}

type line struct{ Path, Class string }

const usualHeight, rowHeight = 220, 26

// round are the numbers at ticks: 1, 2 and 5 times the powers of ten, from the shortest latency in
// milliseconds on.
var round = func() (list []float64) {
	for power := -3; power <= 308; power++ {
		p := math.Pow10(power)
		list = append(list, p, 2*p, 5*p)
	}
	return list
}()

// linear returns where the values from 0 to high are, and about four ticks at round ones.
func linear(high float64, unit string) (at func(float64) float64, ticks []tick) {
	at = func(v float64) float64 { return 100 * v / high }
	step, _ := slices.BinarySearch(round, 0.9999*high/4) // the ticks of 40001 seconds are those of 40000
	for v := 0.0; v/high <= 1.0001; v += round[step] {
		ticks = append(ticks, tick{at(v), fmt.Sprintf("%.8g", v) + unit})
	}
	return at, ticks
}

// upward sets the axis of Y, linear from the bottom to the top.
func (c *chart) upward(high float64, unit string) (at func(float64) float64) {
	up, ticks := linear(high, unit)
	for _, t := range ticks {
		c.Y = append(c.Y, tick{100 - t.At, t.Label})
	}
	return func(v float64) float64 { return 100 - up(v) }
}

// logarithmic returns where milliseconds are on an axis around the values, from one round number to
// another, with a tick at each. Those between powers of ten have a label where there is room for it
// on a phone.
func logarithmic(low, high float64) (at func(float64) float64, ticks []tick) {
	from, exact := slices.BinarySearch(round, low)
	if !exact {
		from = max(0, from-1)
	}
	to, _ := slices.BinarySearch(round, high)
	to = max(to, from+1)
	low, high = round[from], round[to]
	at = func(ms float64) float64 { return 100 * math.Log(max(ms, low)/low) / math.Log(high/low) }
	const room = 25
	decade := 100 / math.Log10(high/low)
	for i := from; i <= to; i++ {
		v, label := round[i], ""
		if power := i%3 == 0; decade*math.Log10(2) >= room || power && (decade >= room || i%6 == 3) {
			label = fmt.Sprintf("%.3g ms", v)
			if v >= 1000 {
				label = fmt.Sprintf("%.8g s", v/1000)
			}
		}
		ticks = append(ticks, tick{at(v), label})
	}
	return at, ticks
}

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
	seconds := max(len(r.Timeline.Enrolled), len(r.Timeline.Failed))
	x, ticks := linear(float64(seconds), " s")
	c := chart{ID: "timeline", Title: "Enrolled over time", Height: usualHeight, X: ticks, Legend: []legend{{"one", "enrolled"}}}
	y := c.upward(float64(max(1, r.Counts.Enrolled+r.Counts.Already, r.Counts.Failed)), "")
	growth := func(counts []int) string {
		var path strings.Builder
		path.WriteString("M0 100")
		sum := 0
		for second := range seconds {
			if second < len(counts) {
				sum += counts[second]
			}
			fmt.Fprintf(&path, "L%.2f %.2f", x(float64(second+1)), y(float64(sum)))
		}
		return path.String()
	}
	enrolled := growth(r.Timeline.Enrolled)
	c.Lines = []line{{enrolled + "L100 100Z", "area"}, {enrolled, "one"}}
	if r.Counts.Failed > 0 {
		c.Lines = append(c.Lines, line{growth(r.Timeline.Failed), "bad"})
		c.Legend = append(c.Legend, legend{"bad", "failed"})
	}
	return c
}

// stageChart shows each stage from its median to its 99th percentile, with its maximum.
func (r *Report) stageChart() chart {
	low, high := r.Stages[0].P50, r.Stages[0].Max
	for _, s := range r.Stages {
		low, high = min(low, s.P50), max(high, s.Max)
	}
	x, ticks := logarithmic(low, high)
	c := chart{
		ID: "stages", Title: "Latency by stage", Note: "From the median to the 99th percentile, on a logarithmic scale.", Height: rowHeight * len(r.Stages), X: ticks,
		Legend: []legend{{"one", "p50 to p90"}, {"two", "p90 to p99"}, {"bad", "max"}},
	}
	row := 100 / float64(len(r.Stages))
	for i, s := range r.Stages {
		y := row * float64(i)
		title := fmt.Sprintf("%s: p50 %s, p90 %s, p99 %s, max %s, %s", s.Stage, milliseconds(s.P50), milliseconds(s.P90), milliseconds(s.P99), milliseconds(s.Max), FormatCount(int(s.Count), "time", "times"))
		c.Y = append(c.Y, tick{y + row/2, string(s.Stage)})
		c.Bars = append(c.Bars,
			bar{x(s.P50), y + row/4, max(0.3, x(s.P90)-x(s.P50)), row / 2, "one", title},
			bar{x(s.P90), y + row/4, max(0, x(s.P99)-x(s.P90)), row / 2, "two", title})
		c.Dots = append(c.Dots, bar{X: x(s.Max), Y: y + row/2, Class: "bad", Title: title})
	}
	return c
}

// distributionChart shows how the latencies of a stage are distributed.
func (s Latency) distributionChart(title, note string) chart {
	x, ticks := logarithmic(float64(s.h.Min())/1000, s.Max)
	c := chart{ID: "distribution-" + string(s.Stage), Title: title, Note: note + " Share of devices, on a logarithmic scale.", Height: usualHeight, X: ticks}
	var counts [36]int64
	const width = 100 / float64(len(counts))
	most := int64(1)
	for _, b := range s.h.Distribution() {
		i := min(len(counts)-1, max(0, int(x(float64(b.To)/1000)/width)))
		counts[i] += b.Count
		most = max(most, counts[i])
	}
	share := func(n int64) float64 { return 100 * float64(n) / float64(s.Count) }
	y := c.upward(share(most), " %")
	for i, n := range counts {
		if n > 0 {
			top := y(share(n))
			c.Bars = append(c.Bars, bar{width*float64(i) + 0.1, top, width - 0.2, 100 - top, "one", fmt.Sprintf("%s, %.1f %%", FormatCount(int(n), "device", "devices"), share(n))})
		}
	}
	return c
}

// chart shows the connections per second beside the ideal.
func (r *Reconnect) chart() chart {
	x, ticks := linear(float64(max(1, len(r.Connects))), " s")
	c := chart{
		ID: "reconnect", Title: "Connections per second after the first loss", Height: usualHeight, X: ticks,
		Legend: []legend{{"one", "connections"}, {"bad", "ideal: the same number, spread evenly over the window"}},
	}
	y := c.upward(max(1, float64(r.PeakConnects), r.IdealConnects), "")
	for second, n := range r.Connects {
		top := y(float64(n))
		c.Bars = append(c.Bars, bar{x(float64(second)) + 0.1, top, max(0.2, x(1)-0.2), 100 - top, "one", fmt.Sprintf("second %d: %d", second, n)})
	}
	ideal := y(r.IdealConnects)
	c.Lines = []line{{fmt.Sprintf("M0 %.2fL100 %.2f", ideal, ideal), "bad"}}
	return c
}
