package doctor_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/internal/doctor"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A patient is a device without faults, with a local emulator. Tests add faults.
type patient struct {
	core     *localcore.Server
	settings map[string]string // by key, over those of a healthy device
	doctor   doctor.Config
}

// newPatient works in a directory of its own, since paths of the configuration are relative.
func newPatient(t *testing.T) *patient {
	t.Helper()
	templates, err := filepath.Abs(filepath.Join("..", "..", "..", "templates"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	core, err := localcore.Start(t.Context(), localcore.Config{
		Templates:   templates,
		Credentials: "certs",
		ListenALPN:  "127.0.0.1:0",
		API:         localcore.NoAPI,
		Log:         slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { core.Close() })
	host, port := core.Endpoint()
	return &patient{
		core: core,
		settings: map[string]string{
			"serialNumber":    "2974685",
			"deviceLocation":  "USA",
			"server.endpoint": host,
			"server.port":     strconv.Itoa(port),
			"server.proxy":    config.NoProxy,
		},
		doctor: doctor.Config{Timeout: 5 * time.Second, FileSystem: func(string) string { return "ext4" }},
	}
}

func (p *patient) load(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("empty.yaml", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sources := config.Sources{Path: "empty.yaml"}
	for key, value := range p.settings {
		sources.Flags = append(sources.Flags, config.Setting{Key: key, Value: value, Flag: "--set"})
	}
	p.doctor.Settings, p.doctor.Problems = config.Load(t.Context(), sources)
}

// examine runs the doctor.
func (p *patient) examine(t *testing.T) doctor.Report {
	t.Helper()
	p.load(t)
	report := doctor.Run(t.Context(), p.doctor)
	for _, c := range report.Checks {
		t.Log(c)
	}
	t.Log(report.Verdict())
	return report
}

// provision gives the patient an identity.
func (p *patient) provision(t *testing.T) *identity.Identity {
	t.Helper()
	p.load(t)
	if p.doctor.Problems != nil {
		t.Fatal(p.doctor.Problems)
	}
	c := p.doctor.Settings
	files, _, err := c.Check(true)
	if err != nil {
		t.Fatal(err)
	}
	store, err := identity.NewStore(identity.Config{SerialNumber: c.SerialNumber})
	if err != nil {
		t.Fatal(err)
	}
	done, err := provision.Run(t.Context(), provision.Config{
		Store:      store,
		Session:    session.Options{Endpoint: c.Server.Endpoint, Port: c.Server.Port, RootCAs: files.Roots, Proxy: config.NoProxy},
		Claims:     []*tls.Certificate{files.Claims[0].Certificate},
		Template:   c.Bootstrap.ProvisioningTemplate,
		Parameters: c.TemplateParameters(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return done.Identity
}

// awsEndpoint is a name that an emulator's certificate covers.
const awsEndpoint = "abc123-ats.iot.us-east-1.amazonaws.com"

// atAWS has the patient talk to AWS's name, on a port of this machine.
func (p *patient) atAWS(port int) {
	p.settings["server.endpoint"], p.settings["server.port"] = awsEndpoint, "8883"
	p.doctor.Resolve = func(context.Context, string) ([]string, error) { return []string{"192.0.2.1"}, nil }
	p.doctor.DialContext = redirect(port)
}

// claimCertificate is the id of the patient's claim.
func (p *patient) claimCertificate() string { return p.core.Claim().CertificateID }

// redirect leads every connection to one port of this machine.
func redirect(port int) func(context.Context, string, string) (net.Conn, error) {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
}

// results is what came of each check, by name; of several with one name the worst.
func results(r doctor.Report) map[string]doctor.Result {
	rank := map[doctor.Result]int{doctor.Skipped: 1, doctor.OK: 2, doctor.Warn: 3, doctor.Fail: 4}
	all := map[string]doctor.Result{}
	for _, c := range r.Checks {
		if rank[c.Result] > rank[all[c.Name]] {
			all[c.Name] = c.Result
		}
	}
	return all
}

func TestHealthyDevice(t *testing.T) {
	p := newPatient(t)
	p.provision(t)
	_, port := p.core.Endpoint()
	want := map[string]doctor.Result{
		"configuration":             doctor.OK,
		"endpoint":                  doctor.Skipped,
		"roots":                     doctor.OK,
		"claim-files":               doctor.OK,
		"identity-files":            doctor.OK,
		"clock":                     doctor.OK,
		"dns":                       doctor.OK,
		fmt.Sprintf("tcp-%d", port): doctor.OK,
		"tcp-443":                   doctor.Skipped,
		"server-certificate":        doctor.OK,
		"alpn":                      doctor.Skipped,
		"claim-certificate":         doctor.OK,
		"claim-connect":             doctor.OK,
		"claim-subscribe":           doctor.OK,
		"template":                  doctor.OK,
		"device-certificate":        doctor.OK,
		"device-connect":            doctor.OK,
		"device-subscribe":          doctor.OK,
		"disk":                      doctor.OK,
	}
	report := p.examine(t)
	if diff := cmp.Diff(want, results(report)); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
	if _, _, ok := report.Worst(); ok || report.Result != doctor.OK {
		t.Errorf("a healthy device has the result %s", report.Result)
	}
}

// Each case makes one thing wrong. The check that finds it names the cause, and every check that
// does not depend on it is still made.
func TestFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		harm    func(t *testing.T, p *patient)
		check   string // the first that fails
		class   awsiot.Class
		cause   string   // of that check; empty for a problem of the configuration
		reached []string // checks that must be ok nevertheless
	}{
		"clock is 1970": {
			harm:    func(_ *testing.T, p *patient) { p.doctor.Now = func() time.Time { return time.Unix(3600, 0) } },
			check:   "clock",
			class:   awsiot.Temporary,
			cause:   "clock",
			reached: []string{"server-certificate", "claim-connect", "claim-subscribe", "disk"},
		},
		"clock is behind the claim": {
			harm: func(_ *testing.T, p *patient) {
				p.doctor.Now = func() time.Time { return time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC) }
			},
			check:   "clock",
			class:   awsiot.Temporary,
			cause:   "clock",
			reached: []string{"server-certificate", "claim-connect"},
		},
		"clock is ahead": {
			harm: func(_ *testing.T, p *patient) {
				p.doctor.Now = func() time.Time { return time.Date(2130, 1, 1, 0, 0, 0, 0, time.UTC) }
			},
			check:   "clock",
			class:   awsiot.Temporary,
			cause:   "clock",
			reached: []string{"roots", "claim-files", "server-certificate", "claim-connect"},
		},
		"no TPM for the first key": {
			harm:    func(_ *testing.T, p *patient) { p.settings["bootstrap.keys"] = "tpm:/nonexistent/tpm" },
			check:   "key",
			class:   awsiot.Failed,
			cause:   "tpm-missing",
			reached: []string{"identity-files", "claim-connect", "disk"},
		},
		"endpoint is missing": {
			harm:    func(_ *testing.T, p *patient) { delete(p.settings, "server.endpoint") },
			check:   "configuration",
			class:   awsiot.Misconfigured,
			cause:   "",
			reached: []string{"roots", "claim-files", "clock", "disk"},
		},
		"bundle is missing": {
			harm: func(t *testing.T, p *patient) {
				remove(t, "certs/root.ca.bundle.pem")
				p.settings["bootstrap.cacertificatepath"] = "certs/root.ca.bundle.pem"
			},
			check:   "roots",
			class:   awsiot.Misconfigured,
			cause:   "",
			reached: []string{"claim-files", "dns", "disk"},
		},
		"bundle of another server": {
			harm:    func(t *testing.T, _ *patient) { write(t, "certs/root.ca.bundle.pem", otherEmulator(t).RootPEM()) },
			check:   "server-certificate",
			class:   awsiot.Temporary,
			cause:   "unknown-root",
			reached: []string{"claim-files", "dns", "disk"},
		},
		"key of another claim": {
			harm: func(t *testing.T, _ *patient) {
				write(t, "certs/fleet-provisioning.private.key", anyKey(t))
			},
			check:   "claim-files",
			class:   awsiot.Misconfigured,
			cause:   "",
			reached: []string{"server-certificate", "disk"},
		},
		"claim is inactive": {
			harm: func(t *testing.T, p *patient) {
				if err := p.core.Registry().UpdateCertificate(p.claimCertificate(), registry.Inactive); err != nil {
					t.Fatal(err)
				}
			},
			check:   "claim-certificate",
			class:   awsiot.Denied,
			cause:   "certificate-rejected",
			reached: []string{"claim-files", "server-certificate", "disk"},
		},
		"claim of another account": {
			harm: func(t *testing.T, _ *patient) {
				claim := otherEmulator(t).Claim()
				write(t, "certs/fleet-provisioning.certificate.pem", claim.CertificatePEM)
				write(t, "certs/fleet-provisioning.private.key", claim.PrivateKeyPEM)
			},
			check:   "claim-certificate",
			class:   awsiot.Denied,
			cause:   "certificate-rejected",
			reached: []string{"claim-files", "server-certificate", "disk"},
		},
		"claim without its policy": {
			harm: func(t *testing.T, p *patient) {
				target := registry.CertificateTarget(p.claimCertificate())
				if err := p.core.Registry().DetachPolicy(localcore.ClaimPolicyName, target); err != nil {
					t.Fatal(err)
				}
			},
			check:   "claim-connect",
			class:   awsiot.Denied,
			cause:   "connect-denied",
			reached: []string{"server-certificate", "disk"},
		},
		"template of another name": {
			harm:    func(_ *testing.T, p *patient) { p.settings["bootstrap.provisioningTemplate"] = "Other" },
			check:   "claim-subscribe",
			class:   awsiot.Denied,
			cause:   "topic-denied",
			reached: []string{"claim-connect", "disk"},
		},
		"no such host": {
			harm: func(_ *testing.T, p *patient) {
				p.doctor.Resolve = func(context.Context, string) ([]string, error) {
					return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
				}
			},
			check: "dns",
			class: awsiot.Temporary,
			cause: "name-unknown",
		},
		"name server is silent": {
			harm: func(_ *testing.T, p *patient) {
				p.doctor.Resolve = func(context.Context, string) ([]string, error) {
					return nil, &net.DNSError{Err: "timeout", IsTimeout: true}
				}
			},
			check: "dns",
			class: awsiot.Temporary,
			cause: "name-service",
		},
		"nothing listens": {
			harm: func(t *testing.T, p *patient) {
				l := listen(t, func(net.Conn) {})
				l.Close()
				p.settings["server.port"] = port(l)
			},
			check:   "tcp-",
			class:   awsiot.Temporary,
			cause:   "connection-refused",
			reached: []string{"dns", "disk"},
		},
		"only port 443 is open": {
			harm: func(_ *testing.T, p *patient) {
				p.atAWS(0)
				to443 := redirect(p.core.PortALPN())
				p.doctor.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					if strings.HasSuffix(address, ":443") {
						return to443(ctx, network, address)
					}
					return nil, &net.OpError{Op: "dial", Err: context.DeadlineExceeded}
				}
			},
			check:   "tcp-8883",
			class:   awsiot.Temporary,
			cause:   "port-blocked",
			reached: []string{"dns", "tcp-443", "server-certificate", "alpn", "claim-connect", "claim-subscribe"},
		},
		"captive portal": {
			harm: func(t *testing.T, p *patient) {
				l := listen(t, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: http://login.example\r\n\r\n") })
				p.settings["server.port"] = port(l)
			},
			check:   "server-certificate",
			class:   awsiot.Temporary,
			cause:   "not-tls",
			reached: []string{"dns", "disk"},
		},
		"endpoint of another account": {
			harm: func(_ *testing.T, p *patient) {
				_, port := p.core.Endpoint()
				p.settings["server.endpoint"] = "elsewhere.example"
				p.doctor.Resolve = func(context.Context, string) ([]string, error) { return []string{"192.0.2.1"}, nil }
				p.doctor.DialContext = redirect(port)
			},
			check: "server-certificate",
			class: awsiot.Temporary,
			cause: "wrong-server",
		},
		"proxy wants a password": {
			harm: func(t *testing.T, p *patient) {
				l := listen(t, func(c net.Conn) {
					if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
						io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
					}
				})
				p.settings["server.proxy"] = "http://someone:hunter2@127.0.0.1:" + port(l)
			},
			check:   "tcp-",
			class:   awsiot.Temporary,
			cause:   "proxy-authentication",
			reached: []string{"proxy", "disk"},
		},
		"identity is damaged": {
			harm: func(t *testing.T, p *patient) {
				id := p.provision(t)
				write(t, id.Files.Certificate, []byte("torn"))
			},
			check:   "identity-files",
			class:   awsiot.Failed,
			cause:   "identity-damaged",
			reached: []string{"claim-connect", "disk"},
		},
		"device's certificate is inactive": {
			harm: func(t *testing.T, p *patient) {
				id := p.provision(t)
				if err := p.core.Registry().UpdateCertificate(id.Record.CertificateID, registry.Inactive); err != nil {
					t.Fatal(err)
				}
			},
			check:   "device-certificate",
			class:   awsiot.Denied,
			cause:   "certificate-rejected",
			reached: []string{"claim-connect", "claim-subscribe", "disk"},
		},
		"device without its policy": {
			harm: func(t *testing.T, p *patient) {
				id := p.provision(t)
				target := registry.CertificateTarget(id.Record.CertificateID)
				if err := p.core.Registry().DetachPolicy(localcore.DevicePolicyName, target); err != nil {
					t.Fatal(err)
				}
			},
			check:   "device-connect",
			class:   awsiot.Denied,
			cause:   "connect-denied",
			reached: []string{"claim-connect", "disk"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t)
			tc.harm(t, p)
			report := p.examine(t)
			first := firstFailure(t, report)
			if !strings.HasPrefix(first.Name, tc.check) {
				t.Fatalf("%s is the first to fail, want %s", first.Name, tc.check)
			}
			if first.CauseID != tc.cause || first.Remedy == "" {
				t.Errorf("cause %q, want %q:\n%s", first.CauseID, tc.cause, first)
			}
			if _, class, ok := report.Worst(); !ok || class != tc.class {
				t.Errorf("class is %v, want %v", class, tc.class)
			}
			got := results(report)
			for _, check := range tc.reached {
				if got[check] != doctor.OK {
					t.Errorf("%s is %s, want ok", check, got[check])
				}
			}
			noSecrets(t, report)
		})
	}
}

func TestIdentityInMemoryIsAWarning(t *testing.T) {
	for kind, want := range map[string]doctor.Result{"tmpfs": doctor.Warn, "ramfs": doctor.Warn, "overlayfs": doctor.OK, "unknown": doctor.OK} {
		t.Run(kind, func(t *testing.T) {
			p := newPatient(t)
			p.doctor.FileSystem = func(string) string { return kind }
			if got := results(p.examine(t))["disk"]; got != want {
				t.Errorf("the disk is %s, want %s", got, want)
			}
		})
	}
}

func firstFailure(t *testing.T, r doctor.Report) doctor.Check {
	t.Helper()
	for _, c := range r.Checks {
		if c.Result == doctor.Fail {
			return c
		}
	}
	t.Fatal("nothing failed")
	return doctor.Check{}
}

func noSecrets(t *testing.T, r doctor.Report) {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"PRIVATE KEY", "hunter2"} {
		if strings.Contains(string(data), secret) {
			t.Errorf("%q is in %s", secret, data)
		}
	}
}

func TestWarnings(t *testing.T) {
	for name, tc := range map[string]struct {
		harm  func(t *testing.T, p *patient)
		check string
	}{
		"claim's key is readable by others": {
			harm: func(t *testing.T, _ *patient) {
				if err := os.Chmod("certs/fleet-provisioning.private.key", 0o644); err != nil {
					t.Fatal(err)
				}
			},
			check: "claim-files",
		},
		"device's key is readable by others": {
			harm: func(t *testing.T, p *patient) {
				if err := os.Chmod(p.provision(t).Files.PrivateKey, 0o644); err != nil {
					t.Fatal(err)
				}
			},
			check: "identity-files",
		},
		"identity made elsewhere": {
			harm: func(t *testing.T, p *patient) {
				p.provision(t)
				p.settings["server.endpoint"] = "127.0.0.1"
			},
			check: "identity-files",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t)
			tc.harm(t, p)
			if got := results(p.examine(t))[tc.check]; got != doctor.Warn {
				t.Errorf("%s is %s, want a warning", tc.check, got)
			}
		})
	}
}

