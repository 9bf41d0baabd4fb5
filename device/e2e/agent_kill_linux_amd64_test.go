package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/aws/aws-sdk-go-v2/service/iot/types"
)

var outboxKills = flag.Int("outbox.kills", 3, "the agent is killed at one of so many changes of its outbox, and of the square of that for other files; 1 takes all")

// What package syscall lacks of linux/ptrace.h.
const (
	ptraceExitKill       = 1 << 20
	ptraceGetSyscallInfo = 0x420e
	ptraceSyscallEntry   = 1
	userOrigRax          = 15 * 8 // of user_regs_struct on amd64
)

// atChange runs a program under ptrace(2), and kills it in place of a system call that
// changes or syncs a file of which of, the first of them being 1; or, with fail, has that
// call fail. It returns when the program has ended, and whether it got so far.
func atChange(cmd *exec.Cmd, of func(path string) bool, call int, fail bool, started chan<- *os.Process) (reached bool, err error) {
	runtime.LockOSThread() // only this thread may trace
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	main := cmd.Process.Pid
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(main, &status, syscall.WALL, nil); err != nil {
		return false, err
	}
	if err := syscall.PtraceSetOptions(main, syscall.PTRACE_O_TRACECLONE|syscall.PTRACE_O_TRACESYSGOOD|ptraceExitKill); err != nil {
		return false, fmt.Errorf("tracing: %w", err)
	}
	if err := syscall.PtraceSyscall(main, 0); err != nil {
		return false, err
	}
	defer cmd.Wait() // of what reads its output; it is gone itself
	started <- cmd.Process
	for {
		// Only of its process group: other tests wait for their own children, which this
		// thread may have started.
		thread, err := syscall.Wait4(-main, &status, syscall.WALL|syscall.WNOTHREAD, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return reached, err
		}
		if !status.Stopped() {
			if thread == main {
				return reached, nil
			}
			continue
		}
		signal := 0
		switch stop := status.StopSignal(); {
		case stop == syscall.SIGTRAP|0x80:
			if !reached && changesFile(main, thread, of) {
				if call--; call == 0 {
					reached = true
					if !fail {
						_ = syscall.Kill(main, syscall.SIGKILL)
						continue // it does not make the call
					}
					// A call without a number fails with ENOSYS.
					if _, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, syscall.PTRACE_POKEUSR, uintptr(thread), userOrigRax, ^uintptr(0), 0, 0); errno != 0 {
						return reached, errno
					}
				}
			}
		case stop != syscall.SIGTRAP && stop != syscall.SIGSTOP: // those of tracing
			signal = int(stop)
		}
		if err := syscall.PtraceSyscall(thread, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return reached, err
		}
	}
}

// changesFile reports whether a thread is about to change, sync, make, rename or remove
// such a file.
func changesFile(process, thread int, of func(path string) bool) bool {
	var info struct { // ptrace_syscall_info of linux/ptrace.h
		op                 uint8
		_                  [3]uint8
		arch               uint32
		instruction, stack uint64
		number             uint64
		args               [6]uint64
		_                  uint64
	}
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, ptraceGetSyscallInfo, uintptr(thread), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); errno != 0 || info.op != ptraceSyscallEntry {
		return false
	}
	switch info.number {
	case syscall.SYS_PWRITE64, syscall.SYS_WRITE, syscall.SYS_FDATASYNC, syscall.SYS_FSYNC, syscall.SYS_FTRUNCATE, syscall.SYS_FCHMOD:
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", process, info.args[0]))
		return err == nil && of(path)
	case syscall.SYS_OPENAT:
		if info.args[2]&syscall.O_CREAT == 0 {
			return false
		}
	case syscall.SYS_RENAMEAT, syscall.SYS_UNLINKAT:
	default:
		return false
	}
	text := make([]byte, 256) // of the path, and more
	n, _ := syscall.PtracePeekData(thread, uintptr(info.args[1]), text)
	path, _, _ := bytes.Cut(text[:n], []byte{0})
	return of(string(path))
}

// traced runs the agent under atChange, and work, which is to end when running returns
// false. Then it stops the agent. It reports whether the agent got to the call.
func (a *agentProcess) traced(t *testing.T, of func(string) bool, call int, fail bool, work func(running func() bool), flags ...string) (reached bool) {
	t.Helper()
	a.stderr = &watcher{}
	cmd := exec.CommandContext(t.Context(), a.binary, append([]string{"run", "--config", "device.yaml"}, flags...)...)
	cmd.Dir, cmd.Env, cmd.Stderr = a.dir, a.environment(), a.stderr
	var err error
	started, ended := make(chan *os.Process, 1), make(chan struct{})
	go func() {
		defer close(ended)
		reached, err = atChange(cmd, of, call, fail, started)
	}()
	work(func() bool {
		select {
		case <-ended:
			return false
		case <-time.After(5 * time.Millisecond):
			return true
		}
	})
	select {
	case process := <-started:
		_ = process.Signal(syscall.SIGTERM) // it may have been killed
	case <-ended:
	}
	<-ended
	switch {
	case errors.Is(err, syscall.EPERM):
		t.Skip("this system does not allow tracing, as in a container with a strict seccomp profile")
	case err != nil:
		t.Fatal(err)
	case strings.Contains(a.stderr.String(), "panic: "):
		t.Fatalf("at call %d\n%s", call, a.stderr)
	}
	return reached
}

