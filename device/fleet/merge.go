package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrMerge is wrapped by the errors of [Merge].
var ErrMerge = errors.New("reports cannot be merged")

// Merge merges the reports of the shards of one launch into one. Shards may be
// missing, but none may be there twice. Latencies are merged value by value,
// not averaged. A single report is returned as it is.
func Merge(reports ...*Report) (*Report, error) {
	if len(reports) == 1 {
		return reports[0], nil
	}
	if err := checkMerge(reports); err != nil {
		return nil, err
	}
	merged := *reports[0]
	merged.CommandLine = "" // each has its own
	merged.Plan.Shards, merged.Plan.Concurrency = nil, 0
	merged.Devices, merged.Hold, merged.Resources = nil, nil, Resources{}
	merged.Started = slices.MinFunc(reports, func(a, b *Report) int { return a.Started.Compare(b.Started) }).Started
	var sum meter
	for _, r := range reports {
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
		sum.enrolledBy.merge(r.Timeline.Enrolled, second)
		sum.failedBy.merge(r.Timeline.Failed, second)
		sum.connects.merge(r.Timeline.Connects, second)
		for _, s := range r.Stages {
			if s.h != nil {
				sum.latencies.of(s.Stage).Merge(s.h)
			}
		}
		for _, f := range r.Failures {
			sum.failures.add(f)
		}
		for _, f := range r.Retries {
			sum.retries.add(f)
		}
	}
	sum.fill(&merged)
	merged.count()
	return &merged, nil
}

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
