package jobs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"example.com/fleety/device/agent/program"
)

// maxAttempts is how often a step begins: it is interrupted where the agent or the
// system ends.
const maxAttempts = 3

// rebootHandler is the handler that AWS-Reboot names. Its step succeeds when the
// system has booted.
const rebootHandler = "reboot.sh"

// rebootTimeout is how long a system may take to end after its reboot handler has.
const rebootTimeout = 10 * time.Minute

var errTimeout = errors.New("the step has timed out")

// permit returns why the configuration or the device's condition does not allow a
// document.
func (s *Service) permit(d *document) error {
	for _, st := range d.steps {
		if operation := st.operation(); !slices.Contains(s.Allow, operation) {
			return fmt.Errorf("%s: operation %q is not allowed: it is not in agent.jobs.allow", st.at, operation)
		}
		if st.path != "" && st.path != "default" && filepath.Clean(st.path) != filepath.Clean(s.Handlers) {
			return fmt.Errorf("%s: handlers run from the folder agent.jobs.handlers alone", st.pathAt)
		}
	}
	for _, c := range d.conditions {
		facts := map[string][]string{"operatingSystem": {runtime.GOOS, osRelease("ID")}, "architecture": {runtime.GOARCH}}[c.key]
		if facts == nil {
			return fmt.Errorf("%s.key: %q is not supported; operatingSystem and architecture are", c.at, c.key)
		}
		if !slices.ContainsFunc(c.values, func(value string) bool { return value != "" && slices.Contains(facts, strings.ToLower(value)) }) {
			return fmt.Errorf("%s: %s is %s", c.at, c.key, strings.Join(facts, ", "))
		}
	}
	return nil
}

// osRelease returns a field of os-release(5).
func osRelease(key string) string {
	text, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			return strings.Trim(value, `"'`)
		}
	}
	return ""
}

func (e *execution) clone() *execution {
	if e == nil {
		return nil
	}
	c := *e
	c.Details = maps.Clone(e.Details)
	return &c
}

// work carries out the current execution until it has a result or ctx ends.
func (s *Service) work(ctx context.Context) {
	s.mu.Lock()
	e := s.current.clone()
	s.mu.Unlock()
	doc, err := parse(e.Document)
	if err == nil {
		err = s.permit(doc) // the configuration may have changed
	}
	for err == nil && e.Step < len(doc.steps) && ctx.Err() == nil {
		st := &doc.steps[e.Step]
		e.setDetail("step", fmt.Sprintf("%d/%d %s", e.Step+1, len(doc.steps), st.name))
		var stdout tail
		if stdout, err = s.step(ctx, e, st); ctx.Err() != nil {
			return
		}
		if doc.includeStdOut {
			e.setDetail("stdout", e.Details["stdout"]+"\n"+string(stdout.text))
		}
		if err != nil && st.ignoreFailure && !errors.Is(err, errStorage) {
			s.Log.Warn("a step failed, which the job ignores", "job", e.JobID, "step", st.name, "error", err)
			err = nil
		}
		if err == nil {
			delete(e.Details, "stderr")
			e.Step, e.Attempt, e.Process, e.CertificateID = e.Step+1, 0, nil, ""
		}
	}
	if ctx.Err() != nil {
		return
	}
	e.Status, e.Process = succeeded, nil
	if err != nil {
		e.Status = failed
		e.setDetail("reason", err.Error())
	}
	if err := s.store(e); err != nil {
		s.Log.Error("the result of a job is not on the disk", "job", e.JobID, "status", e.Status, "error", err)
	}
	s.publish(e)
}

var errStorage = errors.New("storing the state of the execution on the device")

func (s *Service) store(e *execution) error {
	if err := save(s.Dir, e); err != nil {
		return fmt.Errorf("%w: %w", errStorage, err)
	}
	return nil
}

// publish makes the worker's execution the current one, to be reported.
func (s *Service) publish(e *execution) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = e.clone()
	signal(s.changed)
}

