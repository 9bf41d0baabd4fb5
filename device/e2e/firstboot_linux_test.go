package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"example.com/fleety/device/localcore"
	"example.com/fleety/hook/payload"
)

// Minutes for each machine, so only make torture asks for it.
var firstBoot = flag.Bool("first.boot", false, "run TestFirstBootEndsProvisioned")

// rootDir is where scripts/torture-root.sh puts a Debian with systemd.
const rootDir = "../../dist/torture/root"

// guestEndpoint is a name that the emulator's certificate covers.
const guestEndpoint = "guest-ats.iot.us-east-1.amazonaws.com"

// A trouble is something that a first boot in the field meets and that passes.
type trouble struct {
	clock   string        // of the machine's hardware, such as "1970-01-01"; put right later
	network time.Duration // until the network interface is up
	dns     int           // queries that are answered with NXDOMAIN before the name exists
	portal  int           // connections that a captive portal answers in the server's place
	denied  int           // registrations that the hook denies first
	oneShot bool          // iot_device-bootstrap.service in place of the agent
	dmi     bool          // the serial number is that of the board
	upgrade bool          // once the device is provisioned, the agent is reloaded and the package installed again
}

// The shipped unit, under a real systemd, ends with a provisioned device
// whatever the first boot meets, and nobody has to help.
func TestFirstBootEndsProvisioned(t *testing.T) {
	if !*firstBoot {
		t.Skip("takes minutes for each machine: make torture, or -first.boot")
	}
	needGuest(t, "mke2fs", "chroot")
	if _, err := os.Stat(filepath.Join(rootDir, "sbin", "init")); err != nil {
		t.Fatal("there is no root file system: run scripts/torture-root.sh as root")
	}
	deb := makePackages(t, repository(t), "v1.2.3")["deb"]
	for name, trouble := range map[string]trouble{
		"nothing wrong":          {upgrade: true},
		"clock at 1970":          {clock: "1970-01-01"},
		"network after a minute": {network: time.Minute},
		"NXDOMAIN first":         {dns: 12},
		"captive portal first":   {portal: 6},
		"denied first":           {denied: 3},
		"one-shot":               {oneShot: true, denied: 1},
		"serial number from DMI": {dmi: true},
		"all at once":            {clock: "1970-01-01", network: 20 * time.Second, dns: 4, portal: 3, denied: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			trouble.overcome(t, deb)
		})
	}
}

func (tr trouble) overcome(t *testing.T, deb string) {
	const serial = "297468777"
	var denied atomic.Int64
	c := startCloud(t, func(config *localcore.Config) {
		config.HookFunc = func(context.Context, payload.Request) (payload.Response, error) {
			return payload.Response{AllowProvisioning: denied.Add(1) > int64(tr.denied)}, nil
		}
	})
	port := startPortal(t, tr.portal, c.address())
	disk := tr.image(t, c, deb, serial, port)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	console, ready := runSystem(ctx, t, newSystemImage(t), disk, serial, tr.clock)
	active := c.active(t, "fleety_"+serial)
	if !ready || len(active) != 1 {
		t.Errorf("provisioned: %t, ACTIVE certificates: %v\n%s", ready, active, console)
	}
	if before, _, _ := strings.Cut(console, "GUEST ready"); strings.Contains(before, "GUEST early") { // later the system ends
		t.Errorf("the service that follows was started before its time\n%s", console)
	}
	if tr.denied > 0 && denied.Load() <= int64(tr.denied) {
		t.Errorf("the hook was asked %d times", denied.Load())
	}
}

