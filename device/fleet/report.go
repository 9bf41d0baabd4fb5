package fleet

import (
	"cmp"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"example.com/fleety/device/awsiot"
)

// ReportVersion is the format version of the reports that this package writes.
const ReportVersion = 1

// An Outcome is the result of one device.
type Outcome string

// The outcomes.
const (
	Enrolled    Outcome = "enrolled" // by this run
	Already     Outcome = "already"  // it had an identity, which was verified
	Failed      Outcome = "failed"
	Interrupted Outcome = "interrupted" // the run ended first
	NotStarted  Outcome = "not started"
)

// A Device is what a report knows of one device.
type Device struct {
	SerialNumber string  `json:"serialNumber"`
	Outcome      Outcome `json:"outcome"`
	// ThingName and CertificateID are those in AWS IoT, as far as the device got; also of one that
	// failed half-way.
	ThingName     string `json:"thingName,omitempty"`
	CertificateID string `json:"certificateId,omitempty"`
	// Stage, Cause and Class of the failure. Class is a [awsiot.Class].
	Stage Stage  `json:"stage,omitempty"`
	Cause string `json:"cause,omitempty"`
	Class string `json:"class,omitempty"`
}

// A Report is the result of a run. It is written as JSON; the keys are part of the command's
// contract.
type Report struct {
	FormatVersion int    `json:"formatVersion"`
	Command       string `json:"command"` // enroll
	// Version and CommandLine are the program's, for the reader of the report later. They hold no
	// secret.
	Version     string `json:"version,omitempty"`
	CommandLine string `json:"commandLine,omitempty"`
	// ClaimCertificateID is that of the claim, which no device's may be.
	ClaimCertificateID string    `json:"claimCertificateId,omitempty"`
	Endpoint           string    `json:"endpoint"`
	Template           string    `json:"template,omitempty"`
	Started            time.Time `json:"started"`
	Plan               Plan      `json:"plan"`

	Counts           Counts  `json:"counts"`
	ElapsedSeconds   float64 `json:"elapsedSeconds"` // of the enrollment
	DevicesPerSecond float64 `json:"devicesPerSecond"`

	Stages   []Latency `json:"stages"`
	Failures []Failure `json:"failures"` // devices that have no identity
	Retries  []Failure `json:"retries"`  // attempts that were repeated or given up

	Resources Resources `json:"resources"`
	Timeline  Timeline  `json:"timeline"`
	Hold      *Held     `json:"hold,omitempty"`
	Devices   []Device  `json:"devices"`
}

// A Plan is the request.
type Plan struct {
	Devices     int     `json:"devices"` // of the whole launch
	FirstSerial string  `json:"firstSerial"`
	Shards      []Shard `json:"shards"` // that the report covers
	Concurrency int     `json:"concurrency"`
	Rate        float64 `json:"rate"` // devices per second; 0 for a closed loop
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
	// Histogram has every value, in microseconds, in HdrHistogram's own compressed form (version 2,
	// base64).
	Histogram string `json:"histogram"`

	h *hdrhistogram.Histogram
}

// Resources are what enrolling took on this side. Per device counts those that have an identity.
type Resources struct {
	CPUSeconds          float64 `json:"cpuSeconds"`
	CPUSecondsPerDevice float64 `json:"cpuSecondsPerDevice"`
	BytesIn             int64   `json:"bytesIn"` // of connections, TLS included, TCP and IP not
	BytesOut            int64   `json:"bytesOut"`
	BytesPerDevice      float64 `json:"bytesPerDevice"`
}

// A Timeline counts by the second from Started on.
type Timeline struct {
	Enrolled []int `json:"enrolled"`
	Failed   []int `json:"failed"`
	Connects []int `json:"connects"` // CONNACKs
}

// report makes the report of the enrollment, which has just ended.
func (l *launch) report() *Report {
	base := l.Device(l.Serials.At(0))
	r := &Report{
		FormatVersion: ReportVersion,
		Command:       "enroll",
		Endpoint:      base.Session.Endpoint,
		Template:      base.Template,
		Started:       l.meter.began.UTC().Truncate(time.Millisecond),
		Plan: Plan{
			Devices: l.Serials.Count, FirstSerial: l.Serials.At(0), Shards: []Shard{l.Shard},
			Concurrency: l.Load.Concurrency, Rate: l.Load.Rate, Quotas: l.Quotas,
		},
		ElapsedSeconds: time.Since(l.meter.began).Seconds(),
		Resources:      Resources{CPUSeconds: usage() - l.meter.cpu, BytesIn: l.meter.in.Load(), BytesOut: l.meter.out.Load()},
		Devices:        l.devices,
	}
	if len(base.Claims) > 0 {
		r.ClaimCertificateID = awsiot.CertificateID(&x509.Certificate{Raw: base.Claims[0].Certificate[0]})
	}
	r.count()
	return r
}

