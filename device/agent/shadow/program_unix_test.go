//go:build unix

package shadow_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/agent/shadow"
	"example.com/fleety/device/awsiot"
)

// program writes a shell script that also notes each call in the file calls.
func program(t *testing.T, dir, script string) (path string) {
	t.Helper()
	path = filepath.Join(dir, "program")
	text := "#!/bin/sh\nset -e\ncd " + dir + "\ncat >input\necho x >>calls\n" + script + "\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func calls(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Count(string(text), "x")
}

func await(t *testing.T, what string, as func() bool) {
	t.Helper()
	for tick := time.Tick(5 * time.Millisecond); !as(); {
		select {
		case <-tick:
		case <-t.Context().Done():
			t.Fatal("waiting: " + what)
		}
	}
}

func (c *cloud) awaitState(t *testing.T, want string) {
	t.Helper()
	var state map[string]any
	await(t, want, func() bool {
		state, _ = c.state(t)
		var w any
		if err := awsiot.DecodeJSON([]byte(want), &w); err != nil {
			t.Fatal(err)
		}
		return string(awsiot.EncodeJSON(w)) == string(awsiot.EncodeJSON(state))
	})
}

// The desired state is in the file and at the program, whose answer is reported;
// the program is not called again for what it has answered.
func TestDesiredStateGoesToFileAndProgram(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), newCloud(t)
	file := filepath.Join(dir, "desired.json")
	config := shadow.Config{Dir: dir, File: file, Program: program(t, dir, `[ "$THING_NAME" = fleety_1 ] && [ -z "$SHADOW_NAME" ]
cat input`)}
	s := open(t, config)
	stop, disconnect := run(t, s), c.connect(t, s)
	await(t, "the file without a shadow", func() bool { text, _ := os.ReadFile(file); return string(text) == "{}\n" })
	c.desire(`{"led":"on"}`)
	c.awaitState(t, `{"desired":{"led":"on"},"reported":{"led":"on"}}`)
	c.desire(`{"led":"off","level":20.0}`)
	c.awaitState(t, `{"desired":{"led":"off","level":20.0},"reported":{"led":"off","level":20.0}}`)
	if text, err := os.ReadFile(file); err != nil || string(text) != `{"led":"off","level":20.0}`+"\n" {
		t.Errorf("the file has %s, %v", text, err)
	}
	c.desire(`{"level":null}`) // in no delta
	await(t, "the file without the level", func() bool { text, _ := os.ReadFile(file); return string(text) == `{"led":"off"}`+"\n" })
	disconnect()
	stop()
	before := calls(t, dir)
	s = open(t, config)
	stop, disconnect = run(t, s), c.connect(t, s)
	await(t, "the shadow is got", func() bool { return s.Document().Version > 0 && !s.Document().Pending })
	c.desire(`{"other":1}`)
	c.awaitState(t, `{"desired":{"led":"off","other":1},"reported":{"led":"off","level":20.0,"other":1}}`)
	if after := calls(t, dir); after > before+2 { // again where a call was cut short
		t.Errorf("%d calls before a restart, %d after", before, after)
	}
	disconnect()
	stop()
}

