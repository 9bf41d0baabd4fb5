// Package defender reports what a device has open and connected to AWS IoT Device Defender, as
// Linux has it in /proc/net.
//
// AWS page: https://docs.aws.amazon.com/iot-device-defender/latest/devguide/detect-device-side-metrics.html
package defender

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

const maxListed = 200 // ports, and connections, of a report; the totals count all

// The states of sockets in /proc/net/tcp and udp, proc_pid_net(5).
const (
	established = "01"
	unconnected = "07" // a UDP socket that receives from anybody
	listening   = "0A"
)

// A Reporter is a service of the agent. Its first report follows within an interval, at a time that
// the thing's name decides, so that a fleet does not report at once.
type Reporter struct {
	Interval time.Duration // required; AWS IoT accepts 5 minutes or more
	Net      string        // empty: /proc/net

	next   time.Time // of the next report; zero before the first
	lastID int64
	last   map[string]uint64 // the traffic until the last report, nil before the first
}

// Name returns "defender".
func (r *Reporter) Name() string { return "defender" }

// Filters returns nothing: the responses have nothing that a device could act on.
func (r *Reporter) Filters(string) []string { return nil }

// Deliver takes no message.
func (r *Reporter) Deliver(session.Message) bool { return false }

// Serve publishes a report in each interval.
func (r *Reporter) Serve(ctx context.Context, conn session.Shared) error {
	if r.next.IsZero() {
		r.next = time.Now().Add(Offset(conn.ThingName(), r.Interval))
	}
	for {
		select {
		case <-time.After(time.Until(r.next)):
		case <-ctx.Done():
			return nil
		}
		r.next = time.Now().Add(r.Interval)
		metrics, now, err := r.read()
		if err != nil {
			return fmt.Errorf("reading what is open: %w", err)
		}
		r.lastID = max(r.lastID+1, time.Now().Unix())
		report := map[string]any{"header": map[string]any{"report_id": r.lastID, "version": "1.0"}, "metrics": metrics}
		if err := conn.Publish(ctx, "$aws/things/"+conn.ThingName()+"/defender/metrics/json", awsiot.EncodeJSON(report)); err != nil {
			return err
		}
		r.last = now
	}
}

// Offset returns how long after the agent's first connection a thing's first report is due.
func Offset(thing string, interval time.Duration) time.Duration {
	hash := fnv.New64a()
	io.WriteString(hash, thing)
	return time.Duration(hash.Sum64() % uint64(interval))
}

// read returns the metrics, without sockets of the loopback, and the traffic until now.
func (r *Reporter) read() (metrics map[string]any, now map[string]uint64, err error) {
	found := map[string][]any{} // by the protocol of ports, or established
	for _, file := range []string{"tcp", "tcp6", "udp", "udp6"} {
		lines, err := r.lines(file)
		if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(file, "6") { // a kernel without IPv6
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		protocol := strings.TrimSuffix(file, "6")
		for _, fields := range lines {
			if len(fields) < 4 {
				continue
			}
			local, remote := address(fields[1]), address(fields[2])
			if !local.IsValid() || local.Addr().IsLoopback() {
				continue
			}
			switch state := fields[3]; {
			case protocol == "tcp" && state == established && remote.IsValid():
				found[established] = append(found[established], map[string]any{"local_port": local.Port(), "remote_addr": remote.String()})
			case protocol == "tcp" && state == listening, protocol == "udp" && state == unconnected:
				found[protocol] = append(found[protocol], map[string]any{"port": local.Port()})
			}
		}
	}
	list := func(name string, all []any) map[string]any {
		return map[string]any{name: append([]any{}, all[:min(len(all), maxListed)]...), "total": len(all)}
	}
	metrics = map[string]any{
		"listening_tcp_ports": list("ports", found["tcp"]),
		"listening_udp_ports": list("ports", found["udp"]),
		"tcp_connections":     map[string]any{"established_connections": list("connections", found[established])},
	}
	if now, err = r.traffic(); err != nil {
		return nil, nil, err
	}
	stats := map[string]uint64{}
	for name := range counters {
		if r.last != nil && now[name] >= r.last[name] {
			stats[name] = now[name] - r.last[name]
		}
	}
	if len(stats) == len(counters) { // no interface has gone
		metrics["network_stats"] = stats
	}
	return metrics, now, nil
}

// counters has the columns of /proc/net/dev, proc_pid_net(5), by AWS's names.
var counters = map[string]int{"bytes_in": 1, "packets_in": 2, "bytes_out": 9, "packets_out": 10}

// traffic counts what went over all interfaces but the loopback.
func (r *Reporter) traffic() (map[string]uint64, error) {
	lines, err := r.lines("dev")
	sum := map[string]uint64{}
	for _, fields := range lines {
		if len(fields) < 11 || fields[0] == "lo:" {
			continue
		}
		for name, column := range counters {
			n, _ := strconv.ParseUint(fields[column], 10, 64) // none in the lines of the heading
			sum[name] += n
		}
	}
	return sum, err
}

func (r *Reporter) lines(file string) (lines [][]string, err error) {
	text, err := os.ReadFile(filepath.Join(cmp.Or(r.Net, "/proc/net"), file))
	for line := range strings.Lines(string(text)) {
		lines = append(lines, strings.Fields(line))
	}
	return lines, err
}

// address reads ADDRESS:PORT in hexadecimal digits; the address is in words of the machine's byte
// order.
func address(text string) netip.AddrPort {
	words, number, _ := strings.Cut(text, ":")
	octets, err := hex.DecodeString(words)
	port, portErr := strconv.ParseUint(number, 16, 16)
	if err != nil || portErr != nil || len(octets)%4 != 0 {
		return netip.AddrPort{}
	}
	for word := range slices.Chunk(octets, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, _ := netip.AddrFromSlice(octets)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port))
}