// Complete reports whether the run did what it was to do: no device failed, and all that were held
// are connected at the end.
func (r *Report) Complete() bool {
	return r.Counts.Failed == 0 && (r.Hold == nil || r.Hold.Connected == r.Hold.Devices)
}

// Headline says in one line how the run ended, failures first.
func (r *Report) Headline() string {
	c, done := r.Counts, r.Counts.Enrolled+r.Counts.Already
	switch h := r.Hold; {
	case c.Failed > 0 && done == 0:
		return fmt.Sprintf("Enrollment failed: none of %s enrolled", FormatCount(c.Devices, "device", "devices"))
	case c.Failed > 0:
		return fmt.Sprintf("Enrollment failed for %d of %s", c.Failed, FormatCount(c.Devices, "device", "devices"))
	case h != nil && h.Connected < h.Devices:
		return fmt.Sprintf("Connection lost: %d of %s not connected at the end", h.Devices-h.Connected, FormatCount(h.Devices, "held device is", "held devices are"))
	case done < c.Devices:
		return fmt.Sprintf("Enrollment ended early: %d of %s enrolled", done, FormatCount(c.Devices, "device", "devices"))
	case h != nil && h.Reconnect != nil:
		return fmt.Sprintf("%s enrolled, %d reconnected", FormatCount(done, "device", "devices"), h.Reconnect.Returned)
	}
	return FormatCount(done, "device", "devices") + " enrolled"
}

// Throughput says in words how fast devices were enrolled; empty if none was.
func (r *Report) Throughput() string {
	if r.DevicesPerSecond == 0 {
		return ""
	}
	return fmt.Sprintf("On average, %.1f devices per second were enrolled: %.0f per minute. At this rate, 20000 devices take %s.",
		r.DevicesPerSecond, 60*r.DevicesPerSecond, FormatSeconds(20_000/r.DevicesPerSecond))
}

