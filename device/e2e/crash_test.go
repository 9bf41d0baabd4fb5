package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/localcore/registry"
)

// All kills, which takes minutes:
//
//	go test -run Kill -crash.kills 1000 -crash.pairs 1 -timeout 1h .
var (
	crashKills = flag.Int64("crash.kills", 30, "how often TestRandomKills kills the device")
	crashSeed  = flag.Uint64("crash.seed", 0, "seed of the instants; 0 takes a new one")
)

const (
	crashWorkers = 8
	// Half a round trip over the slow link, least and most.
	leastDelay = 20 * time.Millisecond
	mostDelay  = 50 * time.Millisecond
	// maxKills is how often one device is killed at most; then it may finish.
	maxKills = 8
)

// A campaign kills devices until there were enough kills.
type campaign struct {
	*site
	runs, kills, cuts atomic.Int64

	mu   sync.Mutex
	done []*device
	hits map[string]int // kills, by what they found on the disk
}

// newCampaign returns a campaign and the seed of its instants.
func newCampaign(t *testing.T, s *site) (c *campaign, seed uint64) {
	if seed = *crashSeed; seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-crash.seed %d", seed)
	return &campaign{site: s, hits: map[string]int{}}, seed
}

func TestRandomKillsLoseNothing(t *testing.T) {
	t.Parallel()
	c, seed := newCampaign(t, newSite(t, shipped))
	t.Run("devices", func(t *testing.T) {
		for worker := range crashWorkers {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				random := rand.New(rand.NewPCG(seed, uint64(worker)))
				for c.kills.Load() < *crashKills {
					c.provision(t, random)
				}
			})
		}
	})
	c.cloud.checkNothingLeft(t, c.done)
	t.Logf("%d devices were provisioned in %d runs, %d of them killed, %d disconnected", len(c.done), c.runs.Load(), c.kills.Load(), c.cuts.Load())
	t.Logf("what the kills left on the disk: %v", c.hits)
	if c.kills.Load() < 500 {
		return // too few to reach every step
	}
	for _, state := range []string{"empty", "key made", "certificate held", "registered", "identity"} {
		if c.hits[state] == 0 {
			t.Errorf("no kill left %q", state)
		}
	}
}

// provision provisions one device through kills at random instants, and some
// devices once more.
func (c *campaign) provision(t *testing.T, random *rand.Rand) {
	delay := leastDelay + upTo(random, mostDelay-leastDelay)
	slow := newLink(t, c.cloud.address(), delay)
	defer slow.close()
	d := c.deviceAt(t, flows[random.IntN(len(flows))], slow.port())
	// Ten round trips, and what the two ends compute.
	longest := 20*delay + 100*time.Millisecond
	for range maxKills {
		if c.runAndKill(t, d, slow, random, longest) {
			break
		}
		had := d.load(t)
		if active := c.cloud.active(t, d.thing()); len(active) > 1 || had != nil && len(active) != 1 {
			t.Fatalf("%s: the identity is %v, and %d certificates are ACTIVE", d.serial, had, len(active))
		}
	}
	d.mustRun(t)
	d.checkWhole(t, c.cloud)
	if random.IntN(4) == 0 {
		c.replaceIdentity(t, d, slow, random, longest)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = append(c.done, d)
}

// replaceIdentity kills the device while it replaces its identity. A replacement
// that is not committed leaves the old identity in use, until it is resumed or
// discarded. Whichever of the two identities the device has in the end, the other
// certificate is known if it is still ACTIVE.
func (c *campaign) replaceIdentity(t *testing.T, d *device, slow *link, random *rand.Rand, longest time.Duration) {
	old := d.load(t).Record.CertificateID
	d.flags = []string{"--reprovision"}
	c.runAndKill(t, d, slow, random, longest)
	if d.load(t) == nil {
		t.Fatalf("%s: the old identity is gone and the new one not there", d.serial)
	}
	pending := d.store(t).Status().Pending
	d.flags = nil
	d.mustRun(t)
	var left string // a certificate that an operator deactivates
	if pending != nil && pending.Stage != identity.Committed {
		if got := d.load(t).Record.CertificateID; got != old {
			t.Errorf("%s: bootstrap without --reprovision replaced %s with %s", d.serial, old, got)
		}
		d.flags = []string{"--reprovision"}
		if random.IntN(2) == 0 {
			d.flags, left = []string{"--discard-pending"}, pending.CertificateID
		}
		d.mustRun(t)
		d.flags = nil
	}
	if record := d.load(t).Record; record.CertificateID != old {
		if record.Replaces != old {
			t.Errorf("%s: %s replaced %s, and does not say so", d.serial, record.CertificateID, old)
		}
		left = old
	}
	if left != "" {
		if err := c.cloud.Registry().UpdateCertificate(left, registry.Inactive); err != nil {
			t.Fatal(err)
		}
	}
	d.checkWhole(t, c.cloud)
}

// runAndKill reports whether the device finished first. In one of eight runs the
// connections end before the process does.
func (c *campaign) runAndKill(t *testing.T, d *device, slow *link, random *rand.Rand, longest time.Duration) (finished bool) {
	cmd, stderr := d.command(t.Context())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.runs.Add(1)
	if random.IntN(8) == 0 {
		c.cuts.Add(1)
		cut := time.AfterFunc(upTo(random, longest), slow.cut)
		defer cut.Stop()
	}
	kill := time.AfterFunc(upTo(random, longest), func() { _ = cmd.Process.Kill() }) // it may have ended
	defer kill.Stop()
	err := cmd.Wait()
	d.hardware.processEnded()
	if err == nil {
		return true
	}
	if !signalled(cmd.ProcessState) {
		t.Fatalf("%s: not killed, and yet: %v\n%s", d.serial, err, stderr)
	}
	c.kills.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hits[d.state(t)]++
	return false
}

// signalled reports whether a process was ended by a signal.
func signalled(s *os.ProcessState) bool { return s != nil && s.ExitCode() == -1 }

func upTo(random *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(d)))
}