// eachChange runs the agent again and again, and has a call fail that changes such a file,
// or kills the agent there: one after the other, but only one of so many.
func (a *agentProcess) eachChange(t *testing.T, of func(string) bool, fail bool, step int, work func(call int, running func() bool), flags ...string) {
	t.Helper()
	if fail && runtime.GOARCH != "amd64" {
		t.Skip("calls fail on amd64 alone")
	}
	n := 0
	for call, reached := 1+rand.IntN(step), true; reached; call += step {
		if call > 1000 {
			t.Fatal("the agent changes its files without end")
		}
		if reached = a.traced(t, of, call, fail, func(running func() bool) { work(call, running) }, flags...); reached {
			n++
		}
	}
	t.Logf("%d times", n)
	if n < 10/step {
		t.Error("too few")
	}
}

func isOutbox(path string) bool { return strings.HasSuffix(path, "/outbox.db") }

// Where any write or sync of its outbox fails, or the agent is killed there, it loses no
// message that it has acknowledged to a producer, and keeps their order.
func TestAgentKilledOrFailingAtAnyChangeOfItsOutboxLosesNothing(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]bool{"killed": false, "failing": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, shipped)
			d := s.device(t, "device")
			d.mustRun(t)
			arrived := s.cloud.collect(t, d)
			a := d.agent(t)
			var acknowledged []string
			// Each round begins with the file that the one before has left.
			a.eachChange(t, isOutbox, fail, *outboxKills, func(call int, running func() bool) {
				for i, on := 0, true; i < 5 && on; i++ {
					topic := fmt.Sprintf("%05d", call*10+i)
					for a.client.Publish(t.Context(), topic, []byte(topic)) != nil {
						if on = running(); !on {
							break
						}
					}
					if on {
						acknowledged = append(acknowledged, topic)
					}
				}
				for on := true; on; on = running() {
					if status, err := a.client.Status(t.Context()); err == nil && sent(status) {
						break
					}
				}
			})
			a.start(t)
			a.await(t, sent)
			arrived.awaitAll(t, a)
			if code := a.stop(); code != 0 {
				t.Errorf("stopped, the agent exits with %d\n%s", code, a.stderr)
			}
			arrived.mu.Lock()
			defer arrived.mu.Unlock()
			last := ""
			first := map[string]bool{}
			for _, topic := range arrived.topics {
				if !first[topic] && topic < last {
					t.Errorf("%s arrived after %s", topic, last)
				}
				first[topic], last = true, max(topic, last)
			}
			for _, topic := range acknowledged {
				if !first[topic] {
					t.Errorf("%s was acknowledged and has not arrived", topic)
				}
			}
			t.Logf("%d messages acknowledged, %d arrivals", len(acknowledged), len(arrived.topics))
		})
	}
}

// Where any step of writing one of its other files fails, or the agent is killed there,
// the old file is there or the new one, whole. What was abandoned is removed later.
func TestAgentKilledOrFailingAtAnyChangeOfAFileLeavesItWhole(t *testing.T) {
	t.Parallel()
	isFile := func(path string) bool { return strings.Contains(path, ".json") || strings.HasSuffix(path, ".agent") }
	for name, fail := range map[string]bool{"killed": false, "failing": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorksite(t, "works")
			w.handler(t, "works", "echo done")
			desired := filepath.Join(w.dir, "desired.json")
			shadow := fmt.Sprintf(`agent.shadows=[{"name":"config","file":%q}]`, desired)
			want := ""
			prepare := func(round string) {
				b := &broker{api: w.cloud.APIURL()}
				b.updateShadow(t, w.thing(), "config", fmt.Sprintf(`{"state":{"desired":{"round":%q}}}`, round))
				w.create(t, round, handlerJob("works"))
				want = fmt.Sprintf("{\"round\":%q}\n", round)
			}
			applied := func() bool {
				text, err := os.ReadFile(desired)
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
				return string(text) == want
			}
			files := func() (temporary []string) {
				err := filepath.WalkDir(w.dir, func(path string, e fs.DirEntry, err error) error {
					if err != nil || !strings.Contains(path, ".json") {
						return err
					}
					if name := e.Name(); strings.HasPrefix(name, ".") {
						temporary = append(temporary, path)
						return nil
					}
					if text, err := os.ReadFile(path); err != nil || !json.Valid(text) {
						t.Errorf("%s: %q, %v", path, text, err)
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				return temporary
			}
			w.eachChange(t, isFile, fail, *outboxKills**outboxKills, func(call int, running func() bool) {
				prepare(fmt.Sprint("round-", call))
				ctx, stop := context.WithCancel(t.Context())
				var subscribing sync.WaitGroup
				defer subscribing.Wait()
				defer stop()
				var subscribed atomic.Bool
				subscribing.Go(func() {
					for ctx.Err() == nil {
						_ = w.client.Subscribe(ctx, fmt.Sprint(call), func() { subscribed.Store(true) }, func(json.RawMessage) error { return nil })
					}
				})
				for running() {
					if status, err := w.client.Status(ctx); err == nil && applied() && subscribed.Load() && status.Services["jobs"] == nil {
						return
					}
				}
			}, "--set", shadow)
			for _, path := range files() {
				if err := os.Chtimes(path, time.Time{}, time.Now().Add(-2*time.Hour)); err != nil {
					t.Fatal(err)
				}
			}
			prepare("last")
			w.start(t, "--set", shadow)
			ctx, stop := context.WithCancel(t.Context())
			_ = w.client.Subscribe(ctx, "last", stop, func(json.RawMessage) error { return nil }) // until stop
			w.awaitJob(t, "last", types.JobExecutionStatusSucceeded)
			for !applied() {
				w.pause(t, "the desired state")
			}
			if code := w.stop(); code != 0 {
				t.Errorf("exit code %d\n%s", code, w.stderr)
			}
			if left := files(); len(left) > 0 {
				t.Errorf("abandoned: %q", left)
			}
		})
	}
}
