// Package jobs carries out AWS IoT Jobs on a device: documents of the schema that AWS's managed
// templates have, with executables in a folder as handlers.
//
// Nothing runs that the configuration does not allow. What is to be done is on stable storage
// before it is done: after a crash or a reboot the execution continues, with the step that was
// interrupted.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-devices.html
package jobs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

// DefaultStepTimeout is how long a step may take.
const DefaultStepTimeout = time.Hour

// The built-in operations.
const (
	Rotate       = "rotate"           // replaces the device's key and certificate
	DownloadFile = "download-file.sh" // which AWS-Download-File names; built in where Settings.Downloads is set
)

// Settings say what jobs may do. The zero value allows nothing: every job is rejected.
type Settings struct {
	// Handlers is the folder of handlers. It and they must be owned by root or the agent's user,
	// and writable by nobody else.
	Handlers string
	// Allow has the operations that jobs may use: names of handlers, [Rotate], and "runCommand" for
	// every command.
	Allow       []string
	Downloads   string        // the folder that files are downloaded into; empty: [DownloadFile] is not built in
	PublicKey   string        // the path of the Ed25519 key, in PEM, that signs downloads; empty: they need no signature
	StepTimeout time.Duration // bounds each step; 0 means [DefaultStepTimeout]
}

// Config says how jobs are carried out. Dir is required.
type Config struct {
	Dir string // where the execution in progress is stored
	Settings
	Session session.Options // has the proxy of downloads
	// Replace replaces the device's key and certificate, and returns when the new ones are
	// verified. It and CertificateID serve [Rotate].
	Replace       func(context.Context) error
	CertificateID func() (string, error) // returns the id of the present certificate
	Log           *slog.Logger           // nil discards

	// Of tests. stopDelay is how much later than its handlers the agent may be stopped: a service
	// manager, or a system that ends, sends SIGTERM to all processes of a service.
	bootID       func() string
	stopDelay    time.Duration
	stallTimeout time.Duration // of a server that sends nothing
}

// A Service is the part of an agent that carries out jobs, one at a time. It is used by one agent.
type Service struct {
	Config                 // Settings is guarded by mu
	notified chan struct{} // receives a value when the jobs of the thing may have changed
	changed  chan struct{} // receives a value when the execution has progressed
	unread   int           // how often reading the execution on stable storage is still tried; used by New and Serve

	mu      sync.Mutex
	current *execution // nil if none is in progress
	stop    func()     // ends the worker of the current execution and waits for that, nil while none runs
	ended   bool       // no worker starts any more
	request *request   // that waits for its response
	results map[string]uint64
	invalid uint64 // messages that could not be read
}

// New returns a service that continues the execution on stable storage, if there is one.
func New(c Config) *Service {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	c.stopDelay, c.stallTimeout = cmp.Or(c.stopDelay, time.Second), cmp.Or(c.stallTimeout, time.Minute)
	if c.bootID == nil {
		c.bootID = bootID
	}
	s := &Service{Config: c, notified: make(chan struct{}, 1), changed: make(chan struct{}, 1), unread: maxReads, results: map[string]uint64{}}
	s.Set(c.Settings)
	_ = s.read() // Serve tries again
	return s
}

// maxReads is how often the execution on stable storage is tried to be read, with pauses that grow to
// minutes: a disk may fail for a moment.
const maxReads = 10

