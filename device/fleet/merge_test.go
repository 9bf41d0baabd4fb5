package fleet_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/fleet"
)

// written returns a report as another process reads it.
func written(t *testing.T, r *fleet.Report) *fleet.Report {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	again, err := fleet.ReadReport(&b)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestMergeSumsShards(t *testing.T) {
	t.Parallel()
	const n = 9
	core := startEmulator(t)
	c := newConfig(t, core, n)
	var parts []*fleet.Report
	for i, version := range []string{"v2, v3", "v1, v2"} { // those of reports that were merged
		c.Shard = fleet.Shard{Index: i + 1, Of: 2}
		parts = append(parts, written(t, enroll(t, c)))
		parts[i].Version = version
	}
	r, err := fleet.Merge(parts...)
	if err != nil {
		t.Fatal(err)
	}
	if want := (fleet.Counts{Devices: n, Enrolled: n}); r.Counts != want {
		t.Errorf("counts are %+v", r.Counts)
	}
	if r.Version != "v1, v2, v3" {
		t.Errorf("version %q", r.Version)
	}
	checkRegistry(t, core, r)
	if got := stagesOf(r); got[fleet.StageDevice] != n || got[fleet.StageDial] != 2*n {
		t.Errorf("stages are %v", got)
	}
	for i, s := range r.Stages {
		if want := max(parts[0].Stages[i].Max, parts[1].Stages[i].Max); s.Max != want {
			t.Errorf("the slowest %s took %v, want %v", s.Stage, s.Max, want)
		}
	}
	if sum(r.Timeline.Enrolled) != n || r.ElapsedSeconds < parts[0].ElapsedSeconds+parts[1].ElapsedSeconds-0.1 {
		t.Errorf("timeline %+v in %v s", r.Timeline, r.ElapsedSeconds)
	}
	if r.Resources.BytesIn != parts[0].Resources.BytesIn+parts[1].Resources.BytesIn {
		t.Errorf("resources are %+v", r.Resources)
	}
	if diff := cmp.Diff([]fleet.Shard{{Index: 1, Of: 2}, {Index: 2, Of: 2}}, r.Plan.Shards); diff != "" {
		t.Errorf("shards (-want +got):\n%s", diff)
	}
}

func TestMergeRejectsReportsOfDifferentLaunches(t *testing.T) {
	t.Parallel()
	report := func(change func(*fleet.Report)) *fleet.Report {
		r := &fleet.Report{
			FormatVersion: fleet.ReportVersion, Command: "enroll", Endpoint: "localhost", Template: "T",
			Started: time.Date(2026, time.November, 27, 0, 0, 0, 0, time.UTC),
			Plan:    fleet.Plan{Devices: 10, FirstSerial: "2974680000001", Shards: []fleet.Shard{{Index: 2, Of: 2}}},
		}
		change(r)
		return r
	}
	first := report(func(r *fleet.Report) { r.Plan.Shards[0].Index = 1 })
	for name, change := range map[string]func(*fleet.Report){
		"the same shard":   func(r *fleet.Report) { r.Plan.Shards[0].Index = 1 },
		"another division": func(r *fleet.Report) { r.Plan.Shards[0].Of = 3 },
		"another endpoint": func(r *fleet.Report) { r.Endpoint = "elsewhere" },
		"another template": func(r *fleet.Report) { r.Template = "U" },
		"another range":    func(r *fleet.Report) { r.Plan.FirstSerial = "2974689000001" },
		"another clock":    func(r *fleet.Report) { r.Started = time.Date(1970, time.January, 1, 0, 0, 0, 0, time.UTC) },
		"another month":    func(r *fleet.Report) { r.Started = r.Started.AddDate(0, 1, 0) },
		"another number":   func(r *fleet.Report) { r.Plan.Devices = 11 },
	} {
		t.Run(name, func(t *testing.T) {
			r, err := fleet.Merge(first, report(change))
			if !errors.Is(err, fleet.ErrMerge) || r != nil {
				t.Errorf("got %v, %v", r, err)
			}
		})
	}
	if _, err := fleet.Merge(first, report(func(*fleet.Report) {})); err != nil {
		t.Errorf("two shards that belong together: %v", err)
	}
}

// A report of a few kilobytes must not take gigabytes.
func TestReportHasNoMoreStagesThanADevice(t *testing.T) {
	t.Parallel()
	r := fleet.Report{FormatVersion: fleet.ReportVersion, Stages: make([]fleet.Latency, 1000)}
	histogram := hdrhistogram.New(1, math.MaxInt64, 5)
	if err := histogram.RecordValue(1); err != nil {
		t.Fatal(err)
	}
	text, err := histogram.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Stages {
		r.Stages[i] = fleet.Latency{Stage: fleet.StageDial, Histogram: string(text)}
	}
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.ReadReport(&b); err == nil {
		t.Errorf("a report of %d bytes was read", b.Len())
	}
}

// Of two reports in one file, as cat writes them, the second must not be lost.
func TestReadReportReadsAllOfTheFile(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	for range 2 {
		r := fleet.Report{FormatVersion: fleet.ReportVersion}
		if err := r.Write(&b); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := fleet.ReadReport(&b); err == nil {
		t.Errorf("read %+v", r)
	}
}

func FuzzReadReport(f *testing.F) {
	f.Add(`{"formatVersion":1,"stages":[]}`)
	f.Add(`{"formatVersion":1,"stages":[{"stage":"dial","histogram":"HISTFAAAAA"}]}`)
	f.Add(`{"formatVersion":2}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := fleet.ReadReport(strings.NewReader(text))
		if err != nil {
			return
		}
		if r.FormatVersion != fleet.ReportVersion {
			t.Errorf("read version %d", r.FormatVersion)
		}
		if slices.ContainsFunc(r.Stages, func(s fleet.Latency) bool { return s.Histogram == "" }) {
			t.Error("read a stage without latencies")
		}
	})
}
