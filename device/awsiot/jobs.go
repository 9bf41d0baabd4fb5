package awsiot

import (
	"encoding/json"
	"strings"
)

// NextJob stands for the next pending job execution in place of a job id.
const NextJob = "$next"

// A JobsOperation is one of the four requests of the Jobs device API, by AWS's name.
type JobsOperation string

// The operations of the Jobs device API.
const (
	GetPendingJobExecutions      JobsOperation = "GetPendingJobExecutions"
	StartNextPendingJobExecution JobsOperation = "StartNextPendingJobExecution"
	DescribeJobExecution         JobsOperation = "DescribeJobExecution"
	UpdateJobExecution           JobsOperation = "UpdateJobExecution"
)

// A JobsTopic is the request topic of an operation. AWS IoT publishes the responses on Accepted and
// Rejected to the requesting connection alone.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-mqtt-api.html
type JobsTopic struct {
	Thing     string
	Operation JobsOperation // empty for a topic under jobs/ that is of no operation
	Job       string        // a job id or [NextJob], of the operations on one execution only
	Other     string        // the rest of the topic when Operation is empty
}

// jobsTopicEnds are what follows the job of an operation, or jobs/ where it has none.
var jobsTopicEnds = map[JobsOperation]string{
	GetPendingJobExecutions: "get", StartNextPendingJobExecution: "start-next", DescribeJobExecution: "/get", UpdateJobExecution: "/update",
}

// String returns the topic to publish the request to.
func (t JobsTopic) String() string {
	if end, ok := jobsTopicEnds[t.Operation]; ok {
		return jobsTopic(t.Thing, t.Job+end)
	}
	return jobsTopic(t.Thing, t.Other)
}

// Accepted returns the topic of the response to a request that succeeded.
func (t JobsTopic) Accepted() string { return t.String() + acceptedSuffix }

// Rejected returns the topic of the error response.
func (t JobsTopic) Rejected() string { return t.String() + rejectedSuffix }

// JobsNotify returns the topic of the list of pending job executions of a thing.
func JobsNotify(thing string) string { return jobsTopic(thing, "notify") }

// JobsNotifyNext returns the topic of the next pending job execution of a thing.
func JobsNotifyNext(thing string) string { return jobsTopic(thing, "notify-next") }

func jobsTopic(thing, rest string) string { return thingsPrefix + thing + "/jobs/" + rest }

// ParseJobsTopic reads a topic under jobs/ of a thing. ok is false for topics elsewhere and for
// those that only AWS IoT publishes to.
func ParseJobsTopic(topic string) (t JobsTopic, ok bool) {
	thing, rest, ok := cutThing(topic, "jobs")
	if !ok || rest == "notify" || rest == "notify-next" || strings.HasSuffix(rest, acceptedSuffix) || strings.HasSuffix(rest, rejectedSuffix) {
		return t, false
	}
	for operation, end := range jobsTopicEnds {
		job, ok := strings.CutSuffix(rest, end)
		if ok && !strings.Contains(job, "/") && (job != "") == strings.HasPrefix(end, "/") {
			return JobsTopic{Thing: thing, Operation: operation, Job: job}, true
		}
	}
	return JobsTopic{Thing: thing, Other: rest}, true
}

// A JobExecutionStatus is the state of a job execution.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-jobs-lifecycle.html
type JobExecutionStatus string

// The states of job executions.
const (
	JobQueued     JobExecutionStatus = "QUEUED"
	JobInProgress JobExecutionStatus = "IN_PROGRESS"
	JobSucceeded  JobExecutionStatus = "SUCCEEDED"
	JobFailed     JobExecutionStatus = "FAILED"
	JobTimedOut   JobExecutionStatus = "TIMED_OUT"
	JobRejected   JobExecutionStatus = "REJECTED"
	JobRemoved    JobExecutionStatus = "REMOVED"
	JobCanceled   JobExecutionStatus = "CANCELED"
)

// Terminal reports whether an execution with this status has ended.
func (s JobExecutionStatus) Terminal() bool { return s != JobQueued && s != JobInProgress }

// MaxJobDetail is the greatest length of a value of status details, in characters. It has one at
// least, and none of the Unicode category C.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_JobExecutionStatusDetails.html
const MaxJobDetail = 1024

