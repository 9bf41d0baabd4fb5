package fleet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// ReportVersion is the format version of the reports that this package writes.
const ReportVersion = 1

// An Outcome is what became of a device.
type Outcome string

// The outcomes.
const (
	Enrolled    Outcome = "enrolled"    // by this run
	Already     Outcome = "already"     // it had an identity, which was proved
	Failed      Outcome = "failed"      //
	Interrupted Outcome = "interrupted" // the run ended first
	NotStarted  Outcome = "not started"
)

// A Device is what a report knows of one device.
type Device struct {
	SerialNumber string  `json:"serialNumber"`
	Outcome      Outcome `json:"outcome"`
	// ThingName and CertificateID are what AWS IoT knows it by, as far as it
	// came; also of a device that failed half-way.
	ThingName     string `json:"thingName,omitempty"`
	CertificateID string `json:"certificateId,omitempty"`
	// Stage, Cause and Class tell why it failed. Class is a [provision.Class].
	Stage Stage  `json:"stage,omitempty"`
	Cause string `json:"cause,omitempty"`
	Class string `json:"class,omitempty"`
}

// A Report tells what a run has done and what it took. It is written as JSON;
// the keys are part of the command's contract.
type Report struct {
	FormatVersion int       `json:"formatVersion"`
	Command       string    `json:"command"` // enrol or storm
	Endpoint      string    `json:"endpoint"`
	Template      string    `json:"template,omitempty"`
	Started       time.Time `json:"started"`
	Plan          Plan      `json:"plan"`

	Counts           Counts  `json:"counts"`
	ElapsedSeconds   float64 `json:"elapsedSeconds"` // of the enrolment
	DevicesPerSecond float64 `json:"devicesPerSecond"`

	Stages   []Latency `json:"stages"`
	Failures []Trouble `json:"failures"` // devices that have no identity
	Retries  []Trouble `json:"retries"`  // attempts that were repeated or given up

	Resources Resources `json:"resources"`
	Timeline  Timeline  `json:"timeline"`
	Hold      *Held     `json:"hold,omitempty"`
	Storm     *Stormed  `json:"storm,omitempty"`
	Devices   []Device  `json:"devices"`
}

// A Plan is what was asked for.
type Plan struct {
	Devices     int     `json:"devices"` // of the whole launch
	FirstSerial string  `json:"firstSerial"`
	Shards      []Shard `json:"shards"` // that the report covers
	Concurrency int     `json:"concurrency"`
	Rate        float64 `json:"rate"` // devices per second; 0 for a closed loop
	RampSeconds float64 `json:"rampSeconds"`
	Quotas      *Quotas `json:"quotas,omitempty"`
}

// Counts are devices by outcome.
type Counts struct {
	Devices     int `json:"devices"` // of the shards
	Enrolled    int `json:"enrolled"`
	Already     int `json:"already"`
	Failed      int `json:"failed"`
	Interrupted int `json:"interrupted"`
	NotStarted  int `json:"notStarted"`
}

// Latency is the distribution of one stage, in milliseconds.
type Latency struct {
	Stage Stage   `json:"stage"`
	Count int64   `json:"count"`
	P50   float64 `json:"p50Ms"`
	P90   float64 `json:"p90Ms"`
	P99   float64 `json:"p99Ms"`
	Max   float64 `json:"maxMs"`
	// Histogram has every value, in microseconds, in HdrHistogram's own
	// compressed form (version 2, base64).
	Histogram string `json:"histogram"`

	h *hdrhistogram.Histogram
}

// Resources are what enrolling took on this side. Per device counts those
// that have an identity.
type Resources struct {
	CPUSeconds          float64 `json:"cpuSeconds"`
	CPUSecondsPerDevice float64 `json:"cpuSecondsPerDevice"`
	BytesIn             int64   `json:"bytesIn"` // TLS included, TCP and IP not
	BytesOut            int64   `json:"bytesOut"`
	BytesPerDevice      float64 `json:"bytesPerDevice"`
}

// A Timeline counts by the second from Started on.
type Timeline struct {
	Enrolled []int `json:"enrolled"`
	Failed   []int `json:"failed"`
	Connects []int `json:"connects"` // CONNACKs
}

