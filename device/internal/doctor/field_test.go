package doctor_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/internal/doctor"
)

// find returns the check with a cause, or of a name and a result.
func find(r doctor.Report, match func(doctor.Check) bool) (doctor.Check, bool) {
	for _, c := range r.Checks {
		if match(c) {
			return c, true
		}
	}
	return doctor.Check{}, false
}

func TestDeadProxyIsNamed(t *testing.T) {
	p := newPatient(t)
	l := listen(t, func(net.Conn) {})
	l.Close()
	p.settings["server.proxy"] = "http://127.0.0.1:" + port(l)
	report := p.examine(t)
	if c, ok := find(report, func(c doctor.Check) bool { return c.CauseID == "proxy-down" }); !ok || !strings.Contains(c.Cause, "127.0.0.1:") || strings.Contains(c.Remedy, "endpoint") {
		t.Errorf("got:\n%s", c)
	}
}

// A password stands anywhere in an address that is not one.
func TestPasswordOfAMalformedProxyIsNotShown(t *testing.T) {
	for _, proxy := range []string{"someone:hunter2@proxy:3128", "://someone:hunter2@proxy", "http//someone:hunter2@proxy", "http://someone:hunter2@", "http://someone:hunter2@proxy:port"} {
		t.Run(proxy, func(t *testing.T) {
			p := newPatient(t)
			p.settings["server.proxy"] = proxy
			report := p.examine(t)
			noSecrets(t, report)
			if _, _, failed := report.Worst(); !failed {
				t.Error("it is accepted")
			}
		})
	}
}

// Some middleboxes lose a ClientHello of two segments, as ML-KEM makes it.
func TestMiddleboxThatLosesLargeClientHellosIsNamed(t *testing.T) {
	p := newPatient(t)
	_, behind := p.core.Endpoint()
	l := listen(t, func(c net.Conn) {
		hello := make([]byte, 4096)
		n, err := c.Read(hello)
		if err != nil || n > 1400 {
			return
		}
		server, err := redirect(behind)(t.Context(), "tcp", "")
		if err != nil {
			return
		}
		defer server.Close()
		if _, err := server.Write(hello[:n]); err != nil {
			return
		}
		go func() {
			io.Copy(server, c)
			server.(*net.TCPConn).CloseWrite()
		}()
		io.Copy(c, server)
	})
	p.settings["server.port"] = port(l)
	got := results(p.examine(t))
	if got["client-hello"] != doctor.Warn || got["server-certificate"] != doctor.OK {
		t.Errorf("got %v", got)
	}
}

func TestFolderThatOthersMayWriteIsReported(t *testing.T) {
	p := newPatient(t)
	if err := os.Chmod("certs", 0o777); err != nil {
		t.Fatal(err)
	}
	if c, ok := find(p.examine(t), func(c doctor.Check) bool { return c.Name == "identity-files" && c.Result != doctor.OK }); !ok || !strings.Contains(c.Remedy, "chmod") {
		t.Errorf("got:\n%s", c)
	}
}

// A hook may override the serial number, and with it the name of the thing.
func TestThingNameIsComparedOnlyWithTheConfigurations(t *testing.T) {
	p := newPatient(t)
	id := p.provision(t)
	rename(t, id, "fleety_of_the_hook")
	if got := results(p.examine(t))["identity-files"]; got != doctor.OK {
		t.Errorf("a name that the hook gave is %s", got)
	}
	p.settings["thingname"] = "fleety_2974685"
	if got := results(p.examine(t))["identity-files"]; got != doctor.Fail {
		t.Errorf("a name that the configuration does not demand is %s", got)
	}
}

// rename gives an identity on disk another thing name.
func rename(t *testing.T, id *identity.Identity, thing string) {
	t.Helper()
	data, err := os.ReadFile(id.Files.Record)
	if err != nil {
		t.Fatal(err)
	}
	base := strings.TrimSuffix(id.Files.Record, ".json")
	write(t, id.Files.Record, []byte(strings.Replace(string(data), id.Record.ThingName, thing, 1)))
	for _, suffix := range []string{".json", ".certificate.pem", ".private.key"} {
		if err := os.Rename(base+suffix, filepath.Join(filepath.Dir(base), thing+suffix)); err != nil {
			t.Fatal(err)
		}
	}
}