// A JobExecutionSummary describes a job execution in lists. Times are seconds since 1970.
type JobExecutionSummary struct {
	JobID           string `json:"jobId"`
	QueuedAt        int64  `json:"queuedAt"`
	StartedAt       int64  `json:"startedAt,omitempty"`
	LastUpdatedAt   int64  `json:"lastUpdatedAt"`
	VersionNumber   int64  `json:"versionNumber"`
	ExecutionNumber int64  `json:"executionNumber"`
}

// A JobExecution describes a job execution to its device.
type JobExecution struct {
	JobExecutionSummary
	ThingName                        string             `json:"thingName,omitempty"`
	JobDocument                      json.RawMessage    `json:"jobDocument,omitempty"` // nil if it was not requested
	ApproximateSecondsBeforeTimedOut *int64             `json:"approximateSecondsBeforeTimedOut,omitempty"`
	Status                           JobExecutionStatus `json:"status"`
	StatusDetails                    map[string]string  `json:"statusDetails,omitempty"`
}

// A JobExecutionState is the state of a job execution.
type JobExecutionState struct {
	Status        JobExecutionStatus `json:"status"`
	StatusDetails map[string]string  `json:"statusDetails,omitempty"`
	VersionNumber int64              `json:"versionNumber"`
}

// A JobsRequest is the body of a request; each operation reads the members that are its own.
// IncludeJobDocument is true by default when an execution is described, and false when it is
// updated.
type JobsRequest struct {
	Status                   JobExecutionStatus `json:"status,omitempty"`
	StatusDetails            map[string]string  `json:"statusDetails,omitempty"`
	ExpectedVersion          *int64             `json:"expectedVersion,omitempty"`
	ExecutionNumber          *int64             `json:"executionNumber,omitempty"`
	IncludeJobExecutionState bool               `json:"includeJobExecutionState,omitempty"`
	IncludeJobDocument       *bool              `json:"includeJobDocument,omitempty"`
	StepTimeoutInMinutes     *int64             `json:"stepTimeoutInMinutes,omitempty"`
	ClientToken              string             `json:"clientToken,omitempty"`
}

// A JobsResponse is the body of the response to a request that succeeded, and of the message on
// [JobsNotifyNext]. InProgressJobs and QueuedJobs are nil but for GetPendingJobExecutions.
type JobsResponse struct {
	InProgressJobs []JobExecutionSummary `json:"inProgressJobs,omitzero"`
	QueuedJobs     []JobExecutionSummary `json:"queuedJobs,omitzero"`
	Execution      *JobExecution         `json:"execution,omitempty"`
	ExecutionState *JobExecutionState    `json:"executionState,omitempty"`
	JobDocument    json.RawMessage       `json:"jobDocument,omitempty"`
	Timestamp      int64                 `json:"timestamp,omitempty"` // seconds since 1970
	ClientToken    string                `json:"clientToken,omitempty"`
}

// A JobsErrorCode is an error code of AWS IoT Jobs.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-api.html
type JobsErrorCode string

// The codes. VersionConflict and ResourceAlreadyExists are of the control plane alone.
const (
	JobsInvalidTopic           JobsErrorCode = "InvalidTopic"
	JobsInvalidJSON            JobsErrorCode = "InvalidJson"
	JobsInvalidRequest         JobsErrorCode = "InvalidRequest"
	JobsInvalidStateTransition JobsErrorCode = "InvalidStateTransition"
	JobsResourceNotFound       JobsErrorCode = "ResourceNotFound"
	JobsVersionMismatch        JobsErrorCode = "VersionMismatch"
	JobsTerminalStateReached   JobsErrorCode = "TerminalStateReached"
	JobsInternalError          JobsErrorCode = "InternalError"
	JobsVersionConflict        JobsErrorCode = "VersionConflict"
	JobsAlreadyExists          JobsErrorCode = "ResourceAlreadyExists"
)

// A JobsError rejects a request. As JSON it is the error response. ExecutionState comes with
// InvalidStateTransition and VersionMismatch only.
type JobsError struct {
	Code           JobsErrorCode      `json:"code"`
	Message        string             `json:"message"`
	ClientToken    string             `json:"clientToken,omitempty"`
	Timestamp      int64              `json:"timestamp,omitempty"` // seconds since 1970
	ExecutionState *JobExecutionState `json:"executionState,omitempty"`
}

// Error returns code and message in one line.
func (e *JobsError) Error() string { return Printable(string(e.Code) + ": " + e.Message) }
