// Package jobs is AWS IoT Jobs: it rolls jobs out to things as job executions,
// times them out, retries and aborts them, and answers the requests of devices.
// It handles no packets and no HTTP: the caller delivers what it publishes.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-jobs.html,
// and the page of the API that has a method's name
package jobs

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/fleety/device/awsiot"
)

// A Store keeps records by key over restarts. It is called by one goroutine at
// a time.
type Store interface {
	// Each calls f with every record until f fails, and returns f's error.
	Each(f func(key string, value []byte) error) error
	// Save stores records, all or none; a nil value removes one.
	Save(records map[string][]byte) error
}

// Things are the things and thing groups that jobs target.
type Things interface {
	HasThing(name string) bool
	// Members returns the things of a group, ok false without such a group.
	Members(group string) (things []string, ok bool)
}

// A Message is published by the service.
type Message struct {
	Topic   string
	Payload []byte
}

// A Config says what the service stands on. Things, ARN and Publish are
// required.
type Config struct {
	Things Things
	// ARN returns the full name of a resource such as "thing/NAME".
	ARN func(resource string) string
	// Publish receives the notifications. It must not call the service.
	Publish func(Message)
	// Event receives the events of jobs, which it need not publish. It must not
	// call the service. Nil means discard.
	Event func(Event)
	// Store is nil for memory only.
	Store Store
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	// Log receives rejected MQTT requests, and what fails without a caller. Nil
	// means discard.
	Log *slog.Logger
}

// A Service holds the jobs of one account. It is safe for concurrent use.
type Service struct {
	config Config
	wake   chan struct{} // of Run, after due became earlier or the registry changed
	stale  atomic.Bool   // the registry changed

	mu      sync.Mutex
	jobs    map[string]*job         // by id
	pending map[string][]*execution // by thing: neither finished nor canceled
	serial  int64                   // of the latest execution
	due     time.Time               // when Run has work next, zero for never
}

// A job is a job with its executions.
type job struct {
	Job
	Document string `json:"document"`
	Serial   int64  `json:"serial"`
	// Waiting are the things that are to be notified.
	Waiting []string `json:"waiting,omitempty"`
	// Members are the things that a continuous job has reached.
	Members []string `json:"members,omitempty"`
	// Window is the start of the minute in which Notified things were reached.
	Window   time.Time `json:"window,omitzero"`
	Notified int       `json:"notified,omitempty"`

	executions map[string][]*execution // by thing, in the order of their numbers
	counts     map[Status]int          // of the latest execution of each thing
}

// An execution is a job execution as it is stored, without document and time left.
type execution struct {
	Execution
	ForceCanceled bool  `json:"forceCanceled,omitempty"`
	Serial        int64 `json:"serial"` // in the order of queueing
	// FailedRetries and TimedOutRetries count the retries that led here.
	FailedRetries   int       `json:"failedRetries,omitempty"`
	TimedOutRetries int       `json:"timedOutRetries,omitempty"`
	TimesOut        time.Time `json:"timesOut,omitzero"`     // of the in-progress timer
	StepTimesOut    time.Time `json:"stepTimesOut,omitzero"` // of the step timer
}

// A Status is the state of a job execution.
type Status string

// The states of job executions.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-jobs-lifecycle.html
const (
	Queued     Status = "QUEUED"
	InProgress Status = "IN_PROGRESS"
	Succeeded  Status = "SUCCEEDED"
	Failed     Status = "FAILED"
	TimedOut   Status = "TIMED_OUT"
	Rejected   Status = "REJECTED"
	Removed    Status = "REMOVED"
	Canceled   Status = "CANCELED"
)

func (s Status) terminal() bool { return s != Queued && s != InProgress }

