package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"example.com/fleety/device/agent"
)

// benchProducers publish at the same time, each waiting for its acknowledgment.
const benchProducers = 32

// BenchmarkPublish measures what producers on the device see while there is no
// network: the agent acknowledges a message that is on the disk. The peer is
// mosquitto as a bridge, whose store is written after every change; it keeps the
// messages of a QoS 1 publish in memory until then, and does not sync.
//
// Once the network is back the agent empties its outbox at no more than the 100
// messages per second that AWS IoT accepts of one connection.
func BenchmarkPublish(b *testing.B) {
	payload := make([]byte, 200)
	s := newSite(b, shipped)
	b.Run("iot_device", func(b *testing.B) {
		link := newLink(b, s.cloud.address(), 0)
		defer link.close()
		a := s.deviceAt(b, "device", link.port()).agent(b)
		a.mustRun(b)
		link.close() // the network is down
		a.start(b)
		produce(b, func(int) func() error {
			client := agent.NewClient(a.socket)
			b.Cleanup(client.Close)
			return func() error { return client.Publish(b.Context(), "telemetry", payload) }
		})
		b.ReportMetric(float64(resident(b, a.cmd.Process.Pid)>>10), "resident-kB")
		a.kill()
	})
	b.Run("mosquitto-bridge", func(b *testing.B) {
		port := stablePort(b)
		dir := b.TempDir()
		config := filepath.Join(dir, "mosquitto.conf")
		writeFile(b, config, fmt.Sprintf(`user root
listener %d 127.0.0.1
allow_anonymous true
persistence true
persistence_location %s/
autosave_on_changes true
autosave_interval 1
max_queued_messages 0
connection aws
address 127.0.0.1:1
topic up/# out 1
`, port, dir), 0o600)
		cmd := exec.CommandContext(b.Context(), needTool(b, "mosquitto"), "-c", config)
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		produce(b, func(i int) func() error {
			options := mqtt.NewClientOptions().AddBroker(fmt.Sprintf("tcp://127.0.0.1:%d", port)).SetClientID(fmt.Sprint("p", i)).SetConnectRetry(true).SetConnectRetryInterval(10 * time.Millisecond)
			client := mqtt.NewClient(options)
			if token := client.Connect(); token.Wait() && token.Error() != nil {
				b.Fatal(token.Error())
			}
			b.Cleanup(func() { client.Disconnect(0) })
			return func() error {
				token := client.Publish("up/telemetry", 1, false, payload)
				token.Wait()
				return token.Error()
			}
		})
		b.ReportMetric(float64(resident(b, cmd.Process.Pid)>>10), "resident-kB")
	})
}

// BenchmarkDrain measures an agent whose link is back after a cut, in which programs have
// published 1,000 messages: how long it waits to connect, at random, how long it then sends,
// 10 seconds at AWS IoT's rate, and what it takes in a minute without work: CPU time in
// parts of one processor, and memory.
func BenchmarkDrain(b *testing.B) {
	const stored = 1000
	s := newSite(b, shipped)
	link := newLink(b, s.cloud.address(), 0)
	defer link.close()
	for b.Loop() {
		a := s.deviceAt(b, "device", link.port()).agent(b)
		a.start(b)
		a.await(b, sent)
		link.setDown(true)
		a.await(b, func(s agent.Status) bool { return !s.Connected })
		for range stored {
			if err := a.client.Publish(b.Context(), "telemetry", make([]byte, 200)); err != nil {
				b.Fatal(err)
			}
		}
		link.setDown(false)
		back := time.Now()
		connected := a.await(b, func(s agent.Status) bool { return s.Connected }).ConnectedSince
		a.await(b, sent)
		b.ReportMetric(connected.Sub(back).Seconds(), "s-connected")
		b.ReportMetric(time.Since(connected).Seconds(), "s-drained")
		before := cpuTime(b, a.cmd.Process.Pid)
		time.Sleep(time.Minute)
		b.ReportMetric(100*(cpuTime(b, a.cmd.Process.Pid)-before).Minutes(), "%CPU-idle")
		b.ReportMetric(float64(resident(b, a.cmd.Process.Pid)>>10), "resident-kB")
		a.stop()
	}
}

// cpuTime returns for how long a process's threads have run, in the kernel too.
func cpuTime(t testing.TB, pid int) (sum time.Duration) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("no schedstat of process %d: %v", pid, err)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		var nanoseconds time.Duration
		if _, scanErr := fmt.Sscan(string(text), &nanoseconds); err != nil || scanErr != nil {
			t.Fatalf("%s: %q, %v", path, text, err)
		}
		sum += nanoseconds
	}
	return sum
}

// produce has the producers publish b.N messages.
func produce(b *testing.B, producer func(int) func() error) {
	b.Helper()
	publish := make([]func() error, benchProducers)
	for i := range publish {
		publish[i] = producer(i)
	}
	work := make(chan struct{})
	var working sync.WaitGroup
	for _, p := range publish {
		working.Go(func() {
			for range work {
				if err := p(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	began := time.Now()
	n := 0
	for b.Loop() {
		work <- struct{}{}
		n++
	}
	close(work)
	working.Wait()
	b.ReportMetric(float64(n)/time.Since(began).Seconds(), "messages/s")
}
