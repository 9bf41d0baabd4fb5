package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
)

// startEmulator starts an emulator in this process, to use its knobs, and returns it with a
// directory that a device can run in.
func startEmulator(t *testing.T) (*localcore.Server, string) {
	t.Helper()
	dir := t.TempDir()
	server, err := localcore.Start(t.Context(), localcore.Config{
		Templates: templates, Hook: filepath.Join(binDir, "hook"), Credentials: filepath.Join(dir, "certs"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	writeConfig(t, dir, "2974685", server)
	return server, dir
}

func writeConfig(t *testing.T, dir, serial string, server *localcore.Server) {
	t.Helper()
	host, port := server.Endpoint()
	doc := fmt.Sprintf("serialNumber: %q\ndeviceLocation: USA\nserver: {endpoint: %s, port: %d}\n", serial, host, port)
	if err := os.WriteFile(filepath.Join(dir, ".simple-go-iot-device.yaml"), []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A process is a run of iot_device.
type process struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
}

func startDevice(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.CommandContext(t.Context(), filepath.Join(racingDir, "iot_device"), args...)}
	p.Dir, p.Stdout, p.Stderr = dir, &p.stdout, &p.stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// exit waits for the process and returns its exit code.
func (p *process) exit(t *testing.T) int {
	t.Helper()
	err := p.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return p.ProcessState.ExitCode()
}

func runDevice(t *testing.T, dir string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	p := startDevice(t, dir, args...)
	code = p.exit(t)
	return code, p.stdout.String(), p.stderr.String()
}

func awaitEvent(t *testing.T, server *localcore.Server, match func(localcore.Event) bool) localcore.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	e, err := server.AwaitEvent(ctx, match)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// finalFiles returns the files of identities in certs/.
func finalFiles(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "certs", "fleety_*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestInterruptLeavesNothingHalfWrittenAndTheNextRunGoesOn(t *testing.T) {
	t.Parallel()
	operations := map[string]awsiot.Operation{
		"while a certificate is made":   awsiot.CreateCertificateFromCSR,
		"while the thing is registered": awsiot.RegisterThing,
	}
	for name, operation := range operations {
		for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
			t.Run(fmt.Sprintf("%s, %v", name, sig), func(t *testing.T) {
				server, dir := startEmulator(t)
				server.Faults.Set(func(e localcore.Exchange) localcore.Fault {
					return localcore.Fault{DropReply: e.Operation == operation && e.Number == 1}
				})
				p := startDevice(t, dir, "bootstrap", "--json")
				awaitEvent(t, server, func(e localcore.Event) bool {
					return e.Operation == string(operation) || e.Type == localcore.Issued && operation == awsiot.CreateCertificateFromCSR ||
						e.Type == localcore.Provisioned && operation == awsiot.RegisterThing
				})
				sent := time.Now()
				if err := p.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
				if code := p.exit(t); code != 130 {
					t.Fatalf("exit code %d, want 130\n%s", code, &p.stderr)
				}
				if took := time.Since(sent); took > 5*time.Second {
					t.Errorf("took %s to end", took)
				}
				if p.stdout.Len() > 0 || !strings.Contains(p.stderr.String(), "iot_device: error: interrupted\n") {
					t.Errorf("stdout %q, stderr %q", &p.stdout, &p.stderr)
				}
				if files := finalFiles(t, dir); len(files) > 0 {
					t.Errorf("an interrupted run left %q", files)
				}
				checkNextRun(t, dir)
			})
		}
	}
}

// checkNextRun checks that a run succeeds and leaves one whole identity.
func checkNextRun(t *testing.T, dir string) {
	t.Helper()
	code, stdout, stderr := runDevice(t, dir, "bootstrap", "--json")
	if code != 0 {
		t.Fatalf("the next run: exit code %d\n%s", code, stderr)
	}
	var result struct{ ThingName, CertificateID string }
	if err := json.Unmarshal([]byte(stdout), &result); err != nil {
		t.Fatal(err)
	}
	if result.ThingName != "fleety_2974685" || len(finalFiles(t, dir)) != 3 {
		t.Errorf("the next run: %+v with files %q", result, finalFiles(t, dir))
	}
}

// The reader of the log may end before the device, as a logger that is updated.
func TestDeviceOutlivesTheReaderOfItsLog(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"bootstrap", "run"} {
		t.Run(command, func(t *testing.T) {
			server, dir := startEmulator(t)
			reader, log, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			reader.Close()
			defer log.Close()
			p := exec.CommandContext(t.Context(), filepath.Join(racingDir, "iot_device"), command, "--set", "agent.socket=s", "--log-level", "debug")
			p.Dir, p.Stderr = dir, log
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- p.Wait() }()
			if command == "run" {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				connected := make(chan error, 1)
				go func() {
					connections := 0 // the first one verifies the identity
					_, err := server.AwaitEvent(ctx, func(e localcore.Event) bool {
						if e.Type == localcore.Connected && e.ClientID == "fleety_2974685" {
							connections++
						}
						return connections == 2
					})
					connected <- err
				}()
				select {
				case err := <-connected:
					if err := errors.Join(err, p.Process.Signal(syscall.SIGTERM)); err != nil {
						t.Fatal(err)
					}
				case err := <-ended:
					t.Fatal("the agent has ended: ", err)
				}
			}
			if err := <-ended; err != nil || len(finalFiles(t, dir)) != 3 {
				t.Errorf("%v, left %q", err, finalFiles(t, dir))
			}
		})
	}
}

func TestSecondInterruptEndsAtOnce(t *testing.T) {
	l, dir := silentServer(t)
	p := startDevice(t, dir, "bootstrap")
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The first one may end it, in which case the second finds nobody.
	_ = p.Process.Signal(os.Interrupt)
	_ = p.Process.Signal(os.Interrupt)
	if code := p.exit(t); code != 130 && code != -1 {
		t.Errorf("exit code %d", code)
	}
}

// silentServer accepts and says nothing, with a device directory that points to it.
func silentServer(t *testing.T) (net.Listener, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	dir := t.TempDir()
	if err := writeClaim(filepath.Join(dir, "certs"), "valid"); err != nil {
		t.Fatal(err)
	}
	doc := fmt.Sprintf("serialNumber: \"2974685\"\ndeviceLocation: USA\nserver: {endpoint: localhost, port: %d}\n", l.Addr().(*net.TCPAddr).Port)
	if err := os.WriteFile(filepath.Join(dir, ".simple-go-iot-device.yaml"), []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	return l, dir
}

func TestOfTwoRunsAtOnceTheSecondNamesTheFirst(t *testing.T) {
	t.Parallel()
	l, dir := silentServer(t)
	first := startDevice(t, dir, "bootstrap")
	conn, err := l.Accept() // the first run has the lock now
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	code, stdout, stderr := runDevice(t, dir, "bootstrap")
	if want := fmt.Sprintf("process %d", first.Process.Pid); code != 4 || stdout != "" || !strings.Contains(stderr, want) {
		t.Errorf("exit code %d, stdout %q, stderr %q; want 4 and %q", code, stdout, stderr, want)
	}
	_, status, _ := runDevice(t, dir, "status", "--json")
	t.Logf("status meanwhile: %s", status)
	_ = first.Process.Signal(os.Interrupt)
	if code := first.exit(t); code != 130 {
		t.Errorf("the first run: exit code %d", code)
	}
}

// Of many runs at once exactly one may register the thing.
func TestManyRunsAtOnceMakeOneIdentity(t *testing.T) {
	server, dir := startEmulator(t)
	var runs []*process
	for range 5 {
		runs = append(runs, startDevice(t, dir, "bootstrap", "--json"))
	}
	provisioned := 0
	for _, p := range runs {
		switch code := p.exit(t); code {
		case 0:
			provisioned += strings.Count(p.stdout.String(), `"provisioned":true`)
		case 4: // another one was at it
		default:
			t.Errorf("exit code %d\n%s", code, &p.stderr)
		}
	}
	if provisioned != 1 || len(finalFiles(t, dir)) != 3 {
		t.Errorf("%d runs provisioned, files %q", provisioned, finalFiles(t, dir))
	}
	if _, err := server.AwaitThing(t.Context(), "fleety_2974685"); err != nil {
		t.Error(err)
	}
}

func TestMosquittoCanUseTheDevicesTopicAndNoOther(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is missing; install the Debian package mosquitto-clients", tool)
			}
			t.Skipf("%s is missing; install the Debian package mosquitto-clients", tool)
		}
	}
	server, dir := startEmulator(t)
	if code, _, stderr := runDevice(t, dir, "bootstrap"); code != 0 {
		t.Fatalf("bootstrap: exit code %d\n%s", code, stderr)
	}
	const own, down = "fleet/fleety_2974685", "fleet/fleety_2974685/down/hello"
	t.Run("own topic, downwards", func(t *testing.T) {
		sub := mosquitto(t, server, dir, "mosquitto_sub", "-i", "fleety_2974685", "-t", down, "-q", "1", "-C", "1", "-W", "20")
		out, err := sub.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := sub.Start(); err != nil {
			t.Fatal(err)
		}
		awaitEvent(t, server, func(e localcore.Event) bool { return e.Type == localcore.Subscribed && e.Topic == down })
		publishAsAWS(t, server, down, "hello")
		got, _ := io.ReadAll(out)
		if err := sub.Wait(); err != nil || strings.TrimSpace(string(got)) != "hello" {
			t.Errorf("received %q, %v", got, err)
		}
	})
	t.Run("publishing", func(t *testing.T) {
		if out, err := mosquitto(t, server, dir, "mosquitto_pub", "-i", "fleety_2974685", "-t", own, "-m", "hi", "-q", "1").CombinedOutput(); err != nil {
			t.Errorf("own topic: %v\n%s", err, out)
		}
	})
	denied := map[string][]string{
		"publishing elsewhere":       {"mosquitto_pub", "-i", "fleety_2974685", "-t", "fleet/fleety_1", "-m", "hi", "-q", "1"},
		"subscribing elsewhere":      {"mosquitto_sub", "-i", "fleety_2974685", "-t", "fleet/#", "-C", "1", "-W", "5"},
		"connecting as someone else": {"mosquitto_pub", "-i", "fleety_1", "-t", own, "-m", "hi", "-q", "1"},
	}
	action := map[string]localcore.Action{
		"publishing elsewhere":       localcore.ActionPublish,
		"subscribing elsewhere":      localcore.ActionSubscribe,
		"connecting as someone else": localcore.ActionConnect,
	}
	for name, args := range denied {
		t.Run(name, func(t *testing.T) {
			cmd := mosquitto(t, server, dir, args[0], args[1:]...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// The tools connect again and again: what the emulator reports counts.
			e := awaitEvent(t, server, func(e localcore.Event) bool { return e.Type == localcore.Rejected && e.Action == action[name] })
			if e.Reason == "" {
				t.Errorf("denied without a reason: %+v", e)
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
}

// publishAsAWS publishes through the HTTPS API, as a backend would: a second client under the
// device's id would end the first.
func publishAsAWS(t *testing.T, server *localcore.Server, topic, message string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.APIURL()+"/topics/"+url.PathEscape(topic)+"?qos=1", strings.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("publishing: %s", response.Status)
	}
}

func mosquitto(t *testing.T, server *localcore.Server, dir, tool string, args ...string) *exec.Cmd {
	t.Helper()
	host, port := server.Endpoint()
	cmd := exec.CommandContext(t.Context(), tool, slices.Concat([]string{
		"-h", host, "-p", fmt.Sprint(port), "--cafile", "certs/root.ca.bundle.pem",
		"--cert", "certs/fleety_2974685.certificate.pem", "--key", "certs/fleety_2974685.private.key",
	}, args)...)
	cmd.Dir = dir
	return cmd
}
