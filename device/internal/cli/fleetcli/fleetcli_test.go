package fleetcli_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/cli/fleetcli"
	"example.com/fleety/device/internal/term"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// run runs iot_fleet and returns its exit code and what it wrote.
func run(args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = cli.Main(fleetcli.Program(), args, term.New(strings.NewReader(""), &o, &e, nil))
	return code, o.String(), e.String()
}

// startEmulator starts an emulator in a new current directory, with a configuration for it.
func startEmulator(t *testing.T) *localcore.Server {
	t.Helper()
	templates, err := filepath.Abs("../../../../templates")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	core, err := localcore.Start(t.Context(), localcore.Config{Templates: templates, Credentials: "certs"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { core.Close() })
	host, port := core.Endpoint()
	text := fmt.Sprintf("serialNumber: \"2974685\"\ndeviceLocation: USA\nserver: {endpoint: %s, port: %d, proxy: direct}\n", host, port)
	if err := os.WriteFile("device.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return core
}

// TestEveryCommandOnAnEmulator enrolls in two shards, merges, and cleans up.
func TestEveryCommandOnAnEmulator(t *testing.T) {
	core := startEmulator(t)
	for shard := 1; shard <= 2; shard++ {
		code, out, errs := run("enroll", "-n", "5", "-c", "device.yaml", "--keep", "fleet", "--shard", fmt.Sprintf("%d/2", shard), "--report", fmt.Sprintf("%d.json", shard))
		if code != 0 || !strings.Contains(out, "enrolled") {
			t.Fatalf("exit %d\n%s%s", code, out, errs)
		}
	}
	code, out, errs := run("report", "1.json", "2.json", "--report", "all.json", "--html", "all.html", "--json")
	var merged fleet.Report
	if err := json.Unmarshal([]byte(out), &merged); code != 0 || err != nil || merged.Counts.Enrolled != 5 {
		t.Errorf("exit %d, %v, %+v\n%s", code, err, merged.Counts, errs)
	}
	if page, err := os.ReadFile("all.html"); err != nil || !bytes.Contains(page, []byte("<svg")) {
		t.Errorf("the page: %v, %.100s", err, page)
	}
	for _, test := range []struct {
		flag, want string
		left       int
	}{
		{"--json=false", "5 certificates and 5 things would be removed (dry run)", 6},
		{"--delete", "5 certificates and 5 things removed", 1},
		{"--delete", "0 certificates and 0 things removed; 5 already removed or not found", 1},
	} {
		code, out, errs := run("cleanup", "all.json", "--endpoint-url", core.APIURL(), test.flag)
		if left := len(core.Registry().ListCertificates()); code != 0 || !strings.Contains(out, test.want) || left != test.left {
			t.Errorf("exit %d, %d certificates are left\n%s%s", code, left, out, errs)
		}
	}
}

// TestConfigurationOfHardwareKeysEnrollsSoftwareDevices has the configuration of a device with a
// TPM, which removes its claim afterwards.
func TestConfigurationOfHardwareKeysEnrollsSoftwareDevices(t *testing.T) {
	startEmulator(t)
	code, out, errs := run("enroll", "-n", "2", "-c", "device.yaml", "--set", "bootstrap.keys=tpm", "--set", "bootstrap.afterwards=remove", "--set", "bootstrap.eager=true")
	if code != 0 || !strings.Contains(out, "2 devices enrolled") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if _, err := os.Stat("certs/fleet-provisioning.private.key"); err != nil {
		t.Errorf("the claim's key: %v", err)
	}
}

// The configuration of a real device serves a fleet on another machine, which has not its serial
// number.
func TestSerialNumberOfTheConfigurationIsNotRead(t *testing.T) {
	startEmulator(t)
	text, err := os.ReadFile("device.yaml")
	if err != nil {
		t.Fatal(err)
	}
	own := strings.Replace(string(text), `serialNumber: "2974685"`, "serialNumberFrom: {program: /nonexistent}\nthingname: fleety_1", 1)
	if err := os.WriteFile("device.yaml", []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := run("enroll", "-n", "2", "-c", "device.yaml"); code != 0 {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
}

// TestReconnectScenario enrolls with the hidden spelling, and has all devices reconnect.
func TestReconnectScenario(t *testing.T) {
	startEmulator(t)
	code, out, errs := run("enrol", "-n", "4", "-c", "device.yaml", "--hold", "8s", "--reconnect-after", "500ms", "--reconnect-window", "1s", "--curves", "x25519,P256",
		"--set", "server.proxy=direct", "--json")
	var r fleet.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || r.Hold == nil || r.Hold.Reconnect == nil || r.Hold.Reconnect.Returned != 4 {
		t.Errorf("exit %d, %v\n%s%s", code, err, out, errs)
	}
	if r.Version == "" || !strings.HasPrefix(r.CommandLine, "iot_fleet enrol -n 4") || len(r.ClaimCertificateID) != 64 {
		t.Errorf("provenance %q %q %q", r.Version, r.CommandLine, r.ClaimCertificateID)
	}
}

// TestReportOfAnEarlierRunIsKept enrolls as one that is resumed: cleanup needs the reports of both runs.
func TestReportOfAnEarlierRunIsKept(t *testing.T) {
	core := startEmulator(t)
	for _, n := range []string{"1", "3", "3"} {
		if code, out, errs := run("enroll", "-n", n, "-c", "device.yaml", "--keep", "fleet", "--report", "launch.v1.json"); code != 0 {
			t.Fatalf("exit %d\n%s%s", code, out, errs)
		}
	}
	reports, err := filepath.Glob("launch.v1*.json")
	if err != nil || len(reports) != 3 || !slices.Contains(reports, "launch.v1.json") {
		t.Fatalf("reports %q, %v", reports, err)
	}
	for _, path := range reports {
		if code, out, errs := run("cleanup", path, "--delete", "--endpoint-url", core.APIURL()); code != 0 {
			t.Errorf("exit %d\n%s%s", code, out, errs)
		}
	}
	if n := len(core.Registry().ListCertificates()); n != 1 {
		t.Errorf("%d certificates, where only the claim's should be", n)
	}
	// What is no report is replaced, as before; so is the result of "report".
	if err := os.WriteFile("launch.v1.json", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	run("enroll", "-n", "1", "-c", "device.yaml", "--report", "launch.v1.json")
	run("report", reports[0], "--report", "launch.v1.json")
	if again, err := filepath.Glob("launch.v1*.json"); err != nil || len(again) != 3 {
		t.Errorf("reports %q, %v", again, err)
	}
}

// TestRevokeFromCSVAndByGroup works on devices that enroll has made.
func TestRevokeFromCSVAndByGroup(t *testing.T) {
	core := startEmulator(t)
	if code, out, errs := run("enroll", "-n", "3", "-c", "device.yaml"); code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	if err := os.WriteFile("stolen.csv", []byte("note,thingName\nlost,fleety_2974680000002\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	statuses := func() string {
		var list []string
		for i := 1; i <= 3; i++ {
			attached, err := core.Registry().ListThingPrincipals(fmt.Sprintf("fleety_297468000000%d", i))
			if err != nil {
				t.Fatal(err)
			}
			c, _ := core.Registry().CertificateByID(attached[0].CertificateID)
			list = append(list, string(c.Status))
		}
		return strings.Join(list, " ")
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"stolen.csv"}, "ACTIVE ACTIVE ACTIVE"},
		{[]string{"stolen.csv", "--apply", "--resume", "done.txt"}, "ACTIVE REVOKED ACTIVE"},
		{[]string{"--thing-group", "fleet-provisioning-group", "--deactivate", "--apply"}, "INACTIVE REVOKED INACTIVE"},
		{[]string{"--thing-type", "fleety", "--apply"}, "REVOKED REVOKED REVOKED"},
	} {
		code, out, errs := run(append([]string{"revoke", "--endpoint-url", core.APIURL()}, test.args...)...)
		if got := statuses(); code != 0 || got != test.want {
			t.Errorf("%v: exit %d, %s, want %s\n%s%s", test.args, code, got, test.want, out, errs)
		}
	}
	if err := os.WriteFile("misspelt.csv", []byte("serialNumber\n2974680000002\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"revoke", "rotate"} {
		if code, out, errs := run(command, "misspelt.csv", "--endpoint-url", core.APIURL()); code != 0 || !strings.Contains(out, "2974680000002: skipped: ") {
			t.Errorf("%s of what does not exist: exit %d\n%s%s", command, code, out, errs)
		}
	}
	// A script must see that a device of its list was left as it was.
	if err := os.WriteFile("claim.csv", []byte(core.Claim().CertificateID+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		flag string
		code int
	}{{"--apply=false", 0}, {"--apply", 1}} {
		code, out, errs := run("revoke", "claim.csv", "--json", test.flag, "--endpoint-url", core.APIURL())
		if code != test.code || !strings.Contains(out, `"kept":1`) {
			t.Errorf("revoke of a claim, %s: exit %d\n%s%s", test.flag, code, out, errs)
		}
	}
	// Another operation's journal is not taken for this one's.
	if code, _, _ := run("revoke", "--endpoint-url", core.APIURL(), "--thing-type", "fleety", "--apply", "--resume", "done.txt"); code != 2 {
		t.Errorf("exit %d for the journal of another operation", code)
	}
	// What is done in a rehearsal is not done in the account.
	elsewhere := strings.Replace(core.APIURL(), "127.0.0.1", "localhost", 1)
	if code, _, _ := run("revoke", "stolen.csv", "--endpoint-url", elsewhere, "--apply", "--resume", "done.txt"); code != 2 {
		t.Errorf("exit %d for the journal of another endpoint", code)
	}
	code, out, errs := run("cleanup", "--all-of-type", "fleety", "--delete", "--endpoint-url", core.APIURL(), "--json")
	if n := len(core.Registry().ListCertificates()); code != 0 || n != 1 || !strings.Contains(out, `"things":3`) {
		t.Errorf("exit %d, %d certificates are left\n%s%s", code, n, out, errs)
	}
}

// A full is a standard output on a full disk.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// TestRotateHasThingsDoAJob works on devices without an agent.
func TestRotateHasThingsDoAJob(t *testing.T) {
	core := startEmulator(t)
	for _, command := range []string{"rotate", "revoke"} {
		if code := cli.Main(fleetcli.Program(), []string{command, "--thing-type", "fleety", "--endpoint-url", core.APIURL()}, term.New(strings.NewReader(""), full{}, io.Discard, nil)); code != 1 {
			t.Errorf("%s whose result cannot be written: exit %d", command, code)
		}
	}
	if code, out, errs := run("enroll", "-n", "3", "-c", "device.yaml"); code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	rotate := func(args ...string) (int, string, string) {
		return run(append([]string{"rotate", "--thing-type", "fleety", "--endpoint-url", core.APIURL(), "--job", "night"}, args...)...)
	}
	if code, out, errs := rotate(); code != 0 || !strings.Contains(out, "3 things would have a job (dry run)") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	code, out, errs := rotate("--apply", "--json")
	var result struct {
		Applied bool
		Things  int
		Jobs    []string
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil || code != 0 || !result.Applied || result.Things != 3 || len(result.Jobs) != 1 {
		t.Errorf("exit %d, %v\n%s%s", code, err, out, errs)
	}
	if code, out, errs := rotate("--apply", "--wait", "10ms"); code != 4 || !strings.Contains(out, "3 QUEUED") || !strings.Contains(errs, "10ms (--wait)") || strings.Contains(errs, "context") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	for i := range 101 { // more than are listed
		if _, err := core.Registry().CreateThing(registry.Thing{Name: fmt.Sprintf("lamp_%d", i), Type: "fleety"}); err != nil {
			t.Fatal(err)
		}
	}
	again := []string{"--apply", "--rate", "1000", "--resume", "done.txt"}
	if code, out, errs := rotate(again...); code != 0 {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	client := iot.New(iot.Options{BaseEndpoint: aws.String(core.APIURL()), Region: "us-east-1", Credentials: aws.AnonymousCredentials{}})
	jobs, err := client.ListJobs(t.Context(), &iot.ListJobsInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs.Jobs {
		if _, err := client.CancelJob(t.Context(), &iot.CancelJobInput{JobId: j.JobId}); err != nil {
			t.Fatal(err)
		}
	}
	// The jobs of the run before are waited for.
	if code, out, errs := rotate(append(again, "--wait", "1m")...); code != 1 || !strings.Contains(out, "104 CANCELED") || !strings.Contains(errs, "104 devices") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
}

// TestControlPlaneThatCannotBeUsedIsFoundAtOnce would otherwise be found once per device.
func TestControlPlaneThatCannotBeUsedIsFoundAtOnce(t *testing.T) {
	for _, name := range []string{
		"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_ENDPOINT_URL",
	} {
		t.Setenv(name, "")
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	revoke := func(args ...string) (int, string, string) {
		return run(append([]string{"revoke", "--thing-type", "T"}, args...)...)
	}
	if code, out, errs := revoke(); code != 2 || out != "" || !strings.Contains(errs, "AWS_REGION") {
		t.Errorf("without a Region: exit %d\n%s%s", code, out, errs)
	}
	t.Setenv("AWS_REGION", "eu-west-1")
	if code, out, errs := revoke(); code != 2 || out != "" || !strings.Contains(errs, "AWS_PROFILE") {
		t.Errorf("without credentials: exit %d\n%s%s", code, out, errs)
	}
	if code, out, errs := revoke("--endpoint-url", "http://127.0.0.1:1"); code != 4 || out != "" {
		t.Errorf("without a server: exit %d\n%s%s", code, out, errs)
	}
	empty := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer empty.Close()
	list := filepath.Join(t.TempDir(), "list.csv")
	if err := os.WriteFile(list, []byte(strings.Repeat("0af1", 16)), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := run("revoke", list, "--endpoint-url", empty.URL); code != 4 || !strings.Contains(out, "1 failed") {
		t.Errorf("without content: exit %d\n%s%s", code, out, errs)
	}
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	t.Setenv("AWS_CONFIG_FILE", "config")
	t.Chdir(t.TempDir())
	text := "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = keys\n[profile keys]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = secret\n"
	if err := os.WriteFile("config", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		profile, region string
		status          int
		body            string // of every answer: in the form of AWS IoT, of STS, or of something between
		code            int
	}{
		"no such profile":             {"other", "eu-west-1", 200, "", 2},
		"a Region that is none":       {"keys", "eu west 1", 200, "", 2},
		"no role of the machine":      {"", "eu-west-1", 404, "", 2},
		"denied":                      {"keys", "eu-west-1", 403, `{"__type":"AccessDeniedException"}`, 3},
		"expired":                     {"keys", "eu-west-1", 403, `{"__type":"ExpiredTokenException"}`, 3},
		"throttled":                   {"keys", "eu-west-1", 400, `{"__type":"ThrottlingException"}`, 4},
		"throttled, in another word":  {"keys", "eu-west-1", 400, `{"__type":"Throttling"}`, 4},
		"too many requests":           {"keys", "eu-west-1", 429, "", 4},
		"down":                        {"keys", "eu-west-1", 503, "<html>", 4},
		"cut off":                     {"keys", "eu-west-1", 200, `{"things":[`, 4},
		"closed":                      {"keys", "eu-west-1", 0, "", 4},
		"a role that is denied":       {"role", "eu-west-1", 403, "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>", 3},
		"a role that is throttled":    {"role", "eu-west-1", 400, "<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>", 4},
		"a role that is out of reach": {"role", "eu-west-1", 0, "", 4},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if test.status == 0 {
					panic(http.ErrAbortHandler)
				}
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			}))
			defer server.Close()
			for _, name := range []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS", "AWS_EC2_METADATA_SERVICE_ENDPOINT"} {
				t.Setenv(name, server.URL)
			}
			t.Setenv("AWS_PROFILE", test.profile)
			t.Setenv("AWS_REGION", test.region)
			code, out, errs := revoke("--log-format", "json")
			if code != test.code || out != "" {
				t.Errorf("exit %d\n%s%s", code, out, errs)
			}
			for line := range strings.Lines(errs) {
				if !json.Valid([]byte(line)) {
					t.Errorf("not JSON: %s", line)
				}
			}
		})
	}
}

// TestInvalidInputGivesOneErrorLine demands one line of error, an exit code, and that nothing was
// begun.
func TestInvalidInputGivesOneErrorLine(t *testing.T) {
	core := startEmulator(t)
	enroll := func(args ...string) []string { return append([]string{"enroll", "-c", "device.yaml"}, args...) }
	if err := errors.Join(os.WriteFile("file", nil, 0o600), os.WriteFile("things.csv", []byte("T\n"), 0o600), makeFIFO("fifo"), os.Symlink(".", "linked")); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no number":              {enroll(), 2, `"devices" not set`},
		"less than none":         {enroll("-n", "-1"), 2, "error: --devices -1"},
		"absurdly many":          {enroll("-n", "99999999999"), 2, "error: --devices 99999999999"},
		"outside the prefix":     {enroll("-n", "2", "--first", "1234567"), 2, "error: --first 1234567"},
		"leaving the prefix":     {enroll("-n", "9", "--first", "2974685"), 2, "error: --first 2974685"},
		"no concurrency":         {enroll("-n", "1", "--concurrency", "0"), 2, "--concurrency 0"},
		"absurd concurrency":     {enroll("-n", "1", "--concurrency", "9999999"), 2, "error: --concurrency 9999999"},
		"a rate of zero":         {enroll("-n", "1", "--rate", "0"), 2, "--rate 0"},
		"no rate at all":         {enroll("-n", "1", "--rate", "NaN"), 2, "error: --rate NaN"},
		"an interval of nothing": {enroll("-n", "1", "--interval", "1us"), 2, "error: --interval 1µs"},
		"a negative hold":        {enroll("-n", "1", "--hold", "-1s"), 2, "error: --hold -1s"},
		"no such shard":          {enroll("-n", "1", "--shard", "3/2"), 2, `: --shard "3/2"`},
		"unknown quotas":         {enroll("-n", "1", "--quotas", "most"), 2, "--quotas most"},
		"unknown quota":          {enroll("-n", "1", "--quota", "Wishes=3"), 2, "Wishes=3"},
		"AWS by mistake":         {enroll("-n", "1", "--set", "server.endpoint=a1b2-ats.iot.eu-west-1.amazonaws.com"), 2, "--yes-this-is-aws"},
		"AWS by another name":    {enroll("-n", "1", "--set", "server.endpoint=A1B2-ATS.IOT.cn-north-1.AMAZONAWS.COM.CN"), 2, "--yes-this-is-aws"},
		"kept in a file":         {enroll("-n", "1", "--keep", "file"), 1, "file"},
		"report into nowhere":    {enroll("-n", "1", "--report", "none/r.json"), 2, "none/r.json"},
		"report over a folder":   {enroll("-n", "1", "--report", "certs"), 2, "certs"},
		"no configuration":       {[]string{"enroll", "-n", "1", "-c", "none.yaml"}, 2, "none.yaml"},
		"a plan of nothing":      {[]string{"plan"}, 2, `"devices" not set`},
		"a plan without quotas":  {[]string{"plan", "-n", "1", "--quotas", "off"}, 2, "--quotas off"},
		"a plan of no quota":     {[]string{"plan", "-n", "1", "--quotas", "off", "--quota", "connect=0"}, 2, "--quotas off"},
		"one file for both":      {enroll("-n", "1", "--report", "r", "--html", "./r"), 2, "--html ./r"},
		"one through a link":     {enroll("-n", "1", "--report", "r", "--html", "linked/r"), 2, "--html linked/r"},
		"a FIFO of things":       {[]string{"revoke", "fifo"}, 2, "fifo"},
		"a FIFO as report":       {[]string{"report", "fifo"}, 2, "fifo"},
		"a FIFO as journal":      {[]string{"revoke", "things.csv", "--apply", "--resume", "fifo", "--endpoint-url", core.APIURL()}, 2, "fifo"},
		"unknown curve":          {enroll("-n", "1", "--curves", "P999"), 2, "--curves"},
		"cleanup of both":        {[]string{"cleanup", "r.json", "--all-of-type", "T"}, 2, "--all-of-type"},
		"cleanup of nothing":     {[]string{"cleanup"}, 2, "--all-of-type"},
		"cleanup at no rate":     {[]string{"cleanup", "--all-of-type", "T", "--rate", "0"}, 2, "--rate 0"},
		"revoke at any rate":     {[]string{"revoke", "--thing-type", "T", "--rate", "1e9"}, 2, fmt.Sprint(fleet.MaxRate)},
		"revoke on AWS":          {[]string{"revoke", "--thing-type", "T", "--apply"}, 2, "--yes-this-is-aws"},
		"revoke at no URL":       {[]string{"revoke", "--thing-type", "T", "--apply", "--endpoint-url", "iot.eu-west-1.amazonaws.com"}, 2, "--endpoint-url"},
		"revoke of nobody":       {[]string{"revoke"}, 2, "FILE.csv"},
		"revoke of two":          {[]string{"revoke", "--thing-type", "T", "--thing-group", "G"}, 2, "FILE.csv"},
		"revoke of no type":      {[]string{"revoke", "--thing-type", "flety", "--apply", "--endpoint-url", core.APIURL()}, 3, "type flety"},
		"revoke of no group":     {[]string{"revoke", "--thing-group", "flety", "--apply", "--endpoint-url", core.APIURL()}, 3, "group flety"},
		"rotate of no type":      {[]string{"rotate", "--thing-type", "flety", "--apply", "--endpoint-url", core.APIURL()}, 3, "type flety"},
		"cleanup of no type":     {[]string{"cleanup", "--all-of-type", "flety", "--delete", "--endpoint-url", core.APIURL()}, 3, "type flety"},
		"revoke of no file":      {[]string{"revoke", "none.csv"}, 2, "none.csv"},
		"revoke of a bad file":   {[]string{"revoke", "device.yaml"}, 2, "device.yaml"},
		"rotate on AWS":          {[]string{"rotate", "--thing-type", "T", "--apply"}, 2, "--yes-this-is-aws"},
		"rotate of nobody":       {[]string{"rotate"}, 2, "FILE.csv"},
		"rotate without a wait":  {[]string{"rotate", "--thing-type", "T", "--apply", "--wait", "-1s"}, 2, "--wait -1s: want a duration of 0 or more"},
		"rotate of a bad name":   {[]string{"rotate", "--thing-type", "T", "--job", "a/b"}, 2, "--job"},
		"no report":              {[]string{"report", "none.json"}, 2, "none.json"},
		"not a report":           {[]string{"report", "device.yaml"}, 2, "device.yaml"},
		"cleanup of no report":   {[]string{"cleanup", "none.json"}, 2, "none.json"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := run(test.args...)
			first, rest, _ := strings.Cut(errs, "\n")
			if code != test.code || out != "" || !strings.Contains(first, test.want) || strings.Contains(rest, "error:") {
				t.Errorf("exit %d, stdout %q\n%s", code, out, errs)
			}
		})
	}
	if n := len(core.Registry().ListCertificates()); n != 1 {
		t.Errorf("%d certificates, where only the claim's should be", n)
	}
}

func TestFailedDevicesGiveExitCodeAndReport(t *testing.T) {
	startEmulator(t)
	code, out, errs := run("enroll", "-n", "2", "-c", "device.yaml", "--timeout", "3s", "--set", "bootstrap.provisioningTemplate=Other")
	if code == 0 || !strings.Contains(out, "none of 2 devices enrolled") || !strings.Contains(errs, "none of 2 devices enrolled") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
}

// TestEveryEndWritesReport ends the binary by Ctrl-C, as the system does that asks it to terminate, and
// as a terminal that is closed: the shell then sends the signal once more. Neither nohup nor a reader
// of the progress that is gone ends it.
func TestEveryEndWritesReport(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	binary := filepath.Join(t.TempDir(), "iot_fleet")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../../cmd/iot_fleet")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // else programs inherit it ignored where nohup runs the tests
	defer signal.Stop(hangups)
	for name, test := range map[string]struct {
		shell  string            // runs the program
		nohup  bool              // it survives the end of its terminal
		unread bool              // nobody reads the progress any more
		ends   [2]syscall.Signal // the second at once after the first; 0 for none
	}{
		"Ctrl-C":          {ends: [2]syscall.Signal{syscall.SIGINT}},
		"shutdown":        {ends: [2]syscall.Signal{syscall.SIGTERM}},
		"closed terminal": {ends: [2]syscall.Signal{syscall.SIGHUP, syscall.SIGHUP}},
		"nohup":           {shell: `trap "" HUP; exec "$@"`, nohup: true, ends: [2]syscall.Signal{syscall.SIGINT}},
		"no reader":       {unread: true, ends: [2]syscall.Signal{syscall.SIGINT}},
	} {
		t.Run(name, func(t *testing.T) {
			core := startEmulator(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "sh", "-c", cmp.Or(test.shell, `exec "$@"`), "sh", binary,
				"enroll", "-n", "100000", "-c", "device.yaml", "--report", "r.json", "--concurrency", "4", "--log-level", "info")
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			if test.unread {
				reader, writer, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				reader.Close()
				defer writer.Close()
				cmd.Stderr = writer
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			await := func(thing string) {
				if _, err := core.AwaitThing(ctx, thing); err != nil {
					t.Fatal(err)
				}
			}
			await("fleety_2974680000020")
			if test.nohup {
				_ = cmd.Process.Signal(syscall.SIGHUP)
				await("fleety_2974680000100")
			}
			for _, sig := range test.ends {
				_ = cmd.Process.Signal(sig) // 0 does nothing
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != 130 || !test.unread && !strings.Contains(errs.String(), "interrupted") {
				t.Errorf("exit %d\n%s", code, errs.String())
			}
			f, err := os.Open("r.json")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			r, err := fleet.ReadReport(f)
			if err != nil || r.Counts.Enrolled == 0 || r.Counts.NotStarted == 0 || !strings.Contains(out.String(), "not started") {
				t.Errorf("%v, report %+v\n%s", err, r, out.String())
			}
		})
	}
}

// TestOneIsNoPlural reads what the commands say of a single device.
func TestOneIsNoPlural(t *testing.T) {
	core := startEmulator(t)
	api := core.APIURL()
	if err := os.WriteFile("one.csv", []byte("fleety_2974680000001\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("gone.csv", []byte("Gone\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plural := regexp.MustCompile(`(?m)(^|[^0-9.])1 (held )?(devices|things|certificates|connections|messages|attempts|times|columns|no longer exist\b).*`)
	for _, line := range []string{
		"enroll -n 1 -c device.yaml --report r.json --html r.html",
		"enroll -n 1 -c device.yaml --first 2974680000002 --hold 500ms --interval 300ms --reconnect-after 100ms --reconnect-window 100ms --html held.html",
		"enroll -n 1 -c device.yaml --timeout 1s",
		"rotate one.csv --endpoint-url " + api, "rotate one.csv --apply --endpoint-url " + api, "rotate gone.csv --endpoint-url " + api,
		"revoke one.csv --endpoint-url " + api, "cleanup r.json --endpoint-url " + api, "cleanup r.json --delete --endpoint-url " + api,
	} {
		_, out, errs := run(strings.Fields(line)...)
		for _, path := range []string{"r.html", "held.html"} {
			page, _ := os.ReadFile(path)
			out += string(page)
		}
		if found := plural.FindString(out + errs); found != "" {
			t.Errorf("%s: %q", line, found)
		}
	}
}

// TestClosedOutputStopsNoChange has head or less read what a command prints: a dry run may end with
// them, but no device is left half-way.
func TestClosedOutputStopsNoChange(t *testing.T) {
	core := startEmulator(t)
	if err := os.WriteFile("things.csv", []byte("T\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE) // which is ignored since other tests
	signal.Stop(pipes)
	for _, args := range [][]string{nil, {"--apply"}} {
		code, _, errs := run(append([]string{"revoke", "things.csv", "--endpoint-url", core.APIURL()}, args...)...)
		if code != 0 || signal.Ignored(syscall.SIGPIPE) != (args != nil) {
			t.Errorf("%v: exit %d, %t: %s", args, code, signal.Ignored(syscall.SIGPIPE), errs)
		}
	}
}

// TestPlanHasPlainNumbers plans with a quota of five digits.
func TestPlanHasPlainNumbers(t *testing.T) {
	code, out, errs := run("plan", "-n", "1000", "--quotas", "off", "--quota", "PUBLISH=60000", "--quota", "CONNECT=90000")
	if code != 0 || !strings.Contains(out, "135000 per second") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
}