func TestAWSEndpointsAreDistinguished(t *testing.T) {
	for endpoint, want := range map[string]doctor.Result{
		"abc123-ats.iot.eu-central-1.amazonaws.com":         doctor.OK,
		"abc123-ats.iot.cn-north-1.amazonaws.com.cn":        doctor.OK,
		"abc123.iot.eu-central-1.amazonaws.com":             doctor.Warn,
		"abc123-ats.iot.eu-central-1.api.aws":               doctor.OK,
		"abc123.credentials.iot.eu-central-1.amazonaws.com": doctor.Fail,
		"abc123.jobs.iot.eu-central-1.amazonaws.com":        doctor.Fail,
		"eu-central-1.console.aws.amazon.com":               doctor.Fail,
		"broker.elb.eu-central-1.amazonaws.com":             doctor.Warn,
		"iot.eu-central-1.amazonaws.com":                    doctor.Fail,
		"localhost":                                         doctor.Skipped,
	} {
		t.Run(endpoint, func(t *testing.T) {
			p := &patient{settings: map[string]string{"serialNumber": "2974685", "deviceLocation": "USA", "server.endpoint": endpoint}}
			p.doctor.Resolve = func(context.Context, string) ([]string, error) { return nil, &net.DNSError{IsTimeout: true} }
			p.doctor.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, io.EOF }
			t.Chdir(t.TempDir())
			if got := results(p.examine(t))["endpoint"]; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// What stands between the device and AWS shows itself by its root.
func TestUnknownRootIsNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		root string
		says string
	}{
		"a bundle that lacks one":     {"Amazon Root CA 1", "the bundle is incomplete"},
		"legacy endpoint":             {"VeriSign Class 3 Public Primary Certification Authority - G5", "legacy endpoint"},
		"a proxy that intercepts TLS": {"Example Corp Inspection CA", "a proxy that intercepts TLS"},
		"a name that is a trap":       {"\x1b[2Jroot", "a proxy that intercepts TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t)
			p.atAWS(impostor(t, tc.root))
			c := firstFailure(t, p.examine(t))
			if c.Name != "server-certificate" || !strings.Contains(c.Found, strings.TrimPrefix(tc.root, "\x1b")) || !strings.Contains(c.Cause, tc.says) {
				t.Errorf("got:\n%s", c)
			}
			if strings.Contains(c.String(), "\x1b") {
				t.Errorf("a control character got through: %q", c)
			}
		})
	}
}

