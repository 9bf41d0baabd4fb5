package jobs

import "strings"

// An Event is what AWS IoT publishes of a job or of a job execution that has
// ended.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/events-jobs.html
type Event struct {
	OfJob   bool           // else of a job execution
	Topic   string         // below $aws/events/
	Payload map[string]any // without eventId
}

// jobEvent notes that a job has, or is about to get, a status.
func (tx *change) jobEvent(j *job, status string) {
	operation := strings.ToLower(status)
	payload := map[string]any{
		"eventType": "JOB", "timestamp": tx.now.Unix(), "operation": operation, "jobId": j.ID, "status": status,
		"targetSelection": j.TargetSelection, "targets": j.Targets, "description": j.Description,
		"createdAt": j.CreatedAt * 1000, "lastUpdatedAt": tx.now.UnixMilli(),
	}
	if j.Comment != "" {
		payload["comment"] = j.Comment
	}
	if status == string(JobCompleted) {
		payload["completedAt"] = tx.now.UnixMilli()
		details := map[string]int{}
		for name, status := range map[string]Status{
			"Canceled": Canceled, "Rejected": Rejected, "Failed": Failed, "Removed": Removed, "Succeeded": Succeeded,
		} {
			details["numberOf"+name+"Things"] = j.counts[status]
		}
		payload["jobProcessDetails"] = details
	}
	tx.events = append(tx.events, Event{true, "job/" + j.ID + "/" + operation, payload})
}

// executionEvent notes that an execution has ended.
func (tx *change) executionEvent(e *execution, status string) {
	operation := strings.ToLower(status)
	payload := map[string]any{
		"eventType": "JOB_EXECUTION", "timestamp": tx.now.Unix(), "operation": operation, "jobId": e.JobID,
		"thingArn": tx.config.ARN("thing/" + e.ThingName), "status": status,
	}
	if e.StatusDetails != nil {
		payload["statusDetails"] = e.StatusDetails
	}
	tx.events = append(tx.events, Event{false, "jobExecution/" + e.JobID + "/" + operation, payload})
}