// image returns the path of a disk with Debian, the device's package, its
// configuration as docs/device.md has it, a service that follows it, and the
// trouble.
func (tr trouble) image(t *testing.T, c *cloud, deb, serial string, port int) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	command(t, "cp", "-a", rootDir, root)
	d := debian{t: t, root: root}
	d.must("dpkg", "-i", d.add(deb))
	claim := d.path("var/lib/iot_device/claim")
	for _, name := range []string{"fleet-provisioning.private.key", "fleet-provisioning.certificate.pem"} {
		copyFile(t, filepath.Join(c.credentials, name), filepath.Join(claim, name), 0o600)
	}
	service := "iot_device"
	if tr.oneShot { // as docs/device.md has it
		service = "iot_device-bootstrap"
		d.must("systemctl", "mask", "iot_device.service")
		d.must("systemctl", "enable", "iot_device-bootstrap.service")
	}
	serialNumber := fmt.Sprintf(`s/^serialNumber: .*/serialNumber: "%s"/`, serial)
	if tr.dmi {
		serialNumber = `s/^serialNumber: .*/serialNumberFrom: dmi/`
	}
	d.must("chown", "-R", "iot_device:iot_device", "/var/lib/iot_device")
	copyFile(t, filepath.Join(c.credentials, "root.ca.bundle.pem"), d.path("etc/iot_device/root.ca.bundle.pem"), 0o644)
	for _, change := range []string{
		serialNumber,
		`s/^deviceLocation: .*/deviceLocation: USA/`,
		"s/^  endpoint: .*/  endpoint: " + guestEndpoint + "/",
		fmt.Sprintf("s/^  port: .*/  port: %d/", port),
		`s/^  # cacertificatepath: /  cacertificatepath: /`,
	} {
		d.must("sed", "-i", change, "/etc/iot_device/config.yaml")
	}
	units := d.path("etc/systemd/system")
	if tr.dns > 0 {
		startDNS(t, tr.dns)
		writeFile(t, filepath.Join(root, "etc", "resolv.conf"), "nameserver 10.0.2.2\n", 0o644)
	} else {
		writeFile(t, filepath.Join(root, "etc", "hosts"), "127.0.0.1 localhost\n10.0.2.2 "+guestEndpoint+"\n", 0o644)
	}
	// What a network manager, a time service and a person at the screen do.
	unit(t, units, "network-interface", "", fmt.Sprintf(`sleep %d; ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0`, int(tr.network.Seconds())))
	if tr.clock != "" {
		unit(t, units, "time-service", "", fmt.Sprintf("sleep 45; date -s @%d", time.Now().Unix()))
	}
	upgrade := ""
	if tr.upgrade { // the agent is restarted, and programs publish through the new one
		copyFile(t, deb, d.path("root/newer.deb"), 0o644)
		upgrade = `systemctl reload iot_device && iot_device publish telemetry before || exit
agent=$(systemctl show -P MainPID iot_device)
dpkg -i --force-confold /root/newer.deb >/dev/ttyS0 2>&1
until [ "$(systemctl show -P MainPID iot_device)" != "$agent" ] && systemctl -q is-active iot_device; do sleep 1; done
iot_device publish telemetry after || exit
`
	}
	unit(t, units, "report", "", "until systemctl -q is-active follower; do sleep 2; done\n"+upgrade+`echo "GUEST ready" >/dev/ttyS0; systemctl poweroff -f`)
	unit(t, units, "follower", "After="+service+".service\nRequisite="+service+".service", // as docs/device.md has it
		"systemctl -q is-active "+service+" || { echo GUEST early >/dev/ttyS0; exit 1; }; exec sleep infinity")
	d.must("mkdir", "/etc/systemd/system/"+service+".service.d")
	writeFile(t, filepath.Join(units, service+".service.d", "follower.conf"), "[Unit]\nUpholds=follower.service\n", 0o644)
	unit(t, units, "log", "", `journalctl -f -o cat -u `+service+` | sed "s/^/GUEST log /" >/dev/ttyS0`)
	command(t, "systemctl", "--root", root, "enable", "network-interface.service", "report.service", "log.service")
	if tr.clock != "" {
		command(t, "systemctl", "--root", root, "enable", "time-service.service")
	}
	disk := filepath.Join(dir, "disk")
	command(t, "mke2fs", "-q", "-F", "-t", "ext4", "-d", root, disk, "400M")
	command(t, "rm", "-rf", root)
	return disk
}

