package fleet_test

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/provision"
)

func TestHeldDevicesStayConnectedAndPublish(t *testing.T) {
	t.Parallel()
	const n = 5
	core := startEmulator(t)
	c := newConfig(t, core, n)
	c.Hold, c.Interval = 3*time.Second, 300*time.Millisecond
	r := enroll(t, c)
	h := r.Hold
	if h == nil || h.Devices != n || h.Most != n || h.Connected != n || h.Lost != 0 || h.PublishFailures != 0 {
		t.Fatalf("held %+v", h)
	}
	// Each publishes first within the interval and then once per interval, ten times.
	if h.Published < 6*n || h.Published > 11*n {
		t.Errorf("published %d messages", h.Published)
	}
}

// TestMessagesInFlightAtTheEndCount has a broker that stops to answer during the hold.
func TestMessagesInFlightAtTheEndCount(t *testing.T) {
	t.Parallel()
	const n = 3
	core := startEmulator(t)
	c := newConfig(t, core, n)
	c.Hold, c.Interval = 2*time.Second, time.Second
	var silent atomic.Bool
	answered := make(chan struct{})
	c.Device = silenced(c.Device, &silent, answered)
	onHold(&c, func() {
		silent.Store(true)
		time.AfterFunc(c.Hold+2*time.Second, func() { close(answered) })
	})
	if h := enroll(t, c).Hold; h.Published < n || h.PublishFailures != 0 || h.Connected != n {
		t.Errorf("held %+v", h)
	}
}

// TestDeviceThatCannotBeHeldInTimeHasACause has no answer for those that connect to be held.
func TestDeviceThatCannotBeHeldInTimeHasACause(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	c := newConfig(t, core, 2)
	c.Hold, c.DeviceTimeout = time.Second, 10*time.Second
	var silent atomic.Bool
	answered := make(chan struct{})
	defer close(answered)
	c.Device = silenced(c.Device, &silent, answered)
	c.Progress = func(p fleet.Progress) { silent.Store(p.Done == p.Devices) }
	r := enroll(t, c)
	if h := r.Hold; h.Connected != 0 || h.NotConnectedWhy == "" || len(r.Retries) == 0 {
		t.Errorf("held %+v, attempts %+v", h, r.Retries)
	}
}

// silenced has the connections of devices be silent while that is set.
func silenced(configure func(string) provision.Config, silent *atomic.Bool, answered <-chan struct{}) func(string) provision.Config {
	return func(serial string) provision.Config {
		d := configure(serial)
		d.Session.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			return &silentConn{Conn: conn, silent: silent, answered: answered, closed: make(chan struct{})}, err
		}
		return d
	}
}

// A silentConn passes on what it has received once answered is closed, while silent is set.
type silentConn struct {
	net.Conn
	silent   *atomic.Bool
	answered <-chan struct{}
	closed   chan struct{}
	once     sync.Once
}

func (c *silentConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *silentConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.silent.Load() {
		select {
		case <-c.answered:
		case <-c.closed:
		}
	}
	return n, err
}

func TestHeldDevicesReconnectAfterDisconnect(t *testing.T) {
	t.Parallel()
	core := startEmulator(t, func(c *localcore.Config) { c.API = "" })
	c := newConfig(t, core, 3)
	c.Hold = 12 * time.Second
	cut := false
	c.Progress = func(p fleet.Progress) {
		if p.Phase == fleet.PhaseHold && !cut {
			cut = true
			for i := range 3 {
				disconnect(t, core, "fleety_"+c.Serials.At(i))
			}
		}
	}
	c.ReconnectWindow = time.Second
	r := enroll(t, c)
	if h := r.Hold; h.Lost != 3 || h.Connected != 3 || h.Reconnect == nil || h.Reconnect.Returned != 3 || !r.Complete() {
		t.Errorf("held %+v, retries %+v", h, r.Retries)
	}
	if n := stagesOf(r)[fleet.StageReturn]; n != 3 {
		t.Errorf("%d devices returned", n)
	}
}

