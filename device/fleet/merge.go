package fleet

import (
	"fmt"
	"time"
)

// A MergeError tells that reports do not belong together.
type MergeError struct{ Reason string }

// Error says what does not fit.
func (e *MergeError) Error() string { return "reports do not belong together: " + e.Reason }

// Merge makes one report of those of the shards of one launch. Shards may be
// missing, but none may be there twice; the error is a *[MergeError].
// Latencies are merged value by value, not averaged.
func Merge(reports ...*Report) (*Report, error) {
	if err := belongTogether(reports); err != nil {
		return nil, err
	}
	merged := *reports[0]
	ended := endOf(&merged)
	for _, r := range reports[1:] {
		if r.Started.Before(merged.Started) {
			merged.Started = r.Started
		}
		if e := endOf(r); e.After(ended) {
			ended = e
		}
	}
	merged.ElapsedSeconds = ended.Sub(merged.Started).Seconds()
	merged.Plan.Shards, merged.Devices, merged.Hold = nil, nil, nil
	merged.Resources, merged.Timeline, merged.Plan.Concurrency = Resources{}, Timeline{}, 0
	latencies, failures, retries := newLatencies(), newTroubles(), newTroubles()
	for _, r := range reports {
		merged.add(r)
		for _, s := range r.Stages {
			latencies.merge(s)
		}
		failures.merge(r.Failures)
		retries.merge(r.Retries)
	}
	merged.Stages, merged.Failures, merged.Retries = latencies.summary(), failures.list(), retries.list()
	merged.count()
	return &merged, nil
}

// belongTogether compares what every shard of a launch has in common.
func belongTogether(reports []*Report) error {
	if len(reports) == 0 {
		return &MergeError{"there are none"}
	}
	first := reports[0]
	seen := map[Shard]bool{}
	for _, r := range reports {
		switch {
		case r.Command != "enrol":
			return &MergeError{fmt.Sprintf("one is of %q, only those of enrol can be merged", r.Command)}
		case r.Endpoint != first.Endpoint || r.Template != first.Template:
			return &MergeError{fmt.Sprintf("one is of %s at %s, another of %s at %s", first.Template, first.Endpoint, r.Template, r.Endpoint)}
		case r.Plan.Devices != first.Plan.Devices || r.Plan.FirstSerial != first.Plan.FirstSerial:
			return &MergeError{fmt.Sprintf("one is of %d devices from serial number %s on, another of %d from %s on",
				first.Plan.Devices, first.Plan.FirstSerial, r.Plan.Devices, r.Plan.FirstSerial)}
		}
		for _, s := range r.Plan.Shards {
			if seen[s] {
				return &MergeError{fmt.Sprintf("shard %s is there twice", s)}
			}
			if s.Of != first.Plan.Shards[0].Of {
				return &MergeError{fmt.Sprintf("one is shard %s, another shard %s", first.Plan.Shards[0], s)}
			}
			seen[s] = true
		}
	}
	return nil
}

func endOf(r *Report) time.Time {
	return r.Started.Add(time.Duration(r.ElapsedSeconds * float64(time.Second)))
}

// add adds what is simply summed.
func (r *Report) add(other *Report) {
	r.Plan.Shards = append(r.Plan.Shards, other.Plan.Shards...)
	r.Plan.Concurrency += other.Plan.Concurrency
	r.Devices = append(r.Devices, other.Devices...)
	r.Resources.CPUSeconds += other.Resources.CPUSeconds
	r.Resources.BytesIn += other.Resources.BytesIn
	r.Resources.BytesOut += other.Resources.BytesOut
	late := int(other.Started.Sub(r.Started) / time.Second)
	r.Timeline.Enrolled = addCounts(r.Timeline.Enrolled, other.Timeline.Enrolled, late)
	r.Timeline.Failed = addCounts(r.Timeline.Failed, other.Timeline.Failed, late)
	r.Timeline.Connects = addCounts(r.Timeline.Connects, other.Timeline.Connects, late)
	if other.Hold != nil {
		r.Hold = addHeld(r.Hold, other.Hold)
	}
}

// addCounts adds counts by the second that began late seconds later.
func addCounts(sum, counts []int, late int) []int {
	for len(sum) < late+len(counts) {
		sum = append(sum, 0)
	}
	for second, n := range counts {
		sum[late+second] += n
	}
	return sum
}

func addHeld(sum, h *Held) *Held {
	if sum == nil {
		first := *h
		return &first
	}
	if most := sum.Most + h.Most; most > 0 {
		sum.BytesPerDevice = (sum.BytesPerDevice*int64(sum.Most) + h.BytesPerDevice*int64(h.Most)) / int64(most)
	}
	sum.Devices += h.Devices
	sum.Connected += h.Connected
	sum.Most += h.Most
	sum.ConnectSeconds = max(sum.ConnectSeconds, h.ConnectSeconds)
	sum.HeldSeconds = max(sum.HeldSeconds, h.HeldSeconds)
	sum.Lost += h.Lost
	sum.Published += h.Published
	sum.PublishFailures += h.PublishFailures
	sum.CPUPercent += h.CPUPercent
	if sum.NotConnectedWhy == "" {
		sum.NotConnectedWhy = h.NotConnectedWhy
	}
	return sum
}

func (l *latencies) merge(s Latency) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stages[s.Stage] == nil {
		l.stages[s.Stage] = newHistogram()
	}
	if s.h != nil {
		l.stages[s.Stage].Merge(s.h)
	}
}

func (t *troubles) merge(list []Trouble) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, x := range list {
		key := x
		key.Count = 0
		t.counts[key] += x.Count
	}
}
