package controlplane

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
)

// A Journal is a file of the devices that a run has completed, one per line, from
// which a repeated run resumes. A nil one has none. It is safe for concurrent use.
type Journal struct {
	mu   sync.Mutex
	f    *os.File        // under mu
	done map[string]bool // under mu
}

// OpenJournal opens or creates the journal of an operation, named by any text of
// one line.
func OpenJournal(path, operation string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j := &Journal{f: f, done: map[string]bool{}}
	header := "# iot_fleet " + operation
	lines := bufio.NewScanner(f)
	empty := !lines.Scan()
	switch {
	case empty:
		_, err = f.WriteString(header + "\n")
	case lines.Text() != header:
		err = fmt.Errorf("the file is not a journal of this operation: it begins with %q, want %q", lines.Text(), header)
	}
	for err == nil && lines.Scan() {
		// Of a line that was cut off, the device is done once more.
		j.done[strings.TrimSuffix(lines.Text(), ".")] = strings.HasSuffix(lines.Text(), ".")
	}
	if err = errors.Join(err, lines.Err()); err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

func (j *Journal) has(device string) bool {
	if j == nil {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.done[device]
}

func (j *Journal) add(device string) error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err := j.f.WriteString(device + ".\n")
	return err
}

// Close makes the journal durable and closes it.
func (j *Journal) Close() error {
	if j == nil {
		return nil
	}
	return errors.Join(j.f.Sync(), j.f.Close())
}
