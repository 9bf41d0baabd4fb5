package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/hook/payload"
)

// The two flows, as the configuration names them.
var flows = []string{"device", "service"}

// A cloud is an emulator with the files that a claim needs.
type cloud struct {
	*localcore.Server
	credentials string
}

func startCloud(t testing.TB, change ...func(*localcore.Config)) *cloud {
	t.Helper()
	c := &cloud{credentials: filepath.Join(t.TempDir(), "claim")}
	config := localcore.Config{
		Templates:   filepath.Join("..", "..", "templates"),
		API:         localcore.NoAPI,
		Credentials: c.credentials,
		HookFunc: func(_ context.Context, r payload.Request) (payload.Response, error) {
			serial, _, ok := r.Parameters.String(payload.SerialNumber)
			return payload.Response{AllowProvisioning: ok && strings.HasPrefix(serial, payload.SerialPrefix)}, nil
		},
	}
	for _, f := range change {
		f(&config)
	}
	var err error
	if c.Server, err = localcore.Start(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *cloud) address() string {
	_, port := c.Endpoint()
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// active returns the ids of the thing's ACTIVE certificates.
func (c *cloud) active(t testing.TB, thing string) []string {
	t.Helper()
	attached, err := c.Registry().ListThingPrincipals(thing)
	if e, ok := errors.AsType[*registry.Error](err); ok && e.Code == registry.CodeNotFound {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, a := range attached {
		if cert, ok := c.Registry().CertificateByID(a.CertificateID); ok && cert.Status == registry.Active {
			ids = append(ids, a.CertificateID)
		}
	}
	return ids
}

// checkNothingLeft demands that, once the tokens have expired, no certificates
// are left but the claim, one for each device, and those that were
// deactivated.
func (c *cloud) checkNothingLeft(t testing.TB, devices []*device) {
	t.Helper()
	if _, err := c.ExpireTokens(); err != nil {
		t.Fatal(err)
	}
	wanted := map[string]bool{c.Claim().CertificateID: true}
	for _, d := range devices {
		wanted[d.load(t).Record.CertificateID] = true
	}
	for _, cert := range c.Registry().ListCertificates() {
		if !wanted[cert.ID] && cert.Status != registry.Inactive {
			t.Errorf("certificate %s (%s) is nobody's", cert.ID, cert.Status)
		}
	}
}

// A device is a directory with a configuration, and a binary to run there.
type device struct {
	binary, dir, serial string
	flags               []string  // further ones
	verb                string    // the command; default bootstrap
	hardware            *hardware // where the key is; nil for a file
}

// newDevice makes a device, in a directory of its own below dir, that reaches
// its cloud through a port of this machine.
func newDevice(t testing.TB, binary, dir, serial, flow string, c *cloud, port int) *device {
	t.Helper()
	dir = filepath.Join(dir, serial)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`serialNumber: %q
deviceLocation: USA
server: {endpoint: localhost, port: %d, proxy: direct}
bootstrap:
  keys: %s
  privatekeypath: %[4]s/fleet-provisioning.private.key
  certificatepath: %[4]s/fleet-provisioning.certificate.pem
  cacertificatepath: %[4]s/root.ca.bundle.pem
  provisioningTemplate: GoFleetProvisioningTemplate
`, serial, port, flow, c.credentials)
	if err := os.WriteFile(filepath.Join(dir, "device.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return &device{binary: binary, dir: dir, serial: serial}
}

func (d *device) thing() string { return "fleety_" + d.serial }

// command returns the device's bootstrap, ready to start, and what it will
// have said on stderr.
func (d *device) command(ctx context.Context, env ...string) (*exec.Cmd, *bytes.Buffer) {
	args := []string{"bootstrap", "--config", "device.yaml", "--author", "Wilford Brimley", "--json"}
	if d.verb != "" {
		args = []string{d.verb, "--config", "device.yaml", "--json"}
	}
	cmd := exec.CommandContext(ctx, d.binary, append(args, d.flags...)...)
	cmd.Dir = d.dir
	cmd.Env = slices.Concat(os.Environ(), d.hardware.variables(), env)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	return cmd, &stderr
}

// A site has a cloud and makes devices for it.
type site struct {
	cloud       *cloud
	binary, dir string
	serials     atomic.Int64
}

func newSite(t testing.TB, binary func() (string, error)) *site {
	return &site{cloud: startCloud(t), binary: build(t, binary), dir: t.TempDir()}
}

// device returns a new device that reaches the cloud directly.
func (s *site) device(t testing.TB, flow string) *device {
	t.Helper()
	_, port := s.cloud.Endpoint()
	return s.deviceAt(t, flow, port)
}

// deviceAt returns a new device that reaches the cloud through a port.
func (s *site) deviceAt(t testing.TB, flow string, port int) *device {
	t.Helper()
	keys, hardware := newHardware(t, flow)
	d := newDevice(t, s.binary, s.dir, fmt.Sprintf("297468%05d", s.serials.Add(1)), keys, s.cloud, port)
	d.hardware = hardware
	return d
}

// An outcome is how a run of the binary ended.
type outcome struct {
	code   int // -1 for a signal
	stdout string
	stderr string
	state  *os.ProcessState
	took   time.Duration
	result struct {
		ThingName     string `json:"thingName"`
		CertificateID string `json:"certificateId"`
		Provisioned   bool   `json:"provisioned"`
		RoundTrips    struct {
			Total int `json:"total"`
		} `json:"roundTrips"`
	}
}

// run runs the device to its end.
func (d *device) run(t testing.TB, env ...string) outcome {
	t.Helper()
	cmd, stderr := d.command(t.Context(), env...)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	began := time.Now()
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	d.hardware.processEnded()
	o := outcome{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String(), state: cmd.ProcessState, took: time.Since(began)}
	if o.code == 0 {
		if err := json.Unmarshal(stdout.Bytes(), &o.result); err != nil {
			t.Fatalf("reading the result: %v\n%s", err, stdout.Bytes())
		}
	}
	return o
}

// mustRun runs the device to its end, which must be a good one.
func (d *device) mustRun(t testing.TB) outcome {
	t.Helper()
	o := d.run(t)
	if o.code != 0 {
		t.Fatalf("%s: exit code %d:\n%s", d.serial, o.code, o.stderr)
	}
	return o
}

func (d *device) store(t testing.TB) *identity.Store {
	t.Helper()
	s, err := identity.NewStore(identity.Config{SerialNumber: d.serial, Dir: filepath.Join(d.dir, identity.DefaultDir)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// load returns the device's identity, nil if it has none yet. A half one is an
// error.
func (d *device) load(t testing.TB) *identity.Identity {
	t.Helper()
	if d.hardware != nil {
		return d.loadFromHardware(t)
	}
	id, err := d.store(t).Load()
	if err != nil && !errors.Is(err, identity.ErrNone) {
		t.Fatalf("%s: %v", d.serial, err)
	}
	return id
}

// state says in words what the device has on its disk.
func (d *device) state(t testing.TB) string {
	t.Helper()
	status := d.store(t).Status()
	switch {
	case status.Pending != nil:
		return status.Pending.Stage.String()
	case status.Identity != nil:
		return "identity"
	}
	return identity.Empty.String()
}

// checkWhole demands one identity on the device, the same in the cloud, and
// nothing else at either place.
func (d *device) checkWhole(t testing.TB, c *cloud) {
	t.Helper()
	id := d.load(t)
	if id == nil {
		t.Fatalf("%s: no identity in the end", d.serial)
	}
	if diff := cmp.Diff([]string{id.Record.CertificateID}, c.active(t, d.thing())); diff != "" {
		t.Errorf("%s: the device's certificate (-) is not the thing's only ACTIVE one (+):\n%s", d.serial, diff)
	}
	var files []string
	entries, err := os.ReadDir(filepath.Join(d.dir, identity.DefaultDir))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		files = append(files, strings.TrimPrefix(e.Name(), d.thing()))
	}
	if diff := cmp.Diff([]string{".certificate.pem", ".json", ".private.key"}, files); diff != "" {
		t.Errorf("%s: files of one identity (-) and those that are there (+):\n%s", d.serial, diff)
	}
}
