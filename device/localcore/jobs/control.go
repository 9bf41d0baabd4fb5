package jobs

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"example.com/fleety/device/awsiot"
)

// Limits of jobs.
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot_device_management.html
const (
	maxDocument = 32768 // bytes
	maxTargets  = 100
	maxRate     = 1000        // things a minute
	maxTimeout  = 7 * 24 * 60 // minutes
	maxRetries  = 10          // of all failure types together
)

// A JobStatus is the state of a job. Deletion is immediate here.
type JobStatus string

// A TargetSelection says whether a job reaches things that join its groups later.
type TargetSelection string

// The states and the target selections of jobs.
const (
	JobInProgress JobStatus       = "IN_PROGRESS"
	JobCanceled   JobStatus       = "CANCELED"
	JobCompleted  JobStatus       = "COMPLETED"
	Snapshot      TargetSelection = "SNAPSHOT"
	Continuous    TargetSelection = "CONTINUOUS"
)

// Settings are the parts of a job that UpdateJob can change.
type Settings struct {
	Description string `json:"description,omitempty"`
	// PresignedURL is kept and returned; placeholders in documents stay as they are.
	PresignedURL *struct {
		RoleARN      string `json:"roleArn,omitempty"`
		ExpiresInSec int    `json:"expiresInSec,omitempty"`
	} `json:"presignedUrlConfig,omitempty"`
	// Rollout bounds how many things are notified a minute. An exponential rate grows by a factor
	// each time a number of things is reached.
	Rollout *struct {
		MaximumPerMinute int `json:"maximumPerMinute,omitempty"`
		Exponential      *struct {
			BaseRate        int     `json:"baseRatePerMinute"`
			IncrementFactor float64 `json:"incrementFactor"`
			Criteria        struct {
				NotifiedThings  int `json:"numberOfNotifiedThings,omitempty"`
				SucceededThings int `json:"numberOfSucceededThings,omitempty"`
			} `json:"rateIncreaseCriteria"`
		} `json:"exponentialRate,omitempty"`
	} `json:"jobExecutionsRolloutConfig,omitempty"`
	// Abort says when a job is canceled because of its failures.
	Abort *struct {
		Criteria []struct {
			FailureType         awsiot.JobExecutionStatus `json:"failureType"` // FAILED, REJECTED, TIMED_OUT or ALL
			Action              string                    `json:"action"`      // CANCEL
			ThresholdPercentage float64                   `json:"thresholdPercentage"`
			MinThings           int                       `json:"minNumberOfExecutedThings"`
		} `json:"criteriaList"`
	} `json:"abortConfig,omitempty"`
	// Timeout bounds how long an execution is in progress.
	Timeout *struct {
		InProgressMinutes *int `json:"inProgressTimeoutInMinutes,omitempty"`
	} `json:"timeoutConfig,omitempty"`
	// Retry says how often failed executions are repeated.
	Retry *struct {
		Criteria []struct {
			FailureType awsiot.JobExecutionStatus `json:"failureType"` // FAILED, TIMED_OUT or ALL
			Retries     int                       `json:"numberOfRetries"`
		} `json:"criteriaList"`
	} `json:"jobExecutionsRetryConfig,omitempty"`
}

// A NewJob is the request of CreateJob.
type NewJob struct {
	Targets         []string          `json:"targets"`
	Document        string            `json:"document,omitempty"`
	TargetSelection TargetSelection   `json:"targetSelection"`
	TemplateARN     string            `json:"jobTemplateArn,omitempty"` // names one of AWS's managed templates, which gives the document
	Parameters      map[string]string `json:"documentParameters,omitempty"`
	Settings
}

// A Job describes a job. Times are seconds since 1970.
type Job struct {
	NewJob
	ARN            string         `json:"jobArn"`
	ID             string         `json:"jobId"`
	Status         JobStatus      `json:"status"`
	ForceCanceled  bool           `json:"forceCanceled,omitempty"`
	ReasonCode     string         `json:"reasonCode,omitempty"`
	Comment        string         `json:"comment,omitempty"`
	CreatedAt      int64          `json:"createdAt"`
	LastUpdatedAt  int64          `json:"lastUpdatedAt"`
	CompletedAt    int64          `json:"completedAt,omitempty"`
	ProcessDetails map[string]int `json:"jobProcessDetails,omitempty"` // counts the things by the status of their latest execution
}

func (j *job) counts() map[awsiot.JobExecutionStatus]int {
	counts := map[awsiot.JobExecutionStatus]int{}
	for thing := range j.executions {
		counts[j.latest(thing).Status]++
	}
	return counts
}

