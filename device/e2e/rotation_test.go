package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/localcore/registry"
)

// retireAtOnce deactivates the thing's other certificates at every birth
// message, as the stack's rule and function do, only sooner.
func (c *cloud) retireAtOnce(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		err := c.Follow(ctx, func(e localcore.Event) bool {
			if e.Type != event.Published || e.Topic != "fleet/"+e.ThingName {
				return true
			}
			for _, id := range c.active(t, e.ThingName) {
				if id != e.CertificateID {
					if err := c.Registry().UpdateCertificate(id, registry.Inactive); err != nil {
						t.Error(err)
					}
				}
			}
			return true
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); following.Wait() })
}

// awaitRetired waits until the function has deactivated what a rotation left.
func (c *cloud) awaitRetired(t testing.TB, thing string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); len(c.active(t, thing)) > 1 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// rotate runs iot_device rotate.
func (d *device) rotate(t testing.TB, env ...string) outcome {
	t.Helper()
	d.verb = "rotate"
	defer func() { d.verb = "" }()
	return d.run(t, env...)
}

// A device replaces its identity with the present one, and needs no claim.
func TestRotationNeedsNoClaim(t *testing.T) {
	t.Parallel()
	s := newSite(t, shipped)
	s.cloud.retireAtOnce(t)
	d := s.device(t, "device")
	first := d.mustRun(t)
	config := filepath.Join(d.dir, "device.yaml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.ReplaceAll(string(text), "/fleet-provisioning.", "/removed."))
	writeFile(t, config, string(text), 0o600)
	second := d.rotate(t)
	if second.code != 0 || !second.result.Provisioned || second.result.CertificateID == first.result.CertificateID || second.result.ThingName != d.thing() {
		t.Fatalf("exit %d, %+v\n%s", second.code, second.result, second.stderr)
	}
	record := d.load(t).Record
	if record.Replaces != first.result.CertificateID || record.Author != "Wilford Brimley" {
		t.Errorf("record: %+v", record)
	}
	if after := d.mustRun(t); after.result.CertificateID != second.result.CertificateID || after.result.Provisioned {
		t.Errorf("after the rotation: %+v", after.result)
	}
	s.cloud.awaitRetired(t, d.thing())
	d.checkWhole(t, s.cloud)
}

// A device without an identity has nothing to rotate.
func TestRotationNeedsAnIdentity(t *testing.T) {
	t.Parallel()
	d := newSite(t, shipped).device(t, "device")
	if o := d.rotate(t); o.code == 0 || o.code == 3 {
		t.Errorf("exit %d\n%s", o.code, o.stderr)
	}
}

// Killed before any change to its disk during a rotation, a device has one
// identity that works, whichever command comes next.
func TestKilledRotationLosesNothing(t *testing.T) {
	t.Parallel()
	newSite(t, withKillers).killRotations(t, "device", 1)
}

// killRotations kills a rotation before each, or one of so many, of its changes
// to the disk.
func (s *site) killRotations(t *testing.T, keys string, step int) {
	s.cloud.retireAtOnce(t)
	n := sort.Search(200, func(n int) bool { // how many changes a rotation makes
		d := s.device(t, keys)
		d.mustRun(t)
		return !signalled(d.rotate(t, killAt(n+1)).state)
	})
	if n < 20 {
		t.Fatalf("only %d changes of the disk", n)
	}
	t.Run("changes", func(t *testing.T) {
		for worker := range crashWorkers {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				d := s.device(t, keys)
				d.mustRun(t)
				for call := worker * step; call < n; call += crashWorkers * step {
					if o := d.rotate(t, killAt(1+call)); !signalled(o.state) {
						t.Errorf("%s: not killed at change %d", d.serial, 1+call)
					}
					if call/crashWorkers%2 == 0 {
						d.mustRun(t) // whatever is pending, the present identity works
					}
					if o := d.rotate(t); o.code != 0 {
						t.Errorf("%s, killed at change %d: exit %d\n%s", d.serial, 1+call, o.code, o.stderr)
					}
					s.cloud.awaitRetired(t, d.thing())
					d.checkWhole(t, s.cloud)
				}
			})
		}
	})
}

// Killed at random instants of one rotation after another, a device has one
// identity that works, and once it has rotated its thing has one ACTIVE
// certificate.
func TestRandomKillsOfRotationsLoseNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, shipped)
	s.cloud.checkNothingLeft(t, s.killRotationsAtRandom(t, "device", *crashKills))
}

func (s *site) killRotationsAtRandom(t *testing.T, keys string, kills int64) []*device {
	s.cloud.retireAtOnce(t)
	c, seed := newCampaign(t, s)
	t.Run("devices", func(t *testing.T) {
		for worker := range crashWorkers {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				random := rand.New(rand.NewPCG(seed, uint64(worker)))
				delay := leastDelay + upTo(random, mostDelay-leastDelay)
				slow := newLink(t, s.cloud.address(), delay)
				defer slow.close()
				d := s.deviceAt(t, keys, slow.port())
				d.mustRun(t)
				for c.kills.Load() < kills {
					if random.IntN(3) == 0 {
						d.mustRun(t)
					}
					d.verb = "rotate"
					c.runAndKill(t, d, slow, random, 20*delay+100*time.Millisecond)
					d.verb = ""
					if d.hardware.lost(t) {
						t.Logf("%s: the kill has damaged the token", d.serial)
						return
					}
					if d.load(t) == nil {
						t.Fatalf("%s has no identity", d.serial)
					}
				}
				if o := d.rotate(t); o.code != 0 {
					t.Fatalf("%s: exit %d\n%s", d.serial, o.code, o.stderr)
				}
				s.cloud.awaitRetired(t, d.thing())
				d.checkWhole(t, s.cloud)
				c.mu.Lock()
				defer c.mu.Unlock()
				c.done = append(c.done, d)
			})
		}
	})
	t.Logf("%d devices, %d rotations, %d of them killed, %d disconnected; what the kills left on the disk: %v",
		len(c.done), c.runs.Load(), c.kills.Load(), c.cuts.Load(), c.hits)
	return c.done
}
