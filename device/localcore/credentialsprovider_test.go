package localcore_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// A credentialed server has a device, and role aliases of which the device's policy allows all but
// "denied".
func startCredentialed(t *testing.T, c localcore.Config) (s *localcore.Server, thing string, config *tls.Config) {
	t.Helper()
	c.Templates, c.HookFunc = templates, allowEvery
	s = start(t, c)
	thing, config = enroll(t, s, "2974685")
	certificate, err := s.Registry().ListThingPrincipals(thing)
	if err != nil {
		t.Fatal(err)
	}
	policy := fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Action": "iot:AssumeRoleWithCertificate", "Resource": %q},
		{"Effect": "Deny", "Action": "iot:AssumeRoleWithCertificate", "Resource": %q}]}`, s.ARN("rolealias/*"), s.ARN("rolealias/denied"))
	if _, err := s.Registry().CreatePolicy("credentials", policy); err != nil {
		t.Fatal(err)
	}
	if err := s.Registry().AttachPolicy("credentials", registry.CertificateTarget(certificate[0].CertificateID)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"device", "denied"} {
		alias := registry.RoleAlias{Name: name, RoleARN: "arn:aws:iam::123456789012:role/device", CredentialDuration: 20 * time.Minute}
		if _, err := s.Registry().CreateRoleAlias(alias); err != nil {
			t.Fatal(err)
		}
	}
	return s, thing, config
}

// requestCredentials sends GET path with the device's certificate.
func requestCredentials(t *testing.T, s *localcore.Server, config *tls.Config, path, thing string) (*http.Response, []byte) {
	t.Helper()
	host, port := s.Endpoint()
	r, err := http.NewRequestWithContext(within(t), "GET", fmt.Sprintf("https://%s:%d%s", host, port, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	if thing != "" {
		r.Header.Set("x-amzn-iot-thingname", thing)
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, body
}

// https://docs.aws.amazon.com/iot/latest/developerguide/authorizing-direct-aws.html:
// the credentials provider gives a device, by its certificate, credentials that are valid as long
// as the role alias says.
func TestCredentialsProviderGivesCredentials(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second).Add(500 * time.Millisecond)
	s, thing, config := startCredentialed(t, localcore.Config{Now: func() time.Time { return now }})
	withALPN := config.Clone()
	withALPN.NextProtos = []string{"h2", "http/1.1"} // as curl
	for _, config := range []*tls.Config{config, withALPN} {
		for _, thing := range []string{thing, ""} {
			response, body := requestCredentials(t, s, config, "/role-aliases/device/credentials", thing)
			var got awsiot.CredentialsResponse
			if err := json.Unmarshal(body, &got); err != nil || response.StatusCode != 200 {
				t.Fatalf("%s %s: %v", response.Status, body, err)
			}
			if c := got.Credentials; c.AccessKeyID == "" || c.SecretAccessKey == "" || c.SessionToken == "" || !c.Expiration.Equal(now.Add(20*time.Minute).Truncate(time.Second)) {
				t.Errorf("credentials that end at %s", c.Expiration)
			}
		}
	}
	if _, err := s.AwaitEvent(within(t), func(e localcore.Event) bool {
		return e.Operation == "AssumeRoleWithCertificate" && e.Type == localcore.Replied && e.ThingName == thing
	}); err != nil {
		t.Error(err)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/authorizing-direct-aws.html:
// no credentials without iot:AssumeRoleWithCertificate on the role alias, nor with the name of a
// thing that is not attached to the certificate.
func TestCredentialsProviderRejects(t *testing.T) {
	t.Parallel()
	s, thing, config := startCredentialed(t, localcore.Config{})
	other, _ := enroll(t, s, "2974686")
	for what, test := range map[string]struct {
		path, thing, code string
		status            int
		message           string
	}{
		"no policy allows the alias":  {"/role-aliases/denied/credentials", thing, "AccessDeniedException", 403, "Access Denied"},
		"unknown alias":               {"/role-aliases/none/credentials", thing, "ResourceNotFoundException", 404, "Role alias does not exist"},
		"thing that does not exist":   {"/role-aliases/device/credentials", "nobody", "AccessDeniedException", 403, "Invalid thing name passed"},
		"thing of another device":     {"/role-aliases/device/credentials", other, "AccessDeniedException", 403, "Invalid thing name passed"},
		"thing checked before policy": {"/role-aliases/denied/credentials", other, "AccessDeniedException", 403, "Invalid thing name passed"},
		"another path":                {"/things", thing, "ResourceNotFoundException", 404, "Not Found"},
	} {
		response, body := requestCredentials(t, s, config, test.path, test.thing)
		var got struct{ Message string }
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		if code := response.Header.Get("x-amzn-ErrorType"); code != test.code || response.StatusCode != test.status || got.Message != test.message {
			t.Errorf("%s: got %s %s %s", what, response.Status, code, body)
		}
	}
	awaitRejection(t, s, localcore.ActionCredentials, "denied")
	_, port := s.Endpoint()
	stranger := claimTLS(t, s).Clone()
	stranger.Certificates = nil
	if conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), stranger); err == nil {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a client without a certificate was served")
		}
		conn.Close()
	}
}

func TestRoleAliasesOutliveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := localcore.Start(t.Context(), localcore.Config{State: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Registry().CreateRoleAlias(registry.RoleAlias{Name: "a", RoleARN: "arn:aws:iam::123456789012:role/device"}); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := start(t, localcore.Config{State: dir})
	if a, err := second.Registry().DescribeRoleAlias("a"); err != nil || a.CredentialDuration != time.Hour {
		t.Errorf("after a restart %+v, %v", a, err)
	}
}

func TestDeviceConfigurationNamesTheCredentialsEndpoint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, localcore.Config{Credentials: dir})
	_, port := s.Endpoint()
	data, err := os.ReadFile(filepath.Join(dir, "device.yaml"))
	if err != nil || !strings.Contains(string(data), fmt.Sprintf("\n  credentialsEndpoint: localhost:%d\n", port)) {
		t.Errorf("device.yaml: %v\n%s", err, data)
	}
}
