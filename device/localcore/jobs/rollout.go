package jobs

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"example.com/fleety/device/awsiot"
)

// Run rolls jobs out at their rates, times executions out and follows the groups of continuous
// jobs, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	for {
		s.mu.Lock()
		due := s.due
		s.mu.Unlock()
		wait := time.Duration(math.MaxInt64)
		if !due.IsZero() {
			wait = due.Sub(s.config.Now())
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake: // the time or the registry may have changed
			if !s.stale.Load() {
				continue
			}
		case <-time.After(wait):
			s.stale.Store(true) // what the registry did may not be stored yet, after a kill or a full disk
		}
		if err := s.change(func(tx *change) error { tx.advance(); return nil }); err != nil {
			s.config.Log.Error("advancing the jobs", "error", err)
		}
	}
}

func (tx *change) advance() {
	tx.due = time.Time{}
	for _, j := range tx.inOrder() {
		for _, e := range j.pendingByThing() {
			if deadline := e.deadline(); !deadline.IsZero() && !deadline.After(tx.now) {
				tx.set(j, e, awsiot.JobTimedOut)
			} else {
				tx.schedule(deadline)
			}
		}
		tx.rollOut(j)
	}
}

// deadline is when the execution times out, zero for never: the step timer cannot outlast the
// in-progress timer.
func (e *Execution) deadline() time.Time {
	if e.StepTimesOut.IsZero() || !e.TimesOut.IsZero() && e.TimesOut.Before(e.StepTimesOut) {
		return e.TimesOut
	}
	return e.StepTimesOut
}

// rollOut notifies as many of the waiting things as the rate allows now.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-configurations-details.html, also of rate, abort
// and retry
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
		if tx.config.HasThing(thing) {
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
	e := j.Rollout.Exponential
	if e == nil {
		return j.Rollout.MaximumPerMinute
	}
	reached, step := len(j.executions)-j.Notified, e.Criteria.NotifiedThings // before this minute
	if step <= 0 {
		reached, step = j.counts()[awsiot.JobSucceeded], e.Criteria.SucceededThings
	}
	most := cmp.Or(j.Rollout.MaximumPerMinute, maxRate)
	return int(min(float64(e.BaseRate)*math.Pow(e.IncrementFactor, float64(reached/step)), float64(most)))
}

// abort cancels a job that fails too often. Only executions that are queued are canceled.
func (tx *change) abort(j *job) {
	if j.Abort == nil || j.Status != JobInProgress {
		return
	}
	counts, notified := j.counts(), len(j.executions)
	counts["ALL"] = counts[awsiot.JobFailed] + counts[awsiot.JobRejected] + counts[awsiot.JobTimedOut]
	for _, c := range j.Abort.Criteria {
		if notified >= c.MinThings && float64(counts[c.FailureType])*100 >= c.ThresholdPercentage*float64(notified) {
			tx.cancel(j, false)
			return
		}
	}
}

func (tx *change) retry(j *job, e *Execution) {
	if j.Retry == nil || j.Status != JobInProgress || j.latest(e.ThingName) != e {
		return
	}
	used := map[awsiot.JobExecutionStatus]int{awsiot.JobFailed: e.FailedRetries, awsiot.JobTimedOut: e.TimedOutRetries, "ALL": e.Retries()}
	for _, c := range j.Retry.Criteria {
		if _, retried := used[e.Status]; retried && (c.FailureType == e.Status || c.FailureType == "ALL") && used[c.FailureType] < c.Retries {
			used[e.Status]++
			next := tx.queue(j, e.ThingName)
			next.FailedRetries, next.TimedOutRetries = used[awsiot.JobFailed], used[awsiot.JobTimedOut]
			return
		}
	}
}

// complete ends a snapshot job whose last execution has ended.
func (tx *change) complete(j *job) {
	if j.Status != JobInProgress || j.TargetSelection != Snapshot || len(j.Waiting) > 0 {
		return
	}
	for range j.pending() {
		return
	}
	j.Status, j.CompletedAt, j.LastUpdatedAt = JobCompleted, tx.now.Unix(), tx.now.Unix()
	tx.keepJob(j)
	tx.jobEvent(j, string(JobCompleted))
}

// cancel cancels a job with its queued executions, if forced with those in progress too.
func (tx *change) cancel(j *job, force bool) {
	tx.jobEvent(j, "CANCELLATION_IN_PROGRESS")
	j.Status, j.LastUpdatedAt, j.CompletedAt = JobCanceled, tx.now.Unix(), tx.now.Unix()
	j.ForceCanceled = j.ForceCanceled || force
	j.Waiting = nil
	tx.keepJob(j)
	for _, e := range j.pendingByThing() {
		if e.Status == awsiot.JobQueued || force {
			e.ForceCanceled = e.Status == awsiot.JobInProgress
			tx.set(j, e, awsiot.JobCanceled)
		}
	}
	tx.jobEvent(j, string(JobCanceled))
}

// RegistryChanged has the jobs follow the registry before the next request and without one, by Run:
// things that joined the group of a continuous job get an execution, those that left it or are gone
// lose theirs.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-jobs-lifecycle.html
func (s *Service) RegistryChanged() {
	s.stale.Store(true)
	s.wakeRun()
}

func (tx *change) sync() {
	for _, j := range tx.inOrder() {
		for _, e := range j.pendingByThing() {
			if !tx.config.HasThing(e.ThingName) {
				tx.set(j, e, awsiot.JobRemoved)
			}
		}
		if j.TargetSelection == Continuous && j.Status == JobInProgress {
			tx.follow(j)
		}
	}
}

// follow makes the things that a continuous job has reached those of its targets.
func (tx *change) follow(j *job) {
	members, _ := tx.targets(j.Targets) // without those that are gone
	if slices.Equal(members, j.Members) {
		return
	}
	in := func(things []string, thing string) bool {
		_, found := slices.BinarySearch(things, thing)
		return found
	}
	for _, thing := range j.Members {
		if e := j.latest(thing); !in(members, thing) && e != nil && !e.Status.Terminal() {
			tx.set(j, e, awsiot.JobRemoved)
		}
	}
	for _, thing := range members {
		if !in(j.Members, thing) {
			tx.queue(j, thing)
		}
	}
	j.Waiting = slices.DeleteFunc(j.Waiting, func(thing string) bool { return !in(members, thing) })
	j.Members = members
	tx.keepJob(j)
}
