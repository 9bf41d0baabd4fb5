package jobs

import (
	"cmp"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
)

// Limits of jobs.
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot_device_management.html
const (
	maxDocument    = 32768 // bytes
	maxDescription = 2028  // characters
	maxTargets     = 100
	maxRate        = 1000        // things a minute
	maxTimeout     = 7 * 24 * 60 // minutes
	maxRetries     = 10          // of all failure types together
)

// A JobStatus is the state of a job.
type JobStatus string

// The states of jobs. Deletion is immediate here.
const (
	JobInProgress JobStatus = "IN_PROGRESS"
	JobCanceled   JobStatus = "CANCELED"
	JobCompleted  JobStatus = "COMPLETED"
)

// A TargetSelection says whether a job reaches things that join its groups later.
type TargetSelection string

// The two target selections.
const (
	Snapshot   TargetSelection = "SNAPSHOT"
	Continuous TargetSelection = "CONTINUOUS"
)

// Settings are the parts of a job that UpdateJob can change.
type Settings struct {
	Description  string        `json:"description,omitempty"`
	PresignedURL *PresignedURL `json:"presignedUrlConfig,omitempty"`
	Rollout      *Rollout      `json:"jobExecutionsRolloutConfig,omitempty"`
	Abort        *Abort        `json:"abortConfig,omitempty"`
	Timeout      *Timeout      `json:"timeoutConfig,omitempty"`
	Retry        *Retry        `json:"jobExecutionsRetryConfig,omitempty"`
}

// A PresignedURL configures presigned URLs in job documents. It is kept and
// returned; placeholders in documents stay as they are.
type PresignedURL struct {
	RoleARN      string `json:"roleArn,omitempty"`
	ExpiresInSec int    `json:"expiresInSec,omitempty"`
}

// A Rollout bounds how many things are notified of a job a minute.
type Rollout struct {
	MaximumPerMinute int          `json:"maximumPerMinute,omitempty"`
	Exponential      *Exponential `json:"exponentialRate,omitempty"`
}

// An Exponential rate grows by a factor each time a number of things is reached.
type Exponential struct {
	BaseRate        int     `json:"baseRatePerMinute"`
	IncrementFactor float64 `json:"incrementFactor"`
	Criteria        struct {
		NotifiedThings  int `json:"numberOfNotifiedThings,omitempty"`
		SucceededThings int `json:"numberOfSucceededThings,omitempty"`
	} `json:"rateIncreaseCriteria"`
}

// An Abort says when a job is canceled because of its failures.
type Abort struct {
	Criteria []struct {
		FailureType         string  `json:"failureType"` // FAILED, REJECTED, TIMED_OUT or ALL
		Action              string  `json:"action"`      // CANCEL
		ThresholdPercentage float64 `json:"thresholdPercentage"`
		MinThings           int     `json:"minNumberOfExecutedThings"`
	} `json:"criteriaList"`
}

// A Timeout bounds how long an execution is in progress.
type Timeout struct {
	InProgressMinutes int `json:"inProgressTimeoutInMinutes"`
}

// A Retry says how often failed executions are repeated.
type Retry struct {
	Criteria []struct {
		FailureType string `json:"failureType"` // FAILED, TIMED_OUT or ALL
		Retries     int    `json:"numberOfRetries"`
	} `json:"criteriaList"`
}

// A Job describes a job. Times are seconds since 1970.
type Job struct {
	ARN             string          `json:"jobArn"`
	ID              string          `json:"jobId"`
	TargetSelection TargetSelection `json:"targetSelection"`
	Status          JobStatus       `json:"status"`
	ForceCanceled   bool            `json:"forceCanceled,omitempty"`
	ReasonCode      string          `json:"reasonCode,omitempty"`
	Comment         string          `json:"comment,omitempty"`
	Targets         []string        `json:"targets"`
	Template
	Settings
	CreatedAt     int64 `json:"createdAt"`
	LastUpdatedAt int64 `json:"lastUpdatedAt"`
	CompletedAt   int64 `json:"completedAt,omitempty"`
	// ProcessDetails counts the things by the status of their latest execution.
	ProcessDetails map[string]int `json:"jobProcessDetails,omitempty"`
}

