package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The whole campaign, which takes most of an hour: make torture.
var powerCuts = flag.Int("power.cuts", 0, "how often TestPowerCuts cuts the power on each kind of file system; 0: once, on one of them")

// A filesystem is one that devices have their state on.
type filesystem struct{ name, kind, options string }

var filesystems = []filesystem{
	{"ext4", "ext4", ""},
	{"ext4 writeback", "ext4", ",data=writeback"},
	{"f2fs", "f2fs", ""},
}

// format returns a disk with the folder's files.
func (fs filesystem) format(t *testing.T, folder string) []byte {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	steps := [][]string{{"mke2fs", "-q", "-F", "-t", "ext4", "-b", fmt.Sprint(sectorSize), "-d", folder, image, "16M"}}
	if fs.kind == "f2fs" {
		steps = [][]string{{"truncate", "-s", "64M", image}, {"mkfs.f2fs", "-q", image}, {"sload.f2fs", "-f", folder, image}}
	}
	for _, step := range steps {
		if out, err := exec.CommandContext(t.Context(), step[0], step[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", step, err, out)
		}
	}
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// powerCutKinds returns how often the power is cut on which file systems.
func powerCutKinds() (cuts int, kinds []filesystem) {
	if *powerCuts > 0 {
		return *powerCuts, filesystems
	}
	n := rand.IntN(len(filesystems))
	return 1, filesystems[n : n+1]
}

// A device in a virtual machine loses its power while it provisions or rotates,
// and with it any part of what its disk had in its cache. The next boot must end
// with the one identity that AWS IoT has active, and an identity that was
// reported must still be there.
func TestPowerCuts(t *testing.T) {
	needGuest(t, "mke2fs", "mkfs.f2fs", "sload.f2fs")
	t.Parallel()
	site := newSite(t, shipped)
	site.cloud.retireAtOnce(t)
	image := newGuestImage(t, site.binary)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	cuts, kinds := powerCutKinds()
	for kind, fs := range kinds {
		t.Run(fs.name, func(t *testing.T) {
			if len(kinds) > 1 { // alone it would begin after all other tests
				t.Parallel()
			}
			// Between the first change of a run and its last the power may fail.
			disk := newLossyDisk(fs.format(t, site.diskFolder(t, site.port())))
			verbs := []string{"bootstrap", "rotate"}
			changes := map[string]int{"bootstrap": 95, "rotate": 95} // about as many as are counted
			for _, verb := range verbs {
				if cuts == 1 {
					break // to count takes a boot for each
				}
				before := disk.changes
				if run := image.boot(t.Context(), t, disk, fs, verb, false); run.code != 0 || !run.exited {
					t.Fatalf("%s without a cut: exit %d\n%s", verb, run.code, run.console)
				}
				changes[verb] = disk.changes - before
			}
			t.Logf("changes of the disk: %v", changes)
			random := rand.New(rand.NewPCG(seed, uint64(kind)))
			for n := range cuts {
				verb := verbs[(n+kind+int(seed%2))%2]
				site.cutPower(t, image, fs, random, verb, 1+random.IntN(changes[verb]))
			}
		})
	}
}

// port is that of the cloud.
func (s *site) port() int {
	_, port := s.cloud.Endpoint()
	return port
}

// diskFolder returns the files of a new device that reaches the cloud through a port, as
// they are on its disk.
func (s *site) diskFolder(t *testing.T, port int) string {
	t.Helper()
	d := s.device(t, "device")
	for _, name := range []string{"fleet-provisioning.private.key", "fleet-provisioning.certificate.pem", "root.ca.bundle.pem"} {
		copyFile(t, filepath.Join(s.cloud.credentials, name), filepath.Join(d.dir, name), 0o600)
	}
	writeFile(t, filepath.Join(d.dir, "device.yaml"), fmt.Sprintf(`serialNumber: %q
deviceLocation: USA
stateDir: var/lib/identity
server: {endpoint: localhost, port: %d, proxy: direct}
bootstrap:
  privatekeypath: fleet-provisioning.private.key
  certificatepath: fleet-provisioning.certificate.pem
  cacertificatepath: root.ca.bundle.pem
  provisioningTemplate: GoFleetProvisioningTemplate
`, d.serial, port), 0o600)
	return d.dir
}

// cutPower runs a command of a new device, cuts the power after so many changes
// of its disk, or when the command has ended, and boots again.
func (s *site) cutPower(t *testing.T, image guestImage, fs filesystem, random *rand.Rand, verb string, changes int) {
	t.Helper()
	folder := s.diskFolder(t, s.port())
	serial := filepath.Base(folder)
	if verb == "rotate" {
		(&device{binary: s.binary, dir: folder, serial: serial}).mustRun(t)
	}
	disk := newLossyDisk(fs.format(t, folder))
	ctx, cut := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cut()
	disk.onChange = func(n int) {
		if n >= changes {
			cut()
		}
	}
	first := image.boot(ctx, t, disk, fs, verb, true)
	if first.exited && first.code != 0 {
		t.Errorf("%s: %s ended with exit %d\n%s", serial, verb, first.code, first.console)
	}
	second := image.boot(t.Context(), t, newLossyDisk(disk.cut(random)), fs, "bootstrap", false)
	s.cloud.awaitRetired(t, "fleety_"+serial)
	switch active := s.cloud.active(t, "fleety_"+serial); {
	case !second.exited || second.code != 0:
		t.Errorf("%s, %s cut after change %d: the next boot ended with exit %d\n%s", serial, verb, changes, second.code, second.console)
	case !slices.Equal(active, []string{second.result.CertificateID}):
		t.Errorf("%s, %s cut after change %d: the device has certificate %s, ACTIVE are %v", serial, verb, changes, second.result.CertificateID, active)
	case first.exited && first.result.CertificateID != second.result.CertificateID:
		t.Errorf("%s, %s cut after change %d: certificate %s was reported and is lost", serial, verb, changes, first.result.CertificateID)
	}
}

// A device loses its power again and again while programs publish through its agent, also
// while this starts and sends what an earlier boot has left. Each message that the agent
// has acknowledged to its program must arrive, in the order of the program's. In every
// other boot, the first included, the device has no network: what it acknowledges then is
// on its disk or nowhere. The power fails after some changes of the disk, or some messages,
// as there are none where nothing is synced.
func TestPowerCutsLoseNoAcknowledgedMessage(t *testing.T) {
	needGuest(t, "mke2fs", "mkfs.f2fs", "sload.f2fs")
	t.Parallel()
	const producers = 3
	site := newSite(t, shipped)
	image := newGuestImage(t, site.binary)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	cuts, kinds := powerCutKinds()
	for kind, fs := range kinds {
		t.Run(fs.name, func(t *testing.T) {
			if len(kinds) > 1 { // alone it would begin after all other tests
				t.Parallel()
			}
			network := newLink(t, site.cloud.address(), 0)
			t.Cleanup(network.close)
			folder := site.diskFolder(t, network.port())
			d := &device{binary: site.binary, dir: folder, serial: filepath.Base(folder)}
			d.mustRun(t)
			arrived := site.cloud.collect(t, d)
			disk := newLossyDisk(fs.format(t, folder))
			random := rand.New(rand.NewPCG(seed, uint64(kind)))
			acknowledged := make([]int, producers)
			for n := range cuts {
				network.setDown(n%2 == 0)
				ctx, cut := context.WithTimeout(t.Context(), 5*time.Minute)
				last, lastMessage := 1+random.IntN(600), 1+random.IntN(300)
				image := image
				image.onAcknowledged = func(n int) {
					if n >= lastMessage {
						cut()
					}
				}
				disk.onChange = func(n int) {
					if n >= last {
						cut()
					}
				}
				next := strings.Trim(fmt.Sprint(acknowledged), "[]")
				run := image.boot(ctx, t, disk, fs, "run", false, "NEXT="+strings.ReplaceAll(next, " ", ","))
				cut()
				if run.exited {
					t.Fatalf("before the power was cut the agent ended with exit %d\n%s", run.code, run.console)
				}
				for _, topic := range run.acknowledged {
					var p, n int
					if _, err := fmt.Sscanf(topic, "p%d/%d", &p, &n); err != nil || n != acknowledged[p] {
						t.Fatalf("the guest printed %q, %v", topic, err)
					}
					acknowledged[p]++
				}
				disk = newLossyDisk(disk.cut(random))
			}
			network.setDown(false)
			ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
			defer stop()
			if run := image.boot(ctx, t, disk, fs, "run", false); !run.exited || run.code != 0 {
				t.Fatalf("the last boot: ended %t, exit %d\n%s", run.exited, run.code, run.console)
			}
			for p, first := range arrived.inOrder(t, producers) {
				if first < acknowledged[p] {
					t.Errorf("producer %d: %d messages acknowledged, %d arrived", p, acknowledged[p], first)
				}
			}
			t.Logf("%d cuts, %d messages acknowledged, %d arrivals", cuts, acknowledged, len(arrived.topics))
		})
	}
}