// step carries out one step, or finds that it has been done. It begins when the
// disk says so.
func (s *Service) step(ctx context.Context, e *execution, st *step) (stdout tail, err error) {
	boot := s.bootID()
	interrupted := e.Attempt > 0
	rebooted := interrupted && boot != "" && e.BootID != "" && boot != e.BootID
	switch {
	case rebooted && st.handler == rebootHandler:
		return stdout, nil
	case interrupted && !rebooted && e.Process != nil:
		e.Process.kill()
	}
	if e.Attempt >= maxAttempts {
		return stdout, fmt.Errorf("the step was interrupted %d times, by the end of the agent or of the system", maxAttempts)
	}
	if st.handler == Rotate && e.CertificateID == "" {
		if e.CertificateID, err = s.CertificateID(); err != nil {
			return stdout, err
		}
	}
	e.Attempt, e.BootID, e.Process = e.Attempt+1, boot, nil
	if err := s.store(e); err != nil {
		return stdout, err
	}
	s.publish(e)
	s.Log.Info("running a step of a job", "job", e.JobID, "step", st.name, "operation", st.operation(), "attempt", e.Attempt)
	ctx, cancel := context.WithTimeoutCause(ctx, s.StepTimeout, fmt.Errorf("%w after %s", errTimeout, s.StepTimeout))
	defer cancel()
	switch {
	case st.handler == Rotate:
		err = s.rotate(ctx, e)
	case st.handler == DownloadFile && s.Downloads != "":
		err = s.download(ctx, st)
	default:
		stdout, err = s.runProgram(ctx, e, st)
	}
	if err != nil {
		err = fmt.Errorf("step %q: %w", st.name, err)
	}
	return stdout, err
}

// runProgram runs a handler or a command.
func (s *Service) runProgram(ctx context.Context, e *execution, st *step) (stdout tail, err error) {
	argv := st.command
	if argv == nil {
		path, err := s.handler(st.handler)
		if err != nil {
			return stdout, err
		}
		argv = append([]string{path, st.runAsUser}, st.args...) // AWS's handlers, too, have the user first
	}
	environ := append(program.Environment(), "IOT_JOB_ID="+e.JobID, fmt.Sprint("IOT_JOB_ATTEMPT=", e.Attempt))
	stdout, stderr, err := run(ctx, argv, environ, st.runAsUser, func(p *process) error {
		e.Process = p
		return s.store(e)
	})
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil && st.allowStdErr >= 0 && stderr.lines > st.allowStdErr:
		err = fmt.Errorf("%d lines on standard error, and allowStdErr is %d", stderr.lines, st.allowStdErr)
	case err == nil && st.handler == rebootHandler:
		err = awaitEnd(ctx)
	}
	if err != nil {
		e.setDetail("stderr", string(stderr.text))
	}
	return stdout, err
}

// handler returns the path of a handler. Links are not followed out of the folder.
func (s *Service) handler(name string) (path string, err error) {
	if s.Handlers == "" {
		return "", errors.New("agent.jobs.handlers, the folder of handlers, is not configured")
	}
	path = filepath.Join(s.Handlers, name)
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err == nil {
		err = program.Check(path)
	}
	if err != nil {
		return "", fmt.Errorf("handler %s: %w", name, err)
	}
	return path, nil
}

// awaitEnd waits for the system to end.
func awaitEnd(ctx context.Context) error {
	select {
	case <-time.After(rebootTimeout):
		return fmt.Errorf("the system has not ended %s after %s", rebootTimeout, rebootHandler)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// rotate replaces key and certificate, unless an earlier attempt has.
func (s *Service) rotate(ctx context.Context, e *execution) error {
	present, err := s.CertificateID()
	if err != nil {
		return err
	}
	if present == e.CertificateID {
		if err = s.Replace(ctx); err == nil {
			present, err = s.CertificateID()
		}
		switch {
		case err != nil:
			return err
		case present == e.CertificateID:
			return errors.New("the device still has the certificate " + present)
		}
	}
	e.setDetail("certificateId", present)
	return nil
}