func (j *job) description() Job {
	out := j.Job
	out.ProcessDetails = map[string]int{}
	for status, name := range map[Status]string{
		Canceled: "Canceled", Succeeded: "Succeeded", Failed: "Failed", Rejected: "Rejected",
		Queued: "Queued", InProgress: "InProgress", Removed: "Removed", TimedOut: "TimedOut",
	} {
		out.ProcessDetails["numberOf"+name+"Things"] = j.counts[status]
	}
	return out
}

// A NewJob is the request of CreateJob.
type NewJob struct {
	Targets         []string        `json:"targets"`
	Document        string          `json:"document"`
	TargetSelection TargetSelection `json:"targetSelection"`
	Template
	Settings
}

// A Template names one of AWS's managed templates, which gives the document.
type Template struct {
	TemplateARN string            `json:"jobTemplateArn,omitempty"`
	Parameters  map[string]string `json:"documentParameters,omitempty"`
}

// CreateJob creates a job and begins to roll it out.
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
	if err := n.check(id); err != nil {
		return Job{}, err
	}
	err = s.change(func(tx *change) error {
		if tx.jobs[id] != nil {
			return reject(AlreadyExists, "Job %s already exists.", id)
		}
		things, err := tx.targets(n.Targets)
		if err != nil {
			return err
		}
		tx.serial++
		j := newJob()
		j.Job = Job{
			ARN: tx.config.ARN("job/" + id), ID: id, TargetSelection: n.TargetSelection, Status: JobInProgress,
			Targets: n.Targets, Template: n.Template, Settings: n.Settings, CreatedAt: tx.now.Unix(), LastUpdatedAt: tx.now.Unix(),
		}
		j.Document, j.Serial, j.Waiting = n.Document, tx.serial, things
		if n.TargetSelection == Continuous {
			j.Members = slices.Clone(j.Waiting)
		}
		tx.jobs[id] = j
		tx.keepJob(j)
		tx.rollOut(j)
		tx.complete(j)
		out = j.description()
		return nil
	}, nil)
	return out, err
}

// mutate is change for the operations on one job, which it returns.
func (s *Service) mutate(id string, f func(*change, *job) error) (out Job, err error) {
	err = s.change(func(tx *change) error {
		j := tx.jobs[id]
		if j == nil {
			return reject(ResourceNotFound, "Job %s cannot be found.", id)
		}
		err := f(tx, j)
		out = j.description()
		return err
	}, nil)
	return out, err
}

// DescribeJob returns a job and its document.
func (s *Service) DescribeJob(id string) (out Job, document string, err error) {
	out, err = s.mutate(id, func(_ *change, j *job) error {
		document = j.Document
		return nil
	})
	return out, document, err
}

// Jobs returns all jobs, the newest first.
func (s *Service) Jobs() []Job {
	var out []Job
	_ = s.change(func(tx *change) error { // which can fail to store what it found only
		for _, j := range tx.inOrder() {
			out = append(out, j.description())
		}
		return nil
	}, nil)
	slices.Reverse(out)
	return out
}