func unit(t *testing.T, dir, name, more, script string) {
	t.Helper()
	writeFile(t, filepath.Join(dir, name+".sh"), "#!/bin/sh\n"+script+"\n", 0o755)
	writeFile(t, filepath.Join(dir, name+".service"), fmt.Sprintf(
		"[Unit]\nDescription=%s\n%s\n[Service]\nExecStart=/bin/sh /etc/systemd/system/%s.sh\n[Install]\nWantedBy=multi-user.target\n", name, more, name), 0o644)
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if err := runTool(name, args...); err != nil {
		t.Fatal(err)
	}
}

// systemInit hands over to the disk's systemd.
const systemInit = `#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done </modules/order
mount -t ext4 /dev/vda /state
exec switch_root /state /sbin/init
`

// newSystemImage returns the kernel, and an initial file system that mounts the disk.
func newSystemImage(t *testing.T) guestImage {
	t.Helper()
	return packGuest(t, systemInit)
}

// runSystem boots the disk and waits until the guest says that the device is
// provisioned.
func runSystem(ctx context.Context, t *testing.T, image guestImage, disk, serial, clock string) (console string, ready bool) {
	t.Helper()
	args := []string{"-M", "pc", "-cpu", "max", "-m", "384", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", image.kernel, "-initrd", image.initrd, "-append", "console=ttyS0 quiet panic=-1 no_timer_check net.ifnames=0 systemd.show_status=0",
		"-drive", "file=" + disk + ",format=raw,if=virtio,cache=unsafe",
		"-smbios", "type=1,serial=" + serial,
		"-netdev", "user,id=net,restrict=off", "-device", "virtio-net-pci,netdev=net,romfile="}
	if clock != "" {
		args = append(args, "-rtc", "base="+clock+"T00:00:00")
	}
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	stdout, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		fmt.Fprintln(&text, lines.Text())
		if _, line, ok := strings.Cut(lines.Text(), "GUEST "); ok {
			t.Log(line)
		}
		if strings.Contains(lines.Text(), "GUEST ready") {
			ready = true
		}
	}
	if err := qemu.Wait(); err != nil && ctx.Err() == nil {
		t.Errorf("qemu: %v", err)
	}
	return text.String(), ready
}

// startPortal listens on loopback, answers the first connections as a captive
// portal does, and passes the others on. It returns its port.
func startPortal(t *testing.T, first int, server string) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	t.Cleanup(func() { listener.Close(); conns.Wait() })
	conns.Go(func() {
		for n := 0; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				if n < first {
					io.WriteString(conn, "HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\nContent-Length: 0\r\n\r\n")
					return
				}
				pass(conn, server)
			})
		}
	})
	return listener.Addr().(*net.TCPAddr).Port
}

func pass(conn net.Conn, server string) {
	peer, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer peer.Close()
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(conn, peer)
		conn.Close()
	})
	io.Copy(peer, conn)
	peer.Close()
	back.Wait()
}

// startDNS answers on 127.0.0.1:53, where a guest's queries to 10.0.2.2
// arrive: first with NXDOMAIN, then with 10.0.2.2.
func startDNS(t *testing.T, first int) {
	t.Helper()
	var conn net.PacketConn
	deadline := time.Now().Add(15 * time.Minute) // another test's server may be there
	for {
		var err error
		if conn, err = net.ListenPacket("udp", "127.0.0.1:53"); err == nil {
			break
		}
		if errors.Is(err, os.ErrPermission) || time.Now().After(deadline) {
			t.Fatalf("listening for DNS: %v", err)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(time.Second):
		}
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { conn.Close(); serving.Wait() })
	serving.Go(func() {
		buffer := make([]byte, 1500)
		for n := 0; ; {
			size, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buffer[:size]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			q := m.Questions[0]
			if q.Type == dnsmessage.TypeA {
				n++
			}
			switch {
			case n <= first:
				m.RCode = dnsmessage.RCodeNameError
			case q.Type == dnsmessage.TypeA:
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1},
					Body:   &dnsmessage.AResource{A: [4]byte{10, 0, 2, 2}},
				}}
			}
			if answer, err := m.Pack(); err == nil {
				conn.WriteTo(answer, from)
			}
		}
	})
}
