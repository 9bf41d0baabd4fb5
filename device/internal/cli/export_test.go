package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

const thing = "fleety_2974685"

// tool returns the path of a program that a Debian package has.
func tool(t *testing.T, name, debianPackage string) string {
	t.Helper()
	if name == "aws" && testing.Short() {
		t.Skip("the AWS command line takes a second for each command")
	}
	for _, path := range []string{name, filepath.Join("/usr/sbin", name)} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is missing; install the Debian package %s", name, debianPackage)
	}
	t.Skipf("%s is missing; install the Debian package %s", name, debianPackage)
	return ""
}

// startMosquitto starts mosquitto with a bridge and a Unix socket.
func startMosquitto(t *testing.T, bridge string) (socket string) {
	t.Helper()
	broker := tool(t, "mosquitto", "mosquitto")
	dir, err := os.MkdirTemp("", "fleety") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "sock")
	file := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(file, []byte("listener 0 "+socket+"\nallow_anonymous true\nuser root\n"+bridge), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), broker, "-c", file, "-v")
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return socket
}

// without drops the lines that begin so.
func without(text string, settings ...string) string {
	var kept strings.Builder
lines:
	for line := range strings.Lines(text) {
		for _, s := range settings {
			if strings.HasPrefix(line, s+" ") {
				continue lines
			}
		}
		kept.WriteString(line)
	}
	return kept.String()
}

// A bridge of mosquitto carries messages up and down, as it was exported, and with mosquitto's own
// defaults wherever AWS IoT takes them.
func TestMosquittoBridgesWithTheExportedConfiguration(t *testing.T) {
	t.Parallel()
	pub, sub := tool(t, "mosquitto_pub", "mosquitto-clients"), tool(t, "mosquitto_sub", "mosquitto-clients")
	for name, change := range map[string]func(string) string{
		"exported": func(conf string) string { return conf },
		"defaults": func(conf string) string {
			return without(conf, "try_private", "bridge_attempt_unsubscribe", "cleansession", "local_cleansession", "restart_timeout", "bridge_max_packet_size", "bridge_protocol_version")
		},
	} {
		t.Run(name, func(t *testing.T) {
			server, dir := startEmulator(t)
			if code, _, stderr := runDevice(t, dir, "bootstrap"); code != 0 {
				t.Fatalf("bootstrap: exit code %d\n%s", code, stderr)
			}
			code, conf, stderr := runDevice(t, dir, "export", "mosquitto")
			if code != 0 || stderr != "" {
				t.Fatalf("export: exit code %d\n%s", code, stderr)
			}
			socket := startMosquitto(t, change(conf))
			awaitEvent(t, server, func(e localcore.Event) bool {
				return e.Type == localcore.Subscribed && e.ClientID == thing && e.Topic == "fleet/"+thing+"/down/#"
			})
			out, err := exec.CommandContext(t.Context(), pub, "--unix", socket, "-t", "up/telemetry", "-m", "hi", "-q", "2", "-r").CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			awaitEvent(t, server, func(e localcore.Event) bool {
				return e.Type == localcore.Published && e.ClientID == thing && e.Topic == "fleet/"+thing+"/up/telemetry"
			})
			subscriber := exec.CommandContext(t.Context(), sub, "--unix", socket, "-t", "down/command", "-C", "1", "-W", "60")
			var received bytes.Buffer
			subscriber.Stdout = &received
			if err := subscriber.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- subscriber.Wait() }()
			for publishing := true; publishing; { // until the subscriber is there
				publishAsAWS(t, server, "fleet/"+thing+"/down/command", "go")
				select {
				case err := <-ended:
					if publishing = false; err != nil || strings.TrimSpace(received.String()) != "go" {
						t.Errorf("received %q, %v", received.String(), err)
					}
				case <-time.After(50 * time.Millisecond):
				}
			}
			past, cancel := context.WithCancel(t.Context())
			cancel() // no need to wait
			if e, err := server.AwaitEvent(past, func(e localcore.Event) bool { return e.Type == localcore.Rejected }); err == nil {
				t.Errorf("rejected: %+v", e)
			}
		})
	}
}

// The export turns notifications off because AWS IoT rejects their will.
func TestNotificationsOfABridgeAreRejected(t *testing.T) {
	t.Parallel()
	server, dir := startEmulator(t)
	if code, _, stderr := runDevice(t, dir, "bootstrap"); code != 0 {
		t.Fatalf("bootstrap: exit code %d\n%s", code, stderr)
	}
	_, conf, _ := runDevice(t, dir, "export", "mosquitto")
	startMosquitto(t, without(conf, "notifications"))
	awaitEvent(t, server, func(e localcore.Event) bool {
		return e.Type == localcore.Rejected && e.Action == localcore.ActionConnect && e.ClientID == thing
	})
}

