package jobs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"example.com/fleety/device/agent/program"
	"example.com/fleety/device/awsiot"
)

const (
	maxAttempts   = 3                // of a step: it is interrupted where the agent or the system ends
	rebootHandler = "reboot.sh"      // which AWS-Reboot names; its step succeeds when the system has booted
	rebootTimeout = 10 * time.Minute // for the system to end after its reboot handler has
)

// permit returns why the configuration or the device's condition does not allow a document.
func (c Settings) permit(d *document) error {
	for _, st := range d.steps {
		if operation := st.operation(); !slices.Contains(c.Allow, operation) {
			return fmt.Errorf("%s: operation %q is not allowed: it is not in agent.jobs.allow", st.at, operation)
		}
		if st.path != "" && st.path != "default" && filepath.Clean(st.path) != filepath.Clean(c.Handlers) {
			return fmt.Errorf("%s: handlers run from the folder agent.jobs.handlers alone", st.pathAt)
		}
	}
	for _, cond := range d.conditions {
		facts := map[string][]string{"operatingSystem": {runtime.GOOS, osRelease("ID")}, "architecture": {runtime.GOARCH}}[cond.key]
		if facts == nil {
			return fmt.Errorf("%s.key: %q is not supported; operatingSystem and architecture are", cond.at, cond.key)
		}
		if !slices.ContainsFunc(cond.values, func(value string) bool { return value != "" && slices.Contains(facts, strings.ToLower(value)) }) {
			return fmt.Errorf("%s: %s is %s", cond.at, cond.key, strings.Join(facts, ", "))
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

// work carries out the current execution until it has a result or ctx ends.
func (s *Service) work(ctx context.Context) {
	s.mu.Lock()
	e := s.current.clone()
	s.mu.Unlock()
	doc, err := parse(e.Document)
	for err == nil && e.Step < len(doc.steps) && ctx.Err() == nil {
		settings := s.settings() // which may have changed
		if err = settings.permit(doc); err != nil {
			break
		}
		st := &doc.steps[e.Step]
		e.setDetail("step", fmt.Sprintf("%d/%d %s", e.Step+1, len(doc.steps), st.name))
		var stdout tail
		if stdout, err = s.step(ctx, settings, e, st); ctx.Err() != nil {
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
	if e.Process = nil; err != nil {
		e.end(awsiot.JobFailed, err.Error())
	} else {
		e.end(awsiot.JobSucceeded, "")
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

// step carries out one step, or finds that it has been done. It begins when the disk says so.
func (s *Service) step(ctx context.Context, settings Settings, e *execution, st *step) (stdout tail, err error) {
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
	ctx, cancel := context.WithTimeoutCause(ctx, settings.StepTimeout, fmt.Errorf("the step has timed out after %s", settings.StepTimeout))
	defer cancel()
	switch {
	case st.handler == Rotate:
		err = s.rotate(ctx, e)
	case st.handler == DownloadFile && settings.Downloads != "":
		err = s.download(ctx, settings, st)
	default:
		stdout, err = s.runProgram(ctx, settings, e, st)
	}
	if err != nil {
		err = fmt.Errorf("step %q: %w", st.name, err)
		select { // perhaps the service manager ends the agent, too, or its local API has ended
		case <-time.After(s.stopDelay):
		case <-ctx.Done():
		}
	}
	return stdout, err
}

// runProgram runs a handler or a command. A reboot handler has succeeded only when the system ends.
func (s *Service) runProgram(ctx context.Context, settings Settings, e *execution, st *step) (stdout tail, err error) {
	argv := st.command
	if argv == nil {
		path, err := settings.handler(st.handler)
		if err != nil {
			return stdout, fmt.Errorf("handler %s: %w", st.handler, err)
		}
		argv = append([]string{path, st.runAsUser}, st.args...) // AWS's handlers, too, have the user first
	}
	environ := append(program.Environment(), "IOT_JOB_ID="+e.JobID, fmt.Sprint("IOT_JOB_ATTEMPT=", e.Attempt))
	stdout, stderr, err := run(ctx, argv, environ, st.runAsUser, func(p *process) error {
		e.Process = p
		return s.store(e)
	})
	if err == nil && st.allowStdErr >= 0 && stderr.lines() > st.allowStdErr {
		err = fmt.Errorf("%d lines on standard error, and allowStdErr is %d", stderr.lines(), st.allowStdErr)
	}
	if err == nil && st.handler == rebootHandler {
		select {
		case <-time.After(rebootTimeout):
			err = fmt.Errorf("the system has not ended %s after %s", rebootTimeout, rebootHandler)
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		e.setDetail("stderr", string(stderr.text))
	}
	return stdout, err
}

// handler returns the path of a handler. Links are not followed out of the folder.
func (c Settings) handler(name string) (path string, err error) {
	if c.Handlers == "" {
		return "", errors.New("agent.jobs.handlers, the folder of handlers, is not configured")
	}
	path = filepath.Join(c.Handlers, name)
	if info, err := os.Lstat(path); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		return "", errors.New("it is not a regular file")
	}
	return path, program.Check(path)
}

// rotate replaces key and certificate, unless an earlier attempt has.
func (s *Service) rotate(ctx context.Context, e *execution) error {
	present, err := s.CertificateID()
	if err == nil && present == e.CertificateID {
		if err = s.Replace(ctx); err == nil {
			present, err = s.CertificateID()
		}
	}
	switch {
	case err != nil:
		return err
	case present == e.CertificateID:
		return errors.New("the device still has the certificate " + present)
	}
	e.setDetail("certificateId", present)
	return nil
}
