package localcore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/records"
	"example.com/fleety/device/localcore/registry"
)

// credentialFiles are what a device needs, with their modes.
var credentialFiles = map[string]fs.FileMode{
	"root.ca.bundle.pem":                 0o644,
	"fleet-provisioning.certificate.pem": 0o644,
	"fleet-provisioning.private.key":     0o600,
	"fleet-provisioning.public.key":      0o644,
	"device.yaml":                        0o644,
}

func readAll(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for name := range credentialFiles {
		if name == "device.yaml" {
			continue // its port changes
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(data)
	}
	return files
}

func TestCredentialsAreWrittenWithTheirModes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "certs", "local")
	s := start(t, localcore.Config{Credentials: dir})
	for name, mode := range credentialFiles {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), mode)
		}
	}
	files := readAll(t, dir)
	if files["fleet-provisioning.certificate.pem"] != string(s.Claim().CertificatePEM) || files["root.ca.bundle.pem"] != string(s.RootPEM()) {
		t.Error("the files are not those of the server")
	}
}

func TestWrittenConfigurationIsThatOfTheDevice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, localcore.Config{Credentials: dir})
	c, err := config.Load(t.Context(), config.Sources{Path: filepath.Join(dir, "device.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	host, port := s.Endpoint()
	if c.Server.Endpoint != host || c.Server.Port != port || c.Bootstrap.ProvisioningTemplate != localcore.TemplateName {
		t.Errorf("server %+v, template %q", c.Server, c.Bootstrap.ProvisioningTemplate)
	}
	for want, path := range map[string]string{
		"fleet-provisioning.certificate.pem": c.Bootstrap.CertificatePath,
		"fleet-provisioning.private.key":     c.Bootstrap.PrivateKeyPath,
		"root.ca.bundle.pem":                 c.Bootstrap.CACertificatePath,
	} {
		if path != filepath.Join(dir, want) {
			t.Errorf("%s is read from %s", want, path)
		}
	}
}

func TestConfigurationThatTheUserChangedIsKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "device.yaml")
	const own = "serialNumber: \"29746850\"\n"
	if err := os.WriteFile(path, []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, localcore.Config{Credentials: filepath.Dir(path)})
	if got, err := os.ReadFile(path); err != nil || string(got) != own {
		t.Errorf("the file is %q, %v", got, err)
	}
}

func TestStateKeepsClaimRootThingsAndDevices(t *testing.T) {
	t.Parallel()
	state, dir := t.TempDir(), t.TempDir()
	config := localcore.Config{State: state, Credentials: dir, Templates: templates, HookFunc: allowEvery}
	s := start(t, config)
	before := readAll(t, dir)
	name, tls := enroll(t, s, "2974685")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, config)
	if diff := cmp.Diff(before, readAll(t, dir)); diff != "" {
		t.Error(diff)
	}
	if _, err := s.Registry().DescribeThing(name); err != nil {
		t.Error(err)
	}
	mustDial(t, s, name, tls)
	dialClaim(t, s)
}

