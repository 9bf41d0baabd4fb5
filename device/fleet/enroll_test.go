package fleet_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/fleet"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/provision"
	"example.com/fleety/hook/payload"
)

// A writeCounter counts the writes to a connection.
type writeCounter struct {
	net.Conn
	writes *atomic.Int64
}

func (c writeCounter) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestEnrollGivesEveryDeviceItsOwnIdentity(t *testing.T) {
	t.Parallel()
	const n = 12
	core := startEmulator(t)
	c := newConfig(t, core, n)
	c.Load.Concurrency = 4
	device := c.Device
	var writes atomic.Int64
	c.Device = func(serial string) provision.Config {
		p := device(serial)
		p.Session.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			return writeCounter{conn, &writes}, err
		}
		return p
	}
	r := enroll(t, c)
	// With the claim: ClientHello, the rest of the handshake with CONNECT, SUBSCRIBE, two PUBLISHes and
	// two PUBACKs, DISCONNECT. With the new certificate: the same two, PUBLISH, DISCONNECT. On a machine
	// that is not too slow the PUBACKs leave with the packets after them: 10.
	if writes := writes.Load(); writes > 12*n {
		t.Errorf("%d writes for %d devices, want 12 for each at most", writes, n)
	}
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
	// 12.4 kB of TLS records are exchanged for a device.
	if res := r.Resources; res.CPUSeconds <= 0 || res.BytesIn <= 0 || res.BytesOut <= 0 || res.BytesPerDevice < 12_000 || res.BytesPerDevice > 12_700 || r.DevicesPerSecond <= 0 {
		t.Errorf("resources are %+v at %v devices/s", res, r.DevicesPerSecond)
	}
}

func TestDeniedDevicesAreCountedByStageAndCause(t *testing.T) {
	t.Parallel()
	core := startEmulator(t, func(c *localcore.Config) {
		c.HookFunc = func(_ context.Context, r payload.Request) (payload.Response, error) {
			serial, _, _ := r.Parameters.String(payload.SerialNumber)
			return payload.Response{AllowProvisioning: serial != "2974680000002"}, nil
		}
	})
	r := enroll(t, newConfig(t, core, 3))
	if want := (fleet.Counts{Devices: 3, Enrolled: 2, Failed: 1}); r.Counts != want {
		t.Errorf("counts are %+v", r.Counts)
	}
	if len(r.Failures) != 1 || r.Failures[0].Stage != fleet.StageRegister || r.Failures[0].Count != 1 || r.Failures[0].Cause == "" {
		t.Errorf("failures are %+v", r.Failures)
	}
	if d := r.Devices[1]; d.Outcome != fleet.Failed || d.Class != awsiot.Denied.String() || len(d.CertificateID) != 64 {
		t.Errorf("the denied device is %+v", d)
	}
	checkRegistry(t, core, r)
}

// TestKeptIdentitiesAreVerifiedAndNotReplaced also holds the devices of the second run, within AWS's
// rate of connections for one client id.
func TestKeptIdentitiesAreVerifiedAndNotReplaced(t *testing.T) {
	t.Parallel()
	var later atomic.Int64
	core := startEmulator(t, func(c *localcore.Config) {
		c.Quotas = localcore.QuotasAWS
		c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	})
	c := newConfig(t, core, 3)
	c.Keep = filepath.Join(t.TempDir(), "fleet")
	first := enroll(t, c)
	later.Store(int64(time.Minute))
	c.Hold = time.Millisecond
	second := enroll(t, c)
	if len(second.Retries) > 0 {
		t.Errorf("attempts had to be repeated: %+v", second.Retries)
	}
	if want := (fleet.Counts{Devices: 3, Already: 3}); second.Counts != want {
		t.Errorf("counts are %+v", second.Counts)
	}
	checkRegistry(t, core, first)
	info, err := os.Stat(c.Keep)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v, %v", info.Mode(), err)
	}
	if ignore, err := os.ReadFile(filepath.Join(c.Keep, ".gitignore")); err != nil || string(ignore) != "*\n" {
		t.Errorf(".gitignore is %q, %v", ignore, err)
	}
	store, err := identity.NewStore(identity.Config{SerialNumber: "2974680000003", Dir: filepath.Join(c.Keep, "2974680000003")})
	if err != nil {
		t.Fatal(err)
	}
	id, err := store.Load()
	if err != nil || id.Record.CertificateID != first.Devices[2].CertificateID {
		t.Errorf("on disk is %+v, %v", id, err)
	}
}

func TestShardsEnrollEveryDeviceOnce(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	c := newConfig(t, core, 7)
	var reports []*fleet.Report
	for i := 1; i <= 3; i++ {
		c.Shard = fleet.Shard{Index: i, Of: 3}
		reports = append(reports, enroll(t, c))
	}
	checkRegistry(t, core, reports...)
	if n := len(activeCertificates(t, core)); n != 7 {
		t.Errorf("%d things", n)
	}
}

// TestInterruptedLaunchHasPartialReport also has a rate at which the second device is never due.
func TestInterruptedLaunchHasPartialReport(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{0, 1e-300} {
		core := startEmulator(t)
		c := newConfig(t, core, 50)
		c.Load.Concurrency, c.Load.Rate = 2, rate
		ctx, cancel := context.WithCancel(t.Context())
		c.Progress = func(p fleet.Progress) {
			if p.Done > 0 {
				cancel()
			}
		}
		r, err := fleet.Enroll(ctx, c)
		if !errors.Is(err, context.Canceled) || r == nil {
			t.Fatalf("got %v, %v", r, err)
		}
		got := r.Counts
		if got.Enrolled == 0 || got.Failed != 0 || got.NotStarted == 0 || got.Enrolled+got.Interrupted+got.NotStarted != 50 {
			t.Errorf("counts are %+v, failures %+v", got, r.Failures)
		}
	}
}

