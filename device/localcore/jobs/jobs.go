// Package jobs is AWS IoT Jobs: it rolls jobs out to things as job executions, times them out,
// retries and aborts them, and answers the requests of devices. It handles no packets and no HTTP:
// the caller delivers what it publishes.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-jobs.html, and the page of the API that has a
// method's name
package jobs

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/records"
)

// A Config says what the service stands on. All but Store must be set.
type Config struct {
	HasThing func(thing string) bool
	Members  func(group string) (things []string, err error) // returns an error if there is no such thing group
	ARN      func(resource string) string                    // returns the full name of a resource such as "thing/NAME"
	Publish  func(awsiot.Message)                            // receives the notifications; it must not call the service
	Event    func(Event)                                     // receives the events of jobs, which it need not publish; it must not call the service
	Store    records.Store                                   // nil for memory only
	Now      func() time.Time
	Log      *slog.Logger // receives rejected MQTT requests, and what fails without a caller
}

// A Service holds the jobs of one account. What it rejects gives an [*awsiot.JobsError]; any other
// error is of the store. It is safe for concurrent use.
type Service struct {
	config Config
	wake   chan struct{} // of Run, after due became earlier or the registry changed
	stale  atomic.Bool   // the registry changed

	mu     sync.Mutex      // held while the store is written, so that what is read is stored
	jobs   map[string]*job // by id
	serial int64           // of the latest job or execution
	due    time.Time       // when Run has work next, zero for never
}

// A job is a job with its executions, as it is stored.
type job struct {
	Job
	Serial   int64     `json:"serial"`
	Waiting  []string  `json:"waiting,omitempty"`  // things that are to be notified
	Members  []string  `json:"members,omitempty"`  // things that a continuous job has reached
	Window   time.Time `json:"window,omitzero"`    // start of the minute in which Notified things were reached
	Notified int       `json:"notified,omitempty"` // things

	executions map[string][]*Execution // by thing, in the order of their numbers
}

// An Execution is a job execution as it is stored and as the control plane describes it.
type Execution struct {
	awsiot.JobExecution
	ForceCanceled   bool      `json:"forceCanceled,omitempty"`
	Serial          int64     `json:"serial"`                    // in the order of queueing
	FailedRetries   int       `json:"failedRetries,omitempty"`   // that led here
	TimedOutRetries int       `json:"timedOutRetries,omitempty"` // that led here
	TimesOut        time.Time `json:"timesOut,omitzero"`         // of the in-progress timer
	StepTimesOut    time.Time `json:"stepTimesOut,omitzero"`     // of the step timer
}

// Keys of the store.
const jobPrefix, executionPrefix = "job/", "execution/"

func (e *Execution) key() string {
	return fmt.Sprint(executionPrefix, e.JobID, "/", e.ThingName, "/", e.ExecutionNumber)
}

// Open returns the service with the jobs in the store. [Service.Run] drives its timers.
func Open(c Config) (*Service, error) {
	c.Store = cmp.Or(c.Store, records.None)
	s := &Service{config: c, wake: make(chan struct{}, 1), due: c.Now()} // the first run finds what is due
	return s, s.load()
}

// load reads the jobs from the store.
func (s *Service) load() error {
	s.jobs = map[string]*job{}
	var executions []*Execution
	err := s.config.Store.Each(func(key string, value []byte) error {
		if id, ok := strings.CutPrefix(key, jobPrefix); ok {
			j := &job{executions: map[string][]*Execution{}}
			err := json.Unmarshal(value, j)
			s.jobs[id], s.serial = j, max(s.serial, j.Serial)
			return err
		}
		e := new(Execution)
		executions = append(executions, e)
		return json.Unmarshal(value, e)
	})
	slices.SortFunc(executions, bySerial)
	for _, e := range executions {
		j := s.jobs[e.JobID]
		if j == nil {
			err = cmp.Or(err, fmt.Errorf("execution of job %s, which is missing", e.JobID))
			break
		}
		j.executions[e.ThingName] = append(j.executions[e.ThingName], e)
		s.serial = max(s.serial, e.Serial)
	}
	if err != nil {
		return fmt.Errorf("reading the jobs: %w", err)
	}
	return nil
}

