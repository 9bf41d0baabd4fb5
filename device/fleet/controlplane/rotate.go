package controlplane

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"golang.org/x/time/rate"
)

// rotateDocument is the job of the device's built-in operation rotate.
const rotateDocument = `{"version":"1.0","steps":[{"action":{"name":"Rotate","type":"runHandler","input":{"handler":"rotate"}}}]}`

const (
	jobTargets      = 100 // AWS's quota of targets in a job
	rotationMinutes = 60  // after which a rotation that has begun times out
	pollInterval    = 2 * time.Second
)

// A Rotation is what became of the request that devices replace their keys and certificates.
type Rotation struct {
	Jobs    []string `json:"jobs"`    // ids of the jobs that were created, those that the journal has first
	Things  int      `json:"things"`  // that have an execution of them, or would have
	Gone    int      `json:"gone"`    // targets that are no things any more
	Failed  int      `json:"failed"`  // targets with an error
	Resumed int      `json:"resumed"` // things that the journal has
	// Results counts the executions by status; nil unless they were awaited.
	Results map[types.JobExecutionStatus]int `json:"results,omitempty"`
	// Unsuccessful has the first hundred executions that ended with another status than SUCCEEDED.
	Unsuccessful []Unsuccessful `json:"unsuccessful,omitempty"`
}

// An Unsuccessful is a job execution that failed, was rejected or timed out.
type Unsuccessful struct {
	ThingName string                   `json:"thingName"`
	Status    types.JobExecutionStatus `json:"status"`
	Reason    string                   `json:"reason,omitempty"` // of the device
}

// Rotate creates jobs that have the targets rotate: one for each hundred things, at the run's rate.
// Their ids begin with name and follow from the things, so that a repeated run of that name creates
// none twice. The things must allow the operation rotate; see package jobs of the agent.
func (r *Run) Rotate(ctx context.Context, targets []Target, name string) (Rotation, error) {
	done := Rotation{Jobs: r.Journal.marked(jobMark)}
	var mu sync.Mutex
	arns, keys := map[string]string{}, map[string][]string{} // by thing name; under mu. Keys are those of certificates
	counts, err := r.each(ctx, targets, false, func(ctx context.Context, t Target) (Counts, error) {
		if t.ThingName == "" {
			c, err := r.certificate(ctx, t.CertificateID)
			if isNotFound(err) || err == nil && len(c.Things) == 0 {
				r.report(Device{Target: t, Kept: "no thing of it is found"})
				return Counts{Gone: 1}, nil
			}
			if err != nil {
				return Counts{}, err
			}
			t.ThingName = c.Things[0]
			if r.Journal.has(Target{ThingName: t.ThingName}.key()) {
				return Counts{Resumed: 1}, nil
			}
		}
		described, err := r.Client.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: &t.ThingName})
		if isNotFound(err) {
			r.report(Device{Target: t, Kept: "there is no such thing"})
			return Counts{Gone: 1}, nil
		}
		if err == nil && described.ThingArn == nil {
			err = ErrIncomplete
		}
		if err != nil {
			return Counts{}, err
		}
		r.report(Device{Target: t})
		mu.Lock()
		defer mu.Unlock()
		arns[t.ThingName] = aws.ToString(described.ThingArn)
		if t.CertificateID != "" {
			keys[t.ThingName] = append(keys[t.ThingName], Target{CertificateID: t.CertificateID}.key())
		}
		return Counts{}, nil
	})
	done.Gone, done.Failed, done.Resumed = counts.Gone, counts.Failed, counts.Resumed
	if err != nil && counts.Failed == 0 {
		return done, err
	}
	names := slices.Sorted(maps.Keys(arns))
	if !r.Apply {
		done.Things = len(names)
		return done, err
	}
	limiter := rate.NewLimiter(rate.Limit(cmp.Or(r.Rate, DefaultRate)), jobTargets)
	for batch := range slices.Chunk(names, jobTargets) {
		if err := limiter.WaitN(ctx, len(batch)); err != nil {
			return done, err
		}
		id := fmt.Sprintf("%s-%.6x", name, sha256.Sum256([]byte(strings.Join(batch, "\n"))))
		in := &iot.CreateJobInput{
			JobId: &id, Document: aws.String(rotateDocument), Description: aws.String("Replaces keys and certificates."),
			TimeoutConfig: &types.TimeoutConfig{InProgressTimeoutInMinutes: aws.Int64(rotationMinutes)},
		}
		for _, name := range batch {
			in.Targets = append(in.Targets, arns[name])
		}
		_, createErr := r.Client.CreateJob(ctx, in)
		if _, exists := errors.AsType[*types.ResourceAlreadyExistsException](createErr); createErr != nil && !exists {
			return done, fmt.Errorf("creating job %s: %w", id, createErr)
		}
		done.Jobs, done.Things = append(done.Jobs, id), done.Things+len(batch)
		completed := []string{jobMark + id}
		for _, name := range batch {
			completed = append(append(completed, Target{ThingName: name}.key()), keys[name]...)
		}
		if err := r.Journal.add(completed...); err != nil {
			return done, err
		}
	}
	return done, err
}

