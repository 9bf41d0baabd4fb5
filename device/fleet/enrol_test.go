package fleet_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/localcore"
	"example.com/fleety/hook/payload"
)

func TestEnrolGivesEveryDeviceItsOwnIdentity(t *testing.T) {
	const n = 12
	core := startCore(t)
	c := newConfig(t, core, n)
	c.Load.Concurrency = 4
	r := enrol(t, c)
	if want := (fleet.Counts{Devices: n, Enrolled: n}); r.Counts != want {
		t.Errorf("counts are %+v; failures %+v", r.Counts, r.Failures)
	}
	checkRegistry(t, core, r)
	want := map[fleet.Stage]int64{
		fleet.StageDial: 2 * n, fleet.StageTLS: 2 * n, fleet.StageConnect: 2 * n, fleet.StageSubscribe: n,
		fleet.StageCreate: n, fleet.StageRegister: n, fleet.StageReconnect: n, fleet.StageBirth: n, fleet.StageDevice: n,
	}
	if diff := cmp.Diff(want, stagesOf(r)); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	if sum(r.Timeline.Enrolled) != n || sum(r.Timeline.Connects) != 2*n {
		t.Errorf("timeline is %+v", r.Timeline)
	}
	if res := r.Resources; res.CPUSeconds <= 0 || res.BytesIn <= 0 || res.BytesOut <= 0 || r.DevicesPerSecond <= 0 {
		t.Errorf("resources are %+v at %v devices/s", res, r.DevicesPerSecond)
	}
}

func TestEnrolTellsRefusedDevicesByStageAndCause(t *testing.T) {
	core := startCore(t, func(c *localcore.Config) {
		c.HookFunc = func(_ context.Context, r payload.Request) (payload.Response, error) {
			serial, _, _ := r.Parameters.String(payload.SerialNumber)
			return payload.Response{AllowProvisioning: serial != "2974680000002"}, nil
		}
	})
	r := enrol(t, newConfig(t, core, 3))
	if want := (fleet.Counts{Devices: 3, Enrolled: 2, Failed: 1}); r.Counts != want {
		t.Errorf("counts are %+v", r.Counts)
	}
	want := []fleet.Trouble{{Stage: fleet.StageRegister, Cause: "rejected by AWS IoT: AccessDenied (403): Access denied", Count: 1}}
	if diff := cmp.Diff(want, r.Failures); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
	if d := r.Devices[1]; d.Outcome != fleet.Failed || d.Class != "denied" || len(d.CertificateID) != 64 {
		t.Errorf("the refused device is %+v", d)
	}
	checkRegistry(t, core, r)
}

func TestKeptIdentitiesAreProvedAndNotReplaced(t *testing.T) {
	core := startCore(t)
	c := newConfig(t, core, 3)
	c.Keep = filepath.Join(t.TempDir(), "fleet")
	first := enrol(t, c)
	second := enrol(t, c)
	if want := (fleet.Counts{Devices: 3, Already: 3}); second.Counts != want {
		t.Errorf("counts are %+v", second.Counts)
	}
	checkRegistry(t, core, first)
	store, err := identity.NewStore(identity.Config{SerialNumber: "2974680000003", Dir: filepath.Join(c.Keep, "2974680000003")})
	if err != nil {
		t.Fatal(err)
	}
	id, err := store.Load()
	if err != nil || id.Record.CertificateID != first.Devices[2].CertificateID {
		t.Errorf("on disk is %+v, %v", id, err)
	}
}

func TestShardsTogetherEnrolEveryDeviceOnce(t *testing.T) {
	core := startCore(t)
	c := newConfig(t, core, 7)
	var reports []*fleet.Report
	for i := 1; i <= 3; i++ {
		c.Shard = fleet.Shard{Index: i, Of: 3}
		reports = append(reports, enrol(t, c))
	}
	checkRegistry(t, core, reports...)
	if n := len(activeCertificates(t, core)); n != 7 {
		t.Errorf("%d things", n)
	}
}

func TestAnInterruptedLaunchReportsHowFarItCame(t *testing.T) {
	core := startCore(t)
	c := newConfig(t, core, 50)
	c.Load.Concurrency = 2
	ctx, cancel := context.WithCancel(t.Context())
	c.Progress = func(p fleet.Progress) {
		if p.Done > 0 {
			cancel()
		}
	}
	r, err := fleet.Enrol(ctx, c)
	if !errors.Is(err, context.Canceled) || r == nil {
		t.Fatalf("got %v, %v", r, err)
	}
	got := r.Counts
	if got.Enrolled == 0 || got.Failed != 0 || got.NotStarted == 0 || got.Enrolled+got.Interrupted+got.NotStarted != 50 {
		t.Errorf("counts are %+v, failures %+v", got, r.Failures)
	}
}

