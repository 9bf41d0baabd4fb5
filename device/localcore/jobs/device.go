package jobs

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
)

// A Code is an error code of the Jobs device API.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-api.html
type Code string

// The codes of AWS IoT Jobs that this package answers with. AlreadyExists and
// LimitExceeded are of the control plane alone.
const (
	InvalidTopic           Code = "InvalidTopic"
	InvalidJSON            Code = "InvalidJson"
	InvalidRequest         Code = "InvalidRequest"
	InvalidStateTransition Code = "InvalidStateTransition"
	ResourceNotFound       Code = "ResourceNotFound"
	VersionMismatch        Code = "VersionMismatch"
	VersionConflict        Code = "VersionConflict"
	TerminalStateReached   Code = "TerminalStateReached"
	InternalError          Code = "InternalError"
	AlreadyExists          Code = "ResourceAlreadyExists"
)

// An Error rejects a request. As JSON it is the error response of the device
// API.
type Error struct {
	Code        Code   `json:"code"`
	Message     string `json:"message"`
	ClientToken string `json:"clientToken,omitempty"`
	Timestamp   int64  `json:"timestamp,omitempty"` // seconds since 1970
	// State comes with InvalidStateTransition and VersionMismatch only.
	State *State `json:"executionState,omitempty"`
}

// Error returns code and message in one line.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

func reject(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) *Error { return reject(InvalidRequest, format, args...) }

// A State is the state of a job execution.
type State struct {
	Status        Status            `json:"status"`
	StatusDetails map[string]string `json:"statusDetails,omitempty"`
	VersionNumber int64             `json:"versionNumber"`
}

// A Summary describes a job execution in lists. Times are seconds since 1970.
type Summary struct {
	JobID           string `json:"jobId"`
	QueuedAt        int64  `json:"queuedAt"`
	StartedAt       int64  `json:"startedAt,omitempty"`
	LastUpdatedAt   int64  `json:"lastUpdatedAt"`
	VersionNumber   int64  `json:"versionNumber"`
	ExecutionNumber int64  `json:"executionNumber"`
}

// An Execution describes a job execution to its device.
type Execution struct {
	Summary
	ThingName string `json:"thingName,omitempty"`
	// JobDocument is the document itself, nil if it was not requested.
	JobDocument                      json.RawMessage   `json:"jobDocument,omitempty"`
	ApproximateSecondsBeforeTimedOut *int64            `json:"approximateSecondsBeforeTimedOut,omitempty"`
	Status                           Status            `json:"status"`
	StatusDetails                    map[string]string `json:"statusDetails,omitempty"`
}

func (tx *change) describe(e *execution, withDocument bool) *Execution {
	out := e.Execution
	if deadline := e.deadline(); !deadline.IsZero() {
		out.ApproximateSecondsBeforeTimedOut = new(int64(deadline.Sub(tx.now) / time.Second))
	}
	if withDocument {
		out.JobDocument = json.RawMessage(tx.jobs[e.JobID].Document)
	}
	return &out
}

// A Request is the body of a request of the device API; each operation reads
// the members that are its own.
type Request struct {
	Status                   Status            `json:"status"`
	StatusDetails            map[string]string `json:"statusDetails"`
	ExpectedVersion          *int64            `json:"expectedVersion"`
	ExecutionNumber          *int64            `json:"executionNumber"`
	IncludeJobExecutionState bool              `json:"includeJobExecutionState"`
	// IncludeJobDocument defaults to true when an execution is described, to
	// false when it is updated.
	IncludeJobDocument   *bool  `json:"includeJobDocument"`
	StepTimeoutInMinutes *int64 `json:"stepTimeoutInMinutes"`
	ClientToken          string `json:"clientToken"`
}

// A Response is the body of a response of the device API.
type Response struct {
	// InProgressJobs and QueuedJobs are nil but for GetPendingJobExecutions.
	InProgressJobs []Summary       `json:"inProgressJobs,omitzero"`
	QueuedJobs     []Summary       `json:"queuedJobs,omitzero"`
	Execution      *Execution      `json:"execution,omitempty"`
	ExecutionState *State          `json:"executionState,omitempty"`
	JobDocument    json.RawMessage `json:"jobDocument,omitempty"`
	Timestamp      int64           `json:"timestamp,omitempty"` // seconds since 1970
	ClientToken    string          `json:"clientToken,omitempty"`
}

