package controlapi

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/jobs"
	"example.com/fleety/device/localcore/registry"
)

// jobsSigner is the name that requests of the jobs data plane are signed for.
// Two of its operations have the path of one of the control plane.
const jobsSigner = "iot-jobs-data"

// byPlane serves a path that both planes have.
func byPlane(control, data http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope := strings.Split(r.Header.Get("Authorization"), "/") // … Credential=KEY/DATE/REGION/SERVICE/aws4_request …
		if len(scope) > 3 && scope[3] == jobsSigner {
			data.ServeHTTP(w, r)
			return
		}
		control.ServeHTTP(w, r)
	})
}

// jobExceptions has AWS's exception for each code that is not an invalid request.
var jobExceptions = map[awsiot.JobsErrorCode]registry.Error{
	awsiot.JobsResourceNotFound:       {Code: registry.CodeNotFound, Status: http.StatusNotFound},
	awsiot.JobsInvalidStateTransition: {Code: "InvalidStateTransitionException", Status: http.StatusConflict},
	awsiot.JobsVersionMismatch:        {Code: "InvalidStateTransitionException", Status: http.StatusConflict},
	awsiot.JobsVersionConflict:        {Code: registry.CodeVersionConflict, Status: http.StatusConflict},
	awsiot.JobsAlreadyExists:          {Code: registry.CodeAlreadyExists, Status: http.StatusConflict},
	awsiot.JobsTerminalStateReached:   {Code: "TerminalStateException", Status: http.StatusGone},
}

// jobsOf runs an operation of jobs, if there are any.
func (a *api) jobsOf(run func(*request) (any, error)) func(*request) (any, error) {
	return needs("jobs", a.Jobs != nil, func(q *request) (any, error) {
		out, err := run(q)
		if e, ok := errors.AsType[*awsiot.JobsError](err); ok {
			exception, known := jobExceptions[e.Code]
			if !known {
				exception = registry.Error{Code: registry.CodeInvalidRequest, Status: http.StatusBadRequest}
			}
			exception.Message = e.Message
			return out, &exception
		}
		return out, err
	})
}

func jobSummary(j jobs.Job) object {
	return object{"jobArn": j.ARN, "jobId": j.ID}.optional("description", j.Description)
}

func (a *api) createJob(q *request, in struct {
	jobs.NewJob
	Tags tags `json:"tags"`
}) (any, error) {
	id := q.path("jobId")
	j, err := tagged(a, in.Tags, "job/"+id, func() (jobs.Job, error) { return a.Jobs.CreateJob(id, in.NewJob) })
	return jobSummary(j), err
}

func (a *api) describeJob(q *request) (any, error) {
	j, _, err := a.Jobs.DescribeJob(q.path("jobId"))
	return object{"job": j}, err
}

func (a *api) jobDocument(q *request) (any, error) {
	_, document, err := a.Jobs.DescribeJob(q.path("jobId"))
	return object{"document": document}, err
}

func (a *api) updateJob(q *request, in jobs.Settings) (any, error) {
	return nil, a.Jobs.UpdateJob(q.path("jobId"), in)
}

func (a *api) cancelJob(q *request, in struct {
	ReasonCode string `json:"reasonCode"`
	Comment    string `json:"comment"`
}) (any, error) {
	j, err := a.Jobs.CancelJob(q.path("jobId"), in.ReasonCode, in.Comment, q.flag("force"))
	return jobSummary(j), err
}

func (a *api) deleteJob(q *request) (any, error) {
	if err := a.Jobs.DeleteJob(q.path("jobId"), q.flag("force")); err != nil {
		return nil, err
	}
	return nil, a.Registry.DeleteTags("job/" + q.path("jobId"))
}

func (a *api) associateTargets(q *request, in struct {
	Targets []string `json:"targets"`
	Comment string   `json:"comment"`
}) (any, error) {
	j, err := a.Jobs.AssociateTargetsWithJob(q.path("jobId"), in.Targets, in.Comment)
	return jobSummary(j), err
}

func (a *api) listJobs(q *request) (any, error) {
	all := slices.DeleteFunc(a.Jobs.Jobs(), func(j jobs.Job) bool {
		status, selection, group := q.query("status"), q.query("targetSelection"), q.query("thingGroupName")
		return status != "" && status != string(j.Status) || selection != "" && selection != string(j.TargetSelection) ||
			group != "" && !slices.Contains(j.Targets, a.arn("thinggroup/"+group))
	})
	newestFirst := func(j jobs.Job) string { return fmt.Sprintf("%020d %s", 1<<62-j.CreatedAt, j.ID) }
	return list(q, "jobs", all, newestFirst, func(j jobs.Job) object {
		return object{
			"jobArn": j.ARN, "jobId": j.ID, "targetSelection": j.TargetSelection, "status": j.Status,
			"createdAt": j.CreatedAt, "lastUpdatedAt": j.LastUpdatedAt,
		}.optional("completedAt", j.CompletedAt)
	})
}