func TestServerWithoutALPN(t *testing.T) {
	p := newPatient(t)
	p.atAWS(impostor(t, "Amazon Root CA 1"))
	p.settings["server.port"] = "443"
	if got := results(p.examine(t))["alpn"]; got != doctor.Fail {
		t.Errorf("alpn is %s", got)
	}
}

// impostor is a TLS server for AWS's name, with a root of the given name. It returns its port.
func impostor(t *testing.T, rootName string) int {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{Subject: pkix.Name{CommonName: rootName}}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{awsEndpoint},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	l := listen(t, func(c net.Conn) { tls.Server(c, config).Handshake() })
	return l.Addr().(*net.TCPAddr).Port
}

// The server's certificate is newer than anything on disk.
func TestClockIsComparedWithTheServer(t *testing.T) {
	p := newPatient(t)
	remove(t, "certs/fleet-provisioning.certificate.pem")
	p.doctor.Now = func() time.Time { return time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC) }
	got := results(p.examine(t))
	if got["clock"] != doctor.Fail || got["server-certificate"] != doctor.OK {
		t.Errorf("got %v", got)
	}
}

func TestWithoutConfigurationTheRestIsSkipped(t *testing.T) {
	t.Chdir(t.TempDir())
	settings, err := config.Load(t.Context(), config.Sources{Path: "none.yaml"})
	report := doctor.Run(t.Context(), doctor.Config{Settings: settings, Problems: err})
	got := results(report)
	for check, want := range map[string]doctor.Result{
		"configuration": doctor.Fail, "clock": doctor.OK, "dns": doctor.Skipped, "disk": doctor.Skipped,
	} {
		if got[check] != want {
			t.Errorf("%s is %s, want %s", check, got[check], want)
		}
	}
	if _, class, _ := report.Worst(); class != awsiot.Misconfigured {
		t.Errorf("class is %v", class)
	}
}

