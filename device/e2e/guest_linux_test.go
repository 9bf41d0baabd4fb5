package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// kernelDir is where scripts/torture-kernel.sh puts a kernel with its modules.
const kernelDir = "../../dist/torture/kernel"

// needGuest skips a test where virtual machines cannot be run, by the name of
// what is missing. CI installs all of it.
func needGuest(t *testing.T, more ...string) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the guest's kernel is for amd64")
	}
	missing := func(what string) {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing, and CI installs it", what)
		}
		t.Skipf("%s is missing", what)
	}
	for _, tool := range append([]string{"qemu-system-x86_64", "busybox", "cpio"}, more...) {
		if _, err := exec.LookPath(tool); err != nil {
			missing(tool)
		}
	}
	if _, err := os.Stat(filepath.Join(kernelDir, "boot")); err != nil {
		missing("a kernel (scripts/torture-kernel.sh)")
	}
}

// guestModules are the kernel modules of the guest, each with what it needs.
var guestModules = []string{"virtio_pci", "virtio_blk", "virtio_net", "crc32c_generic", "crc32_generic", "ext4", "f2fs"}

// guestInit runs one command of the device on the disk. The kernel hands its
// parameters FS, OPTS, VERB, NEXT and HOLD over as variables. What follows GUEST is for the
// test. With run it also runs testdata/producer, and stops the agent when that ends.
const guestInit = `#!/bin/busybox sh
export PATH=/bin IOT_DEVICE_AGENT_SOCKET=/api.sock
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module" || echo "GUEST failed to load $module"; done </modules/order
ifconfig lo up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
mount -t "$FS" -o "noatime$OPTS" /dev/vda /state || echo "GUEST failed to mount"
cd /state
if test "$VERB" = run; then
	iot_device run --config device.yaml >/out 2>/err &
	producer $NEXT
	kill $!
	wait $!
else
	iot_device "$VERB" --config device.yaml --json --timeout 100s >/out 2>/err
fi
code=$?
sed 's/^/GUEST stderr /' /err
echo "GUEST exit $code $(cat /out)"
test -z "$HOLD" || sleep 1000
umount /state
poweroff -f
`

// A guestImage is a kernel and an initial file system with the device's binary.
type guestImage struct {
	kernel, initrd string
	// onAcknowledged is called after each message that the agent has acknowledged, with
	// their number; nil does nothing.
	onAcknowledged func(messages int)
}

// newGuestImage makes the guest that runs one command of the device's binary.
func newGuestImage(t *testing.T, binary string) guestImage {
	t.Helper()
	return packGuest(t, guestInit, binary, build(t, guestProducer))
}

var guestProducer = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binDir, "producer")
	return path, runTool("go", "build", "-o", path, "./testdata/producer")
})

// packGuest makes an initial file system with busybox, kernel modules, an init
// script, and programs in /bin.
func packGuest(t *testing.T, init string, programs ...string) guestImage {
	t.Helper()
	one := func(pattern string) string {
		found, err := filepath.Glob(filepath.Join(kernelDir, pattern))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: found %q, %v", pattern, found, err)
		}
		return found[0]
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "modules", "proc", "sys", "dev", "etc", "state"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range append(programs, busybox) {
		copyFile(t, program, filepath.Join(root, "bin", filepath.Base(program)), 0o755)
	}
	writeFile(t, filepath.Join(root, "init"), init, 0o755)
	writeFile(t, filepath.Join(root, "etc", "hosts"), "10.0.2.2 localhost\n", 0o644)
	var order strings.Builder
	for _, module := range moduleFiles(t, one("lib/modules/*")) {
		copyFile(t, module, filepath.Join(root, "modules", filepath.Base(module)), 0o644)
		fmt.Fprintln(&order, filepath.Base(module))
	}
	writeFile(t, filepath.Join(root, "modules", "order"), order.String(), 0o644)

	image := guestImage{kernel: one("boot/vmlinu[xz]-*"), initrd: filepath.Join(dir, "initrd")}
	pack := exec.CommandContext(t.Context(), "sh", "-c", `find . | cpio -o -H newc --quiet >"$0"`, image.initrd)
	pack.Dir = root
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("packing the guest: %v\n%s", err, out)
	}
	return image
}