// ReadRequest reads the body of a request; no body is an empty one. Its errors
// are of type [*Error].
func ReadRequest(payload []byte) (q Request, err error) {
	if payload = bytes.TrimSpace(payload); len(payload) == 0 {
		return q, nil
	}
	err = json.Unmarshal(payload, &q)
	if mistyped, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return q, invalid("Member %q cannot be a %s.", mistyped.Field, mistyped.Value)
	}
	if err != nil || !utf8.Valid(payload) {
		return q, reject(InvalidJSON, "The payload is not UTF-8 encoded JSON.")
	}
	return q, nil
}

// Handle answers an MQTT request: it calls reply once, then publishes the
// notifications that follow.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-mqtt-api.html
func (s *Service) Handle(t awsiot.JobsTopic, payload []byte, reply func(Message)) {
	q, err := ReadRequest(payload)
	if t.Operation == "" {
		err = reject(InvalidTopic, "Topic %s is of no operation.", t)
	}
	respond := func(r Response, err error) {
		now := s.config.Now().Unix()
		if err == nil {
			r.Timestamp, r.ClientToken = now, q.ClientToken
			reply(Message{t.Accepted(), awsiot.EncodeJSON(r)})
			return
		}
		e, ok := errors.AsType[*Error](err)
		if ok {
			s.config.Log.Warn("rejected a job request", "topic", t, "code", e.Code, "reason", e.Message)
		} else {
			s.config.Log.Error("answering a job request", "topic", t, "error", err)
			e = reject(InternalError, "An internal error has occurred.")
		}
		e.Timestamp, e.ClientToken = now, q.ClientToken
		reply(Message{t.Rejected(), awsiot.EncodeJSON(e)})
	}
	if err != nil {
		respond(Response{}, err)
		return
	}
	s.do(t, q, respond)
}

// Do carries out an operation that did not come over MQTT. A rejected request
// returns an [*Error].
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-http-device-api.html
func (s *Service) Do(t awsiot.JobsTopic, q Request) (out Response, err error) {
	s.do(t, q, func(r Response, e error) { out, err = r, e })
	return out, err
}

func (s *Service) do(t awsiot.JobsTopic, q Request, respond func(Response, error)) {
	var r Response
	_ = s.change(func(tx *change) (err error) { // respond has the error
		switch t.Operation {
		case awsiot.GetPendingJobExecutions:
			r = tx.getPending(t.Thing)
		case awsiot.StartNextPendingJobExecution:
			r, err = tx.startNext(t.Thing, q)
		case awsiot.DescribeJobExecution:
			r, err = tx.describeExecution(t, q)
		case awsiot.UpdateJobExecution:
			r, err = tx.updateExecution(t, q)
		}
		return err
	}, func(err error) { respond(r, err) })
}

func (tx *change) getPending(thing string) Response {
	r := Response{InProgressJobs: []Summary{}, QueuedJobs: []Summary{}}
	for _, e := range tx.pendingOf(thing) {
		if e.Status == InProgress {
			r.InProgressJobs = append(r.InProgressJobs, e.Summary)
		} else {
			r.QueuedJobs = append(r.QueuedJobs, e.Summary)
		}
	}
	return r
}

func (tx *change) startNext(thing string, q Request) (r Response, err error) {
	if err := cmp.Or(checkDetails(q.StatusDetails), checkStep(q.StepTimeoutInMinutes, false)); err != nil {
		return r, err
	}
	pending := tx.pendingOf(thing)
	if len(pending) == 0 {
		return r, nil
	}
	e := pending[0]
	if e.Status == Queued {
		tx.report(e, q, InProgress)
	}
	r.Execution = tx.describe(e, true)
	return r, nil
}

func (tx *change) describeExecution(t awsiot.JobsTopic, q Request) (r Response, err error) {
	e, err := tx.find(t, q.ExecutionNumber)
	switch {
	case t.Job == awsiot.NextJob && err != nil:
		return r, nil // nothing is pending
	case err != nil:
		return r, err
	case e.Status.terminal():
		return r, reject(TerminalStateReached, "The execution of job %s is %s.", t.Job, e.Status)
	}
	r.Execution = tx.describe(e, q.IncludeJobDocument == nil || *q.IncludeJobDocument)
	return r, nil
}