// The clock is read before each change of the registry: a kill there leaves what is copied here.
func TestKilledFirstStartLeavesNoClaimWithoutKeyOrPolicy(t *testing.T) {
	t.Parallel()
	state, left := t.TempDir(), t.TempDir()
	var mu sync.Mutex
	instants := 0
	s := start(t, localcore.Config{State: state, FastIssuer: true, Now: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range []string{"registry.db", "claim.json"} {
			data, err := os.ReadFile(filepath.Join(state, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(left, fmt.Sprint(instants)+name), data, 0o600)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
		instants++
		return time.Now()
	}})
	s.Claim()
	mu.Lock()
	defer mu.Unlock()
	for i := range instants {
		path := filepath.Join(left, fmt.Sprint(i))
		r, err := registry.Open(path+"registry.db", registry.Options{})
		if err != nil {
			continue // not made yet
		}
		kept, _ := os.ReadFile(path + "claim.json")
		for _, c := range r.ListCertificates() {
			policies, err := r.ListAttachedPolicies(registry.CertificateTarget(c.ID), false)
			if !strings.Contains(string(kept), c.ID) || len(policies) != 1 {
				t.Errorf("instant %d of %d: certificate %s has policies %v, %v; the claim is %.80s", i, instants, c.ID, policies, err, kept)
			}
		}
		r.Close()
	}
}

func TestDeactivatedClaimStaysInactiveAcrossRestarts(t *testing.T) {
	t.Parallel()
	config := localcore.Config{State: t.TempDir()}
	s := start(t, config)
	if err := s.Registry().UpdateCertificate(s.Claim().CertificateID, registry.Inactive); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, config)
	if c, _ := s.Registry().CertificateByID(s.Claim().CertificateID); c.Status != registry.Inactive {
		t.Errorf("the claim is %s", c.Status)
	}
}

func TestForeignClaimIsNotOverwritten(t *testing.T) {
	t.Parallel()
	used := t.TempDir()
	if err := start(t, localcore.Config{Credentials: used}).Close(); err != nil {
		t.Fatal(err)
	}
	foreign := start(t, localcore.Config{}).Claim().CertificatePEM
	for name, dir := range map[string]string{"new": t.TempDir(), "used by the emulator before": used} {
		key := filepath.Join(dir, "fleet-provisioning.private.key")
		for path, data := range map[string][]byte{key: []byte("of a real account"), filepath.Join(dir, "fleet-provisioning.certificate.pem"): foreign} {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := localcore.Start(t.Context(), localcore.Config{Credentials: dir}); err == nil {
			s.Close()
			t.Errorf("%s: started", name)
		} else if !strings.Contains(err.Error(), key) {
			t.Errorf("%s: error %v", name, err)
		}
		if data, err := os.ReadFile(key); err != nil || string(data) != "of a real account" {
			t.Errorf("%s: the key was overwritten", name)
		}
	}
}

func TestCredentialsOfAnEarlierRunAreReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 2 {
		s := start(t, localcore.Config{Credentials: dir})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, dir)["root.ca.bundle.pem"]; got != string(s.RootPEM()) {
			t.Error("the root is not that of the latest run")
		}
	}
}

func TestSecondServerOnOneStateIsRejected(t *testing.T) {
	t.Parallel()
	config := localcore.Config{State: t.TempDir()}
	start(t, config)
	if _, err := localcore.Start(t.Context(), config); !errors.Is(err, records.ErrLocked) {
		t.Errorf("error %v", err)
	}
}

