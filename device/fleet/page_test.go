package fleet_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"html"
	"image/png"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/fleet"
)

var picture = flag.String("picture", "", "write a picture of the report's page into this file")

// browser returns the path of a headless browser. Where there is none, the test is skipped, but
// never in CI.
func browser(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("a browser takes seconds for a page")
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("no browser: install the package chromium")
	}
	t.Skip("no browser: install the package chromium")
	return ""
}

// browse opens a page in the browser, which has no network, and returns what it writes. What the
// page logs is an error.
func browse(t *testing.T, page string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	args = append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
		"--user-data-dir=" + t.TempDir(), "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
	}, args...)
	cmd := exec.CommandContext(ctx, browser(t), append(args, (&url.URL{Scheme: "file", Path: page}).String())...)
	var log strings.Builder
	cmd.Stderr = &log
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "CONSOLE") {
			t.Errorf("the page logs: %s", line)
		}
	}
	return string(out)
}

// sampleReport enrolls devices, one of them in vain, so that every part of the page has something
// to show.
func sampleReport(t *testing.T) *fleet.Report {
	t.Helper()
	core := startEmulator(t)
	core.Faults.Set(rejectThird())
	c := newConfig(t, core, 40)
	c.Load.Concurrency = 8
	c.Hold, c.Interval = time.Second, 200*time.Millisecond
	return enroll(t, c)
}

// savePage writes the page of a report into a file.
func savePage(t *testing.T, r *fleet.Report) (path, text string) {
	t.Helper()
	var b strings.Builder
	if err := r.HTML(&b); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, b.String()
}

func TestPageIsSelfContained(t *testing.T) {
	t.Parallel()
	_, text := savePage(t, sampleReport(t))
	for _, forbidden := range []string{"http://", "https://", "<script", "@import", "ZgotmplZ", "NaN", "Inf"} {
		if strings.Contains(text, forbidden) {
			t.Errorf("the page has %q", forbidden)
		}
	}
	if !strings.Contains(text, "<main>") || !strings.Contains(text, "</main>") {
		t.Error("the page has no landmark, which screen readers go to")
	}
}

// TestPageOfALargeFleetHasPlainNumbers has values of five digits on both axes.
func TestPageOfALargeFleetHasPlainNumbers(t *testing.T) {
	t.Parallel()
	r := fleet.Report{
		Counts:   fleet.Counts{Devices: 20_000, Enrolled: 20_000},
		Timeline: fleet.Timeline{Enrolled: append(make([]int, 40_000), 20_000)},
		Stages:   []fleet.Latency{{Stage: fleet.StageDial, Count: 1, P50: 1, P90: 2, P99: 3, Max: 7_200_000}},
	}
	_, text := savePage(t, &r)
	for _, want := range []string{">20000<", ">40000 s<", ">10000 s<"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %s", want)
		}
	}
}

// A measure is what the browser says of the page.
type measure struct {
	Charts   []string // by id; drawn, with room on the screen
	Overflow bool     // the page, or a section of it, is wider than its screen
	Small    int      // labels of less than 9 pixels, or that overlap another of their axis
	Failures string   // "first" if they stand before the charts, empty if there are none
}

// TestPageFitsScreens looks at the page as a phone and a desk would show it.
func TestPageFitsScreens(t *testing.T) {
	t.Parallel()
	browser(t)
	r := sampleReport(t)
	path, _ := savePage(t, r)
	for i := range r.Stages { // as wide as they can be
		s := &r.Stages[i]
		s.Count, s.P50, s.P90, s.P99, s.Max = 200_000, 9999, 9999, 9999, 7_200_000
	}
	_, text := savePage(t, r)
	for name, width := range map[string]int{"phone": 390, "small phone": 360, "desk": 1200} {
		t.Run(name, func(t *testing.T) {
			want := measure{Charts: []string{"timeline", "stages", "distribution-device"}, Failures: "first"}
			if diff := cmp.Diff(want, measured(t, text, width)); diff != "" {
				t.Errorf("page (-want +got):\n%s", diff)
			}
		})
	}
	shot := filepath.Join(t.TempDir(), "page.png")
	if *picture != "" {
		shot = *picture
	}
	browse(t, path, "--screenshot="+shot, "--window-size=800,1500")
	if share := colored(t, shot); share < 0.005 {
		t.Errorf("%.2f %% of the picture has a chart's colour", 100*share)
	}
}

func TestPageOfReconnectFitsPhone(t *testing.T) {
	t.Parallel()
	browser(t)
	c := holdConfig(t, startEmulator(t), 10, 5*time.Second, time.Second, 2*time.Second)
	_, text := savePage(t, enroll(t, c))
	want := measure{Charts: []string{"timeline", "reconnect", "stages", "distribution-device", "distribution-return"}}
	if diff := cmp.Diff(want, measured(t, text, 390)); diff != "" {
		t.Errorf("page (-want +got):\n%s", diff)
	}
}

// measured shows the page in a frame of that width and asks the browser about it.
func measured(t *testing.T, page string, width int) measure {
	t.Helper()
	const ask = `<script>onload = () => {
		const d = document.querySelector("iframe").contentDocument;
		const shapes = s => [...s.querySelectorAll("rect, path")].some(e => e.getBoundingClientRect().height > 1);
		document.querySelector("pre").textContent = JSON.stringify({
			Charts: [...d.querySelectorAll("section > svg")].filter(s => s.getBoundingClientRect().height > 50 && shapes(s)).map(s => s.id),
			Overflow: [d.documentElement, ...d.querySelectorAll("section")].some(e => e.scrollWidth > e.clientWidth),
			Small: [...d.querySelectorAll("section > svg")].filter(s => s.getBoundingClientRect().height > 50).flatMap(s => {
				const boxes = [...s.querySelectorAll("text")].filter(e => e.textContent).map(e => e.getBoundingClientRect());
				const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
				return boxes.filter((b, i) => b.height < 9 || boxes.slice(i + 1).some(o => overlap(b, o)));
			}).length,
			Failures: d.querySelector("section.bad") ? (d.querySelector("section.bad").compareDocumentPosition(d.querySelector("svg")) & 4 ? "first" : "late") : "",
		});
	}</script>`
	frame := fmt.Sprintf(`<!DOCTYPE html><pre></pre><iframe width="%d" height="800" srcdoc="%s"></iframe>%s`, width, html.EscapeString(page), ask)
	path := filepath.Join(t.TempDir(), "frame.html")
	if err := os.WriteFile(path, []byte(frame), 0o600); err != nil {
		t.Fatal(err)
	}
	dom := browse(t, path, "--dump-dom")
	found := regexp.MustCompile(`<pre>(.*?)</pre>`).FindStringSubmatch(dom)
	if found == nil {
		t.Fatalf("no answer in %.300s", dom)
	}
	var m measure
	if err := json.Unmarshal([]byte(html.UnescapeString(found[1])), &m); err != nil {
		t.Fatalf("%v in %q", err, found[1])
	}
	return m
}

// colored returns the share of a picture's points that are blue, as the charts are and nothing
// else.
func colored(t *testing.T, path string) float64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	n, blue := 0, 0
	size := img.Bounds()
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			r, _, b, _ := img.At(x, y).RGBA()
			n++
			if b > r+0x4000 {
				blue++
			}
		}
	}
	return float64(blue) / float64(n)
}