func bySerial(a, b *Execution) int { return cmp.Compare(a.Serial, b.Serial) }

// latest returns the last execution of a thing, nil without one.
func (j *job) latest(thing string) *Execution {
	if all := j.executions[thing]; len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// pending yields the executions that have not ended. Each is the latest of its thing.
func (j *job) pending() iter.Seq[*Execution] {
	return func(yield func(*Execution) bool) {
		for thing := range j.executions {
			if e := j.latest(thing); !e.Status.Terminal() && !yield(e) {
				return
			}
		}
	}
}

func (j *job) pendingByThing() []*Execution {
	return slices.SortedFunc(j.pending(), func(a, b *Execution) int { return cmp.Compare(a.ThingName, b.ThingName) })
}

// pendingOf returns a thing's pending executions, those in progress first, then in the order of
// queueing.
func (s *Service) pendingOf(thing string) (list []*Execution) {
	for _, j := range s.jobs {
		if e := j.latest(thing); e != nil && !e.Status.Terminal() {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *Execution) int {
		return cmp.Or(cmp.Compare(a.Status, b.Status), bySerial(a, b)) // I of IN_PROGRESS before Q
	})
	return list
}

// A change is one mutation under way: what must be stored, and which lists of pending executions it
// may have altered. The service is locked.
type change struct {
	*Service
	now     time.Time
	records map[string]any          // nil removes one
	before  map[string][]*Execution // pending executions, by thing
	events  []Event
}

// change runs f on jobs that agree with the registry, and stores and publishes what it did.
func (s *Service) change(f func(*change) error) error { return s.changeAndReply(f, func(error) {}) }

// changeAndReply is change that calls reply with the error before the notifications are published.
func (s *Service) changeAndReply(f func(*change) error, reply func(error)) error {
	s.mu.Lock()
	tx := &change{Service: s, now: s.config.Now(), records: map[string]any{}, before: map[string][]*Execution{}}
	if s.stale.Swap(false) {
		tx.sync()
	}
	err := f(tx)
	notifications := tx.notifications()
	if len(tx.records) > 0 {
		stored := map[string][]byte{}
		for key, value := range tx.records {
			if stored[key] = nil; value != nil {
				stored[key] = awsiot.EncodeJSON(value)
			}
		}
		if failed := s.config.Store.Save(stored); failed != nil { // then nothing of it has happened
			err = cmp.Or(err, errors.Join(fmt.Errorf("storing the jobs: %w", failed), s.load()))
			notifications, tx.events = nil, nil
			tx.schedule(tx.now.Add(time.Minute)) // what was due still is
		}
	}
	s.mu.Unlock()
	reply(err)
	for _, m := range notifications {
		s.config.Publish(m)
	}
	for _, e := range tx.events {
		s.config.Event(e)
	}
	return err
}

func (tx *change) keepJob(j *job) { tx.records[jobPrefix+j.ID] = j }

// touch notes a thing's pending executions before they change.
func (tx *change) touch(thing string) {
	if _, ok := tx.before[thing]; !ok {
		tx.before[thing] = tx.pendingOf(thing)
	}
}

// schedule has Run look again at t.
func (tx *change) schedule(t time.Time) {
	if !t.IsZero() && (tx.due.IsZero() || t.Before(tx.due)) {
		tx.due = t
		tx.wakeRun()
	}
}

func (s *Service) wakeRun() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func (tx *change) queue(j *job, thing string) *Execution {
	tx.touch(thing)
	tx.serial++
	at := tx.now.Unix()
	e := &Execution{Serial: tx.serial, JobExecution: awsiot.JobExecution{
		JobExecutionSummary: awsiot.JobExecutionSummary{JobID: j.ID, QueuedAt: at, LastUpdatedAt: at, VersionNumber: 1, ExecutionNumber: 1},
		ThingName:           thing, Status: awsiot.JobQueued,
	}}
	if last := j.latest(thing); last != nil {
		e.ExecutionNumber = last.ExecutionNumber + 1
	}
	j.executions[thing] = append(j.executions[thing], e)
	tx.records[e.key()] = e
	return e
}

// set gives an execution a status. Of one that ends, retry and abort follow, and the end of its
// job.
func (tx *change) set(j *job, e *Execution, status awsiot.JobExecutionStatus) {
	tx.touch(e.ThingName)
	if status == awsiot.JobInProgress && e.Status == awsiot.JobQueued {
		e.StartedAt = tx.now.Unix()
		if j.Timeout != nil && j.Timeout.InProgressMinutes != nil {
			e.TimesOut = tx.now.Add(time.Duration(*j.Timeout.InProgressMinutes) * time.Minute)
			tx.schedule(e.TimesOut)
		}
	}
	e.Status, e.LastUpdatedAt = status, tx.now.Unix()
	e.VersionNumber++
	tx.records[e.key()] = e
	if status.Terminal() {
		tx.executionEvent(e, string(status))
		e.TimesOut, e.StepTimesOut = time.Time{}, time.Time{}
		tx.abort(j)
		tx.retry(j, e)
		tx.complete(j)
	}
}

// maxListed is how many pending executions a notification and GetPendingJobExecutions list.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/job-limits.html
const maxListed = 10

// notifications compares the lists of pending executions with what they were: notify follows a list
// that gained or lost an execution, notify-next one that begins with another.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-comm-notifications.html
func (tx *change) notifications() (out []awsiot.Message) {
	for _, thing := range slices.Sorted(maps.Keys(tx.before)) {
		before, now := tx.before[thing], tx.pendingOf(thing)
		other := func(e *Execution) bool { return !slices.Contains(before, e) }
		if len(before) != len(now) || slices.ContainsFunc(now, other) {
			list := map[awsiot.JobExecutionStatus][]awsiot.JobExecutionSummary{}
			for _, e := range now[:min(len(now), maxListed)] {
				list[e.Status] = append(list[e.Status], e.JobExecutionSummary)
			}
			out = append(out, awsiot.Message{Topic: awsiot.JobsNotify(thing), Payload: awsiot.EncodeJSON(map[string]any{"timestamp": tx.now.Unix(), "jobs": list})})
		}
		if !slices.Equal(before[:min(1, len(before))], now[:min(1, len(now))]) {
			next := awsiot.JobsResponse{Timestamp: tx.now.Unix()}
			if len(now) > 0 {
				next.Execution = tx.describe(now[0], true)
				next.Execution.ThingName, next.Execution.StatusDetails = "", nil // as in AWS's example
			}
			out = append(out, awsiot.Message{Topic: awsiot.JobsNotifyNext(thing), Payload: awsiot.EncodeJSON(next)})
		}
	}
	return out
}

// An Event is what AWS IoT publishes of a job or of a job execution that has ended.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/events-jobs.html
type Event struct {
	Type    string         // JOB or JOB_EXECUTION
	Topic   string         // below $aws/events/
	Payload map[string]any // without eventId
}

// jobEvent notes that a job has, or is about to get, a status.
func (tx *change) jobEvent(j *job, status string) {
	payload := map[string]any{
		"eventType": "JOB", "timestamp": tx.now.Unix(), "operation": strings.ToLower(status), "jobId": j.ID, "status": status,
		"targetSelection": j.TargetSelection, "targets": j.Targets, "description": j.Description,
		"createdAt": j.CreatedAt * 1000, "lastUpdatedAt": tx.now.UnixMilli(),
	}
	if j.Comment != "" {
		payload["comment"] = j.Comment
	}
	if status == string(JobCompleted) {
		payload["completedAt"] = tx.now.UnixMilli()
		payload["jobProcessDetails"] = j.processDetails("Canceled", "Rejected", "Failed", "Removed", "Succeeded")
	}
	tx.events = append(tx.events, Event{"JOB", "job/" + j.ID + "/" + strings.ToLower(status), payload})
}

func (tx *change) executionEvent(e *Execution, status string) {
	payload := map[string]any{
		"eventType": "JOB_EXECUTION", "timestamp": tx.now.Unix(), "operation": strings.ToLower(status), "jobId": e.JobID,
		"thingArn": tx.config.ARN("thing/" + e.ThingName), "status": status,
	}
	if e.StatusDetails != nil {
		payload["statusDetails"] = e.StatusDetails
	}
	tx.events = append(tx.events, Event{"JOB_EXECUTION", "jobExecution/" + e.JobID + "/" + strings.ToLower(status), payload})
}
