package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// ErrMerge is wrapped by the errors of [Merge].
var ErrMerge = errors.New("reports cannot be merged")

// Merge merges the reports of the shards of one launch into one. Shards may be
// missing, but none may be there twice. Latencies are merged value by value,
// not averaged.
func Merge(reports ...*Report) (*Report, error) {
	if err := checkMerge(reports); err != nil {
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
	merged.CommandLine = "" // each has its own
	merged.Plan.Shards, merged.Devices, merged.Hold = nil, nil, nil
	merged.Resources, merged.Timeline, merged.Plan.Concurrency = Resources{}, Timeline{}, 0
	var sum meter
	for _, r := range reports {
		merged.add(r)
		for _, s := range r.Stages {
			if s.h != nil {
				sum.latencies.of(s.Stage).Merge(s.h)
			}
		}
		for _, f := range r.Failures {
			sum.failures.add(Failure{Stage: f.Stage, Cause: f.Cause}, f.Count)
		}
		for _, f := range r.Retries {
			sum.retries.add(Failure{Stage: f.Stage, Cause: f.Cause}, f.Count)
		}
	}
	merged.Stages, merged.Failures, merged.Retries = sum.latencies.summary(), sum.failures.list(), sum.retries.list()
	merged.count()
	return &merged, nil
}

// checkMerge compares what all shards of a launch have in common.
func checkMerge(reports []*Report) error {
	if len(reports) == 0 {
		return fmt.Errorf("%w: there are none", ErrMerge)
	}
	first := reports[0]
	seen := map[Shard]bool{}
	for _, r := range reports {
		switch {
		case r.Endpoint != first.Endpoint || r.Template != first.Template:
			return fmt.Errorf("%w: one is of %s at %s, another of %s at %s", ErrMerge, first.Template, first.Endpoint, r.Template, r.Endpoint)
		case r.Plan.Devices != first.Plan.Devices || r.Plan.FirstSerial != first.Plan.FirstSerial:
			return fmt.Errorf("%w: one is of %d devices from serial number %s on, another of %d from %s on",
				ErrMerge, first.Plan.Devices, first.Plan.FirstSerial, r.Plan.Devices, r.Plan.FirstSerial)
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
		sum = &Held{IntervalSeconds: h.IntervalSeconds}
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
	sum.NotConnectedWhy = cmp.Or(sum.NotConnectedWhy, h.NotConnectedWhy)
	if r := h.Reconnect; r != nil {
		if sum.Reconnect == nil {
			sum.Reconnect = &Reconnect{}
		}
		s := sum.Reconnect
		s.Devices += r.Devices
		s.Returned += r.Returned
		s.Rejected += r.Rejected
		s.WindowSeconds = max(s.WindowSeconds, r.WindowSeconds)
		s.ReturnSeconds = max(s.ReturnSeconds, r.ReturnSeconds)
		s.Connects, s.Attempts = addCounts(s.Connects, r.Connects, 0), addCounts(s.Attempts, r.Attempts, 0)
		s.sum()
	}
	return sum
}