// A disk that failed or was full leaves files like these, which bbolt reads without a look.
func TestDamagedStateIsAnErrorOfTheStart(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	s := start(t, localcore.Config{State: state})
	for i := range 6 { // so that files have several pages
		path := fmt.Sprintf("/topics/a%d?qos=1&retain=true", i)
		if status, answer := call(t, s, "POST", path, strings.Repeat("x", 5000)); status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
		if status, answer := call(t, s, "POST", fmt.Sprintf("/things/a%d/shadow", i), `{"state":{"reported":{"x":"`+strings.Repeat("x", 5000)+`"}}}`); status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	const page = 4096
	for _, name := range []string{"registry.db", "services.db", "broker.db"} {
		whole, err := os.ReadFile(filepath.Join(state, name))
		if err != nil {
			t.Fatal(err)
		}
		failed := 0
		for at := page / 2; at < len(whole); at += page {
			for _, damaged := range [][]byte{
				whole[:at],
				slices.Concat(whole[:at/page*page], make([]byte, page), whole[at/page*page+page:]),
				slices.Concat(whole[:at/page*page+8], bytes.Repeat([]byte{0xff}, page-8), whole[at/page*page+page:]),
			} {
				damagedState := t.TempDir()
				if err := os.CopyFS(damagedState, os.DirFS(state)); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(damagedState, name), damaged, 0o600); err != nil {
					t.Fatal(err)
				}
				s, err := localcore.Start(t.Context(), localcore.Config{State: damagedState}) // must not panic
				if errors.Is(err, records.ErrDamaged) {
					failed++
				}
				if err != nil {
					continue
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		}
		if failed == 0 {
			t.Errorf("no damage of %s was found", name)
		}
	}
}

// copyTemplates copies the shipped files and spoils one of them.
func copyTemplates(t *testing.T, name string, spoil func([]byte) []byte) string {
	t.Helper()
	dir := t.TempDir()
	for _, file := range []string{"fleet_template.json", "claim_policy.json", "device_policy.json"} {
		data, err := os.ReadFile(filepath.Join(templates, file))
		if err != nil {
			t.Fatal(err)
		}
		if file == name {
			data = spoil(data)
		}
		if data == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestBadTemplatesStopTheStartWithFileAndPlace(t *testing.T) {
	t.Parallel()
	replace := func(old, new string) func([]byte) []byte {
		return func(data []byte) []byte { return bytes.Replace(data, []byte(old), []byte(new), 1) }
	}
	for name, test := range map[string]struct {
		file  string
		spoil func([]byte) []byte
		want  string
	}{
		"missing file":         {"device_policy.json", func([]byte) []byte { return nil }, "no such file"},
		"bad JSON":             {"claim_policy.json", replace("[", "("), "claim_policy.json:3:16: $: not JSON"},
		"bad effect":           {"claim_policy.json", replace("Allow", "Permit"), "claim_policy.json:6:17: $.Statement[0].Effect"},
		"unknown function":     {"fleet_template.json", replace("Fn::Join", "Fn::Base64"), "fleet_template.json:18:23: "},
		"unknown section":      {"fleet_template.json", replace("Mappings", "Conditions"), "fleet_template.json:7:"},
		"reference to nothing": {"fleet_template.json", replace(`"Ref": "serialNumber"`, `"Fn::FindInMap": ["Nope", "a", "b"]`), "fleet_template.json:18:78: "},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyTemplates(t, test.file, test.spoil)
			s, err := localcore.Start(t.Context(), localcore.Config{Templates: dir})
			if err == nil {
				s.Close()
				t.Fatal("it started")
			}
			for _, part := range []string{filepath.Join(dir, test.file), test.want} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
		})
	}
}

// A place is that in the file, though placeholders before it have become longer or shorter by then.
func TestFaultsArePlacedInTheFileAsItIs(t *testing.T) {
	t.Parallel()
	const document = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "iot:Connect",
  "Resource": "arn:${AWS::Partition}:iot:${AWS::Region}:${AWS::AccountId}:client/é", "Condition": 7}}`
	_, err := localcore.Config{}.ParsePolicy("policy.json", []byte(document))
	if want := "policy.json:2:99: $.Statement.Condition: "; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %q does not begin with %q", err, want)
	}
	if _, ok := errors.AsType[*policy.SyntaxError](err); !ok {
		t.Errorf("%T wraps no SyntaxError", err)
	}
}

func TestPlaceholdersAreFilledInAndVariablesStay(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, Account: "210987654321", Region: "eu-central-1", Partition: "aws-x"})
	for _, name := range []string{localcore.ClaimPolicyName, localcore.DevicePolicyName} {
		p, err := s.Registry().GetPolicy(name)
		if err != nil {
			t.Fatal(err)
		}
		text := p.Default().Document
		if strings.Contains(text, "${AWS::") || strings.Contains(text, "${TemplateName}") || !strings.Contains(text, "arn:aws-x:iot:eu-central-1:210987654321:") {
			t.Errorf("%s: %s", name, text)
		}
		if name == localcore.DevicePolicyName && !strings.Contains(text, "${iot:Connection.Thing.ThingName}") {
			t.Errorf("%s lost its variables", name)
		}
	}
}

func TestChangedTemplatesReplaceThoseOfTheState(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	for i := range 8 { // more than there may be versions
		dir := copyTemplates(t, "", nil)
		for _, file := range []string{"fleet_template.json", "device_policy.json"} {
			path := filepath.Join(dir, file)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			data = append(data, strings.Repeat("\n", i)...)
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s := start(t, localcore.Config{State: state, Templates: dir})
		stored, err := s.Registry().DescribeProvisioningTemplate(localcore.TemplateName)
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Registry().GetPolicy(localcore.DevicePolicyName)
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"template": stored.Default().Body, "policy": p.Default().Document} {
			if got := len(text) - len(strings.TrimRight(text, "\n")); got != i+1 {
				t.Errorf("start %d: the %s has %d newlines at its end", i, name, got)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What was changed through the API stays until the templates change.
func TestRestartKeepsWhatWasChangedOfTheTemplates(t *testing.T) {
	t.Parallel()
	state, dir := t.TempDir(), copyTemplates(t, "", nil)
	config := localcore.Config{State: state, Templates: dir, HookFunc: allowEvery}
	const document = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Connect","Resource":"*"}]}`
	versions := func(s *localcore.Server) (policy, template int, description string) {
		t.Helper()
		p, err := s.Registry().GetPolicy(localcore.DevicePolicyName)
		stored, templateErr := s.Registry().DescribeProvisioningTemplate(localcore.TemplateName)
		if err := errors.Join(err, templateErr); err != nil {
			t.Fatal(err)
		}
		return p.DefaultVersion, stored.DefaultVersion, stored.Description
	}
	s := start(t, config)
	stored, _ := s.Registry().DescribeProvisioningTemplate(localcore.TemplateName)
	_, err := s.Registry().CreatePolicyVersion(localcore.DevicePolicyName, document, true)
	_, templateErr := s.Registry().CreateProvisioningTemplateVersion(localcore.TemplateName, stored.Default().Body+"\n", true)
	err = errors.Join(err, templateErr, s.Registry().UpdateProvisioningTemplate(localcore.TemplateName, registry.ProvisioningTemplateUpdate{
		Description: new("mine"),
	}), s.Close())
	if err != nil {
		t.Fatal(err)
	}
	s = start(t, config)
	if policy, template, description := versions(s); policy != 2 || template != 2 || description != "mine" {
		t.Errorf("after a restart: versions %d and %d, description %q", policy, template, description)
	}
	if err := errors.Join(s.Close(), os.WriteFile(filepath.Join(dir, "device_policy.json"), []byte(document), 0o644)); err != nil {
		t.Fatal(err)
	}
	if policy, template, description := versions(start(t, config)); policy != 2 || template != 3 || description != "" {
		t.Errorf("with another policy: versions %d and %d, description %q", policy, template, description)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: a retained
// message stays until an empty one removes it.
func TestStateKeepsRetainedMessages(t *testing.T) {
	t.Parallel()
	config := localcore.Config{State: t.TempDir()}
	s := start(t, config)
	retain := func(topic, payload string) {
		t.Helper()
		if status, answer := call(t, s, "POST", "/topics/"+topic+"?qos=1&retain=true", payload); status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
	}
	retain("kept", "1")
	retain("kept", "2")
	retain("removed", "x")
	retain("removed", "")
	_, kept := call(t, s, "GET", "/retainedMessage/kept", "") // with the milliseconds of its time
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, config)
	if status, answer := call(t, s, "GET", "/retainedMessage/kept", ""); status != 200 || answer != kept || !strings.Contains(answer, `"Mg=="`) {
		t.Errorf("kept: %d %s, before %s", status, answer, kept)
	}
	if status, answer := call(t, s, "GET", "/retainedMessage/removed", ""); status != 404 {
		t.Errorf("removed: %d %s", status, answer)
	}
}