func TestExportWritesANewFileOnly(t *testing.T) {
	t.Parallel()
	_, dir := startEmulator(t)
	if code, _, _ := runDevice(t, dir, "export", "env"); code != 2 {
		t.Errorf("without an identity: exit code %d", code)
	}
	if code, _, stderr := runDevice(t, dir, "bootstrap"); code != 0 {
		t.Fatalf("bootstrap: exit code %d\n%s", code, stderr)
	}
	key := filepath.Join(dir, "certs", thing+".private.key")
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if code, _, _ := runDevice(t, dir, "export", "mosquitto", "--output", key); code != 2 {
		t.Errorf("over the private key: exit code %d", code)
	}
	if after, err := os.ReadFile(key); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the private key has changed: %v", err)
	}
	if code, stdout, stderr := runDevice(t, dir, "export", "env", "-o", "env"); code != 0 || stdout != "" {
		t.Errorf("exit code %d, stdout %q\n%s", code, stdout, stderr)
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `. "$1"; cat "$AWS_IOT_PRIVATE_KEY"`, "sh", filepath.Join(dir, "env")).Output()
	if err != nil || !bytes.Equal(out, before) {
		t.Errorf("the variables do not lead to the key: %v", err)
	}
	for _, args := range [][]string{{"export"}, {"export", "other"}, {"export", "env", "env"}, {"export", "greengrass-lite"}} {
		if code, stdout, _ := runDevice(t, dir, args...); code != 2 || stdout != "" {
			t.Errorf("%q: exit code %d", args, code)
		}
	}
	for _, suffix := range []string{"\n", "\xe9"} { // only a shell takes any name of a folder
		odd := dir + suffix
		if err := os.Rename(dir, odd); errors.Is(err, syscall.EILSEQ) {
			continue // macOS has UTF-8 names only
		} else if err != nil {
			t.Fatal(err)
		}
		for _, format := range []string{"mosquitto", "aws-iot-device-client"} {
			if code, stdout, _ := runDevice(t, odd, "export", format); code != 2 || stdout != "" {
				t.Errorf("%s in %q: exit code %d\n%s", format, odd, code, stdout)
			}
		}
		_, variables, _ := runDevice(t, odd, "export", "env")
		out, err := exec.CommandContext(t.Context(), "sh", "-c", variables+`cat "$AWS_IOT_PRIVATE_KEY"`).Output()
		if err != nil || !bytes.Equal(out, before) {
			t.Errorf("the variables in %q do not lead to the key: %v", odd, err)
		}
		if err := os.Rename(odd, dir); err != nil {
			t.Fatal(err)
		}
	}
}

// Without bootstrap.cacertificatepath other programs get the Amazon roots as a file.
func TestExportWritesTheAmazonRoots(t *testing.T) {
	t.Parallel()
	_, dir := startEmulator(t)
	if code, _, stderr := runDevice(t, dir, "bootstrap"); code != 0 {
		t.Fatalf("bootstrap: exit code %d\n%s", code, stderr)
	}
	if err := os.Remove(filepath.Join(dir, "certs", "root.ca.bundle.pem")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time the file is there
		code, stdout, stderr := runDevice(t, dir, "export", "env")
		path := filepath.Join(dir, "certs", "amazon-roots.pem")
		if roots, err := os.ReadFile(path); code != 0 || err != nil || bytes.Count(roots, []byte("BEGIN CERTIFICATE")) < 5 || !strings.Contains(stdout, path) {
			t.Errorf("exit code %d, %v\n%s%s", code, err, stdout, stderr)
		}
	}
}

// allowCredentials lets devices use a role alias.
func allowCredentials(t *testing.T, server *localcore.Server) {
	t.Helper()
	r := server.Registry()
	_, aliasErr := r.CreateRoleAlias(registry.RoleAlias{Name: "device", RoleARN: "arn:aws:iam::123456789012:role/device"})
	if aliasErr != nil {
		t.Fatal(aliasErr)
	}
	addStatement(t, server, `{"Effect": "Allow", "Action": "iot:AssumeRoleWithCertificate", "Resource": "`+server.ARN("rolealias/device")+`"}`)
}