// FormatCount writes a number with what there is of it, one or many.
func FormatCount(n int, one, many string) string {
	if n == 1 {
		many = one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// FormatSeconds writes a duration of up to many days with the digits that matter.
func FormatSeconds(seconds float64) string {
	const day = 24 * time.Hour
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%d days %d h", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%.1f s", seconds)
}

// count fills what follows from devices, elapsed time and resources.
func (r *Report) count() {
	r.Counts = Counts{Devices: len(r.Devices)}
	c := &r.Counts
	by := map[Outcome]*int{Enrolled: &c.Enrolled, Already: &c.Already, Failed: &c.Failed, Interrupted: &c.Interrupted}
	for _, d := range r.Devices {
		*cmp.Or(by[d.Outcome], &c.NotStarted)++
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
	m.mu.Lock()
	defer m.mu.Unlock()
	r.Failures, r.Retries = m.failures.list(), m.retries.list()
	r.Timeline = m.timeline
	r.Stages = []Latency{}
	ms := func(us int64) float64 { return float64(us) / 1000 }
	for _, s := range stages {
		if h := m.latencies[s]; h != nil {
			histogram, _ := h.EncodeV2() // into memory
			r.Stages = append(r.Stages, Latency{
				Stage: s, Count: h.TotalCount(), h: h, Histogram: string(histogram),
				P50: ms(h.ValueAtQuantile(50)), P90: ms(h.ValueAtQuantile(90)), P99: ms(h.ValueAtQuantile(99)), Max: ms(h.Max()),
			})
		}
	}
}

// list returns the failures, the most frequent first.
func (t failures) list() []Failure {
	list := []Failure{}
	for f, n := range t {
		f.Count = n
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b Failure) int {
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
	data, err := io.ReadAll(in) // a Decoder would not see a second report in the file
	if err := cmp.Or(err, json.Unmarshal(data, &r)); err != nil {
		return nil, fmt.Errorf("reading report: %w", err)
	}
	if r.FormatVersion != ReportVersion {
		return nil, fmt.Errorf("report has format version %d, this program reads version %d", r.FormatVersion, ReportVersion)
	}
	if len(r.Stages) > len(stages) { // a few bytes can name a histogram of 50 MB
		return nil, fmt.Errorf("reading report: it has %d stages, at most %d are possible", len(r.Stages), len(stages))
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

// ErrMerge is wrapped by the errors of [Merge].
var ErrMerge = errors.New("reports cannot be merged")

// Merge merges the reports of the shards of one launch into one. Shards may be missing, but none
// may be there twice. Latencies are merged value by value, not averaged. A single report is
// returned as it is.
func Merge(reports ...*Report) (*Report, error) {
	if len(reports) == 1 {
		return reports[0], nil
	}
	if err := checkMerge(reports); err != nil {
		return nil, err
	}
	merged := *reports[0]
	merged.CommandLine = "" // each has its own
	var versions []string
	merged.Plan.Shards, merged.Plan.Concurrency = nil, 0
	merged.Devices, merged.Hold, merged.Resources = nil, nil, Resources{}
	merged.Started = slices.MinFunc(reports, func(a, b *Report) int { return a.Started.Compare(b.Started) }).Started
	sum := newMeter(0)
	for _, r := range reports {
		versions = append(versions, strings.Split(r.Version, ", ")...) // of a merged one, several
		late := r.Started.Sub(merged.Started)
		merged.ElapsedSeconds = max(merged.ElapsedSeconds, late.Seconds()+r.ElapsedSeconds)
		merged.Plan.Shards = append(merged.Plan.Shards, r.Plan.Shards...)
		merged.Plan.Concurrency += r.Plan.Concurrency
		merged.Devices = append(merged.Devices, r.Devices...)
		merged.Resources.CPUSeconds += r.Resources.CPUSeconds
		merged.Resources.BytesIn += r.Resources.BytesIn
		merged.Resources.BytesOut += r.Resources.BytesOut
		if r.Hold != nil {
			merged.Hold = cmp.Or(merged.Hold, &Held{IntervalSeconds: r.Hold.IntervalSeconds})
			merged.Hold.add(r.Hold)
		}
		second := int(late / time.Second)
		t := &sum.timeline
		t.Enrolled, t.Failed = addCounts(t.Enrolled, r.Timeline.Enrolled, second), addCounts(t.Failed, r.Timeline.Failed, second)
		t.Connects = addCounts(t.Connects, r.Timeline.Connects, second)
		for _, s := range r.Stages {
			if s.h != nil {
				sum.histogram(s.Stage).Merge(s.h)
			}
		}
		sum.failures.add(r.Failures...)
		sum.retries.add(r.Retries...)
	}
	slices.Sort(versions)
	merged.Version = strings.Join(slices.Compact(versions), ", ")
	sum.fill(&merged)
	merged.count()
	return &merged, nil
}

// maxApart is how far apart the shards of one launch can begin.
const maxApart = 7 * 24 * time.Hour

// checkMerge compares what all shards of a launch have in common.
func checkMerge(reports []*Report) error {
	seen := map[Shard]bool{}
	for _, r := range reports {
		first := reports[0]
		switch {
		case r.Endpoint != first.Endpoint || r.Template != first.Template:
			return fmt.Errorf("%w: one is of %s at %s, another of %s at %s", ErrMerge, first.Template, first.Endpoint, r.Template, r.Endpoint)
		case r.Plan.Devices != first.Plan.Devices || r.Plan.FirstSerial != first.Plan.FirstSerial:
			return fmt.Errorf("%w: one is of %d devices from serial number %s on, another of %d from %s on",
				ErrMerge, first.Plan.Devices, first.Plan.FirstSerial, r.Plan.Devices, r.Plan.FirstSerial)
		case r.Started.Sub(first.Started).Abs() > maxApart: // the timeline has each second between them
			return fmt.Errorf("%w: one began at %s, another at %s: is the clock of a machine wrong?",
				ErrMerge, first.Started.Format(time.RFC3339), r.Started.Format(time.RFC3339))
		case len(r.Plan.Shards) == 0:
			return fmt.Errorf("%w: one is of no shard", ErrMerge)
		}
		for _, s := range r.Plan.Shards {
			if seen[s] {
				return fmt.Errorf("%w: shard %s is there twice", ErrMerge, s)
			}
			if s.Of != first.Plan.Shards[0].Of {
				return fmt.Errorf("%w: one is shard %s, another shard %s", ErrMerge, first.Plan.Shards[0], s)
			}
			seen[s] = true
		}
	}
	if len(seen) == 0 {
		return fmt.Errorf("%w: there are none", ErrMerge)
	}
	return nil
}

func (h *Held) add(o *Held) {
	if most := h.Most + o.Most; most > 0 {
		h.BytesPerDevice = (h.BytesPerDevice*int64(h.Most) + o.BytesPerDevice*int64(o.Most)) / int64(most)
	}
	h.Devices += o.Devices
	h.Connected += o.Connected
	h.Most += o.Most
	h.ConnectSeconds = max(h.ConnectSeconds, o.ConnectSeconds)
	h.HeldSeconds = max(h.HeldSeconds, o.HeldSeconds)
	h.Lost += o.Lost
	h.Published += o.Published
	h.PublishFailures += o.PublishFailures
	h.CPUPercent += o.CPUPercent
	h.NotConnectedWhy = cmp.Or(h.NotConnectedWhy, o.NotConnectedWhy)
	if r := o.Reconnect; r != nil {
		h.Reconnect = cmp.Or(h.Reconnect, new(Reconnect))
		s := h.Reconnect
		s.Devices += r.Devices
		s.Returned += r.Returned
		s.Rejected += r.Rejected
		s.WindowSeconds = max(s.WindowSeconds, r.WindowSeconds)
		s.ReturnSeconds = max(s.ReturnSeconds, r.ReturnSeconds)
		s.Connects, s.Attempts = addCounts(s.Connects, r.Connects, 0), addCounts(s.Attempts, r.Attempts, 0)
		s.sum()
	}
}
