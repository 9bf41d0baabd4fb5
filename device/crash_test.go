package device_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The whole campaign, which takes minutes:
//
//	go test -run Kill -crash.kills 1000 -crash.pairs 1 -timeout 1h .
var (
	crashKills = flag.Int64("crash.kills", 100, "how often TestRandomKills kills the device")
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
	cloud  *cloud
	binary string
	dir    string // a directory in it for each device
	seed   uint64

	serials, runs, kills, cuts atomic.Int64

	mu   sync.Mutex
	done []*device
}

func TestRandomKillsLoseNothing(t *testing.T) {
	c := &campaign{cloud: startCloud(t), binary: build(t, shipped), dir: t.TempDir(), seed: *crashSeed}
	if c.seed == 0 {
		c.seed = rand.Uint64()
	}
	t.Logf("-crash.seed %d", c.seed)
	t.Run("devices", func(t *testing.T) {
		for worker := range crashWorkers {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				for c.kills.Load() < *crashKills && !t.Failed() {
					c.torment(t)
				}
			})
		}
	})
	c.cloud.checkNothingLeft(t, c.done)
	t.Logf("%d devices came in over %d runs, %d of them killed, %d cut off", len(c.done), c.runs.Load(), c.kills.Load(), c.cuts.Load())
}

// torment provisions one device through kills at random instants.
func (c *campaign) torment(t *testing.T) {
	number := c.serials.Add(1)
	random := rand.New(rand.NewPCG(c.seed, uint64(number)))
	delay := leastDelay + upTo(random, mostDelay-leastDelay)
	flow := flows[number%2]
	slow := newLink(t, c.cloud.address(), delay)
	defer slow.close()
	d := newDevice(t, c.binary, c.dir, fmt.Sprintf("297468%05d", number), flow, c.cloud, slow.port())
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
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = append(c.done, d)
}

// runAndKill reports whether the device was faster. In one of eight runs the
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
	if err == nil {
		return true
	}
	if !signalled(cmd.ProcessState) {
		t.Fatalf("%s: not killed, and yet: %v\n%s", d.serial, err, stderr)
	}
	c.kills.Add(1)
	return false
}

// signalled reports whether a process was ended by a signal.
func signalled(s *os.ProcessState) bool { return s != nil && s.ExitCode() == -1 }

func upTo(random *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(d)))
}
