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
	Thing     string
	Operation JobsOperation // empty for a topic under jobs/ that is of no operation
	Job       string        // a job id or [NextJob], of the operations on one execution only
	Other     string        // the rest of the topic when Operation is empty
}

// String returns the topic to publish the request to.
func (t JobsTopic) String() string {
	rest := t.Other
	switch t.Operation {
	case GetPendingJobExecutions:
		rest = "get"
	case StartNextPendingJobExecution:
		rest = "start-next"
	case DescribeJobExecution:
		rest = t.Job + "/get"
	case UpdateJobExecution:
		rest = t.Job + "/update"
	}
	return jobsTopic(t.Thing, rest)
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

// ParseJobsTopic reads a topic under jobs/ of a thing. ok is false for topics
// elsewhere and for those that only AWS IoT publishes to.
func ParseJobsTopic(topic string) (t JobsTopic, ok bool) {
	thing, rest, ok := cutThing(topic, "jobs")
	if !ok || rest == "notify" || rest == "notify-next" || strings.HasSuffix(rest, acceptedSuffix) || strings.HasSuffix(rest, rejectedSuffix) {
		return t, false
	}
	job, verb, two := strings.Cut(rest, "/")
	switch {
	case rest == "get":
		return JobsTopic{Thing: thing, Operation: GetPendingJobExecutions}, true
	case rest == "start-next":
		return JobsTopic{Thing: thing, Operation: StartNextPendingJobExecution}, true
	case two && job != "" && verb == "get":
		return JobsTopic{Thing: thing, Operation: DescribeJobExecution, Job: job}, true
	case two && job != "" && verb == "update":
		return JobsTopic{Thing: thing, Operation: UpdateJobExecution, Job: job}, true
	}
	return JobsTopic{Thing: thing, Other: rest}, true
}
