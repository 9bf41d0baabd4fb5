package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/localcore"
)

// After SIGHUP the agent runs with the new configuration, in the same process. One
// that is broken, or that the agent cannot run with, leaves it as it is. The connection
// ends only for settings that it depends on.
func TestHangupReloadsTheConfiguration(t *testing.T) {
	t.Parallel()
	s := newSite(t, shipped)
	a := s.device(t, "device").agent(t)
	m := newManager(t)
	a.env = []string{m.environ()}
	path := filepath.Join(a.dir, "device.yaml")
	settings, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a.start(t)
	first := a.await(t, sent)
	reload := func(more, logged string) {
		t.Helper()
		if err := os.WriteFile(path, append(slices.Clip(settings), more...), 0o600); err != nil {
			t.Fatal(err)
		}
		seen := a.stderr.watch(logged)
		if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		select {
		case <-seen:
		case <-a.exited:
			t.Fatalf("the agent has ended:\n%s", a.stderr)
		case <-t.Context().Done():
			t.Fatalf("the log has no %q:\n%s", logged, a.stderr)
		}
	}
	reload("# the same\n", "the configuration is the same")
	reload("agent: {shadow: x}\n", "the present one stays")
	for i, more := range []string{
		"agent: {jobs: {allow: [rotate]}, outbox: {maxBytes: 1MiB, maxAge: 1h}, rotateAfter: 240h}\n",
		"agent: {jobs: {allow: [rotate, h.sh]}, defender: {interval: 5m}}\nauthor: someone\n",
		"agent: {defender: {interval: 10m}, tunnel: {services: {SSH: 22}}}\n",
	} {
		reload(more, "the configuration has changed")
		now := a.await(t, func(s agent.Status) bool {
			_, jobs := s.Services["jobs"]
			return jobs == (i < 2) && s.RotationDue.Before(time.Now().AddDate(1, 0, 0)) == (i == 0)
		})
		if !now.Connected || !now.ConnectedSince.Equal(first.ConnectedSince) || now.ProcessID != first.ProcessID {
			t.Errorf("with %sconnected since %v in process %d, before since %v in %d", more, now.ConnectedSince, now.ProcessID, first.ConnectedSince, first.ProcessID)
		}
	}
	reload("agent: {shadows: [{name: x}]}\n", "the configuration has changed")
	shadow := func(name string) {
		t.Helper()
		for {
			_, err := a.client.Shadow(t.Context(), name)
			if err == nil {
				break
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-a.exited:
				t.Fatalf("the agent has ended:\n%s", a.stderr)
			case <-t.Context().Done():
				t.Fatalf("the agent does not keep the shadow %s: %v\n%s", name, err, a.stderr)
			}
		}
	}
	shadow("x")
	if now := a.await(t, sent); now.ProcessID != first.ProcessID {
		t.Errorf("process %d, before %d", now.ProcessID, first.ProcessID)
	}
	// Nothing can listen below a file.
	a.env = append(a.env, "IOT_DEVICE_AGENT_SOCKET=") // the file decides from here on
	if code := a.stop(); code != 0 {
		t.Errorf("stopped, the agent exits with %d\n%s", code, a.stderr)
	}
	settings = fmt.Appendf(settings, "agent:\n  socket: %s\n", a.socket)
	reloadable := string(settings)
	if err := os.WriteFile(path, settings, 0o600); err != nil {
		t.Fatal(err)
	}
	a.start(t)
	a.await(t, sent)
	settings = []byte(strings.Replace(reloadable, "socket: ", "socket: "+path+"/", 1))
	reload("  shadows: [{name: y}]\n", "goes on with the former one")
	for _, err := a.client.Status(t.Context()); err != nil; _, err = a.client.Status(t.Context()) {
		time.Sleep(10 * time.Millisecond) // until it listens again
	}
	a.await(t, func(s agent.Status) bool { return s.Connected })
	settings = []byte(reloadable)
	reload("  shadows: [{name: z}]\n", "the configuration has changed")
	shadow("z")
	if code := a.stop(); code != 0 {
		t.Errorf("stopped, the agent exits with %d\n%s", code, a.stderr)
	}
	reloads, ready := 0, 0
	for _, text := range m.all(t) {
		switch {
		case strings.HasPrefix(text, "RELOADING=1\nMONOTONIC_USEC="):
			reloads++
		case strings.HasPrefix(text, "READY=1"):
			ready++
		}
	}
	if reloads != 8 || ready != 2+reloads { // two starts, and each reload
		t.Errorf("%d reloads were notified, and ready %d times", reloads, ready)
	}
}

// While the device is not provisioned yet, too, what is corrected counts after SIGHUP.
func TestHangupReloadsWhatTheFirstBootstrapUses(t *testing.T) {
	t.Parallel()
	a := newSite(t, shipped).device(t, "device").agent(t)
	path := filepath.Join(a.dir, "device.yaml")
	settings, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wrong := bytes.ReplaceAll(settings, []byte(localcore.TemplateName), []byte("AnotherTemplate"))
	if bytes.Equal(wrong, settings) {
		t.Fatalf("no template is named:\n%s", settings)
	}
	if err := os.WriteFile(path, wrong, 0o600); err != nil {
		t.Fatal(err)
	}
	a.stderr = &watcher{}
	denied := a.stderr.watch("retry (")
	m := newManager(t)
	cmd := exec.CommandContext(t.Context(), a.binary, "run", "--config", "device.yaml", "--log-level", "info")
	cmd.Dir, cmd.Env, cmd.Stderr = a.dir, append(a.environment(), m.environ()), a.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	<-denied
	same := a.stderr.watch("the configuration is the same")
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	<-same
	if err := os.WriteFile(path, settings, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for _, err := a.client.Status(t.Context()); err != nil; _, err = a.client.Status(t.Context()) {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatalf("the agent does not answer:\n%s", a.stderr)
		}
	}
	a.await(t, sent)
	ready := slices.DeleteFunc(m.all(t), func(text string) bool { return !strings.HasPrefix(text, "READY=1") })
	if len(ready) != 1 {
		t.Errorf("notified as ready %d times: %q", len(ready), ready)
	}
}