func executionSummary(e jobs.Execution) object {
	return object{
		"status": e.Status, "queuedAt": e.QueuedAt, "lastUpdatedAt": e.LastUpdatedAt, "executionNumber": e.ExecutionNumber,
	}.optional("startedAt", e.StartedAt).optional("retryAttempt", e.Retries())
}

// listExecutions lists executions with the status of the request, those of one
// thing after another.
func listExecutions(q *request, all []jobs.Execution, name string, of func(jobs.Execution) string) (any, error) {
	all = slices.DeleteFunc(all, func(e jobs.Execution) bool {
		status, job := q.query("status"), q.query("jobId")
		return status != "" && status != string(e.Status) || job != "" && job != e.JobID
	})
	key := func(e jobs.Execution) string {
		return fmt.Sprintf("%s %s %020d", e.ThingName, e.JobID, e.ExecutionNumber)
	}
	return list(q, "executionSummaries", all, key, func(e jobs.Execution) object {
		return object{name: of(e), "jobExecutionSummary": executionSummary(e)}
	})
}

func (a *api) listJobExecutionsForJob(q *request) (any, error) {
	all, err := a.Jobs.JobExecutions(q.path("jobId"))
	if err != nil {
		return nil, err
	}
	return listExecutions(q, all, "thingArn", func(e jobs.Execution) string { return a.arn("thing/" + e.ThingName) })
}

func (a *api) listJobExecutionsForThing(q *request) (any, error) {
	all, err := a.Jobs.ThingExecutions(q.path("thingName"))
	if err != nil {
		return nil, err
	}
	return listExecutions(q, all, "jobId", func(e jobs.Execution) string { return e.JobID })
}

func (a *api) describeJobExecution(q *request) (any, error) {
	e, err := a.Jobs.DescribeJobExecution(q.path("jobId"), q.path("thingName"), q.executionNumber())
	if err != nil {
		return nil, err
	}
	out := executionSummary(e)
	out["jobId"], out["thingArn"], out["versionNumber"] = e.JobID, a.arn("thing/"+e.ThingName), e.VersionNumber
	delete(out, "retryAttempt")
	if len(e.StatusDetails) > 0 {
		out["statusDetails"] = object{"detailsMap": e.StatusDetails}
	}
	return object{"execution": out.optional("forceCanceled", e.ForceCanceled).
		optional("approximateSecondsBeforeTimedOut", e.ApproximateSecondsBeforeTimedOut)}, nil
}

// executionNumber returns the query parameter of this name, nil without it.
func (q *request) executionNumber() *int64 {
	if !q.params.Has("executionNumber") {
		return nil
	}
	return new(q.number("executionNumber"))
}

func (a *api) cancelJobExecution(q *request, in struct {
	ExpectedVersion *int64            `json:"expectedVersion"`
	StatusDetails   map[string]string `json:"statusDetails"`
}) (any, error) {
	return nil, a.Jobs.CancelJobExecution(q.path("jobId"), q.path("thingName"), in.ExpectedVersion, in.StatusDetails, q.flag("force"))
}

func (a *api) deleteJobExecution(q *request) (any, error) {
	number, err := strconv.ParseInt(q.path("executionNumber"), 10, 64)
	if err != nil {
		return nil, invalid("execution number %q must be a number", clip(q.path("executionNumber")))
	}
	return nil, a.Jobs.DeleteJobExecution(q.path("jobId"), q.path("thingName"), number, q.flag("force"))
}

// deviceJobs runs an operation of the jobs data plane, which gives documents as
// text.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-http-device-api.html
func (a *api) deviceJobs(o awsiot.JobsOperation) func(*request) (any, error) {
	return a.jobsOf(func(q *request) (any, error) {
		in, err := jobs.ReadRequest(q.body)
		if err != nil {
			return nil, err
		}
		in.ExecutionNumber = cmp.Or(q.executionNumber(), in.ExecutionNumber)
		if q.params.Has("includeJobDocument") {
			in.IncludeJobDocument = new(q.flag("includeJobDocument"))
		}
		var out awsiot.JobsResponse
		t := awsiot.JobsTopic{Thing: q.path("thingName"), Operation: o, Job: q.path("jobId")}
		a.Jobs.Do(t, in, func(r awsiot.JobsResponse, failed error) { out, err = r, failed })
		if err != nil {
			return nil, err
		}
		if e := out.Execution; e != nil {
			e.JobDocument = asText(e.JobDocument)
		}
		out.JobDocument = asText(out.JobDocument)
		return out, nil
	})
}

func asText(document json.RawMessage) json.RawMessage {
	if document == nil {
		return nil
	}
	text, _ := json.Marshal(string(document)) // a string always encodes
	return text
}
