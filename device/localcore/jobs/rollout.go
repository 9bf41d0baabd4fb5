package jobs

import (
	"context"
	"math"
	"slices"
	"time"
)

// Run rolls jobs out at their rates, times executions out and follows the
// groups of continuous jobs, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	for {
		s.mu.Lock()
		due := s.due
		s.mu.Unlock()
		wait := time.Duration(math.MaxInt64)
		if !due.IsZero() {
			wait = due.Sub(s.config.Now())
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.wake: // the time or the registry may have changed
			timer.Stop()
			if !s.stale.Load() {
				continue
			}
		case <-timer.C:
		}
		if err := s.change(func(tx *change) error { tx.advance(); return nil }, nil); err != nil {
			s.config.Log.Error("advancing the jobs", "error", err)
		}
	}
}

// advance does what is due.
func (tx *change) advance() {
	tx.due = time.Time{}
	for _, thing := range sortedKeys(tx.pending) {
		for _, e := range slices.Clone(tx.pending[thing]) {
			deadline := e.deadline()
			if !deadline.IsZero() && !deadline.After(tx.now) {
				tx.set(tx.jobs[e.JobID], e, TimedOut)
			} else {
				tx.schedule(deadline)
			}
		}
	}
	for _, j := range tx.inOrder() {
		tx.rollOut(j)
	}
}

// deadline is when the execution times out, zero for never: the step timer
// cannot outlast the in-progress timer.
func (e *execution) deadline() time.Time {
	if e.StepTimesOut.IsZero() || !e.TimesOut.IsZero() && e.TimesOut.Before(e.StepTimesOut) {
		return e.TimesOut
	}
	return e.StepTimesOut
}

// rollOut notifies as many of the waiting things as the rate allows now.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-configurations-details.html
func (tx *change) rollOut(j *job) {
	if j.Status != JobInProgress || len(j.Waiting) == 0 {
		return
	}
	if tx.now.Sub(j.Window) >= time.Minute {
		j.Window, j.Notified = tx.now, 0
	}
	n := len(j.Waiting)
	if rate := j.rate(); rate > 0 {
		n = min(n, max(rate-j.Notified, 0))
	}
	for _, thing := range j.Waiting[:n] {
		if tx.config.Things.HasThing(thing) {
			tx.queue(j, thing)
		}
	}
	j.Waiting, j.Notified = j.Waiting[n:], j.Notified+n
	tx.keepJob(j)
	if len(j.Waiting) > 0 {
		tx.schedule(j.Window.Add(time.Minute))
	}
	tx.complete(j) // if none of the last things exists any more
}

// rate returns how many things may be notified a minute now, 0 for any number.
func (j *job) rate() int {
	if j.Rollout == nil {
		return 0
	}
	most := j.Rollout.MaximumPerMinute
	e := j.Rollout.Exponential
	if e == nil {
		return most
	}
	steps := 0
	if n := e.Criteria.NotifiedThings; n > 0 {
		steps = len(j.executions) / n
	} else {
		steps = j.counts[Succeeded] / e.Criteria.SucceededThings
	}
	if most == 0 {
		most = maxRate
	}
	return int(min(float64(e.BaseRate)*math.Pow(e.IncrementFactor, float64(steps)), float64(most)))
}

// abort cancels a job that fails too often. Only executions that are queued are
// canceled.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-configurations-details.html
func (tx *change) abort(j *job) {
	if j.Abort == nil || j.Status != JobInProgress {
		return
	}
	notified := len(j.executions)
	for _, c := range j.Abort.Criteria {
		failures := j.counts[Status(c.FailureType)]
		if c.FailureType == "ALL" {
			failures = j.counts[Failed] + j.counts[Rejected] + j.counts[TimedOut]
		}
		if notified >= c.MinThings && float64(failures)*100 >= c.ThresholdPercentage*float64(notified) {
			tx.cancel(j, false)
			return
		}
	}
}

// retry queues a failed execution again.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-configurations-details.html
func (tx *change) retry(j *job, e *execution) {
	if j.Retry == nil || j.Status != JobInProgress || e.Status != Failed && e.Status != TimedOut || j.latest(e.ThingName) != e {
		return
	}
	used := map[string]int{"FAILED": e.FailedRetries, "TIMED_OUT": e.TimedOutRetries, "ALL": e.FailedRetries + e.TimedOutRetries}
	for _, c := range j.Retry.Criteria {
		if (c.FailureType == string(e.Status) || c.FailureType == "ALL") && used[c.FailureType] < c.Retries {
			next := tx.queue(j, e.ThingName)
			next.FailedRetries, next.TimedOutRetries = e.FailedRetries, e.TimedOutRetries
			if e.Status == Failed {
				next.FailedRetries++
			} else {
				next.TimedOutRetries++
			}
			return
		}
	}
}

// complete ends a snapshot job whose last execution has ended.
func (tx *change) complete(j *job) {
	if j.Status == JobInProgress && j.TargetSelection == Snapshot &&
		len(j.Waiting) == 0 && j.counts[Queued]+j.counts[InProgress] == 0 {
		j.Status, j.CompletedAt, j.LastUpdatedAt = JobCompleted, tx.now.Unix(), tx.now.Unix()
		tx.keepJob(j)
		tx.jobEvent(j, string(JobCompleted))
	}
}

// cancel cancels a job with its queued executions, if forced with those in
// progress too.
func (tx *change) cancel(j *job, force bool) {
	tx.jobEvent(j, "CANCELLATION_IN_PROGRESS")
	defer tx.jobEvent(j, string(JobCanceled))
	j.Status, j.LastUpdatedAt, j.CompletedAt = JobCanceled, tx.now.Unix(), tx.now.Unix()
	j.ForceCanceled = j.ForceCanceled || force
	j.Waiting = nil
	tx.keepJob(j)
	for _, thing := range sortedKeys(j.executions) {
		if e := j.latest(thing); e.Status == Queued || force && e.Status == InProgress {
			e.ForceCanceled = e.Status == InProgress
			tx.set(j, e, Canceled)
		}
	}
}

// RegistryChanged has the jobs follow the registry before the next request and
// without one, by Run: things that joined the group of
// a continuous job get an execution, those that left it or are gone lose theirs.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-jobs-lifecycle.html
func (s *Service) RegistryChanged() {
	s.stale.Store(true)
	s.wakeRun()
}

func (tx *change) sync() {
	for _, thing := range sortedKeys(tx.pending) {
		if tx.config.Things.HasThing(thing) {
			continue
		}
		for _, e := range slices.Clone(tx.pending[thing]) {
			tx.set(tx.jobs[e.JobID], e, Removed)
		}
	}
	for _, j := range tx.inOrder() {
		if j.TargetSelection == Continuous && j.Status == JobInProgress {
			tx.follow(j)
		}
	}
}

func (tx *change) follow(j *job) {
	members, _ := tx.targets(j.Targets) // without those that are gone
	if slices.Equal(members, j.Members) {
		return
	}
	for _, thing := range j.Members {
		e := j.latest(thing)
		if _, stays := slices.BinarySearch(members, thing); !stays && e != nil && !e.Status.terminal() {
			tx.set(j, e, Removed)
		}
	}
	for _, thing := range members {
		if _, known := slices.BinarySearch(j.Members, thing); !known {
			tx.queue(j, thing)
		}
	}
	j.Waiting = slices.DeleteFunc(j.Waiting, func(thing string) bool {
		_, stays := slices.BinarySearch(members, thing)
		return !stays
	})
	j.Members = members
	tx.keepJob(j)
}