// processDetails counts the things by status, which it names as AWS does.
func (j *job) processDetails(names ...string) map[string]int {
	counts, details := j.counts(), map[string]int{}
	for status, name := range map[awsiot.JobExecutionStatus]string{
		awsiot.JobCanceled: "Canceled", awsiot.JobSucceeded: "Succeeded", awsiot.JobFailed: "Failed", awsiot.JobRejected: "Rejected",
		awsiot.JobQueued: "Queued", awsiot.JobInProgress: "InProgress", awsiot.JobRemoved: "Removed", awsiot.JobTimedOut: "TimedOut",
	} {
		if len(names) == 0 || slices.Contains(names, name) {
			details["numberOf"+name+"Things"] = counts[status]
		}
	}
	return details
}

func (j *job) description() Job {
	out := j.Job
	out.ProcessDetails = j.processDetails()
	return out
}

// CreateJob creates a job and begins to roll it out. The caller enforces the constraints of AWS's
// service model, as those of [Service.UpdateJob] and [Service.CancelJob].
func (s *Service) CreateJob(id string, n NewJob) (out Job, err error) {
	n.TargetSelection = cmp.Or(n.TargetSelection, Snapshot)
	switch {
	case n.TemplateARN != "" && n.Document != "":
		return Job{}, invalid("A job has either a document or a job template.")
	case n.TemplateARN != "":
		if n.Document, err = managedDocument(n.TemplateARN, n.Parameters); err != nil {
			return Job{}, err
		}
	case len(n.Parameters) > 0:
		return Job{}, invalid("Document parameters are those of a managed template.")
	}
	if err := n.check(); err != nil {
		return Job{}, err
	}
	err = s.change(func(tx *change) error {
		if tx.jobs[id] != nil {
			return reject(awsiot.JobsAlreadyExists, "Job %s already exists.", id)
		}
		things, err := tx.targets(n.Targets)
		if err != nil {
			return err
		}
		tx.serial++
		j := &job{Serial: tx.serial, Waiting: things, executions: map[string][]*Execution{}, Job: Job{
			NewJob: n, ARN: tx.config.ARN("job/" + id), ID: id, Status: JobInProgress, CreatedAt: tx.now.Unix(), LastUpdatedAt: tx.now.Unix(),
		}}
		if n.TargetSelection == Continuous {
			j.Members = slices.Clone(things)
		}
		tx.jobs[id] = j
		tx.keepJob(j)
		tx.rollOut(j)
		tx.complete(j)
		out = j.description()
		return nil
	})
	return out, err
}

// mutate is change for the operations on one job, which it returns.
func (s *Service) mutate(id string, f func(*change, *job) error) (out Job, err error) {
	err = s.change(func(tx *change) error {
		j := tx.jobs[id]
		if j == nil {
			return reject(awsiot.JobsResourceNotFound, "Job %s cannot be found.", id)
		}
		err := f(tx, j)
		out = j.description()
		return err
	})
	return out, err
}

// DescribeJob returns a job.
func (s *Service) DescribeJob(id string) (Job, error) {
	return s.mutate(id, func(*change, *job) error { return nil })
}

// Jobs returns all jobs, the newest first.
func (s *Service) Jobs() []Job {
	var out []Job
	_ = s.change(func(tx *change) error { // which can fail to store what it found only
		for _, j := range slices.Backward(tx.inOrder()) {
			out = append(out, j.description())
		}
		return nil
	})
	return out
}

// UpdateJob changes the settings that are given; a nil part and an empty description stay as they
// are.
func (s *Service) UpdateJob(id string, n Settings) error {
	_, err := s.mutate(id, func(tx *change, j *job) error {
		if j.Status != JobInProgress {
			return invalid("Job %s is %s.", id, j.Status)
		}
		to := j.Settings
		to.Description = cmp.Or(n.Description, to.Description)
		to.PresignedURL = cmp.Or(n.PresignedURL, to.PresignedURL)
		to.Rollout, to.Abort = cmp.Or(n.Rollout, to.Rollout), cmp.Or(n.Abort, to.Abort)
		to.Timeout, to.Retry = cmp.Or(n.Timeout, to.Timeout), cmp.Or(n.Retry, to.Retry)
		if err := to.check(); err != nil {
			return err
		}
		j.Settings, j.LastUpdatedAt = to, tx.now.Unix()
		tx.keepJob(j)
		return nil
	})
	return err
}

// CancelJob cancels a job. Executions in progress go on unless force is set.
func (s *Service) CancelJob(id string, force bool, reasonCode, comment string) (Job, error) {
	return s.mutate(id, func(tx *change, j *job) error {
		if j.Status == JobCompleted {
			return invalid("Job %s is %s.", id, j.Status)
		}
		j.ReasonCode, j.Comment = cmp.Or(reasonCode, j.ReasonCode), cmp.Or(comment, j.Comment)
		tx.cancel(j, force)
		return nil
	})
}

