package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

var outboxKills = flag.Int("outbox.kills", 3, "the agent is killed at one of so many changes of its outbox; 1 takes all")

// What package syscall lacks of linux/ptrace.h.
const (
	ptraceExitKill       = 1 << 20
	ptraceGetSyscallInfo = 0x420e
	ptraceSyscallEntry   = 1
)

// killAtChange runs a program under ptrace(2), and kills it in place of a system call
// that changes or syncs a file whose path ends so, the first of them being 1. It returns
// when the program has ended, and whether it was killed.
func killAtChange(cmd *exec.Cmd, file string, call int, started chan<- *os.Process) (killed bool, err error) {
	runtime.LockOSThread() // only this thread may trace
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
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
	started <- cmd.Process
	for {
		// Only what this thread traces: other tests wait for their own children.
		thread, err := syscall.Wait4(-1, &status, syscall.WALL|syscall.WNOTHREAD, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return killed, err
		}
		if !status.Stopped() {
			if thread == main {
				return killed, nil
			}
			continue
		}
		signal := 0
		switch stop := status.StopSignal(); {
		case stop == syscall.SIGTRAP|0x80:
			if !killed && changesFile(main, thread, file) {
				if call--; call == 0 {
					killed = true
					_ = syscall.Kill(main, syscall.SIGKILL)
					continue // it does not make the call
				}
			}
		case stop != syscall.SIGTRAP && stop != syscall.SIGSTOP: // those of tracing
			signal = int(stop)
		}
		if err := syscall.PtraceSyscall(thread, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return killed, err
		}
	}
}

// changesFile reports whether a thread is about to change or sync the file.
func changesFile(process, thread int, file string) bool {
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
	case syscall.SYS_PWRITE64, syscall.SYS_WRITE, syscall.SYS_FDATASYNC, syscall.SYS_FSYNC, syscall.SYS_FTRUNCATE:
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", process, info.args[0]))
		return err == nil && strings.HasSuffix(path, file)
	}
	return false
}

// Killed at any write or sync of its outbox, the agent loses no message that it has
// acknowledged to a producer, and keeps their order.
func TestAgentKilledAtAnyChangeOfItsOutboxLosesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, shipped)
	d := s.device(t, "device")
	d.mustRun(t)
	arrived := s.cloud.collect(t, d)
	a := d.agent(t)
	var acknowledged []string
	kills := 0
	// Each round begins with the file that the one before has left.
	for call, killed := 1, true; killed; call += *outboxKills {
		if call > 1000 {
			t.Fatal("the agent changes its outbox without end")
		}
		cmd := exec.CommandContext(t.Context(), a.binary, "run", "--config", "device.yaml")
		cmd.Dir, cmd.Env = a.dir, a.environment()
		var err error
		started, ended := make(chan *os.Process, 1), make(chan struct{})
		go func() {
			defer close(ended)
			killed, err = killAtChange(cmd, "/outbox.db", call, started)
		}()
		running := func() bool {
			select {
			case <-ended:
				return false
			case <-time.After(5 * time.Millisecond):
				return true
			}
		}
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
				_ = (<-started).Signal(syscall.SIGTERM) // it may have been killed
				break
			}
		}
		<-ended
		if errors.Is(err, syscall.EPERM) {
			t.Skip("this system does not allow tracing, as in a container with a strict seccomp profile")
		}
		if err != nil {
			t.Fatal(err)
		}
		if killed {
			kills++
		}
	}
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
	t.Logf("%d kills, %d messages acknowledged, %d arrivals", kills, len(acknowledged), len(arrived.topics))
	if kills < 20 / *outboxKills {
		t.Errorf("killed %d times", kills)
	}
}