// A full disk may keep the files of an identity from being written: that is no replacement.
func TestIdentityWithoutItsFilesIsShown(t *testing.T) {
	p := newPatient(t)
	id := p.provision(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(id.Files.Certificate)
	must(err)
	key, err := os.ReadFile(id.Files.PrivateKey)
	must(err)
	must(os.RemoveAll("certs/fleety_2974685.json"))
	must(os.RemoveAll(id.Files.Certificate))
	must(os.RemoveAll(id.Files.PrivateKey))
	store, err := identity.NewStore(identity.Config{SerialNumber: "2974685", Dir: "certs"})
	must(err)
	journal, err := store.Begin()
	must(err)
	must(journal.HoldCertificate(identity.Grant{CertificateID: id.Record.CertificateID, CertificatePEM: string(text), PrivateKeyPEM: string(key), Token: "t"}))
	must(journal.Register(identity.Registration{ThingName: id.Record.ThingName, Endpoint: id.Record.Endpoint}))
	must(journal.Commit())
	must(journal.Close())
	report := p.examine(t)
	if c, ok := find(report, func(c doctor.Check) bool { return c.Name == "identity-files" && c.Result == doctor.Warn }); !ok || strings.Contains(c.Remedy, "--discard-pending") {
		t.Errorf("got:\n%s", c)
	}
	if got := results(report); got["device-connect"] != doctor.OK {
		t.Errorf("got %v", got)
	}
}

func TestPendingReplacementIsShown(t *testing.T) {
	p := newPatient(t)
	p.provision(t)
	store, err := identity.NewStore(identity.Config{SerialNumber: "2974685", Dir: "certs"})
	if err != nil {
		t.Fatal(err)
	}
	journal, err := store.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := journal.MakeKey(); err != nil {
		t.Fatal(err)
	}
	if err := journal.Close(); err != nil {
		t.Fatal(err)
	}
	report := p.examine(t)
	if c, ok := find(report, func(c doctor.Check) bool { return c.Name == "identity-files" && c.Result == doctor.Warn }); !ok || !strings.Contains(c.Remedy, "--discard-pending") {
		t.Errorf("got:\n%s", c)
	}
	if _, _, failed := report.Worst(); failed {
		t.Error("a device whose identity works has failed")
	}
}

// A provisioned device may have lost its claim, or given it away.
func TestClaimIsNotNeededOnceThereIsAnIdentity(t *testing.T) {
	p := newPatient(t)
	p.provision(t)
	remove(t, "certs/fleet-provisioning.private.key")
	report := p.examine(t)
	if _, _, failed := report.Worst(); failed || results(report)["claim-files"] != doctor.Skipped {
		t.Errorf("got %v", results(report))
	}
}

func TestRootsThatAreNotAmazonsAreAWarningAtAWS(t *testing.T) {
	p := newPatient(t)
	_, port := p.core.Endpoint()
	p.atAWS(port)
	if c, ok := find(p.examine(t), func(c doctor.Check) bool { return c.Name == "roots" }); !ok || c.Result != doctor.Warn || !strings.Contains(c.Cause, "not Amazon's") {
		t.Errorf("got:\n%s", c)
	}
}

// A server and a file choose some of the text.
func TestReportsHaveNoControlCharacters(t *testing.T) {
	p := newPatient(t)
	p.doctor.Resolve = func(context.Context, string) ([]string, error) {
		return nil, &net.DNSError{Err: "trap\x1b[2J \u009b31m \u202egnp\nfail     disk", IsTimeout: true}
	}
	p.settings["server.endpoint"] = "elsewhere.example"
	report := p.examine(t)
	text, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Checks {
		text = append(text, c.Found+c.Cause+c.Remedy...)
	}
	if i := strings.IndexFunc(string(text), func(r rune) bool { return r < ' ' || r >= 0x7f && r <= 0x9f || r == '\u202e' }); i >= 0 {
		t.Errorf("a control character at %d of %q", i, text)
	}
	if _, ok := find(report, func(c doctor.Check) bool { return c.Name == "dns" && c.Class == awsiot.Temporary.String() }); !ok {
		t.Error("the name service is not reported")
	}
}

// What bootstrap would reject before it asks anything, the doctor reports.
func TestFilesThatWouldOverwriteEachOtherAreReported(t *testing.T) {
	for name, certificate := range map[string]string{"the key": "x/../x/own.key", "the claim": "./certs/fleet-provisioning.certificate.pem", "the configuration": "empty.yaml"} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t)
			p.settings["primary.certificatepath"], p.settings["primary.privatekeypath"] = certificate, "x/own.key"
			report := p.examine(t)
			if c, ok := find(report, func(c doctor.Check) bool { return c.CauseID == "file-conflict" }); !ok || c.Class != awsiot.Misconfigured.String() {
				t.Errorf("got:\n%s", c)
			}
		})
	}
}

// The folder that is tried is the one that the configuration names.
func TestDiskOfTheStateDirectoryIsTried(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "device.yaml", []byte("serialNumber: \"1\"\ndeviceLocation: USA\nstateDir: state\nserver: {endpoint: localhost}\n"))
	write(t, "state", nil) // a file where the folder goes
	settings, err := config.Load(t.Context(), config.Sources{Path: "device.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	report := doctor.Run(t.Context(), doctor.Config{Settings: settings, Timeout: 1})
	if got := results(report)["disk"]; got != doctor.Fail {
		t.Errorf("disk is %s", got)
	}
}

// Whether the device can connect is unknown while its agent hangs with the connection.
func TestAgentThatHangsIsAFailure(t *testing.T) {
	p := newPatient(t)
	p.provision(t)
	p.doctor.Connected = func(context.Context, string) (bool, error) {
		return false, awsiot.WithClass(awsiot.Temporary, errors.New("it does not respond"))
	}
	if c := firstFailure(t, p.examine(t)); c.Name != "device-connect" || c.Class != "temporary" {
		t.Errorf("got %+v", c)
	}
}