// DeleteJob deletes a job with its executions. One in progress must be forced.
func (s *Service) DeleteJob(id string, force bool) error {
	_, err := s.mutate(id, func(tx *change, j *job) error {
		if j.Status == JobInProgress && !force {
			return reject(awsiot.JobsInvalidStateTransition, "Job %s is %s.", id, j.Status)
		}
		tx.jobEvent(j, "DELETION_IN_PROGRESS")
		for _, all := range j.executions {
			for _, e := range all {
				tx.drop(e)
			}
		}
		delete(tx.jobs, id)
		tx.records[jobPrefix+id] = nil
		tx.jobEvent(j, "DELETED")
		return nil
	})
	return err
}

// AssociateTargetsWithJob adds targets to a continuous job.
func (s *Service) AssociateTargetsWithJob(id string, targets []string, comment string) (Job, error) {
	return s.mutate(id, func(tx *change, j *job) error {
		all := slices.Clone(j.Targets)
		for _, target := range targets {
			if !slices.Contains(all, target) {
				all = append(all, target)
			}
		}
		switch {
		case j.TargetSelection != Continuous || j.Status != JobInProgress:
			return invalid("Job %s is not a continuous job in progress.", id)
		case len(targets) == 0 || len(all) > maxTargets:
			return invalid("A job must have 1 to %d targets.", maxTargets)
		}
		if _, err := tx.targets(targets); err != nil {
			return err
		}
		j.Targets, j.Comment, j.LastUpdatedAt = all, cmp.Or(comment, j.Comment), tx.now.Unix()
		tx.keepJob(j)
		tx.follow(j)
		return nil
	})
}

// JobExecutions returns the executions of a job that have a status, any if it is empty, in the order of
// queueing.
func (s *Service) JobExecutions(id string, status awsiot.JobExecutionStatus) (out []Execution, err error) {
	_, err = s.mutate(id, func(tx *change, j *job) error {
		out = tx.list(slices.Concat(slices.Collect(maps.Values(j.executions))...), status)
		return nil
	})
	return out, err
}

// ThingExecutions returns the executions for a thing, in the order of queueing, if they have the status
// and are of the job; empty ones stand for any.
func (s *Service) ThingExecutions(thing string, status awsiot.JobExecutionStatus, job string) (out []Execution, err error) {
	err = s.change(func(tx *change) error {
		var all []*Execution
		for id, j := range tx.jobs {
			if job == "" || job == id {
				all = append(all, j.executions[thing]...)
			}
		}
		if len(all) == 0 && !tx.config.HasThing(thing) {
			return reject(awsiot.JobsResourceNotFound, "Thing %s cannot be found.", thing)
		}
		out = tx.list(all, status)
		return nil
	})
	return out, err
}

func (tx *change) list(all []*Execution, status awsiot.JobExecutionStatus) (out []Execution) {
	slices.SortFunc(all, bySerial)
	for _, e := range all {
		if status == "" || status == e.Status {
			out = append(out, e.at(tx.now))
		}
	}
	return out
}

// Retries returns how many retries led to the execution.
func (e *Execution) Retries() int { return e.FailedRetries + e.TimedOutRetries }

// DescribeJobExecution returns an execution, the latest for a nil number.
func (s *Service) DescribeJobExecution(thing, id string, number *int64) (out Execution, err error) {
	err = s.change(func(tx *change) error {
		e, err := tx.find(awsiot.JobsTopic{Thing: thing, Job: id}, number)
		if err == nil {
			out = e.at(tx.now)
		}
		return err
	})
	return out, err
}

// CancelJobExecution cancels the latest execution of a job for a thing. One in progress must be
// forced.
func (s *Service) CancelJobExecution(thing, id string, force bool, expectedVersion *int64, details map[string]string) error {
	return s.change(func(tx *change) error {
		e, err := tx.find(awsiot.JobsTopic{Thing: thing, Job: id}, nil)
		if err = cmp.Or(err, checkDetails(details)); err != nil {
			return err
		}
		switch {
		case len(details) > 10: // which a device may exceed
			return invalid("statusDetails has %d name/value pairs, at most 10 are allowed.", len(details))
		case expectedVersion != nil && *expectedVersion != e.VersionNumber:
			return reject(awsiot.JobsVersionConflict, "The execution has version %d, not %d.", e.VersionNumber, *expectedVersion)
		case e.Status.Terminal() || e.Status == awsiot.JobInProgress && !force:
			return reject(awsiot.JobsInvalidStateTransition, "The execution is %s.", e.Status)
		}
		if details != nil {
			e.StatusDetails = details
		}
		e.ForceCanceled = e.Status == awsiot.JobInProgress
		tx.set(tx.jobs[id], e, awsiot.JobCanceled)
		return nil
	})
}