// Open returns the service with the jobs in the store. [Service.Run] drives its
// timers.
func Open(c Config) (*Service, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	if c.Event == nil {
		c.Event = func(Event) {}
	}
	s := &Service{config: c, wake: make(chan struct{}, 1), jobs: map[string]*job{}, pending: map[string][]*execution{}}
	if c.Store == nil {
		return s, nil
	}
	var executions []*execution
	err := c.Store.Each(func(key string, value []byte) error {
		if strings.HasPrefix(key, jobPrefix) {
			j := newJob()
			s.jobs[strings.TrimPrefix(key, jobPrefix)] = j
			return json.Unmarshal(value, j)
		}
		e := new(execution)
		executions = append(executions, e)
		return json.Unmarshal(value, e)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the jobs: %w", err)
	}
	slices.SortFunc(executions, func(a, b *execution) int { return cmp.Compare(a.Serial, b.Serial) })
	for _, e := range executions {
		j := s.jobs[e.JobID]
		if j == nil {
			return nil, fmt.Errorf("reading the jobs: execution of job %s, which is missing", e.JobID)
		}
		s.add(j, e)
	}
	s.due = c.Now() // of everything: the first run finds what is due
	return s, nil
}

func newJob() *job { return &job{executions: map[string][]*execution{}, counts: map[Status]int{}} }

// Keys of the store.
const jobPrefix, executionPrefix = "job/", "execution/"

func (e *execution) key() string {
	return fmt.Sprint(executionPrefix, e.JobID, "/", e.ThingName, "/", e.ExecutionNumber)
}

// add enters an execution as the latest one of its thing.
func (s *Service) add(j *job, e *execution) {
	if last := j.latest(e.ThingName); last != nil {
		j.counts[last.Status]--
	}
	j.executions[e.ThingName] = append(j.executions[e.ThingName], e)
	j.counts[e.Status]++
	if !e.Status.terminal() {
		s.pending[e.ThingName] = append(s.pending[e.ThingName], e)
	}
	s.serial = max(s.serial, e.Serial, j.Serial)
}

// latest returns the last execution of a thing, nil without one.
func (j *job) latest(thing string) *execution {
	if all := j.executions[thing]; len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// A change is one mutation under way: what must be stored, and which lists of
// pending executions it may have altered. The service is locked.
type change struct {
	*Service
	now     time.Time
	records map[string]any
	before  map[string][]*execution
	events  []Event
}

// change runs f on jobs that agree with the registry, and stores and publishes
// what it did. reply, if any, is called
// with f's error before the notifications are published.
func (s *Service) change(f func(*change) error, reply func(error)) error {
	s.mu.Lock()
	tx := &change{Service: s, now: s.config.Now(), records: map[string]any{}, before: map[string][]*execution{}}
	if s.stale.Swap(false) {
		tx.sync()
	}
	err := f(tx)
	notifications := tx.notifications()
	if storeErr := tx.store(); err == nil {
		err = storeErr
	}
	s.mu.Unlock()
	if reply != nil {
		reply(err)
	}
	for _, m := range notifications {
		s.config.Publish(m)
	}
	for _, e := range tx.events {
		s.config.Event(e)
	}
	return err
}

func (tx *change) store() error {
	if tx.config.Store == nil || len(tx.records) == 0 {
		return nil
	}
	records := map[string][]byte{}
	for key, value := range tx.records {
		records[key] = nil
		if value != nil {
			records[key] = awsiot.EncodeJSON(value)
		}
	}
	if err := tx.config.Store.Save(records); err != nil {
		return fmt.Errorf("storing the jobs: %w", err)
	}
	return nil
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
	if t.IsZero() || !tx.due.IsZero() && !t.Before(tx.due) {
		return
	}
	tx.due = t
	tx.wakeRun()
}

func (s *Service) wakeRun() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// pendingOf returns a thing's pending executions, those in progress first, then
// in the order of queueing.
func (s *Service) pendingOf(thing string) []*execution {
	list := slices.Clone(s.pending[thing])
	slices.SortStableFunc(list, func(a, b *execution) int {
		return cmp.Or(cmp.Compare(a.Status, b.Status), cmp.Compare(a.Serial, b.Serial)) // I of IN_PROGRESS before Q
	})
	return list
}

// queue makes a new execution of a job for a thing.
func (tx *change) queue(j *job, thing string) *execution {
	tx.touch(thing)
	tx.serial++
	at := tx.now.Unix()
	summary := Summary{JobID: j.ID, QueuedAt: at, LastUpdatedAt: at, VersionNumber: 1, ExecutionNumber: 1}
	e := &execution{Execution: Execution{Summary: summary, ThingName: thing, Status: Queued}, Serial: tx.serial}
	if last := j.latest(thing); last != nil {
		e.ExecutionNumber = last.ExecutionNumber + 1
	}
	tx.add(j, e)
	tx.records[e.key()] = e
	return e
}

// set gives an execution a status. Of one that ends, retry and abort follow, and
// the end of its job.
func (tx *change) set(j *job, e *execution, status Status) {
	tx.touch(e.ThingName)
	if j.latest(e.ThingName) == e {
		j.counts[e.Status]--
		j.counts[status]++
	}
	if status == InProgress && e.Status == Queued {
		e.StartedAt = tx.now.Unix()
		if j.Timeout != nil {
			e.TimesOut = tx.now.Add(time.Duration(j.Timeout.InProgressMinutes) * time.Minute)
			tx.schedule(e.TimesOut)
		}
	}
	e.Status, e.LastUpdatedAt = status, tx.now.Unix()
	e.VersionNumber++
	tx.records[e.key()] = e
	if !status.terminal() {
		return
	}
	tx.executionEvent(e, string(status))
	tx.dropPending(e)
	e.TimesOut, e.StepTimesOut = time.Time{}, time.Time{}
	tx.abort(j)
	tx.retry(j, e)
	tx.complete(j)
}

func (tx *change) dropPending(e *execution) {
	tx.pending[e.ThingName] = slices.DeleteFunc(tx.pending[e.ThingName], func(p *execution) bool { return p == e })
	if len(tx.pending[e.ThingName]) == 0 {
		delete(tx.pending, e.ThingName)
	}
}

// maxNotified is how many executions a notification lists.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-comm-notifications.html
const maxNotified = 10

// notifications compares the lists of pending executions with what they were:
// notify follows a list that gained or lost an execution, notify-next one that
// begins with another.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-comm-notifications.html
func (tx *change) notifications() (out []Message) {
	for _, thing := range slices.Sorted(maps.Keys(tx.before)) {
		before, now := tx.before[thing], tx.pendingOf(thing)
		other := func(e *execution) bool { return !slices.Contains(before, e) }
		if len(before) != len(now) || slices.ContainsFunc(now, other) {
			list := map[Status][]Summary{}
			for _, e := range now[:min(len(now), maxNotified)] {
				list[e.Status] = append(list[e.Status], e.Summary)
			}
			out = append(out, Message{awsiot.JobsNotify(thing), awsiot.EncodeJSON(struct {
				Timestamp int64                `json:"timestamp"`
				Jobs      map[Status][]Summary `json:"jobs"`
			}{tx.now.Unix(), list})})
		}
		if !slices.Equal(before[:min(1, len(before))], now[:min(1, len(now))]) {
			next := Response{Timestamp: tx.now.Unix()}
			if len(now) > 0 {
				next.Execution = tx.describe(now[0], true)
				next.Execution.ThingName, next.Execution.StatusDetails = "", nil // as in AWS's example
			}
			out = append(out, Message{awsiot.JobsNotifyNext(thing), awsiot.EncodeJSON(next)})
		}
	}
	return out
}
