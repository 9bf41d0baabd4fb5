package credentials_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/agent/credentials"
	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/session"
)

const alias = "device"

// A cloud is an emulator with the thing "thing", whose certificate may use the role alias.
type cloud struct {
	*localcore.Server
	identity *identity.Identity
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	s, err := localcore.Start(t.Context(), localcore.Config{Templates: localcore.NoTemplates})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	claim := s.Claim()
	pair, err := claim.TLS()
	if err != nil {
		t.Fatal(err)
	}
	r := s.Registry()
	_, thingErr := r.CreateThing(registry.Thing{Name: "thing"})
	_, aliasErr := r.CreateRoleAlias(registry.RoleAlias{Name: alias, RoleARN: "arn:aws:iam::123456789012:role/device"})
	_, policyErr := r.CreatePolicy("credentials", fmt.Sprintf(
		`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:AssumeRoleWithCertificate", "Resource": %q}]}`, s.ARN("rolealias/*")))
	for _, err := range []error{thingErr, aliasErr, policyErr,
		r.AttachThingPrincipal("thing", claim.CertificateID, registry.NonExclusive),
		r.AttachPolicy("credentials", registry.CertificateTarget(claim.CertificateID))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &cloud{s, &identity.Identity{Record: identity.Record{ThingName: "thing"}, Certificate: pair.Leaf, Key: pair.PrivateKey.(crypto.Signer)}}
}

// provider returns a provider of a process of its own.
func (c *cloud) provider(t *testing.T, dir string) *credentials.Provider {
	host, port := c.Endpoint()
	return &credentials.Provider{
		Session:  session.Options{Endpoint: host, Port: port, RootCAs: c.RootCAs(), Proxy: "direct", Log: slog.New(slog.NewTextHandler(t.Output(), nil))},
		Identity: func() (*identity.Identity, error) { return c.identity, nil },
		Dir:      dir,
	}
}

// providerAt returns a provider that asks another server.
func (c *cloud) providerAt(t *testing.T, server http.HandlerFunc) *credentials.Provider {
	s := httptest.NewTLSServer(server)
	t.Cleanup(s.Close)
	address := s.Listener.Addr().(*net.TCPAddr)
	p := c.provider(t, t.TempDir())
	p.Session.Endpoint, p.Session.Port, p.Session.RootCAs = address.IP.String(), address.Port, x509.NewCertPool()
	p.Session.RootCAs.AddCert(s.Certificate())
	return p
}

// requests counts the requests that were answered with credentials.
func (c *cloud) requests() (n int) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // the past is enough
	_, _ = c.AwaitEvent(ctx, func(e localcore.Event) bool {
		if e.Operation == string(awsiot.AssumeRoleWithCertificate) && e.Type == localcore.Replied {
			n++
		}
		return false
	})
	return n
}