// The AWS command line signs with what "iot_device credentials" prints.
func TestAWSCommandLineUsesTheCredentials(t *testing.T) {
	t.Parallel()
	aws := tool(t, "aws", "awscli")
	server, dir := startEmulator(t)
	if code, _, stderr := runDevice(t, dir, "bootstrap"); code != 0 {
		t.Fatalf("bootstrap: exit code %d\n%s", code, stderr)
	}
	allowCredentials(t, server)
	api, err := url.Parse(server.APIURL())
	if err != nil {
		t.Fatal(err)
	}
	requests := make(chan http.Header, 10)
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		requests <- r.In.Header
		r.SetURL(api)
	}})
	defer proxy.Close()
	settings := filepath.Join(dir, "aws-config")
	process := "[default]\nregion = us-east-1\ncredential_process = " + filepath.Join(binDir, "iot_device") + " credentials --role-alias device --config " +
		filepath.Join(dir, ".simple-go-iot-device.yaml") + " --set server.credentialsEndpoint=" + credentialsEndpoint(server) + " --set agent.socket=" + filepath.Join(dir, "none") + "\n"
	if err := os.WriteFile(settings, []byte(process), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time from the disk
		cmd := exec.CommandContext(t.Context(), aws, "iot", "list-things")
		for _, v := range awsEnvironment(t, proxy.URL) {
			if !strings.HasPrefix(v, "AWS_ACCESS_KEY_ID=") && !strings.HasPrefix(v, "AWS_SECRET_ACCESS_KEY=") && !strings.HasPrefix(v, "AWS_CONFIG_FILE=") {
				cmd.Env = append(cmd.Env, v)
			}
		}
		cmd.Env = append(cmd.Env, "AWS_CONFIG_FILE="+settings)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), thing) {
			t.Fatalf("%v\n%s", err, out)
		}
		if h := <-requests; !strings.Contains(h.Get("Authorization"), "Credential=ASIA") || h.Get("X-Amz-Security-Token") == "" {
			t.Errorf("signed with %q", h)
		}
	}
	given := 0
	past, cancel := context.WithCancel(t.Context())
	cancel()
	_, _ = server.AwaitEvent(past, func(e localcore.Event) bool {
		if e.Operation == "AssumeRoleWithCertificate" && e.Type == localcore.Replied {
			given++
		}
		return false
	})
	if given != 1 {
		t.Errorf("%d requests for credentials", given)
	}
}

func credentialsEndpoint(server *localcore.Server) string {
	host, port := server.Endpoint()
	return net.JoinHostPort(host, strconv.Itoa(port))
}

func TestCredentialsEndWithTheRightExitCode(t *testing.T) {
	t.Parallel()
	server, dir := startEmulator(t)
	endpoint := "server.credentialsEndpoint=" + credentialsEndpoint(server)
	run := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		code, stdout, stderr := runDevice(t, dir, append([]string{"credentials", "--set", "agent.socket=none"}, args...)...)
		if code != want || (code == 0) != (stdout != "") {
			t.Errorf("%q: exit code %d, want %d\n%s", args, code, want, stderr)
		}
		return stdout, stderr
	}
	run(2, "--role-alias", "device", "--set", endpoint) // no identity
	if code, _, stderr := runDevice(t, dir, "bootstrap"); code != 0 {
		t.Fatalf("bootstrap: exit code %d\n%s", code, stderr)
	}
	run(2, "--set", endpoint)
	run(2, "--role-alias", "a b", "--set", endpoint)
	if _, stderr := run(2, "--role-alias", "device"); !strings.Contains(stderr, "aws iot describe-endpoint --endpoint-type iot:CredentialProvider") {
		t.Errorf("without an endpoint: %s", stderr)
	}
	if _, stderr := run(3, "--role-alias", "device", "--set", endpoint); !strings.Contains(stderr, "iot:AssumeRoleWithCertificate") {
		t.Errorf("not allowed: %s", stderr)
	}
	allowCredentials(t, server)
	stdout, stderr := run(0, "--role-alias", "device", "--set", endpoint, "--log-level", "debug")
	var printed struct{ SecretAccessKey, SessionToken string }
	if err := json.Unmarshal([]byte(stdout), &printed); err != nil || printed.SecretAccessKey == "" || printed.SessionToken == "" {
		t.Fatalf("printed %s, %v", stdout, err)
	}
	if strings.Contains(stderr, printed.SecretAccessKey) || strings.Contains(stderr, printed.SessionToken) {
		t.Errorf("a secret is logged: %s", stderr)
	}
	if _, stderr := run(4, "--role-alias", "other", "--set", "server.credentialsEndpoint=localhost:1"); !strings.Contains(stderr, "server.credentialsEndpoint") {
		t.Errorf("nothing listens: %s", stderr)
	}
	if err := server.Registry().DeleteRoleAlias("device"); err != nil {
		t.Fatal(err)
	}
	run(0, "--role-alias", "device", "--set", endpoint) // those on disk
}