// read reads the execution that an earlier process has left, once that succeeds. What the disk does
// not give is lost in the end, as what is damaged is at once.
func (s *Service) read() error {
	if s.unread == 0 {
		return nil
	}
	current, err := load(s.Dir)
	s.unread--
	if cannot := new(fs.PathError); errors.As(err, &cannot) && s.unread > 0 {
		return err
	}
	s.unread = 0
	if err != nil {
		s.Log.Error("the execution fails if AWS IoT still has it", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = current
	return nil
}

// Set replaces the settings, which count from the next step on.
func (s *Service) Set(c Settings) {
	c.StepTimeout = cmp.Or(max(c.StepTimeout, 0), DefaultStepTimeout)
	for _, dir := range []*string{&c.Handlers, &c.Downloads} {
		if abs, err := filepath.Abs(*dir); err == nil && *dir != "" {
			*dir = abs // handlers run in the root folder
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Settings = c
}

func (s *Service) settings() Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Settings
}

// Name returns "jobs".
func (s *Service) Name() string { return "jobs" }

// Filters returns the topic of the notifications. Responses arrive without a subscription.
func (s *Service) Filters(thing string) []string { return []string{awsiot.JobsNotifyNext(thing)} }

// Run ends the handler that runs when ctx ends. Its step begins again when the agent does.
func (s *Service) Run(ctx context.Context, _ string) {
	<-ctx.Done()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.stopWorker()
}

// Status returns the execution in progress, nil if there is none.
func (s *Service) Status() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil
	}
	return map[string]any{"jobId": s.current.JobID, "status": cmp.Or(s.current.Status, awsiot.JobInProgress), "statusDetails": s.current.clone().Details}
}

// Metrics passes on how executions have ended, and what could not be read.
func (s *Service) Metrics(metric func(name, kind, help string, samples ...any)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	metric("jobs_total", "counter", "Job executions that have ended, by result.", "{result=%q}", s.results)
	metric("jobs_invalid_messages_total", "counter", "Messages of AWS IoT Jobs that were not understood.", "", s.invalid)
}

// A request is one to the Jobs API, whose response has its token.
type request struct {
	topic    awsiot.JobsTopic
	token    string
	response chan response
}

// A response has the members of all responses that are used here: what others are like must not
// keep a device from its jobs.
type response struct {
	ClientToken string `json:"clientToken"`
	Execution   *struct {
		JobID           string                    `json:"jobId"`
		ExecutionNumber int64                     `json:"executionNumber"`
		QueuedAt        json.RawMessage           `json:"queuedAt"`
		Status          awsiot.JobExecutionStatus `json:"status"`
		JobDocument     json.RawMessage           `json:"jobDocument"`
	} `json:"execution"`
	Code    awsiot.JobsErrorCode `json:"code"` // of an error
	Message string               `json:"message"`
}

// Deliver takes a notification or a response.
func (s *Service) Deliver(m session.Message) bool {
	if !strings.HasPrefix(m.Topic, "$aws/things/") || !strings.Contains(m.Topic, "/jobs/") {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, q := response{}, s.request
	err := json.Unmarshal(m.Payload, &r)
	switch accepted := q != nil && m.Topic == q.topic.Accepted(); {
	case err == nil && strings.HasSuffix(m.Topic, "/jobs/notify-next"):
		signal(s.notified)
	case err == nil && q != nil && r.ClientToken == q.token && (accepted && r.Code == "" || m.Topic == q.topic.Rejected() && r.Code != ""):
		q.response <- r
		s.request = nil
	default: // malformed, of another client, or too late
		s.invalid++
	}
	return true
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

const responseTimeout = 30 * time.Second // after the request is sent, which takes its time on a slow link

func (s *Service) call(ctx context.Context, conn session.Shared, operation awsiot.JobsOperation, job string, body awsiot.JobsRequest) (response, error) {
	q := &request{awsiot.JobsTopic{Thing: conn.ThingName(), Operation: operation, Job: job}, rand.Text(), make(chan response, 1)}
	body.ClientToken = q.token
	s.mu.Lock()
	s.request = q
	s.mu.Unlock()
	if err := conn.Publish(ctx, q.topic.String(), awsiot.EncodeJSON(body)); err != nil {
		return response{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, responseTimeout, fmt.Errorf("no response on %s within %s", q.topic, responseTimeout))
	defer cancel()
	select {
	case r := <-q.response:
		if r.Code != "" {
			return r, fmt.Errorf("AWS IoT: %s: %s", r.Code, r.Message)
		}
		return r, nil
	case <-ctx.Done():
		return response{}, context.Cause(ctx)
	}
}

// Serve requests and reports executions in one connection, until ctx ends or a request fails.
func (s *Service) Serve(ctx context.Context, conn session.Shared) error {
	for known := false; ; {
		wait, err := s.advance(ctx, conn, known)
		if err != nil {
			return fmt.Errorf("requesting AWS IoT Jobs: %w", err)
		}
		if known = true; !wait {
			continue
		}
		select {
		case <-s.notified:
			known = false
		case <-s.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// advance does the next thing that is to be done in a connection: it fetches an execution, or
// reports the current one. It returns true when there is nothing to do until something changes.
// Unless the current execution is known to be AWS IoT's, it is compared first with the next one,
// which one in progress is: a job that was deleted and created again has the same id and number. A
// policy need not allow to describe any other.
func (s *Service) advance(ctx context.Context, conn session.Shared, known bool) (wait bool, err error) {
	if err := s.read(); err != nil {
		return false, err
	}
	s.mu.Lock()
	e := s.current.clone()
	s.mu.Unlock()
	if e == nil {
		r, err := s.call(ctx, conn, awsiot.DescribeJobExecution, awsiot.NextJob, awsiot.JobsRequest{})
		if err != nil || r.Execution == nil || r.Execution.JobID == "" { // where there is none, AWS IoT may send an empty one
			return true, err
		}
		if !awsiot.JobIDs.Valid(r.Execution.JobID) {
			return true, fmt.Errorf("AWS IoT sent the job id %q", r.Execution.JobID)
		}
		s.accept(r)
		return false, nil
	}
	var r response
	if !known {
		r, err = s.call(ctx, conn, awsiot.DescribeJobExecution, awsiot.NextJob, awsiot.JobsRequest{})
	}
	another := false
	if x := r.Execution; x != nil && e.QueuedAt != nil {
		same := x.JobID == e.JobID && x.ExecutionNumber == e.Number && bytes.Equal(x.QueuedAt, e.QueuedAt)
		begun := e.Step > 0 || e.Attempt > 0 // in AWS IoT, too
		another = !same && (x.JobID == e.JobID || begun && x.Status == awsiot.JobQueued)
		s.mu.Lock()
		if same && s.stop == nil && x.JobDocument != nil {
			s.current.Document = x.JobDocument // whose presigned URLs have not expired
		}
		s.mu.Unlock()
	}
	if err == nil && !another {
		update := awsiot.JobsRequest{Status: cmp.Or(e.Status, awsiot.JobInProgress), ExecutionNumber: &e.Number, StatusDetails: e.Details}
		r, err = s.call(ctx, conn, awsiot.UpdateJobExecution, e.JobID, update)
		if r.Code == awsiot.JobsInvalidRequest && len(e.Details) > 0 {
			// AWS IoT's Unicode may be older: that must not keep the status back for ever.
			s.Log.Error("AWS IoT rejects the details of a job execution, which is reported without them", "job", e.JobID, "error", err)
			update.StatusDetails = nil
			r, err = s.call(ctx, conn, awsiot.UpdateJobExecution, e.JobID, update)
		}
	}
	switch {
	case another || r.Code == awsiot.JobsResourceNotFound || r.Code == awsiot.JobsTerminalStateReached || r.Code == awsiot.JobsInvalidStateTransition:
		s.Log.Warn("the job execution is over: it was canceled, has timed out or has been deleted", "job", e.JobID, "error", err)
		s.finish("GONE")
	case err != nil:
		return false, err
	case e.Status != "":
		s.Log.Info("reported a job execution", "job", e.JobID, "status", e.Status, "reason", e.Details["reason"])
		s.finish(string(e.Status))
	default:
		s.startWorker(ctx)
		return true, nil
	}
	return false, nil
}

// accept stores an execution that AWS IoT has for the device, or ends one that cannot begin.
func (s *Service) accept(r response) {
	e := &execution{JobID: r.Execution.JobID, Number: r.Execution.ExecutionNumber, QueuedAt: r.Execution.QueuedAt, Document: r.Execution.JobDocument}
	d, err := parse(e.Document)
	if err == nil {
		err = s.settings().permit(d)
	}
	switch {
	case r.Execution.Status != awsiot.JobQueued: // What it has done is not known: a job that reboots would do so for ever.
		e.end(awsiot.JobFailed, "the execution began earlier, and the device has no record of it")
	case err != nil:
		e.end(awsiot.JobRejected, err.Error())
	default:
		if err := save(s.Dir, e); err != nil {
			e.end(awsiot.JobFailed, "the execution cannot be stored on the device: "+err.Error())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = e
}

// finish forgets the current execution, and ends its handler.
func (s *Service) finish(result string) {
	s.stopWorker()
	if err := save(s.Dir, nil); err != nil {
		s.Log.Error("a job execution that has ended stays on the disk", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = nil
	s.results[result]++
}

// startWorker has a worker carry out the current execution, also when the connection has ended.
func (s *Service) startWorker(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil || s.ended {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var worker sync.WaitGroup
	s.stop = func() { cancel(); worker.Wait() }
	worker.Go(func() { s.work(ctx) })
}

// stopWorker ends the handler that runs, and waits for that.
func (s *Service) stopWorker() {
	s.mu.Lock()
	stop := s.stop
	s.stop = nil
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
}
