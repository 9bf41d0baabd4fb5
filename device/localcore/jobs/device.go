package jobs

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
)

func reject(code awsiot.JobsErrorCode, format string, args ...any) *awsiot.JobsError {
	return &awsiot.JobsError{Code: code, Message: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) *awsiot.JobsError {
	return reject(awsiot.JobsInvalidRequest, format, args...)
}

// at returns an execution with the time that it has left.
func (e *Execution) at(now time.Time) Execution {
	out := *e
	if deadline := e.deadline(); !deadline.IsZero() {
		out.ApproximateSecondsBeforeTimedOut = new(int64(deadline.Sub(now) / time.Second))
	}
	return out
}

func (tx *change) describe(e *Execution, withDocument bool) *awsiot.JobExecution {
	out := e.at(tx.now).JobExecution
	if withDocument {
		out.JobDocument = json.RawMessage(tx.jobs[e.JobID].Document)
	}
	return &out
}

// ReadRequest reads the body of a request; no body is an empty one. As AWS IoT it passes over members
// that it does not know, which those in another letter case are. Its errors are of type
// [*awsiot.JobsError].
func ReadRequest(payload []byte) (q awsiot.JobsRequest, err error) {
	if payload = bytes.TrimSpace(payload); len(payload) == 0 {
		return q, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(payload, &members); !utf8.Valid(payload) || !json.Valid(payload) {
		return q, reject(awsiot.JobsInvalidJSON, "The payload is not UTF-8 encoded JSON.")
	} else if err != nil {
		return q, invalid("The payload is not a JSON object.")
	}
	into := map[string]any{
		"status": &q.Status, "statusDetails": &q.StatusDetails, "stepTimeoutInMinutes": &q.StepTimeoutInMinutes,
		"expectedVersion": &q.ExpectedVersion, "executionNumber": &q.ExecutionNumber, "clientToken": &q.ClientToken,
		"includeJobExecutionState": &q.IncludeJobExecutionState, "includeJobDocument": &q.IncludeJobDocument,
	}
	for _, name := range slices.Sorted(maps.Keys(into)) {
		if mistyped, ok := errors.AsType[*json.UnmarshalTypeError](json.Unmarshal(members[name], into[name])); ok {
			err = invalid("Member %q cannot be a %s.", strings.TrimSuffix(name+"."+mistyped.Field, "."), mistyped.Value)
		}
	}
	return q, err
}

// Handle answers an MQTT request: it calls reply once, then publishes the notifications that
// follow.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-mqtt-api.html
func (s *Service) Handle(t awsiot.JobsTopic, payload []byte, reply func(awsiot.Message)) {
	q, err := ReadRequest(payload)
	if t.Operation == "" {
		err = reject(awsiot.JobsInvalidTopic, "Topic %s is of no operation.", t)
	}
	respond := func(r awsiot.JobsResponse, err error) {
		now := s.config.Now().Unix()
		if err == nil {
			r.Timestamp, r.ClientToken = now, q.ClientToken
			reply(awsiot.Message{Topic: t.Accepted(), Payload: awsiot.EncodeJSON(r)})
			return
		}
		e, ok := errors.AsType[*awsiot.JobsError](err)
		if ok {
			s.config.Log.Warn("rejected a job request", "topic", t, "code", e.Code, "reason", e.Message)
		} else {
			s.config.Log.Error("answering a job request", "topic", t, "error", err)
			e = reject(awsiot.JobsInternalError, "An internal error has occurred.")
		}
		e.Timestamp, e.ClientToken = now, q.ClientToken
		reply(awsiot.Message{Topic: t.Rejected(), Payload: awsiot.EncodeJSON(e)})
	}
	if err != nil {
		respond(awsiot.JobsResponse{}, err)
		return
	}
	s.Do(t, q, respond)
}

// Do carries out an operation: it calls respond once, then publishes the notifications that follow.
// The error of a rejected request is an [*awsiot.JobsError].
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-http-device-api.html
func (s *Service) Do(t awsiot.JobsTopic, q awsiot.JobsRequest, respond func(awsiot.JobsResponse, error)) {
	var r awsiot.JobsResponse
	_ = s.changeAndReply(func(tx *change) (err error) { // respond has the error
		switch t.Operation {
		case awsiot.GetPendingJobExecutions:
			r.InProgressJobs, r.QueuedJobs = []awsiot.JobExecutionSummary{}, []awsiot.JobExecutionSummary{}
			pending := tx.pendingOf(t.Thing)
			for _, e := range pending[:min(len(pending), maxListed)] {
				list := &r.QueuedJobs
				if e.Status == awsiot.JobInProgress {
					list = &r.InProgressJobs
				}
				*list = append(*list, e.JobExecutionSummary)
			}
		case awsiot.StartNextPendingJobExecution:
			if err := cmp.Or(checkDetails(q.StatusDetails), checkStep(q.StepTimeoutInMinutes, false)); err != nil {
				return err
			}
			if pending := tx.pendingOf(t.Thing); len(pending) > 0 {
				if pending[0].Status == awsiot.JobQueued {
					tx.report(pending[0], q, awsiot.JobInProgress)
				}
				r.Execution = tx.describe(pending[0], true)
			}
		case awsiot.DescribeJobExecution:
			e, err := tx.find(t, q.ExecutionNumber)
			switch {
			case t.Job == awsiot.NextJob && err != nil: // nothing is pending
			case err != nil:
				return err
			case e.Status.Terminal():
				return reject(awsiot.JobsTerminalStateReached, "The execution of job %s is %s.", t.Job, e.Status)
			default:
				r.Execution = tx.describe(e, q.IncludeJobDocument == nil || *q.IncludeJobDocument)
			}
		case awsiot.UpdateJobExecution:
			r, err = tx.updateExecution(t, q)
		}
		return err
	}, func(err error) { respond(r, err) })
}

// find returns an execution, the latest for a nil number, or the next pending one of the thing.
func (tx *change) find(t awsiot.JobsTopic, number *int64) (*Execution, error) {
	if t.Job == awsiot.NextJob {
		for _, e := range tx.pendingOf(t.Thing) {
			return e, nil
		}
	}
	if j := tx.jobs[t.Job]; j != nil {
		for _, e := range slices.Backward(j.executions[t.Thing]) {
			if number == nil || e.ExecutionNumber == *number {
				return e, nil
			}
		}
	}
	return nil, reject(awsiot.JobsResourceNotFound, "Thing %s has no such execution of job %s.", t.Thing, t.Job)
}

func (tx *change) updateExecution(t awsiot.JobsTopic, q awsiot.JobsRequest) (r awsiot.JobsResponse, err error) {
	switch q.Status {
	case awsiot.JobInProgress, awsiot.JobSucceeded, awsiot.JobFailed, awsiot.JobRejected:
	case awsiot.JobQueued: // a status, but no transition leads to it
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
	var rejected *awsiot.JobsError
	if q.ExpectedVersion != nil && *q.ExpectedVersion != e.VersionNumber {
		rejected = reject(awsiot.JobsVersionMismatch, "The execution has version %d, not %d.", e.VersionNumber, *q.ExpectedVersion)
	} else if e.Status.Terminal() || q.Status == awsiot.JobQueued {
		rejected = reject(awsiot.JobsInvalidStateTransition, "An execution cannot go from %s to %s.", e.Status, q.Status)
	} else {
		tx.report(e, q, q.Status)
	}
	state := &awsiot.JobExecutionState{Status: e.Status, StatusDetails: e.StatusDetails, VersionNumber: e.VersionNumber}
	if rejected != nil {
		rejected.ExecutionState = state
		return r, rejected
	}
	if q.IncludeJobExecutionState {
		r.ExecutionState = state
	}
	if q.IncludeJobDocument != nil && *q.IncludeJobDocument {
		r.JobDocument = json.RawMessage(tx.jobs[e.JobID].Document)
	}
	return r, nil
}

// report gives an execution the status and details that its device reports. A step timer of -1
// minutes ends, nil leaves it.
func (tx *change) report(e *Execution, q awsiot.JobsRequest, status awsiot.JobExecutionStatus) {
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

func checkDetails(details map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(details)) {
		value := details[key]
		if !awsiot.JobDetailKeys.Valid(key) {
			return invalid("Key %q of statusDetails must have 1 to 128 letters, digits, colons, underscores or hyphens.", key)
		}
		n := utf8.RuneCountInString(value)
		if n < 1 || n > awsiot.MaxJobDetail || strings.ContainsFunc(value, func(r rune) bool { return unicode.Is(unicode.C, r) }) {
			return invalid("The value of %q in statusDetails must have 1 to %d characters, none of them of the Unicode category C (control, format, private use).", key, awsiot.MaxJobDetail)
		}
	}
	return nil
}
