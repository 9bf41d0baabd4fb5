package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"example.com/fleety/device/agent"
)

// On a full or read-only disk the agent rejects messages and stays connected, and
// accepts them again when there is room. Nothing that was accepted is lost.
func TestAgentOutlivesAFullOrReadOnlyDisk(t *testing.T) {
	s := newSite(t, shipped)
	d := s.device(t, "device")
	disk := mountSmallDisk(t, d, ample)
	d.mustRun(t)
	a := d.agent(t)
	large := []byte(strings.Repeat("x", 100<<10))
	unavailable := func(err error) bool {
		e, ok := errors.AsType[*agent.Error](err)
		return ok && e.StatusCode == 503
	}

	disk.remount(t, syscall.MS_RDONLY, ample)
	a.start(t)
	if err := a.client.Publish(t.Context(), "telemetry", large); !unavailable(err) {
		t.Errorf("on a read-only disk: %v", err)
	}
	a.await(t, sent)
	disk.remount(t, 0, ample)

	accepted := 0
	for ; ; accepted++ {
		err := a.client.Publish(t.Context(), "telemetry", large)
		if unavailable(err) {
			break
		}
		if err != nil || accepted > 1000 {
			t.Fatalf("after %d messages: %v", accepted, err)
		}
	}
	if accepted == 0 {
		t.Error("nothing was accepted when the disk could be written again")
	}
	a.await(t, sent)
	if err := a.client.Publish(t.Context(), "telemetry", large); err != nil {
		t.Errorf("when there was room again: %v", err)
	}
	a.await(t, sent)
	a.awaitMetrics(t, fmt.Sprintf("iot_device_messages_acknowledged_total %d", accepted+1))
	if code := a.stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, a.stderr)
	}
}
