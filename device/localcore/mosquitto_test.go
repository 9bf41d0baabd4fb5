package localcore_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"example.com/fleety/device/localcore"
)

// The clients of Debian's mosquitto-clients package use a device's own topic and no other.
func TestMosquittoClientsUseTheDevicesTopicOnly(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, tool, "the Debian package mosquitto-clients")
		}
	}
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	name, config := enroll(t, s, "2974685")
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(config.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, data := range map[string][]byte{
		"root.pem": s.RootPEM(),
		"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: config.Certificates[0].Certificate[0]}),
		"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host, port := s.Endpoint()
	mosquitto := func(ctx context.Context, tool, topic string, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, tool, append([]string{
			"-h", host, "-p", strconv.Itoa(port), "-i", name, "-q", "1", "-t", topic, "--cafile", filepath.Join(dir, "root.pem"),
			"--cert", filepath.Join(dir, "cert.pem"), "--key", filepath.Join(dir, "key.pem"),
		}, args...)...)
	}
	watcher := mosquitto(within(t), "mosquitto_sub", "fleet/"+name+"/down/+", "-C", "1")
	var heard strings.Builder
	watcher.Stdout = &heard
	if err := watcher.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AwaitEvent(within(t), func(e localcore.Event) bool { return e.Type == localcore.Subscribed }); err != nil {
		t.Fatal(err)
	}
	if status, answer := call(t, s, "POST", "/topics/fleet/"+name+"/down/hello?qos=1", "hello"); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	if err := watcher.Wait(); err != nil || heard.String() != "hello\n" {
		t.Errorf("heard %q, %v", heard.String(), err)
	}
	if out, err := mosquitto(within(t), "mosquitto_pub", "fleet/"+name, "-m", "x").CombinedOutput(); err != nil {
		t.Errorf("own topic: %v %s", err, out)
	}
	// mosquitto_pub tries again for ever after a silent close, as AWS users know.
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	stranger := mosquitto(ctx, "mosquitto_pub", "fleet/other", "-m", "x")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	awaitRejection(t, s, localcore.ActionPublish, "fleet/other")
	cancel()
	_ = stranger.Wait() // it was killed
}