// TestOpenLoopLatencyCountsFromDueTime lets one device through at a time, so
// slowly that the last of those due at once waits for all others.
func TestOpenLoopLatencyCountsFromDueTime(t *testing.T) {
	t.Parallel()
	const slow = 100 * time.Millisecond
	core := startEmulator(t)
	core.Faults.Set(func(e localcore.Exchange) localcore.Fault { return localcore.Fault{DelayReply: slow / 2} })
	c := newConfig(t, core, 5)
	c.Load.Rate, c.Load.Concurrency = 1000, 1
	r := enroll(t, c)
	for _, s := range r.Stages {
		if s.Stage == fleet.StageDevice && s.Max < float64(5*slow/time.Millisecond) {
			t.Errorf("the slowest device took %v ms, though it waited for four others", s.Max)
		}
	}
}

func TestOpenLoopBeginsDevicesAtTheRate(t *testing.T) {
	t.Parallel()
	c := newConfig(t, startEmulator(t), 5)
	c.Load.Rate = 20
	if r := enroll(t, c); r.ElapsedSeconds < 4.0/20 {
		t.Errorf("5 devices enrolled in %v s at 20 per second", r.ElapsedSeconds)
	}
}

func TestInvalidConfigurationIsRejected(t *testing.T) {
	t.Parallel()
	serials := func(first string, n int) fleet.Serials {
		s, _ := fleet.NewSerials("297468", first, n)
		return s
	}
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	shared := filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	core := startEmulator(t)
	for name, change := range map[string]func(*fleet.Config){
		"no devices":              func(c *fleet.Config) { c.Serials = serials("", 0) },
		"serials leave prefix":    func(c *fleet.Config) { c.Serials = serials("29746899", 2) },
		"negative concurrency":    func(c *fleet.Config) { c.Load.Concurrency = -1 },
		"absurd concurrency":      func(c *fleet.Config) { c.Load.Concurrency = 1 << 30 },
		"negative rate":           func(c *fleet.Config) { c.Load.Rate = -1 },
		"absurd rate":             func(c *fleet.Config) { c.Load.Rate = 1e12 },
		"negative hold":           func(c *fleet.Config) { c.Hold = -1 },
		"absurd interval":         func(c *fleet.Config) { c.Interval = time.Microsecond },
		"shard beyond the last":   func(c *fleet.Config) { c.Shard = fleet.Shard{Index: 3, Of: 2} },
		"keep is a file":          func(c *fleet.Config) { c.Keep = blocked },
		"keep below a file":       func(c *fleet.Config) { c.Keep = filepath.Join(blocked, "fleet") },
		"reconnect after hold":    func(c *fleet.Config) { c.Hold, c.ReconnectAfter = time.Second, time.Second },
		"reconnect without hold":  func(c *fleet.Config) { c.ReconnectAfter = time.Second },
		"negative window":         func(c *fleet.Config) { c.ReconnectWindow = -1 },
		"keep is open to others":  func(c *fleet.Config) { c.Keep = shared },
		"quota of less than none": func(c *fleet.Config) { c.Quotas = &fleet.Quotas{Connect: -1} },
	} {
		t.Run(name, func(t *testing.T) {
			c := newConfig(t, core, 1)
			change(&c)
			if r, err := fleet.Enroll(t.Context(), c); err == nil || r != nil {
				t.Errorf("got %v, %v", r, err)
			}
		})
	}
	if n := len(core.Registry().ListCertificates()); n != 1 {
		t.Errorf("%d certificates, where only the claim's should be", n)
	}
}

// TestOpenLoopBoundsGoroutines has all devices due at once, none of which gets
// past its first connection.
func TestOpenLoopBoundsGoroutines(t *testing.T) {
	core := startEmulator(t)
	c := newConfig(t, core, 20_000)
	c.Load.Rate, c.Load.Concurrency = fleet.MaxRate, 2
	device := c.Device
	c.Device = func(serial string) provision.Config {
		p := device(serial)
		p.Session.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return p
	}
	ctx, cancel := context.WithCancel(t.Context())
	most, calls := 0, 0
	c.Progress = func(fleet.Progress) {
		most = max(most, runtime.NumGoroutine())
		if calls++; calls == 4 { // all have been due for 200 ms
			cancel()
		}
	}
	before := runtime.NumGoroutine()
	if _, err := fleet.Enroll(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if most > before+200 {
		t.Errorf("%d goroutines for 2 devices in progress", most-before)
	}
}

// TestProgressHasTheReasonOfAttempts stops when the reason is known, which is before any device has
// failed.
func TestProgressHasTheReasonOfAttempts(t *testing.T) {
	core := startEmulator(t)
	c := newConfig(t, core, 1)
	device := c.Device
	c.Device = func(serial string) provision.Config {
		p := device(serial)
		p.Session.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network") }
		return p
	}
	ctx, cancel := context.WithCancel(t.Context())
	var reason fleet.Failure
	c.Progress = func(p fleet.Progress) {
		if p.Latest != nil && reason.Count == 0 {
			reason = *p.Latest
			cancel()
		}
	}
	if _, err := fleet.Enroll(ctx, c); !errors.Is(err, context.Canceled) || reason.Stage != fleet.StageDial || reason.Cause == "" {
		t.Errorf("got %v, reason %+v", err, reason)
	}
}