// AwaitJobs adds to a rotation how the executions of its jobs have ended. When ctx ends earlier, it
// returns what there is, with ctx's error.
func (r *Run) AwaitJobs(ctx context.Context, done *Rotation) error {
	for _, id := range done.Jobs {
		for {
			out, err := r.Client.DescribeJob(ctx, &iot.DescribeJobInput{JobId: &id})
			if ctx.Err() != nil {
				return errors.Join(context.Cause(ctx), r.results(context.WithoutCancel(ctx), done))
			}
			if err == nil && out.Job == nil {
				err = ErrIncomplete
			}
			if isNotFound(err) || err == nil && out.Job.Status != types.JobStatusInProgress && out.Job.Status != types.JobStatusScheduled {
				break // also of one that was deleted: it stays in the journal
			}
			if err != nil {
				return fmt.Errorf("describing job %s: %w", id, err)
			}
			select {
			case <-time.After(pollInterval):
			case <-ctx.Done(): // reported above
			}
		}
	}
	return r.results(ctx, done)
}

func (r *Run) results(ctx context.Context, done *Rotation) error {
	done.Results = map[types.JobExecutionStatus]int{}
	for _, id := range done.Jobs {
		executions, err := list(ctx, iot.NewListJobExecutionsForJobPaginator(r.Client, &iot.ListJobExecutionsForJobInput{JobId: &id}),
			func(page *iot.ListJobExecutionsForJobOutput) ([]types.JobExecutionSummaryForJob, *string) {
				return page.ExecutionSummaries, page.NextToken
			})
		if err != nil && !isNotFound(err) {
			return fmt.Errorf("listing the executions of job %s: %w", id, err)
		}
		for _, e := range executions {
			status := e.JobExecutionSummary.Status
			done.Results[status]++
			switch status {
			case types.JobExecutionStatusQueued, types.JobExecutionStatusInProgress, types.JobExecutionStatusSucceeded:
				continue
			}
			if len(done.Unsuccessful) == maxFailures {
				continue
			}
			u := Unsuccessful{ThingName: path.Base(aws.ToString(e.ThingArn)), Status: status}
			described, err := r.Client.DescribeJobExecution(ctx, &iot.DescribeJobExecutionInput{JobId: &id, ThingName: &u.ThingName})
			switch {
			case isNotFound(err): // as that of a thing that was deleted
			case err != nil:
				return fmt.Errorf("describing the execution of job %s by %s: %w", id, u.ThingName, err)
			case described.Execution != nil && described.Execution.StatusDetails != nil:
				u.Reason = described.Execution.StatusDetails.DetailsMap["reason"]
			}
			done.Unsuccessful = append(done.Unsuccessful, u)
		}
	}
	return nil
}