// An agent that starts again does not call the program for a desired state that it
// had, also where that is none.
func TestRestartDoesNotRepeatTheCall(t *testing.T) {
	t.Parallel()
	for name, desired := range map[string]string{"none": "", "one": `{"led":"on"}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, c := t.TempDir(), newCloud(t)
			if desired != "" {
				c.desire(desired)
			}
			file := filepath.Join(dir, "desired.json")
			config := shadow.Config{Dir: dir, File: file, Program: program(t, dir, "cat input")}
			s := open(t, config)
			stop, disconnect := run(t, s), c.connect(t, s)
			await(t, "the call", func() bool { return strings.HasPrefix(applied(t, dir), "{") && !s.Document().Pending })
			disconnect()
			stop()
			before := calls(t, dir)
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			s = open(t, config)
			stop, disconnect = run(t, s), c.connect(t, s)
			await(t, "the file", func() bool { _, err := os.Stat(file); return err == nil })
			c.desire(`{"other":1}`)
			await(t, "the next call", func() bool { return strings.Contains(applied(t, dir), `"other":1`) && !s.Document().Pending })
			disconnect()
			stop()
			if n := calls(t, dir) - before; n != 1 {
				t.Errorf("%d calls after the restart, want 1", n)
			}
		})
	}
}

// applied returns the desired state that the program was called with, as it is
// stored.
func applied(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "shadow-.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	_, applied, _ := strings.Cut(string(text), `"applied":`)
	return applied
}

// An agent that ends between the desired state and the report calls the program
// again, and one that ends between the report and its acknowledgement sends it again.
func TestRestartBetweenDesiredAndReported(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), newCloud(t)
	c.desire(`{"led":"on"}`)
	config := shadow.Config{Dir: dir, Program: program(t, dir, "[ -e go ] || exec sleep 1000\ncat input")}
	s := open(t, config)
	stop, disconnect := run(t, s), c.connect(t, s)
	await(t, "the program runs", func() bool { return calls(t, dir) == 1 })
	disconnect()
	stop()
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.hook = func(o awsiot.ShadowTopic, _ []byte) bool { return o.Operation == awsiot.UpdateShadow } // lost
	s = open(t, config)
	stop, disconnect = run(t, s), c.connect(t, s)
	await(t, "the report is on its way", func() bool { return len(c.sent()) > 0 && c.sent()[len(c.sent())-1] == "update" })
	disconnect()
	stop()
	c.mu.Lock()
	c.hook = nil
	c.mu.Unlock()
	s = open(t, config)
	defer run(t, s)()
	defer c.connect(t, s)()
	c.awaitState(t, `{"desired":{"led":"on"},"reported":{"led":"on"}}`)
}

// A program that fails, or whose output is no report, is called again later; its
// shadow says why. One that others could have changed is not called.
func TestProgramsThatFail(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		script string
		change func(path string) error
		config shadow.Config
		called bool
	}{
		"exits with 1":        {script: "echo no led here >&2; exit 1", called: true},
		"not JSON":            {script: "echo led", called: true},
		"not an object":       {script: "echo 1", called: true},
		"two objects":         {script: "echo '{}{}'", called: true},
		"too much":            {script: `printf '{"a":"%9000d"}' 1`, called: true},
		"too deep":            {script: `echo '{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":1}}}}}}}}}'`, called: true},
		"too long":            {script: "exec sleep 1000", config: shadow.Config{Timeout: time.Second}},
		"world-writable":      {script: "cat input", change: func(path string) error { return os.Chmod(path, 0o757) }},
		"group-writable":      {script: "cat input", change: func(path string) error { return os.Chmod(path, 0o775) }},
		"in a shared folder":  {script: "cat input", change: func(path string) error { return os.Chmod(filepath.Dir(path), 0o777) }},
		"not executable":      {script: "cat input", change: func(path string) error { return os.Chmod(path, 0o644) }},
		"missing":             {script: "cat input", change: os.Remove},
		"link to writable":    {script: "cat input", change: linkTo(0o777)},
		"directory":           {script: "cat input", change: func(path string) error { os.Remove(path); return os.Mkdir(path, 0o755) }},
		"no interpreter":      {script: "cat input", change: func(path string) error { return os.WriteFile(path, []byte("#!/nowhere\n"), 0o755) }},
		"ends by itself soon": {script: "kill -9 $$", called: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, c := t.TempDir(), newCloud(t)
			c.desire(`{"led":"on"}`)
			tc.config.Dir, tc.config.Program = dir, program(t, dir, tc.script)
			if tc.change != nil {
				if err := tc.change(tc.config.Program); err != nil {
					t.Fatal(err)
				}
			}
			s := open(t, tc.config)
			defer run(t, s)()
			defer c.connect(t, s)()
			await(t, "the failure", func() bool {
				return strings.Contains(string(awsiot.EncodeJSON(s.Status())), "applying the desired state")
			})
			if state, _ := c.state(t); state["reported"] != nil || s.Document().Pending {
				t.Errorf("reported %v", state["reported"])
			}
			if n := calls(t, dir); (n > 0) != tc.called && name != "too long" {
				t.Errorf("called %d times", n)
			}
			os.Remove(tc.config.Program)
			tc.config.Program = program(t, dir, "cat input") // repaired
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			c.awaitState(t, `{"desired":{"led":"on"},"reported":{"led":"on"}}`)
		})
	}
}

func linkTo(mode os.FileMode) func(string) error {
	return func(path string) error {
		target := path + ".target"
		if err := os.Rename(path, target); err != nil {
			return err
		}
		if err := os.Chmod(target, mode); err != nil {
			return err
		}
		return os.Symlink(target, path)
	}
}

// A program without output reports nothing.
func TestProgramNeedNotReport(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), newCloud(t)
	c.desire(`{"led":"on"}`)
	s := open(t, shadow.Config{Dir: dir, Program: program(t, dir, "cp input done")})
	stop := run(t, s)
	disconnect := c.connect(t, s)
	await(t, "the program has run", func() bool { text, _ := os.ReadFile(filepath.Join(dir, "done")); return len(text) > 0 })
	stop()
	disconnect()
	if d := s.Document(); d.Pending || d.State["reported"] != nil {
		t.Errorf("%+v", d)
	}
}

// A file that is none, such as a FIFO that nobody reads, keeps nothing waiting and stays.
func TestDesiredStateGoesToNoFIFO(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), newCloud(t)
	file := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, shadow.Config{Dir: dir, File: file})
	stop, disconnect := run(t, s), c.connect(t, s)
	await(t, "the failure", func() bool {
		status, err := json.Marshal(s.Status())
		return err == nil && strings.Contains(string(status), `"error":`)
	})
	disconnect()
	stop()
	if info, err := os.Lstat(file); err != nil || info.Mode().Type() != os.ModeNamedPipe {
		t.Error(info.Mode(), err)
	}
}