func TestDurationEndsTheBeginningOfDevices(t *testing.T) {
	core := startCore(t)
	c := newConfig(t, core, 10_000)
	c.Load.Rate, c.Load.Duration = 20, 500*time.Millisecond
	r := enrol(t, c)
	// Ten are due within half a second.
	if n := r.Counts.Enrolled; n < 1 || n > 11 || r.Counts.NotStarted != 10_000-n {
		t.Errorf("counts are %+v", r.Counts)
	}
}

// TestAnOpenLoopCountsWaitsAsLatency lets one device through at a time, so
// slowly that the last of those due at once waits for all others.
func TestAnOpenLoopCountsWaitsAsLatency(t *testing.T) {
	const slow = 100 * time.Millisecond
	core := startCore(t)
	core.Faults.Set(func(e localcore.Exchange) localcore.Fault { return localcore.Fault{DelayReply: slow / 2} })
	c := newConfig(t, core, 5)
	c.Load.Rate, c.Load.Concurrency = 1000, 1
	r := enrol(t, c)
	for _, s := range r.Stages {
		if s.Stage == fleet.StageDevice && s.Max < float64(5*slow/time.Millisecond) {
			t.Errorf("the slowest device took %v ms, though it waited for four others", s.Max)
		}
	}
}

func TestHeldDevicesStayConnectedAndPublish(t *testing.T) {
	const n = 5
	core := startCore(t)
	c := newConfig(t, core, n)
	c.Hold, c.Interval = 1500*time.Millisecond, 300*time.Millisecond
	r := enrol(t, c)
	h := r.Hold
	if h == nil || h.Devices != n || h.Most != n || h.Connected != n || h.Lost != 0 || h.PublishFailures != 0 {
		t.Fatalf("held %+v", h)
	}
	// Each publishes first within the interval and then once per interval.
	if h.Published < 3*n || h.Published > 6*n {
		t.Errorf("published %d messages", h.Published)
	}
}

func TestHeldDevicesThatAreCutOffComeBack(t *testing.T) {
	core := startCore(t, func(c *localcore.Config) { c.API = "" })
	c := newConfig(t, core, 3)
	c.Hold = 5 * time.Second
	cut := false
	c.Progress = func(p fleet.Progress) {
		if p.Phase == fleet.PhaseHold && !cut {
			cut = true
			for i := range 3 {
				disconnect(t, core, "fleety_"+c.Serials.At(i))
			}
		}
	}
	r := enrol(t, c)
	if h := r.Hold; h.Lost != 3 || h.Connected != 3 {
		t.Errorf("held %+v, retries %+v", h, r.Retries)
	}
	if n := stagesOf(r)[fleet.StageReturn]; n != 3 {
		t.Errorf("%d devices returned", n)
	}
}

// disconnect ends the connection of a client id as an operator would.
func disconnect(t *testing.T, core *localcore.Server, clientID string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, core.APIURL()+"/connections/"+clientID, nil)
	if err != nil {
		t.Error(err)
		return
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		t.Error(err)
		return
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		t.Errorf("DeleteConnection answered %s", answer.Status)
	}
}

func TestNothingStartsWithAnImpossibleConfiguration(t *testing.T) {
	serials := func(first string, n int) fleet.Serials {
		s, _ := fleet.NewSerials("297468", first, n)
		return s
	}
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	core := startCore(t)
	for name, change := range map[string]func(*fleet.Config){
		"no devices":              func(c *fleet.Config) { c.Serials = serials("", 0) },
		"serials leave prefix":    func(c *fleet.Config) { c.Serials = serials("29746899", 2) },
		"negative concurrency":    func(c *fleet.Config) { c.Load.Concurrency = -1 },
		"absurd concurrency":      func(c *fleet.Config) { c.Load.Concurrency = 1 << 30 },
		"negative rate":           func(c *fleet.Config) { c.Load.Rate = -1 },
		"absurd rate":             func(c *fleet.Config) { c.Load.Rate = 1e12 },
		"negative ramp":           func(c *fleet.Config) { c.Load.Ramp = -1 },
		"negative hold":           func(c *fleet.Config) { c.Hold = -1 },
		"absurd interval":         func(c *fleet.Config) { c.Interval = time.Microsecond },
		"shard beyond the last":   func(c *fleet.Config) { c.Shard = fleet.Shard{Index: 3, Of: 2} },
		"keep is a file":          func(c *fleet.Config) { c.Keep = blocked },
		"keep below a file":       func(c *fleet.Config) { c.Keep = filepath.Join(blocked, "fleet") },
		"quota of less than none": func(c *fleet.Config) { c.Quotas = &fleet.Quotas{Connect: -1} },
	} {
		t.Run(name, func(t *testing.T) {
			c := newConfig(t, core, 1)
			change(&c)
			if r, err := fleet.Enrol(t.Context(), c); err == nil || r != nil {
				t.Errorf("got %v, %v", r, err)
			}
		})
	}
	if n := len(core.Registry().ListCertificates()); n != 1 {
		t.Errorf("%d certificates, where only the claim's should be", n)
	}
}