func TestInterruptedRunSkipsTheRest(t *testing.T) {
	p := newPatient(t)
	p.load(t)
	ctx, cancel := context.WithCancel(t.Context())
	p.doctor.Progress = func(c doctor.Check) {
		if c.Name == "dns" {
			cancel()
		}
	}
	got := results(doctor.Run(ctx, p.doctor))
	if got["clock"] != doctor.OK || got["tcp"] != doctor.Skipped || got["device-connect"] != doctor.Skipped {
		t.Errorf("got %v", got)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	p := newPatient(t)
	before, err := os.ReadDir("certs")
	if err != nil {
		t.Fatal(err)
	}
	p.examine(t)
	after, err := os.ReadDir("certs")
	if err != nil {
		t.Fatal(err)
	}
	if len(before) != len(after) {
		t.Errorf("before %v, after %v", before, after)
	}
	if things := p.core.Registry().ListCertificates(); len(things) != 1 {
		t.Errorf("%d certificates are registered", len(things))
	}
}

// anyKey is a private key of nobody's.
func anyKey(t *testing.T) []byte {
	t.Helper()
	_, pem, err := identity.SoftwareKeys{}.New()
	if err != nil {
		t.Fatal(err)
	}
	return pem
}

func otherEmulator(t *testing.T) *localcore.Server {
	t.Helper()
	core, err := localcore.Start(t.Context(), localcore.Config{API: localcore.NoAPI})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { core.Close() })
	return core
}

// listen hands connections to handle, one at a time, until the test ends.
func listen(t *testing.T, handle func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handle(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l
}

func port(l net.Listener) string { return strconv.Itoa(l.Addr().(*net.TCPAddr).Port) }

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