// UpdateJob changes the settings that are given; a nil part and an empty
// description stay as they are.
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
func (s *Service) CancelJob(id, reasonCode, comment string, force bool) (Job, error) {
	return s.mutate(id, func(tx *change, j *job) error {
		if reasonCode != "" && !reasonPattern.MatchString(reasonCode) {
			return invalid("reasonCode %q must have 1 to 128 upper-case letters, digits or underscores.", reasonCode)
		}
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
			return reject(InvalidStateTransition, "Job %s is %s.", id, j.Status)
		}
		tx.jobEvent(j, "DELETION_IN_PROGRESS")
		defer tx.jobEvent(j, "DELETED")
		delete(tx.jobs, id)
		tx.records[jobPrefix+id] = nil
		for _, all := range j.executions {
			for _, e := range all {
				tx.drop(e)
			}
		}
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

// A Record is a job execution as the control plane describes it.
type Record struct {
	Execution
	ForceCanceled bool
	RetryAttempt  int
}

func (tx *change) record(e *execution) Record {
	return Record{*tx.describe(e, false), e.ForceCanceled, e.FailedRetries + e.TimedOutRetries}
}

// JobExecutions returns the executions of a job, in the order of queueing.
func (s *Service) JobExecutions(id string) (out []Record, err error) {
	_, err = s.mutate(id, func(tx *change, j *job) error {
		out = tx.recordsOf(slices.Concat(slices.Collect(maps.Values(j.executions))...))
		return nil
	})
	return out, err
}

// ThingExecutions returns the executions for a thing, in the order of queueing.
func (s *Service) ThingExecutions(thing string) (out []Record, err error) {
	err = s.change(func(tx *change) error {
		var all []*execution
		for _, j := range tx.jobs {
			all = append(all, j.executions[thing]...)
		}
		if out = tx.recordsOf(all); len(out) == 0 && !tx.config.Things.HasThing(thing) {
			return reject(ResourceNotFound, "Thing %s cannot be found.", thing)
		}
		return nil
	}, nil)
	return out, err
}

func (tx *change) recordsOf(all []*execution) (out []Record) {
	slices.SortFunc(all, func(a, b *execution) int { return cmp.Compare(a.Serial, b.Serial) })
	for _, e := range all {
		out = append(out, tx.record(e))
	}
	return out
}

// DescribeJobExecution returns an execution, the latest for a nil number.
func (s *Service) DescribeJobExecution(id, thing string, number *int64) (out Record, err error) {
	err = s.change(func(tx *change) error {
		e, err := tx.find(topicOf(id, thing), number)
		if err == nil {
			out = tx.record(e)
		}
		return err
	}, nil)
	return out, err
}

// CancelJobExecution cancels the latest execution of a job for a thing. One in
// progress must be forced.
func (s *Service) CancelJobExecution(id, thing string, expectedVersion *int64, details map[string]string, force bool) error {
	return s.change(func(tx *change) error {
		e, err := tx.find(topicOf(id, thing), nil)
		if err = cmp.Or(err, checkDetails(details)); err != nil {
			return err
		}
		switch {
		case expectedVersion != nil && *expectedVersion != e.VersionNumber:
			return reject(VersionConflict, "The execution has version %d, not %d.", e.VersionNumber, *expectedVersion)
		case e.Status.terminal() || e.Status == InProgress && !force:
			return reject(InvalidStateTransition, "The execution is %s.", e.Status)
		}
		if details != nil {
			e.StatusDetails = details
		}
		e.ForceCanceled = e.Status == InProgress
		tx.set(tx.jobs[id], e, Canceled)
		return nil
	}, nil)
}

func (tx *change) drop(e *execution) {
	tx.executionEvent(e, "DELETED")
	tx.touch(e.ThingName)
	tx.dropPending(e)
	tx.records[e.key()] = nil
}

// DeleteJobExecution deletes an execution. One that is pending must be forced.
func (s *Service) DeleteJobExecution(id, thing string, number int64, force bool) error {
	return s.change(func(tx *change) error {
		e, err := tx.find(topicOf(id, thing), &number)
		if err != nil {
			return err
		}
		if !e.Status.terminal() && !force {
			return reject(InvalidStateTransition, "The execution is %s.", e.Status)
		}
		tx.drop(e)
		j := tx.jobs[id]
		if j.latest(thing) == e {
			j.counts[e.Status]--
			if all := j.executions[thing]; len(all) > 1 {
				j.counts[all[len(all)-2].Status]++
			}
		}
		j.executions[thing] = slices.DeleteFunc(j.executions[thing], func(x *execution) bool { return x == e })
		if len(j.executions[thing]) == 0 {
			delete(j.executions, thing)
		}
		tx.complete(j)
		return nil
	}, nil)
}

func topicOf(job, thing string) awsiot.JobsTopic { return awsiot.JobsTopic{Thing: thing, Job: job} }

// targets returns the things that the targets stand for, sorted, each once, and
// an error about the first target that is malformed or missing.
func (s *Service) targets(targets []string) (things []string, err error) {
	for _, arn := range targets {
		thing, isThing := strings.CutPrefix(arn, s.config.ARN("thing/"))
		group, isGroup := strings.CutPrefix(arn, s.config.ARN("thinggroup/"))
		members, known := []string{thing}, isThing && s.config.Things.HasThing(thing)
		if isGroup {
			members, known = s.config.Things.Members(group)
		}
		switch {
		case known:
			things = append(things, members...)
		case isThing || isGroup:
			err = cmp.Or[error](err, reject(ResourceNotFound, "Target %s cannot be found.", arn))
		default:
			err = cmp.Or[error](err, invalid("Target %q is not the ARN of a thing or thing group of this account and Region.", arn))
		}
	}
	slices.Sort(things)
	return slices.Compact(things), err
}

// inOrder returns the jobs in the order of their creation.
func (s *Service) inOrder() []*job {
	return slices.SortedFunc(maps.Values(s.jobs), func(a, b *job) int { return cmp.Compare(a.Serial, b.Serial) })
}

var (
	idPattern     = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)
	reasonPattern = regexp.MustCompile(`^[\p{Lu}\p{Nd}_]{1,128}$`)
)

func (n NewJob) check(id string) error {
	switch {
	case !idPattern.MatchString(id):
		return invalid("Job id %q must have 1 to 64 letters, digits, underscores or hyphens.", id)
	case len(n.Targets) == 0 || len(n.Targets) > maxTargets:
		return invalid("A job must have 1 to %d targets.", maxTargets)
	case n.TargetSelection != Snapshot && n.TargetSelection != Continuous:
		return invalid("targetSelection %q must be SNAPSHOT or CONTINUOUS.", n.TargetSelection)
	case len(n.Document) > maxDocument:
		return invalid("The document has %d bytes, at most %d are allowed.", len(n.Document), maxDocument)
	case !json.Valid([]byte(n.Document)):
		return invalid("The document is not JSON.")
	}
	return n.Settings.check()
}

// check finds what AWS's ranges do not allow.
func (c Settings) check() error {
	var errs []error
	within := func(name string, value, least, most float64) {
		if value < least || value > most {
			errs = append(errs, invalid("%s is %v, it must be from %v to %v.", name, value, least, most))
		}
	}
	oneOf := func(name, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			errs = append(errs, invalid("%s %q must be one of %v.", name, value, allowed))
		}
	}
	within("the length of description", float64(utf8.RuneCountInString(c.Description)), 0, maxDescription)
	if p := c.PresignedURL; p != nil && p.ExpiresInSec != 0 {
		within("expiresInSec", float64(p.ExpiresInSec), 60, 3600)
	}
	if r := c.Rollout; r != nil {
		if r.MaximumPerMinute != 0 || r.Exponential == nil {
			within("maximumPerMinute", float64(r.MaximumPerMinute), 1, maxRate)
		}
		if e := r.Exponential; e != nil {
			within("baseRatePerMinute", float64(e.BaseRate), 1, maxRate)
			within("incrementFactor", e.IncrementFactor, 1.1, 5)
			if (e.Criteria.NotifiedThings > 0) == (e.Criteria.SucceededThings > 0) {
				errs = append(errs, invalid("rateIncreaseCriteria must have one criterion of at least 1."))
			}
		}
	}
	if c.Abort != nil {
		within("the length of abortConfig.criteriaList", float64(len(c.Abort.Criteria)), 1, 4)
		for _, x := range c.Abort.Criteria {
			oneOf("failureType", x.FailureType, "FAILED", "REJECTED", "TIMED_OUT", "ALL")
			oneOf("action", x.Action, "CANCEL")
			within("thresholdPercentage", x.ThresholdPercentage, 0.01, 100)
			within("minNumberOfExecutedThings", float64(x.MinThings), 1, 1<<31)
		}
	}
	if c.Timeout != nil {
		within("inProgressTimeoutInMinutes", float64(c.Timeout.InProgressMinutes), 1, maxTimeout)
	}
	if c.Retry != nil {
		within("the length of jobExecutionsRetryConfig.criteriaList", float64(len(c.Retry.Criteria)), 1, 2)
		all := 0
		for _, x := range c.Retry.Criteria {
			oneOf("failureType", x.FailureType, "FAILED", "TIMED_OUT", "ALL")
			within("numberOfRetries", float64(x.Retries), 0, maxRetries)
			all += x.Retries
		}
		within("the sum of numberOfRetries", float64(all), 0, maxRetries)
	}
	return cmp.Or(errs...)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