// find returns the execution that a request names, the latest by default.
func (tx *change) find(t awsiot.JobsTopic, number *int64) (*execution, error) {
	if pending := tx.pendingOf(t.Thing); t.Job == awsiot.NextJob && len(pending) > 0 {
		return pending[0], nil
	}
	if j := tx.jobs[t.Job]; j != nil {
		all := j.executions[t.Thing]
		for i := len(all) - 1; i >= 0; i-- {
			if number == nil || all[i].ExecutionNumber == *number {
				return all[i], nil
			}
		}
	}
	return nil, reject(ResourceNotFound, "Thing %s has no such execution of job %s.", t.Thing, t.Job)
}

func (tx *change) updateExecution(t awsiot.JobsTopic, q Request) (r Response, err error) {
	switch q.Status {
	case InProgress, Succeeded, Failed, Rejected, Queued: // QUEUED is a status, but no transition leads to it
	default:
		return r, invalid("Status %q must be IN_PROGRESS, SUCCEEDED, FAILED or REJECTED.", q.Status)
	}
	if err := cmp.Or(checkDetails(q.StatusDetails), checkStep(q.StepTimeoutInMinutes, true)); err != nil {
		return r, err
	}
	if t.Job == awsiot.NextJob {
		return r, invalid("Job id %s cannot be updated.", t.Job)
	}
	e, err := tx.find(t, q.ExecutionNumber)
	if err != nil {
		return r, err
	}
	if q.ExpectedVersion != nil && *q.ExpectedVersion != e.VersionNumber {
		return r, e.rejectState(VersionMismatch, "The execution has version %d, not %d.", e.VersionNumber, *q.ExpectedVersion)
	}
	if e.Status.terminal() || q.Status == Queued {
		return r, e.rejectState(InvalidStateTransition, "An execution cannot go from %s to %s.", e.Status, q.Status)
	}
	tx.report(e, q, q.Status)
	if q.IncludeJobExecutionState {
		r.ExecutionState = e.state()
	}
	if q.IncludeJobDocument != nil && *q.IncludeJobDocument {
		r.JobDocument = json.RawMessage(tx.jobs[e.JobID].Document)
	}
	return r, nil
}

func (e *execution) state() *State { return &State{e.Status, e.StatusDetails, e.VersionNumber} }

func (e *execution) rejectState(code Code, format string, args ...any) error {
	err := reject(code, format, args...)
	err.State = e.state()
	return err
}

// report gives an execution the status and details that its device reports. A
// step timer of -1 minutes ends, nil leaves it.
func (tx *change) report(e *execution, q Request, status Status) {
	if q.StatusDetails != nil {
		e.StatusDetails = q.StatusDetails
	}
	switch minutes := q.StepTimeoutInMinutes; {
	case minutes == nil:
	case *minutes == -1:
		e.StepTimesOut = time.Time{}
	default:
		e.StepTimesOut = tx.now.Add(time.Duration(*minutes) * time.Minute)
		tx.schedule(e.StepTimesOut)
	}
	tx.set(tx.jobs[e.JobID], e, status)
}

func checkStep(minutes *int64, mayEnd bool) error {
	if minutes == nil || mayEnd && *minutes == -1 || *minutes >= 1 && *minutes <= maxTimeout {
		return nil
	}
	return invalid("stepTimeoutInMinutes is %d, it must be from 1 to %d.", *minutes, maxTimeout)
}

const maxDetail = 1024 // characters of a value of statusDetails

var detailKey = regexp.MustCompile(`^[a-zA-Z0-9:_-]{1,128}$`)

func checkDetails(details map[string]string) error {
	for key, value := range details {
		if !detailKey.MatchString(key) {
			return invalid("Key %q of statusDetails must have 1 to 128 letters, digits, colons, underscores or hyphens.", key)
		}
		n := utf8.RuneCountInString(value)
		if n < 1 || n > maxDetail || strings.ContainsFunc(value, func(r rune) bool { return unicode.Is(unicode.C, r) }) {
			return invalid("The value of %q in statusDetails must have 1 to %d characters, none of them of the Unicode category C (control, format, private use).", key, maxDetail)
		}
	}
	return nil
}
