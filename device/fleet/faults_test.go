package fleet_test

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/fleet"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/provision"
)

// rejectThird rejects the third device that asks to be registered.
func rejectThird() func(localcore.Exchange) localcore.Fault {
	return func(e localcore.Exchange) localcore.Fault {
		if e.Operation == awsiot.RegisterThing && e.Number == 3 {
			return localcore.Fault{Reject: &awsiot.ErrorResponse{StatusCode: 400, ErrorCode: "InvalidRequest"}}
		}
		return localcore.Fault{}
	}
}

// kinds are all the ways in which an exchange can be spoilt and still be repeated.
var kinds = []localcore.Fault{
	{Reject: &awsiot.ErrorResponse{StatusCode: 400, ErrorCode: "Throttling"}},
	{Reject: &awsiot.ErrorResponse{StatusCode: 409, ErrorCode: "ConflictingResourceUpdate"}},
	{Reject: &awsiot.ErrorResponse{StatusCode: 503, ErrorCode: "ServiceUnavailable"}},
	{DropReply: true},
	{DuplicateReply: true},
	{DelayReply: 300 * time.Millisecond},
	{CloseBefore: true},
	{CloseAfter: true},
}

// A faultyDialer spoils one connection in twenty, in its turn at each moment: it is refused, or cut
// at one of its first writes, which are those of the TLS handshake, of CONNECT and of what follows.
type faultyDialer struct{ dialed, spoilt atomic.Int64 }

func (d *faultyDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil || d.dialed.Add(1)%20 != 0 {
		return conn, err
	}
	writes := int(d.spoilt.Add(1)) % 5
	if writes == 0 {
		_ = conn.Close()
		return nil, syscall.ECONNREFUSED
	}
	return &cutConn{Conn: conn, writes: writes - 1}, nil
}

// A cutConn is lost once it has written that often. Like TLS, it has one writer at a time.
type cutConn struct {
	net.Conn
	writes int
}

func (c *cutConn) Write(p []byte) (int, error) {
	if c.writes == 0 {
		_ = c.Close()
		return 0, syscall.ECONNRESET
	}
	c.writes--
	return c.Conn.Write(p)
}

// build builds a program in the folder of its module and returns its path.
func build(t testing.TB, dir, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, pkg)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
	return path
}

// TestTwoHundredDevicesLoseNothingToFaults enrolls with the real hook while one exchange and one
// connection in twenty are spoilt, each kind of fault in its turn: every device has one identity in
// the end, and registry and report agree.
func TestTwoHundredDevicesLoseNothingToFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("two hundred devices and the hook take seconds")
	}
	t.Parallel()
	const n = 200
	hook := build(t, "../../hook", ".")
	core := startEmulator(t, func(c *localcore.Config) {
		c.API = "" // the hook asks it about things
		c.Hook, c.HookFunc = hook, nil
	})
	var dialer faultyDialer
	var exchanges, spoilt atomic.Int64
	core.Faults.Set(func(localcore.Exchange) localcore.Fault {
		if exchanges.Add(1)%20 != 0 {
			return localcore.Fault{}
		}
		return kinds[int(spoilt.Add(1))%len(kinds)]
	})
	c := newConfig(t, core, n)
	c.Load.Concurrency = 40
	device := c.Device
	c.Device = func(serial string) provision.Config {
		p := device(serial)
		p.AnswerTimeout = 5 * time.Second
		p.Session.DialContext = dialer.DialContext
		return p
	}
	r := enroll(t, c)

	if want := (fleet.Counts{Devices: n, Enrolled: n}); r.Counts != want {
		t.Errorf("counts are %+v; failures %+v", r.Counts, r.Failures)
	}
	checkRegistry(t, core, r)
	if got := dialer.spoilt.Load(); got < n/20 {
		t.Errorf("only %d connections were spoilt", got)
	}
	if got := int(spoilt.Load()); got < n/20 || got < len(kinds) {
		t.Errorf("only %d exchanges were spoilt", got)
	}
	t.Logf("%d exchanges, %d spoilt; %d connections, %d spoilt; %.1f devices/s; %+v",
		exchanges.Load(), spoilt.Load(), dialer.dialed.Load(), dialer.spoilt.Load(), r.DevicesPerSecond, r.Retries)
}

// TestQuotasAreKept launches against an emulator that enforces AWS's quotas: hardly anybody is
// throttled, and the launch takes about what was forecast. It cannot be faster; on a busy machine
// it is slower, and what was spread when it left may arrive together.
func TestQuotasAreKept(t *testing.T) {
	if testing.Short() {
		t.Skip("a launch at the rates of AWS takes seconds")
	}
	const n = 40
	core := startEmulator(t, func(c *localcore.Config) { c.Quotas = localcore.QuotasAWS })
	c := newConfig(t, core, n)
	quotas := fleet.OtherRegionQuotas()
	c.Quotas = &quotas
	r := enroll(t, c)
	if want := (fleet.Counts{Devices: n, Enrolled: n}); r.Counts != want {
		t.Errorf("counts are %+v; failures %+v", r.Counts, r.Failures)
	}
	throttled := 0
	for _, trouble := range r.Retries {
		throttled += trouble.Count
	}
	if throttled > n/4 {
		t.Errorf("throttled %d times: %+v", throttled, r.Retries)
	}
	forecast := fleet.PlanLaunch(n, quotas, c.Device("").Keys)
	if ratio := r.ElapsedSeconds / forecast.Seconds; ratio < 0.8 || ratio > 2.5 {
		t.Errorf("took %.1f s, forecast %.1f s", r.ElapsedSeconds, forecast.Seconds)
	}
	t.Logf("took %.1f s, forecast %.1f s, throttled %d times", r.ElapsedSeconds, forecast.Seconds, throttled)
}

// TestThrottledDevicesSlowTheLaunchDown gives the fleet quotas twice as high as those of the
// emulator: it is throttled, slows down, and no device fails. The emulator's clock is slow, so that
// a busy machine is faster than its quotas.
func TestThrottledDevicesSlowTheLaunchDown(t *testing.T) {
	if testing.Short() {
		t.Skip("a launch that is throttled takes seconds")
	}
	const n, slow = 40, 4
	begun := time.Now()
	core := startEmulator(t, func(c *localcore.Config) {
		c.Quotas = localcore.QuotasAWS
		c.Now = func() time.Time { return begun.Add(time.Since(begun) / slow) }
	})
	c := newConfig(t, core, n)
	quotas := fleet.OtherRegionQuotas()
	quotas.RegisterThing, quotas.CreateFromCSR = 2.0*quotas.RegisterThing/slow, 0
	c.Quotas = &quotas
	r := enroll(t, c)
	if want := (fleet.Counts{Devices: n, Enrolled: n}); r.Counts != want {
		t.Errorf("counts are %+v; failures %+v", r.Counts, r.Failures)
	}
	checkRegistry(t, core, r)
	throttled := 0
	for _, trouble := range r.Retries {
		throttled += trouble.Count
	}
	if throttled == 0 || throttled > n {
		t.Errorf("throttled %d times: %+v", throttled, r.Retries)
	}
}