// disconnect ends the connection of a client id as an operator would.
func disconnect(t *testing.T, core *localcore.Server, clientID string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for retry := time.Tick(20 * time.Millisecond); ; <-retry {
		request, err := http.NewRequestWithContext(ctx, http.MethodDelete, core.APIURL()+"/connections/"+clientID, nil)
		if err != nil {
			t.Error(err)
			return
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Error(err)
			return
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusNotFound { // the device is about to connect again
			continue
		}
		if answer.StatusCode/100 != 2 {
			t.Errorf("DeleteConnection answered %s", answer.Status)
		}
		return
	}
}

// holdConfig describes n devices that are held and lose their connections.
func holdConfig(t *testing.T, core *localcore.Server, n int, hold, after, window time.Duration) fleet.Config {
	c := newConfig(t, core, n)
	c.Hold, c.ReconnectAfter, c.ReconnectWindow = hold, after, window
	return c
}

// onHold calls f once, when all devices are held.
func onHold(c *fleet.Config, f func()) {
	done := false
	c.Progress = func(p fleet.Progress) {
		if p.Phase == fleet.PhaseHold && !done {
			done = true
			f()
		}
	}
}

// TestJitterSpreadsReconnects restarts the broker under a connected fleet.
func TestJitterSpreadsReconnects(t *testing.T) {
	if testing.Short() {
		t.Skip("sixty devices take seconds to reconnect")
	}
	t.Parallel()
	const n, window = 60, 3 * time.Second
	state := t.TempDir()
	address := stableAddress(t)
	listen := func(c *localcore.Config) { c.State, c.Listen = state, address }
	core := startEmulator(t, listen)
	c := holdConfig(t, core, n, 14*time.Second, 0, window)
	onHold(&c, func() {
		if err := core.Close(); err != nil {
			t.Error(err)
		}
		startEmulator(t, listen)
	})
	r := enroll(t, c)
	s := r.Hold.Reconnect
	if s == nil || s.Devices != n || s.Returned != n || s.Rejected != 0 || !r.Complete() {
		t.Fatalf("reconnect %+v, retries %+v", s, r.Retries)
	}
	if sum(s.Connects) < n || sum(s.Attempts) < n {
		t.Errorf("%d connections in %d attempts", sum(s.Connects), sum(s.Attempts))
	}
	// Twenty per second are ideal, and at once those of the seconds for which a busy machine stood
	// still.
	if s.PeakConnects > 9*n/10 || s.ReturnSeconds < 2 {
		t.Errorf("%d connected in one second, all within %v s", s.PeakConnects, s.ReturnSeconds)
	}
}

// TestReconnectWithoutJitterIsAtOnce is what the one above is compared to.
func TestReconnectWithoutJitterIsAtOnce(t *testing.T) {
	t.Parallel()
	const n = 10
	c := holdConfig(t, startEmulator(t), n, 12*time.Second, time.Second, 0)
	c.NoJitter = true
	s := enroll(t, c).Hold.Reconnect
	if s == nil || s.Devices != n || s.Returned != n || s.Attempts[0] < n/2 || s.WindowSeconds != 0 {
		t.Errorf("reconnect %+v", s)
	}
}

// TestDeviceLostTwiceCountsOnce ends every connection twice.
func TestDeviceLostTwiceCountsOnce(t *testing.T) {
	t.Parallel()
	const n = 3
	core := startEmulator(t, func(c *localcore.Config) { c.API = "" })
	c := holdConfig(t, core, n, 14*time.Second, 3*time.Second, 500*time.Millisecond)
	onHold(&c, func() {
		for i := range n {
			disconnect(t, core, "fleety_"+c.Serials.At(i))
		}
	})
	h := enroll(t, c).Hold
	if h.Lost != 2*n || h.Reconnect.Devices != n || h.Reconnect.Returned != n || h.Connected != n {
		t.Errorf("held %+v, reconnect %+v", h, h.Reconnect)
	}
}

// TestRunIsIncompleteWhenDevicesDoNotReconnect deactivates one certificate of
// two, and cuts both connections.
func TestRunIsIncompleteWhenDevicesDoNotReconnect(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	c := holdConfig(t, core, 2, 12*time.Second, time.Second, 500*time.Millisecond)
	onHold(&c, func() {
		attached, err := core.Registry().ListThingPrincipals("fleety_" + c.Serials.At(0))
		if err == nil {
			err = core.Registry().UpdateCertificate(attached[0].CertificateID, registry.Inactive)
		}
		if err != nil {
			t.Error(err)
		}
	})
	r := enroll(t, c)
	if h := r.Hold; r.Complete() || h.Connected != 1 || h.Reconnect.Returned != 1 || h.Reconnect.Rejected != 1 {
		t.Errorf("held %+v, reconnect %+v, retries %+v", h, h.Reconnect, r.Retries)
	}
}

// TestHoldEndsWhenServerIsGone stops the broker when the devices are enrolled.
func TestHoldEndsWhenServerIsGone(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	c := holdConfig(t, core, 3, time.Second, 0, 0)
	c.DeviceTimeout = 12 * time.Second // in which a busy machine enrolls three
	c.Progress = func(p fleet.Progress) {
		if p.Phase == fleet.PhaseConnect {
			_ = core.Close()
		}
	}
	r := enroll(t, c)
	// A device may have connected a moment before.
	if h := r.Hold; r.Complete() || h.Devices != 3 || h.Connected != 0 || h.Lost < 3 && h.NotConnectedWhy == "" {
		t.Errorf("held %+v, retries %+v", h, r.Retries)
	}
}
