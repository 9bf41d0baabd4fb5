package shadow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"example.com/fleety/device/agent/program"
	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/osfile"
)

const killDelay = 2 * time.Second // for what a program has left to keep its output open

// Run gives each new desired state to the file and to the program, until ctx ends. What fails is
// tried again, slower and slower.
func (s *Shadow) Run(ctx context.Context, thing string) {
	var retry <-chan time.Time
	for delay := time.Duration(0); ; {
		select {
		case <-s.desired:
		case <-retry:
		case <-ctx.Done():
			return
		}
		if err := s.apply(ctx, thing); err != nil && ctx.Err() == nil {
			s.fail("applying the desired state", err)
			delay = min(max(firstDelay, 2*delay), maxDelay)
			retry = time.After(delay/2 + rand.N(delay/2))
		} else {
			delay, retry = 0, nil
		}
	}
}

// apply applies the present desired state, where it is known and new.
func (s *Shadow) apply(ctx context.Context, thing string) error {
	s.mu.Lock()
	desired, _ := s.state.Known["desired"].(object)
	applied, synced, again := s.state.Applied, s.synced, s.again
	s.mu.Unlock()
	if !synced {
		return nil
	}
	if desired == nil {
		desired = object{}
	}
	text := append(awsiot.EncodeJSON(desired), '\n')
	if file := s.config.File; file != "" {
		if old, err := osfile.Read(file, int64(len(text))); err != nil || !bytes.Equal(old, text) {
			if err := osfile.Replace(file, text, 0o640); err != nil {
				return err
			}
		}
	}
	if s.config.Program == "" || !again && applied != nil && equal(desired, applied) {
		return nil
	}
	reported, err := s.call(ctx, thing, text)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.again = false
	st := s.state
	st.Applied = desired
	change := object{"reported": reported}
	if view := st.view(); len(reported) == 0 || equal(merge(view, change), view) {
		return s.save(st)
	}
	return s.enqueue(st, change)
}

// call runs the program with the desired state as standard input. What it writes to standard
// output, if anything, is a JSON object: the reported state.
func (s *Shadow) call(ctx context.Context, thing string, desired []byte) (reported object, err error) {
	if err := program.Check(s.config.Program); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.config.Timeout, fmt.Errorf("it ran longer than %v", s.config.Timeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, s.config.Program)
	cmd.Path, cmd.Err = s.config.Program, nil // which was checked; not one of $PATH
	var output, problems head
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = bytes.NewReader(desired), &output, &problems, killDelay
	cmd.Env = append(program.Environment(), "THING_NAME="+thing, "SHADOW_NAME="+s.config.Name)
	program.LeadGroup(cmd, syscall.SIGKILL)
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("running %s: %w%s", s.config.Program, err, awsiot.Printable(" "+strings.TrimSpace(string(problems[:min(len(problems), 200)]))))
	}
	if text := bytes.TrimSpace(output); len(text) > 0 {
		if len(output) > awsiot.MaxShadowDocument || awsiot.DecodeJSON(text, &reported) != nil || !storable(reported, awsiot.MaxShadowLevels) {
			return nil, fmt.Errorf("running %s: its output is not one JSON object of %d bytes and %d levels at most, without null in an array", s.config.Program, awsiot.MaxShadowDocument, awsiot.MaxShadowLevels)
		}
	}
	return reported, nil
}

// A head keeps the first bytes that are written to it, one more than a shadow may have.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), awsiot.MaxShadowDocument+1-len(*h))]...)
	return len(p), nil
}