// moduleFiles returns the files of guestModules in an order in which they can
// be loaded, from modules.dep: each line names a module and what it needs, the
// last first.
func moduleFiles(t *testing.T, dir string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	seen := map[string]bool{}
	for _, name := range guestModules {
		line := regexp.MustCompile(`(?m)^(kernel/\S*/` + name + `\.ko): ?(.*)$`).FindSubmatch(text)
		if line == nil {
			t.Fatalf("no module %s", name)
		}
		needs := strings.Fields(string(line[2]))
		for i := len(needs) - 1; i >= -1; i-- {
			file := string(line[1])
			if i >= 0 {
				file = needs[i]
			}
			if !seen[file] {
				seen[file] = true
				files = append(files, filepath.Join(dir, file))
			}
		}
	}
	return files
}

// A guestRun is what a virtual machine has printed.
type guestRun struct {
	exited  bool // the command ended before the machine did
	code    int
	console string
	// acknowledged are the topics of the messages that the agent has acknowledged.
	acknowledged []string
	result       struct {
		CertificateID string `json:"certificateId"`
		Provisioned   bool   `json:"provisioned"`
	}
}

// boot runs a command of the device in a virtual machine on the disk, until it
// powers off, the context ends, or, with hold, the command has ended: then its
// power is cut before the file system is unmounted. more are further variables of its
// init script.
func (g guestImage) boot(ctx context.Context, t *testing.T, disk *lossyDisk, fs filesystem, verb string, hold bool, more ...string) (run guestRun) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "disk.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() {
		if conn, err := listener.Accept(); err == nil {
			disk.serve(conn) // ends with the machine
		}
	})

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parameters := fmt.Sprintf("console=ttyS0 quiet panic=-1 no_timer_check mitigations=off cryptomgr.notests FS=%s OPTS=%s VERB=%s %s", fs.kind, fs.options, verb, strings.Join(more, " "))
	if hold {
		parameters += " HOLD=1"
	}
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "pc", "-cpu", "max", "-m", "192", "-nodefaults", "-no-reboot",
		"-display", "none", "-serial", "stdio", "-kernel", g.kernel, "-initrd", g.initrd, "-append", parameters,
		"-drive", "driver=nbd,server.type=unix,server.path="+socket+",if=none,id=disk,cache=writeback,discard=ignore",
		"-device", fmt.Sprintf("virtio-blk-pci,drive=disk,logical_block_size=%d,physical_block_size=%[1]d", sectorSize),
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=")
	stdout, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr, console bytes.Buffer
	qemu.Stderr = &stderr
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		line := strings.TrimRight(lines.Text(), "\r")
		if topic, ok := strings.CutPrefix(line, "GUEST acknowledged "); ok {
			run.acknowledged = append(run.acknowledged, topic)
			if g.onAcknowledged != nil {
				g.onAcknowledged(len(run.acknowledged))
			}
			continue
		}
		fmt.Fprintln(&console, line)
		if rest, ok := strings.CutPrefix(line, "GUEST exit "); ok {
			code, result, _ := strings.Cut(rest, " ")
			run.exited = true
			if run.code, err = strconv.Atoi(code); err != nil {
				t.Errorf("guest printed %q", line)
			}
			if run.code == 0 && result != "" {
				if err := json.Unmarshal([]byte(result), &run.result); err != nil {
					t.Errorf("guest printed %q: %v", line, err)
				}
			}
			if hold {
				cancel()
			}
		}
	}
	if err := qemu.Wait(); err != nil && ctx.Err() == nil {
		t.Fatalf("qemu: %v\n%s\n%s", err, stderr.String(), console.String())
	}
	listener.Close()
	run.console = console.String()
	return run
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, to, string(data), mode)
}