// report makes a report of the enrolment.
func (l *launch) report() *Report {
	base := l.Device(l.Serials.At(0))
	r := &Report{
		FormatVersion: ReportVersion,
		Command:       "enrol",
		Endpoint:      base.Session.Endpoint,
		Template:      base.Template,
		Started:       l.meter.began.UTC().Truncate(time.Millisecond),
		Plan: Plan{
			Devices: l.Serials.Count, FirstSerial: l.Serials.At(0), Shards: []Shard{l.Shard},
			Concurrency: l.Load.Concurrency, Rate: l.Load.Rate, RampSeconds: l.Load.Ramp.Seconds(), Quotas: l.Quotas,
		},
		Devices: l.entries,
	}
	r.ElapsedSeconds = l.meter.elapsed.Seconds()
	r.Resources = Resources{CPUSeconds: l.meter.enrolCPU, BytesIn: l.meter.inThen, BytesOut: l.meter.outTo}
	r.count()
	return r
}

// count fills what follows from devices, elapsed time and resources.
func (r *Report) count() {
	r.Counts = Counts{Devices: len(r.Devices)}
	for _, d := range r.Devices {
		switch d.Outcome {
		case Enrolled:
			r.Counts.Enrolled++
		case Already:
			r.Counts.Already++
		case Failed:
			r.Counts.Failed++
		case Interrupted:
			r.Counts.Interrupted++
		default:
			r.Counts.NotStarted++
		}
	}
	done := float64(r.Counts.Enrolled + r.Counts.Already)
	r.DevicesPerSecond = ratio(done, r.ElapsedSeconds)
	r.Resources.CPUSecondsPerDevice = ratio(r.Resources.CPUSeconds, done)
	r.Resources.BytesPerDevice = ratio(float64(r.Resources.BytesIn+r.Resources.BytesOut), done)
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// fill adds what is complete only at the end of the run.
func (m *meter) fill(r *Report) {
	r.Stages = m.latencies.summary()
	r.Failures, r.Retries = m.failures.list(), m.retries.list()
	r.Timeline = Timeline{Enrolled: m.enrolled.counts(), Failed: m.lost.counts(), Connects: m.connects.counts()}
}

// summary returns the stages that were passed at least once, in order.
func (l *latencies) summary() []Latency {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := []Latency{}
	for _, s := range stages {
		if h := l.stages[s]; h != nil {
			list = append(list, summarize(s, h))
		}
	}
	return list
}

func summarize(s Stage, h *hdrhistogram.Histogram) Latency {
	ms := func(us int64) float64 { return float64(us) / 1000 }
	l := Latency{
		Stage: s, Count: h.TotalCount(), h: h,
		P50: ms(h.ValueAtQuantile(50)), P90: ms(h.ValueAtQuantile(90)), P99: ms(h.ValueAtQuantile(99)), Max: ms(h.Max()),
	}
	if encoded, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase); err == nil {
		l.Histogram = string(encoded)
	}
	return l
}

// list returns the troubles, the most frequent first.
func (t *troubles) list() []Trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := []Trouble{}
	for key, n := range t.counts {
		key.Count = n
		list = append(list, key)
	}
	slices.SortFunc(list, func(a, b Trouble) int {
		return cmp.Or(b.Count-a.Count, cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Cause, b.Cause))
	})
	return list
}

// Write writes the report as JSON.
func (r *Report) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	return e.Encode(r)
}

// ReadReport reads what [Report.Write] wrote.
func ReadReport(in io.Reader) (*Report, error) {
	var r Report
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return nil, fmt.Errorf("reading report: %w", err)
	}
	if r.FormatVersion != ReportVersion {
		return nil, fmt.Errorf("report has format version %d, this program reads version %d", r.FormatVersion, ReportVersion)
	}
	for i := range r.Stages {
		h, err := hdrhistogram.Decode([]byte(r.Stages[i].Histogram))
		if err != nil {
			return nil, fmt.Errorf("reading report: latencies of %s: %w", r.Stages[i].Stage, err)
		}
		r.Stages[i].h = h
	}
	return &r, nil
}

// Classes returns the classes of the devices that failed, each once, sorted.
func (r *Report) Classes() []string {
	classes := map[string]bool{}
	for _, d := range r.Devices {
		if d.Outcome == Failed {
			classes[d.Class] = true
		}
	}
	return slices.Sorted(maps.Keys(classes))
}
