package fleet_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/localcore"
)

// newStorm enrols n devices and describes a storm of them.
func newStorm(t *testing.T, core *localcore.Server, n int) fleet.StormConfig {
	t.Helper()
	c := newConfig(t, core, n)
	c.Keep = filepath.Join(t.TempDir(), "fleet")
	enrol(t, c)
	kept, err := fleet.Kept(c.Keep)
	if err != nil || len(kept) != n {
		t.Fatalf("kept are %d, %v", len(kept), err)
	}
	return fleet.StormConfig{Device: c.Device, Identities: kept}
}

func rage(t *testing.T, c fleet.StormConfig) *fleet.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r, err := fleet.Storm(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestJitterSpreadsAStorm has the broker restart under a connected fleet.
func TestJitterSpreadsAStorm(t *testing.T) {
	const n, window = 60, 6 * time.Second
	state := t.TempDir()
	core := startCore(t, func(c *localcore.Config) { c.State = state })
	_, port := core.Endpoint()
	c := newStorm(t, core, n)
	c.Window = window
	restarted := false
	c.Progress = func(p fleet.Progress) {
		if p.Phase == fleet.PhaseWait && !restarted {
			restarted = true
			if err := core.Close(); err != nil {
				t.Error(err)
			}
			startCore(t, func(c *localcore.Config) { c.State, c.Listen = state, fmt.Sprintf("127.0.0.1:%d", port) })
		}
	}
	s := rage(t, c).Storm
	if s.Devices != n || s.Returned != n || s.Refused != 0 {
		t.Fatalf("storm %+v", s)
	}
	if sum(s.Connects) != n || sum(s.Attempts) < n {
		t.Errorf("%d connections in %d attempts", sum(s.Connects), sum(s.Attempts))
	}
	// Ten a second are ideal. That random draws put half of all into one second
	// does not happen by chance.
	if s.PeakConnects > n/2 || s.ReturnSeconds < 2 {
		t.Errorf("%d came in one second, all within %v s", s.PeakConnects, s.ReturnSeconds)
	}
	t.Logf("peak %d a second, ideal %.1f, attempts %v", s.PeakConnects, s.IdealConnects, s.Attempts)
}

// TestWithoutJitterAllComeAtOnce is what the one above is compared to.
func TestWithoutJitterAllComeAtOnce(t *testing.T) {
	const n = 40
	core := startCore(t)
	c := newStorm(t, core, n)
	c.NoJitter, c.Cut = true, true
	s := rage(t, c).Storm
	if s.Returned != n || s.Attempts[0] != n {
		t.Errorf("storm %+v", s)
	}
}

func TestAStormIsOverForDevicesThatAreRefused(t *testing.T) {
	core := startCore(t)
	c := newStorm(t, core, 2)
	c.Window = time.Second
	deactivated := c.Identities[0].Record.CertificateID
	cut := false
	c.Progress = func(p fleet.Progress) {
		if p.Phase == fleet.PhaseWait && !cut {
			cut = true
			if err := core.Registry().UpdateCertificate(deactivated, "INACTIVE"); err != nil {
				t.Error(err)
			}
		}
	}
	if s := rage(t, c).Storm; s.Devices != 1 || s.Returned != 0 || s.Refused != 1 {
		t.Errorf("storm %+v", s)
	}
}

func TestAStormNeedsDevices(t *testing.T) {
	if r, err := fleet.Storm(t.Context(), fleet.StormConfig{}); err == nil || r != nil {
		t.Errorf("got %v, %v", r, err)
	}
}