// drop notes that an execution is about to be deleted.
func (tx *change) drop(e *Execution) {
	tx.executionEvent(e, "DELETED")
	tx.touch(e.ThingName)
	tx.records[e.key()] = nil
}

// DeleteJobExecution deletes an execution. One that is pending must be forced.
func (s *Service) DeleteJobExecution(thing, id string, number int64, force bool) error {
	return s.change(func(tx *change) error {
		e, err := tx.find(awsiot.JobsTopic{Thing: thing, Job: id}, &number)
		if err != nil {
			return err
		}
		if !e.Status.Terminal() && !force {
			return reject(awsiot.JobsInvalidStateTransition, "The execution is %s.", e.Status)
		}
		tx.drop(e)
		j := tx.jobs[id]
		j.executions[thing] = slices.DeleteFunc(j.executions[thing], func(x *Execution) bool { return x == e })
		if len(j.executions[thing]) == 0 {
			delete(j.executions, thing)
		}
		tx.complete(j)
		return nil
	})
}

// targets returns the things that the targets stand for, sorted, each once, and an error about the
// first target that is malformed or missing.
func (s *Service) targets(targets []string) (things []string, err error) {
	for _, arn := range targets {
		thing, isThing := strings.CutPrefix(arn, s.config.ARN("thing/"))
		group, isGroup := strings.CutPrefix(arn, s.config.ARN("thinggroup/"))
		members, known := []string{thing}, isThing && s.config.HasThing(thing)
		if isGroup {
			var missing error
			members, missing = s.config.Members(group)
			known = missing == nil
		}
		switch {
		case known:
			things = append(things, members...)
		case isThing || isGroup:
			err = cmp.Or[error](err, reject(awsiot.JobsResourceNotFound, "Target %s cannot be found.", arn))
		default:
			err = cmp.Or[error](err, invalid("Target %q is not the ARN of a thing or thing group of this account and Region.", arn))
		}
	}
	slices.Sort(things)
	return slices.Compact(things), err
}

func (s *Service) inOrder() []*job {
	return slices.SortedFunc(maps.Values(s.jobs), func(a, b *job) int { return cmp.Compare(a.Serial, b.Serial) })
}

func (n NewJob) check() error {
	switch {
	case len(n.Targets) == 0 || len(n.Targets) > maxTargets:
		return invalid("A job must have 1 to %d targets.", maxTargets)
	case len(n.Document) > maxDocument:
		return invalid("The document has %d bytes, at most %d are allowed.", len(n.Document), maxDocument)
	case !json.Valid([]byte(n.Document)):
		return invalid("The document is not JSON.")
	}
	return n.Settings.check()
}

// check returns the first value that AWS does not allow, of those that its service model allows.
func (c Settings) check() (err error) {
	fail := func(format string, args ...any) { err = cmp.Or[error](err, invalid(format, args...)) }
	within := func(name string, value, least, most float64) {
		if value < least || value > most {
			fail("%s is %v, it must be from %v to %v.", name, value, least, most)
		}
	}
	decimals := func(name string, value float64, most int) {
		if _, digits, _ := strings.Cut(strconv.FormatFloat(value, 'f', -1, 64), "."); len(digits) > most {
			fail("%s is %v, it must have at most %d decimals.", name, value, most)
		}
	}
	if r := c.Rollout; r != nil && r.MaximumPerMinute != 0 {
		within("maximumPerMinute", float64(r.MaximumPerMinute), 1, maxRate)
	}
	if r := c.Rollout; r != nil && r.Exponential != nil {
		decimals("incrementFactor", r.Exponential.IncrementFactor, 1)
		if c := r.Exponential.Criteria; (c.NotifiedThings > 0) == (c.SucceededThings > 0) {
			fail("rateIncreaseCriteria must have one criterion of at least 1.")
		}
	}
	if c.Abort != nil {
		within("the length of abortConfig.criteriaList", float64(len(c.Abort.Criteria)), 1, 4)
		for _, x := range c.Abort.Criteria {
			within("thresholdPercentage", x.ThresholdPercentage, 0.01, 100)
			decimals("thresholdPercentage", x.ThresholdPercentage, 2)
		}
	}
	if t := c.Timeout; t != nil && t.InProgressMinutes != nil {
		within("inProgressTimeoutInMinutes", float64(*t.InProgressMinutes), 1, maxTimeout)
	}
	if c.Retry != nil {
		all := 0
		for _, x := range c.Retry.Criteria {
			all += x.Retries
		}
		within("the sum of numberOfRetries", float64(all), 0, maxRetries)
	}
	return err
}
