package localcore_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/lambdahost"
)

// providerBinary builds the certificate provider of docs/identity.md.
var providerBinary = sync.OnceValues(func() ([]byte, error) {
	page, err := os.ReadFile("../../docs/identity.md")
	if err != nil {
		return nil, err
	}
	_, example, ok := strings.Cut(string(page), "```go\n")
	example, _, ends := strings.Cut(example, "```\n")
	if !ok || !ends {
		return nil, fmt.Errorf("docs/identity.md has no program in Go")
	}
	dir, err := os.MkdirTemp("", "provider")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "bootstrap")
	if err := os.WriteFile(source, []byte(example), 0o644); err != nil {
		return nil, err
	}
	if err := buildFunction(binary, source); err != nil { // in the hook's module, which has the Lambda library
		return nil, err
	}
	return os.ReadFile(binary)
})

// buildProvider returns the executable of a certificate provider, which signs with ca, and presents
// those that signed ca's certificate.
func buildProvider(t *testing.T, ca *testCA, signers ...*testCA) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a certificate provider")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "bootstrap")
	chain := *certificatePEM(ca.cert.Raw)
	for _, s := range signers {
		chain += *certificatePEM(s.cert.Raw)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(ca.key))(t)})
	for name, data := range map[string][]byte{"bootstrap": must(providerBinary())(t), "ca.pem": []byte(chain), "ca.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provisioning-cert-provider.html:
// with a certificate provider, its Lambda function signs the requests of CreateCertificateFromCsr
// over MQTT; other certificates are AWS IoT's own.
func TestCertificateProviderSignsForTheFleet(t *testing.T) {
	t.Parallel()
	root := newTestCA(t, "Acme Root", nil)
	plant := newTestCA(t, "Acme Plant", root)
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery, CertificateProvider: buildProvider(t, plant, root)})
	claim := dialClaim(t, s)
	csr, key := newCSR(t)
	made := accepted[awsiot.CreateCertificateFromCSRResponse](t, csrTopic,
		claim.ask(t, csrTopic, awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: csr}))
	chain := must(awsiot.Certificates([]byte(made.CertificatePEM)))(t)
	if len(chain) != 3 || awsiot.CertificateID(chain[0]) != made.CertificateID || chain[0].CheckSignatureFrom(plant.cert) != nil || !chain[2].Equal(root.cert) {
		t.Fatalf("%d certificates, the first by %s", len(chain), chain[0].Issuer)
	}
	if life := time.Until(chain[0].NotAfter); life < 6*24*time.Hour || life > 7*24*time.Hour {
		t.Errorf("valid for %v", life)
	}
	done := accepted[awsiot.RegisterThingResponse](t, registerTopic, claim.ask(t, registerTopic, registration(made.CertificateOwnershipToken, "2974685")))
	mustDial(t, s, done.ThingName, tlsConfig(t, s, []byte(made.CertificatePEM), key))

	other := accepted[awsiot.CreateKeysAndCertificateResponse](t, createTopic, claim.ask(t, createTopic, nil))
	if c := must(awsiot.Certificates([]byte(other.CertificatePEM)))(t)[0]; c.CheckSignatureFrom(plant.cert) == nil {
		t.Error("the provider signed for CreateKeysAndCertificate")
	}
	over := must(controlPlane(s).CreateCertificateFromCsr(t.Context(), &iot.CreateCertificateFromCsrInput{CertificateSigningRequest: &csr}))(t)
	if c := must(awsiot.Certificates([]byte(*over.CertificatePem)))(t)[0]; c.CheckSignatureFrom(plant.cert) == nil {
		t.Error("the provider signed for the control plane")
	}
	must(controlPlane(s).DeleteCertificateProvider(t.Context(), &iot.DeleteCertificateProviderInput{CertificateProviderName: aws.String("certificate-provider")}))(t)
	if c := must(awsiot.Certificates([]byte(pending(t, claim).CertificatePEM)))(t); len(c) != 1 || c[0].CheckSignatureFrom(plant.cert) == nil {
		t.Error("the provider signs after its deletion")
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provisioning-cert-provider.html:
// an answer whose certificate has not the public key of the request gives no certificate.
func TestCertificateProviderThatFailsGivesNoCertificate(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "Acme", nil)
	foreign := *certificatePEM(ca.issue(t, pkix.Name{}).Certificate[0])
	for name, answer := range map[string]struct{ script, reason string }{
		"another key":    {`{"certificatePem":` + quote(t, foreign) + `}`, "another public key"},
		"no certificate": {`{"certificatePem":"no"}`, "certificatePem"},
		"no JSON":        {`no`, "reading its answer"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery, CertificateProvider: answering(t, answer.script)})
			claim := dialClaim(t, s)
			csr, _ := newCSR(t)
			got := rejected(t, csrTopic, claim.ask(t, csrTopic, awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: csr}))
			if got.StatusCode != 500 {
				t.Errorf("rejected with %+v", got)
			}
			awaitRejection(t, s, localcore.ActionProvision, answer.reason)
			if all := s.Registry().ListCertificates(); len(all) != 1 { // the claim
				t.Errorf("%d certificates", len(all))
			}
		})
	}
	t.Run("a function that does not run here", func(t *testing.T) {
		s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
		must(controlPlane(s).CreateCertificateProvider(t.Context(), &iot.CreateCertificateProviderInput{
			CertificateProviderName: aws.String("own"), LambdaFunctionArn: aws.String("arn:aws:lambda:us-east-1:123456789012:function:none"),
			AccountDefaultForOperations: []types.CertificateProviderOperation{types.CertificateProviderOperationCreateCertificateFromCsr},
		}))(t)
		claim := dialClaim(t, s)
		csr, _ := newCSR(t)
		rejected(t, csrTopic, claim.ask(t, csrTopic, awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: csr}))
		awaitRejection(t, s, localcore.ActionProvision, "does not run here")
	})
}

// answering returns a function that gives the same answer to every event, by the Runtime API as
// curl speaks it.
func answering(t *testing.T, answer string) string {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		missing(t, "curl", "apt-get install curl")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "bootstrap")
	script := `#!/bin/sh
set -eu
api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation
while :; do
	id=$(curl -sS -o /dev/null -D - "$api/next" | tr -d '\r' | sed -n 's/^[Ll]ambda-[Rr]untime-[Aa]ws-[Rr]equest-[Ii]d: //p')
	curl -sS -o /dev/null --data-binary @"$LAMBDA_TASK_ROOT/answer" "$api/$id/response"
done
`
	for name, data := range map[string]string{"bootstrap": script, "answer": answer} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestCertificateProviderOfAnEarlierStartIsRemoved(t *testing.T) {
	t.Parallel()
	state, provider := t.TempDir(), buildProvider(t, newTestCA(t, "Acme", nil))
	for _, step := range []struct {
		config localcore.Config
		want   int
	}{
		{localcore.Config{CertificateProvider: provider}, 1},
		{localcore.Config{CertificateProvider: provider}, 1},
		{localcore.Config{CertificateProvider: localcore.NoHook, Account: "111111111111", Region: "eu-west-1",
			Functions: map[string]lambdahost.Config{"sign": {Path: provider}}}, 0},
	} {
		step.config.State = state
		s := must(localcore.Start(t.Context(), step.config))(t)
		if all := s.Registry().ListCertificateProviders(); len(all) != step.want {
			t.Errorf("%+v, want %d", all, step.want)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