// change alters the stored credentials.
func change(t *testing.T, dir string, change func(stored map[string]any)) {
	t.Helper()
	path := filepath.Join(dir, alias+".json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var s map[string]any
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	change(s)
	if data, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// ages moves the time of receipt and of expiry, and forgets a failure.
func ages(received, expires time.Duration) func(map[string]any) {
	return func(s map[string]any) {
		delete(s, "retry")
		s["received"] = time.Now().Add(-received)
		s["credentials"].(map[string]any)["expiration"] = time.Now().Add(expires)
	}
}

// retry has the next attempt to replace them be due in that time.
func retry(change func(map[string]any), in time.Duration) func(map[string]any) {
	return func(s map[string]any) {
		change(s)
		s["retry"] = time.Now().Add(in)
	}
}

func TestConcurrentCallersSendOneRequest(t *testing.T) {
	t.Parallel()
	c, dir := newCloud(t), filepath.Join(t.TempDir(), "new", "credentials")
	var wait sync.WaitGroup
	for range 8 {
		p := c.provider(t, dir)
		for range 2 {
			wait.Go(func() {
				if got, err := p.Get(t.Context(), alias); err != nil || got.Version != 1 || got.SecretAccessKey == "" {
					t.Errorf("got %v, %v", got, err)
				}
			})
		}
	}
	wait.Wait()
	if n := c.requests(); n != 1 {
		t.Errorf("%d requests", n)
	}
	for name, want := range map[string]os.FileMode{"": 0o700, alias + ".json": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %q, %v", left, err)
	}
}

func TestStoredCredentialsAreUsedUntilTheyAreDue(t *testing.T) {
	t.Parallel()
	c, dir := newCloud(t), t.TempDir()
	p := c.provider(t, dir)
	for name, test := range map[string]struct {
		change    func(map[string]any)
		requested bool
	}{
		"new":                           {ages(time.Second, time.Hour), false},
		"21 minutes of an hour left":    {ages(39*time.Minute, 21*time.Minute), false},
		"19 minutes of an hour left":    {ages(41*time.Minute, 19*time.Minute), true},
		"8 of 15 minutes left":          {ages(7*time.Minute, 8*time.Minute), false},
		"7 of 15 minutes left":          {ages(8*time.Minute, 7*time.Minute), true},
		"expired":                       {ages(time.Hour, -time.Second), true},
		"received before the clock set": {ages(-time.Minute, time.Hour), true},
		"so, just tried in vain":        {retry(ages(-time.Minute, time.Hour), 50*time.Second), false},
		"so, tried in vain before that": {retry(ages(-time.Hour, time.Hour), time.Hour), true},
		"9 minutes left, just tried":    {retry(ages(51*time.Minute, 9*time.Minute), 50*time.Second), false},
		"expired, just tried in vain":   {retry(ages(time.Hour, -time.Second), 50*time.Second), true},
		"of another endpoint":           {func(s map[string]any) { s["endpoint"] = "other" }, true},
		"of another thing":              {func(s map[string]any) { s["thingName"] = "other" }, true},
	} {
		if _, err := p.Get(t.Context(), alias); err != nil {
			t.Fatal(err)
		}
		change(t, dir, ages(time.Second, time.Hour))
		before := c.requests()
		change(t, dir, test.change)
		if _, err := p.Get(t.Context(), alias); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := c.requests() > before; got != test.requested {
			t.Errorf("%s: requested %t", name, got)
		}
	}
}

func TestDamagedOrUnwritableStoreDoesNotKeepCredentialsBack(t *testing.T) {
	t.Parallel()
	c, dir := newCloud(t), t.TempDir()
	for _, content := range []string{"", "{", "null", "[]", `{"credentials": 1}`, strings.Repeat("x", 1<<16)} {
		if err := os.WriteFile(filepath.Join(dir, alias+".json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := c.provider(t, dir).Get(t.Context(), alias); err != nil || got.AccessKeyID == "" {
			t.Errorf("%.20q: got %v, %v", content, got, err)
		}
	}
	file := filepath.Join(dir, alias+".json")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, member := range []string{"accessKeyId", "secretAccessKey", "sessionToken", "expiration"} {
		damaged := bytes.Replace(whole, []byte(`"`+member+`"`), []byte(`"x"`), 1)
		if bytes.Equal(damaged, whole) {
			t.Fatalf("the file has no %s", member)
		}
		if err := os.WriteFile(file, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := c.provider(t, dir).Get(t.Context(), alias)
		if err != nil || got.AccessKeyID == "" || got.SecretAccessKey == "" || got.SessionToken == "" || got.Expiration.IsZero() {
			t.Errorf("without %s: %v, %v", member, got, err)
		}
	}
	if _, err := c.provider(t, file).Get(t.Context(), alias); err != nil { // a file in place of the directory
		t.Error(err)
	}
}

func TestStoredCredentialsOutliveTheNetworkButNoDenial(t *testing.T) {
	t.Parallel()
	c, dir := newCloud(t), t.TempDir()
	p := c.provider(t, dir)
	if _, err := p.Get(t.Context(), alias); err != nil {
		t.Fatal(err)
	}
	change(t, dir, ages(time.Hour, time.Minute)) // due
	if err := c.Registry().DetachPolicy("credentials", registry.CertificateTarget(c.Claim().CertificateID)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Get(t.Context(), alias); awsiot.ClassOf(err) != awsiot.Denied {
		t.Errorf("denied: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := p.Get(t.Context(), alias); err != nil || got.AccessKeyID == "" {
			t.Errorf("offline: %v, %v", got, err)
		}
	}
	change(t, dir, ages(time.Hour, -time.Second))
	if _, err := p.Get(t.Context(), alias); awsiot.ClassOf(err) != awsiot.Temporary {
		t.Errorf("offline and expired: %v", err)
	}
}

func TestErrorsHaveTheirClass(t *testing.T) {
	t.Parallel()
	c, dir := newCloud(t), t.TempDir()
	p := c.provider(t, dir)
	for name, want := range map[string]awsiot.Class{
		"none": awsiot.Denied, "": awsiot.Misconfigured, "../thing": awsiot.Misconfigured, "a b": awsiot.Misconfigured, strings.Repeat("a", 129): awsiot.Misconfigured,
	} {
		if _, err := p.Get(t.Context(), name); awsiot.ClassOf(err) != want {
			t.Errorf("%.20q: %v", name, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := c.Registry().UpdateCertificate(c.Claim().CertificateID, registry.Inactive); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Get(t.Context(), alias); awsiot.ClassOf(err) != awsiot.Denied {
		t.Errorf("an inactive certificate: %v", err)
	}
	p.Identity = func() (*identity.Identity, error) { return nil, identity.ErrNone }
	if _, err := p.Get(t.Context(), alias); !errors.Is(err, identity.ErrNone) {
		t.Errorf("without an identity: %v", err)
	}
}

func TestMalformedResponsesAreErrors(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	status, body := 0, ""
	p := c.providerAt(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		w.Write([]byte(body))
	})
	const whole = `"accessKeyId": "a", "secretAccessKey": "hunter2", "sessionToken": "t", "expiration": "2099-01-01T00:00:00Z"`
	for name, test := range map[string]struct {
		status int
		body   string
		class  awsiot.Class
	}{
		"nothing":              {200, "", awsiot.Failed},
		"HTML":                 {200, "<html>", awsiot.Failed},
		"another object":       {200, `{"message": "hello"}`, awsiot.Failed},
		"without expiration":   {200, `{"credentials": {"accessKeyId": "a", "secretAccessKey": "hunter2", "sessionToken": "t"}}`, awsiot.Failed},
		"too long":             {200, `{"credentials": {"x": "` + strings.Repeat("x", 1<<17) + `", ` + whole + "}}", awsiot.Temporary},
		"throttled":            {429, `{"message": "slow down"}`, awsiot.Temporary},
		"unavailable":          {503, "", awsiot.Temporary},
		"redirect":             {302, "", awsiot.Denied},
		"role cannot be taken": {400, `{"message": "Unable to assume the role, or the role to assume does not exist"}`, awsiot.Denied},
	} {
		status, body = test.status, test.body
		_, err := p.Get(t.Context(), alias)
		if err == nil || awsiot.ClassOf(err) != test.class || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v (%s)", name, err, awsiot.ClassOf(err))
		}
	}
	status, body = 200, `{"credentials": {`+whole+`}}`
	if _, err := p.Get(t.Context(), alias); err != nil {
		t.Error(err)
	}
}

// A device whose clock is months behind, within the life of the server's certificate, must not keep
// credentials for months, nor programs that compare the expiration with its clock.
func TestExpirationIsByTheClockOfTheDevice(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	for _, ahead := range []time.Duration{0, 90 * 24 * time.Hour, -90 * 24 * time.Hour} { // the server's clock
		p := c.providerAt(t, func(w http.ResponseWriter, _ *http.Request) {
			now := time.Now().Add(ahead).UTC()
			w.Header().Set("Date", now.Format(http.TimeFormat))
			fmt.Fprintf(w, `{"credentials": {"accessKeyId": "a", "secretAccessKey": "s", "sessionToken": "t", "expiration": %q}}`, now.Add(time.Hour).Format(time.RFC3339))
		})
		for _, from := range []string{"the server", "the disk"} {
			got, err := p.Get(t.Context(), alias)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(got.Expiration); (left - time.Hour).Abs() > 2*time.Minute {
				t.Errorf("clock %v behind, from %s: they expire in %v", ahead, from, left)
			}
		}
	}
}

func TestCredentialsShowNowhereButInTheirJSON(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	var log bytes.Buffer
	p := c.provider(t, t.TempDir())
	p.Session.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	got, err := p.Get(t.Context(), alias)
	if err != nil {
		t.Fatal(err)
	}
	p.Session.Log.Info("got", "credentials", got)
	shown := log.String() + fmt.Sprintf("%v %+v %#v", got, *got, *got)
	encoded, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []awsiot.Secret{got.SecretAccessKey, got.SessionToken} {
		if strings.Contains(shown, string(secret)) || !bytes.Contains(encoded, []byte(secret)) {
			t.Errorf("shown: %s", shown)
		}
	}
}

func TestLocalAPIAnswersAsACredentialProcessPrints(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider(t, t.TempDir())
	handler := agent.Answer(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return p.Get(r.Context(), r.URL.Query().Get("roleAlias"))
	})
	for query, want := range map[string]int{"?roleAlias=" + alias: 200, "?roleAlias=none": 403, "?roleAlias=a%20b": 400, "": 400} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/v1/credentials"+query, nil))
		var body map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != want {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
		if expiration, err := time.Parse(time.RFC3339, fmt.Sprint(body["Expiration"])); want == 200 && (body["Version"] != 1.0 || err != nil || expiration.Location() != time.UTC) {
			t.Errorf("%v", body)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/v1/credentials?roleAlias=other", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("offline: %d %s", w.Code, w.Body)
	}
}
