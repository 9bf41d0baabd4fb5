package jobs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/osfile"
)

// An execution is the job execution in progress, as it is on stable storage. It is written before
// each step begins, and before a result is reported.
type execution struct {
	JobID         string          `json:"jobId"`
	Number        int64           `json:"executionNumber"`
	QueuedAt      json.RawMessage `json:"queuedAt,omitempty"` // as AWS IoT has it; earlier releases did not store it
	Document      json.RawMessage `json:"document,omitempty"`
	Step          int             `json:"step"`                    // the present one, from 0
	Attempt       int             `json:"attempt"`                 // of the present step, 0 before it begins
	BootID        string          `json:"bootId,omitempty"`        // that of the system when the step began
	Process       *process        `json:"process,omitempty"`       // the handler's, once it runs
	CertificateID string          `json:"certificateId,omitempty"` // the device's when a rotation began
	// Status is empty until the execution has a result.
	Status  awsiot.JobExecutionStatus `json:"status,omitempty"`
	Details map[string]string         `json:"statusDetails,omitempty"`
}

// A process is the leader of a handler's process group.
type process struct {
	ID      int    `json:"id"`
	Started string `json:"started"` // as the kernel counts it
}

func (e *execution) clone() *execution {
	if e == nil {
		return nil
	}
	c := *e
	c.Details = maps.Clone(e.Details)
	return &c
}

// end gives the execution its result.
func (e *execution) end(result awsiot.JobExecutionStatus, reason string) {
	e.Status = result
	e.setDetail("reason", reason)
}

// setDetail sets a detail in the form that AWS IoT accepts: characters of the Unicode category C
// become spaces, and of a longer text the end stays. An empty text removes it.
func (e *execution) setDetail(key, text string) {
	runes := []rune(strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.Is(unicode.C, r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))))
	if e.Details == nil {
		e.Details = map[string]string{}
	}
	e.Details[key] = string(runes[max(0, len(runes)-awsiot.MaxJobDetail):])
	if len(runes) == 0 {
		delete(e.Details, key)
	}
}

// A tail keeps the end of what is written to it, and counts the lines.
type tail struct {
	text []byte
	ends int // of lines
}

func (t *tail) Write(p []byte) (int, error) {
	t.ends += bytes.Count(p, []byte("\n"))
	t.text = append(t.text, p...)
	if over := len(t.text) - awsiot.MaxJobDetail*utf8.UTFMax; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

// lines counts also the last line, if it has no end.
func (t *tail) lines() int {
	if len(t.text) == 0 || bytes.HasSuffix(t.text, []byte("\n")) {
		return t.ends
	}
	return t.ends + 1
}

const stateFile = "job.json"

// load reads the execution that an earlier run of the agent left, nil if there is none.
func load(dir string) (*execution, error) {
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	e := &execution{}
	if err == nil {
		err = json.Unmarshal(data, e)
	}
	if err == nil && (!awsiot.JobIDs.Valid(e.JobID) || e.Step < 0) { // its topic would be of no job
		err = errors.New("it is not what the agent writes")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the job execution in progress: %w", err)
	}
	return e, nil
}

// save makes the execution durable; nil removes it.
func save(dir string, e *execution) (err error) {
	path := filepath.Join(dir, stateFile)
	if e == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return osfile.SyncDir(dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return osfile.Replace(path, awsiot.EncodeJSON(e), 0o600)
}
