package fleet

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"time"
)

//go:embed report.html
var pageSource string

var page = template.Must(template.New("report.html").Funcs(template.FuncMap{
	"ms":      milliseconds,
	"seconds": func(s float64) string { return secondsText(s) },
	"fixed":   func(x float64) string { return fmt.Sprintf("%.1f", x) },
	"time":    func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04:05 UTC") },
}).Parse(pageSource))

// HTML writes the report as one page that needs nothing else: no network, no
// script.
func (r *Report) HTML(w io.Writer) error {
	if err := page.Execute(w, newPage(r)); err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	return nil
}

// A pageData is the report with its charts.
type pageData struct {
	*Report
	Tiles  []tile
	Charts []chart
}

// A tile is one figure that matters most.
type tile struct{ Figure, Unit, Label string }

func newPage(r *Report) pageData {
	p := pageData{Report: r, Tiles: r.tiles()}
	for _, c := range []chart{r.timelineChart(), r.stormChart(), r.stageChart(), r.distributionChart(StageDevice), r.distributionChart(StageReturn)} {
		if !c.empty() {
			p.Charts = append(p.Charts, c)
		}
	}
	return p
}

func (r *Report) tiles() []tile {
	if s := r.Storm; s != nil {
		return []tile{
			{fmt.Sprint(s.Returned), fmt.Sprintf("of %d", s.Devices), "devices came back"},
			{secondsText(s.ReturnSeconds), "", "until the last was back"},
			{fmt.Sprint(s.PeakConnects), "a second", "connections at the peak"},
			{fmt.Sprintf("%.1f", s.IdealConnects), "a second", "if spread evenly over the window"},
		}
	}
	t := []tile{
		{fmt.Sprint(r.Counts.Enrolled + r.Counts.Already), fmt.Sprintf("of %d", r.Counts.Devices), "devices enrolled"},
		{fmt.Sprintf("%.1f", r.DevicesPerSecond), "a second", "devices"},
		{fmt.Sprint(r.Counts.Failed), "", "devices failed"},
		{fmt.Sprintf("%.1f", 1000*r.Resources.CPUSecondsPerDevice), "ms", "CPU for each device"},
		{fmt.Sprintf("%.1f", r.Resources.BytesPerDevice/1000), "kB", "network for each device"},
	}
	if h := r.Hold; h != nil {
		t = append(t, tile{fmt.Sprint(h.Most), "", "devices held"}, tile{fmt.Sprintf("%.1f", float64(h.BytesPerDevice)/1000), "kB", "memory for each held"})
	}
	return t
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

func secondsText(s float64) string {
	if s < 60 {
		return fmt.Sprintf("%.1f s", s)
	}
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}
