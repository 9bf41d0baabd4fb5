package controlapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/jobs"
)

// jobsSigner is the name that requests of the jobs data plane are signed for.
// Two of its operations have the path of one of the control plane.
const jobsSigner = "iot-jobs-data"

// byPlane serves a path that both planes have.
func byPlane(control, data http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		credential := cmp.Or(r.Header.Get("Authorization"), r.URL.Query().Get("X-Amz-Credential"))
		scope := strings.Split(credential, "/") // … KEY/DATE/REGION/SERVICE/aws4_request …
		if len(scope) > 3 && scope[3] == jobsSigner {
			data.ServeHTTP(w, r)
			return
		}
		control.ServeHTTP(w, r)
	})
}

func jobSummary(j jobs.Job) object {
	return object{"jobArn": j.ARN, "jobId": j.ID}.optional("description", j.Description)
}

func jobDescription(j jobs.Job) object {
	j.Document = ""                                                                                  // GetJobDocument has it
	j.PresignedURL, j.Rollout, j.Timeout = orNew(j.PresignedURL), orNew(j.Rollout), orNew(j.Timeout) // as in AWS's example
	return object{"job": j}
}

func (a *api) listJobs(status jobs.JobStatus, selection jobs.TargetSelection, group string) []jobs.Job {
	return slices.DeleteFunc(a.Jobs.Jobs(), func(j jobs.Job) bool {
		return status != "" && status != j.Status || selection != "" && selection != j.TargetSelection ||
			group != "" && !slices.Contains(j.Targets, a.ARN("thinggroup/"+group))
	})
}

func jobListed(j jobs.Job) object {
	return object{
		"jobArn": j.ARN, "jobId": j.ID, "targetSelection": j.TargetSelection, "status": j.Status,
		"createdAt": j.CreatedAt, "lastUpdatedAt": j.LastUpdatedAt,
	}.optional("completedAt", j.CompletedAt)
}

func executionSummary(e jobs.Execution) object {
	return object{
		"status": e.Status, "queuedAt": e.QueuedAt, "lastUpdatedAt": e.LastUpdatedAt, "executionNumber": e.ExecutionNumber,
		"retryAttempt": e.Retries(),
	}.optional("startedAt", e.StartedAt)
}

// executionKey puts the executions of one thing after another.
func executionKey(e jobs.Execution) string {
	return fmt.Sprintf("%s %s %020d", e.ThingName, e.JobID, e.ExecutionNumber)
}

func (a *api) jobExecution(e jobs.Execution) object {
	out := executionSummary(e).with(object{
		"jobId": e.JobID, "thingArn": a.ARN("thing/" + e.ThingName), "versionNumber": e.VersionNumber,
		"statusDetails": object{}.optional("detailsMap", e.StatusDetails),
	}).optional("forceCanceled", e.ForceCanceled).optional("approximateSecondsBeforeTimedOut", e.ApproximateSecondsBeforeTimedOut)
	delete(out, "retryAttempt") // which only lists have
	return object{"execution": out}
}

// deviceJobs returns what runs an operation of the jobs data plane, which gives documents as text.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-http-device-api.html
func (a *api) deviceJobs(o awsiot.JobsOperation) func(*request) (awsiot.JobsResponse, error) {
	return func(q *request) (out awsiot.JobsResponse, err error) {
		in, err := jobs.ReadRequest(q.body)
		if err != nil {
			return out, err
		}
		in.ExecutionNumber = cmp.Or(value[*int64](q, "executionNumber"), in.ExecutionNumber)
		in.IncludeJobDocument = cmp.Or(value[*bool](q, "includeJobDocument"), in.IncludeJobDocument)
		topic := awsiot.JobsTopic{Thing: value[string](q, "thingName"), Operation: o, Job: value[string](q, "jobId")}
		if a.Jobs.Do(topic, in, func(r awsiot.JobsResponse, failed error) { out, err = r, failed }); err != nil {
			return out, err
		}
		if e := out.Execution; e != nil {
			e.JobDocument = asText(e.JobDocument)
		}
		out.JobDocument = asText(out.JobDocument)
		return out, nil
	}
}

func asText(document json.RawMessage) json.RawMessage {
	if document == nil {
		return nil
	}
	text, _ := json.Marshal(string(document)) // a string always encodes
	return text
}
