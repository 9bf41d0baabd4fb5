package awsiot

import "strings"

// NextJob stands for the next pending job execution in place of a job id.
const NextJob = "$next"

// A JobsOperation is one of the four requests of the Jobs device API, by AWS's
// name.
type JobsOperation string

// The operations of the Jobs device API.
const (
	GetPendingJobExecutions      JobsOperation = "GetPendingJobExecutions"
	StartNextPendingJobExecution JobsOperation = "StartNextPendingJobExecution"
	DescribeJobExecution         JobsOperation = "DescribeJobExecution"
	UpdateJobExecution           JobsOperation = "UpdateJobExecution"
)

// A JobsTopic is the request topic of an operation. AWS IoT publishes the
// responses on Accepted and Rejected to the requesting connection alone.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-mqtt-api.html
type JobsTopic struct {
	Thing string
	// Operation is empty for a topic under jobs/ that is of no operation.
	Operation JobsOperation
	// Job is a job id or [NextJob], of the operations on one execution only.
	Job string
	// Other is the rest of the topic when Operation is empty.
	Other string
}

const jobsInfix = "/jobs/"

// String returns the topic to publish the request to.
func (t JobsTopic) String() string {
	prefix := thingsPrefix + t.Thing + jobsInfix
	switch t.Operation {
	case GetPendingJobExecutions:
		return prefix + "get"
	case StartNextPendingJobExecution:
		return prefix + "start-next"
	case DescribeJobExecution:
		return prefix + t.Job + "/get"
	case UpdateJobExecution:
		return prefix + t.Job + "/update"
	}
	return prefix + t.Other
}

// Accepted returns the topic of the response to a request that succeeded.
func (t JobsTopic) Accepted() string { return t.String() + acceptedSuffix }

// Rejected returns the topic of the error response.
func (t JobsTopic) Rejected() string { return t.String() + rejectedSuffix }

// JobsNotify returns the topic of the list of pending job executions of a thing.
func JobsNotify(thing string) string { return thingsPrefix + thing + jobsInfix + "notify" }

// JobsNotifyNext returns the topic of the next pending job execution of a thing.
func JobsNotifyNext(thing string) string { return thingsPrefix + thing + jobsInfix + "notify-next" }

// ParseJobsTopic reads a topic under jobs/ of a thing. ok is false for topics
// elsewhere and for those that only AWS IoT publishes to.
func ParseJobsTopic(topic string) (t JobsTopic, ok bool) {
	thing, rest, ok := strings.Cut(strings.TrimPrefix(topic, thingsPrefix), jobsInfix)
	if !ok || !strings.HasPrefix(topic, thingsPrefix) || thing == "" || strings.Contains(thing, "/") {
		return JobsTopic{}, false
	}
	t = JobsTopic{Thing: thing}
	job, verb, two := strings.Cut(rest, "/")
	switch {
	case rest == "notify", rest == "notify-next",
		strings.HasSuffix(rest, acceptedSuffix), strings.HasSuffix(rest, rejectedSuffix):
		return JobsTopic{}, false
	case rest == "get":
		t.Operation = GetPendingJobExecutions
	case rest == "start-next":
		t.Operation = StartNextPendingJobExecution
	case two && job != "" && verb == "get":
		t.Operation, t.Job = DescribeJobExecution, job
	case two && job != "" && verb == "update":
		t.Operation, t.Job = UpdateJobExecution, job
	default:
		t.Other = rest
	}
	return t, true
}
