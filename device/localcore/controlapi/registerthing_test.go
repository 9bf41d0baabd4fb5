package controlapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/localcore/registry"
)

// newCSR returns a certificate signing request in PEM form.
func newCSR(t *testing.T) string {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))(t)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// issueUnder returns a certificate authority and a certificate that it signed.
func issueUnder(t *testing.T) (ca, device string) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: epoch, NotAfter: epoch.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: epoch, NotAfter: epoch.AddDate(1, 0, 0)}
	encode := func(template *x509.Certificate) string {
		der := must(x509.CreateCertificate(rand.Reader, template, authority, &key.PublicKey, key))(t)
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return encode(authority), encode(leaf)
}

// codeOf returns the code of an exception, empty for success.
func codeOf(err error) string {
	var e interface{ ErrorCode() string }
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	return ""
}

func sdkClient(url string) *iot.Client {
	return iot.New(iot.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: aws.AnonymousCredentials{}, RetryMaxAttempts: 1})
}

const (
	thingResource  = `"gauge": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Name"}}}`
	policyResource = `"rights": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": ` +
		`"{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"iot:Connect\",\"Resource\":\"*\"}]}"}}`
)

// certificateResource is a certificate with these properties.
func certificateResource(properties string) string {
	return `"credential": {"Type": "AWS::IoT::Certificate", "Properties": {` + properties + `}}`
}

func body(resources ...string) *string {
	return aws.String(`{"Parameters": {"Name": {"Type": "String"}, "Given": {"Type": "String"}, "CA": {"Type": "String"}}, "Resources": {` +
		strings.Join(resources, ", ") + `}}`)
}

// Each case is of https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html.
func TestRegisterThingTakesTheCertificateInEveryDocumentedForm(t *testing.T) {
	t.Parallel()
	s := startEmulator(t)
	client, ctx := sdkClient(s.APIURL()), t.Context()
	inactive := must(client.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{}))(t)
	active := must(client.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{SetAsActive: true}))(t)
	ca, device := issueUnder(t)
	for name, tc := range map[string]struct {
		resources []string
		given, ca string
		id        string // of the certificate, if it is known before
		status    types.CertificateStatus
	}{
		"a certificate signing request makes a certificate": {
			[]string{thingResource, certificateResource(`"CertificateSigningRequest": {"Ref": "Given"}`)}, newCSR(t), "", "", "ACTIVE"},
		"a certificate signing request makes an inactive certificate where the template says so": {
			[]string{thingResource, certificateResource(`"CertificateSigningRequest": {"Ref": "Given"}, "Status": "INACTIVE"`)}, newCSR(t), "", "", "INACTIVE"},
		"a certificate in PEM form is registered": {
			[]string{thingResource, certificateResource(`"CertificatePem": {"Ref": "Given"}`), policyResource}, issue(), "", "", "ACTIVE"},
		"a certificate in PEM form comes with its authority": {
			[]string{thingResource, certificateResource(`"CertificatePem": {"Ref": "Given"}, "CACertificatePem": {"Ref": "CA"}`)}, device, ca, fingerprint(device), "ACTIVE"},
		"a certificate id names an active certificate": {
			[]string{thingResource, certificateResource(`"CertificateId": {"Ref": "Given"}`), policyResource}, *active.CertificateId, "", *active.CertificateId, "ACTIVE"},
		"a certificate id names an inactive certificate, without OverrideSettings": {
			[]string{thingResource, certificateResource(`"CertificateId": {"Ref": "Given"}`)}, *inactive.CertificateId, "", *inactive.CertificateId, "ACTIVE"},
		"a template has a thing and no certificate":              {[]string{thingResource}, "", "", "", ""},
		"a template has a thing and a policy and no certificate": {[]string{thingResource, policyResource}, "", "", "", ""},
		"a template has a certificate and no thing": {
			[]string{certificateResource(`"CertificateSigningRequest": {"Ref": "Given"}`), policyResource}, newCSR(t), "", "", "ACTIVE"},
	} {
		t.Run(name, func(t *testing.T) {
			thing := strings.NewReplacer(" ", "_", ",", "").Replace(name)
			got := must(client.RegisterThing(ctx, &iot.RegisterThingInput{
				TemplateBody: body(tc.resources...), Parameters: map[string]string{"Name": thing, "Given": tc.given, "CA": tc.ca},
			}))(t)
			var want []string
			for _, r := range tc.resources {
				logicalName, _, _ := strings.Cut(r[1:], `"`)
				want = append(want, logicalName)
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got.ResourceArns))); diff != "" {
				t.Error(diff)
			}
			if slices.Contains(want, "gauge") && got.ResourceArns["gauge"] != s.ARN("thing/"+thing) {
				t.Errorf("thing %s", got.ResourceArns["gauge"])
			}
			if tc.status == "" {
				if got.CertificatePem != nil {
					t.Error("a certificate came from nowhere")
				}
				return
			}
			id := fingerprint(*got.CertificatePem)
			if tc.id != "" && id != tc.id {
				t.Errorf("certificate %s, want %s", id, tc.id)
			}
			if arn := got.ResourceArns["credential"]; arn != s.ARN("cert/"+id) {
				t.Errorf("arn %s of certificate %s", arn, id)
			}
			described := must(client.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: &id}))(t)
			if status := described.CertificateDescription.Status; status != tc.status {
				t.Errorf("status %s, want %s", status, tc.status)
			}
			if slices.Contains(want, "gauge") {
				principals := must(client.ListThingPrincipals(ctx, &iot.ListThingPrincipalsInput{ThingName: &thing}))(t)
				if diff := cmp.Diff([]string{s.ARN("cert/" + id)}, principals.Principals); diff != "" {
					t.Error(diff)
				}
			}
			if slices.Contains(want, "rights") {
				attached := must(client.ListAttachedPolicies(ctx, &iot.ListAttachedPoliciesInput{Target: aws.String(s.ARN("cert/" + id))}))(t)
				if len(attached.Policies) != 1 || *attached.Policies[0].PolicyArn != got.ResourceArns["rights"] {
					t.Errorf("attached %+v, the policy is %s", attached.Policies, got.ResourceArns["rights"])
				}
			}
		})
	}
}

// What cannot be registered leaves nothing behind.
func TestRegisterThingRejectsAsAWholeWhatItCannotRegister(t *testing.T) {
	t.Parallel()
	s := startEmulator(t)
	client, ctx := sdkClient(s.APIURL()), t.Context()
	revoked := must(client.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{}))(t)
	must(client.UpdateCertificate(ctx, &iot.UpdateCertificateInput{CertificateId: revoked.CertificateId, NewStatus: "REVOKED"}))(t)
	otherCA, _ := issueUnder(t)
	_, device := issueUnder(t)
	for name, tc := range map[string]struct{ certificate, given, code string }{
		"no way at all":         {`"Status": "ACTIVE"`, "", registry.CodeInvalidRequest},
		"two ways at once":      {`"CertificateId": {"Ref": "Given"}, "CertificatePem": "x"`, "x", registry.CodeInvalidRequest},
		"an authority alone":    {`"CertificateId": {"Ref": "Given"}, "CACertificatePem": "x"`, "x", registry.CodeInvalidRequest},
		"text instead of a CSR": {`"CertificateSigningRequest": {"Ref": "Given"}`, "x", registry.CodeInvalidRequest},
		"an empty CSR":          {`"CertificateSigningRequest": {"Ref": "Given"}`, "", registry.CodeInvalidRequest},
		"text instead of PEM":   {`"CertificatePem": {"Ref": "Given"}`, "x", registry.CodeRegistrationFailure},
		"another authority":     {`"CertificatePem": {"Ref": "Given"}, "CACertificatePem": {"Ref": "CA"}`, device, registry.CodeRegistrationFailure},
		"an unknown id":         {`"CertificateId": {"Ref": "Given"}`, strings.Repeat("0", 64), registry.CodeRegistrationFailure},
		"a revoked certificate": {`"CertificateId": {"Ref": "Given"}`, *revoked.CertificateId, registry.CodeRegistrationFailure},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(s.Registry().ListCertificates())
			_, err := client.RegisterThing(ctx, &iot.RegisterThingInput{
				TemplateBody: body(thingResource, certificateResource(tc.certificate), policyResource),
				Parameters:   map[string]string{"Name": "nothing", "Given": tc.given, "CA": otherCA},
			})
			if code := codeOf(err); code != tc.code {
				t.Errorf("got %v, want %s", err, tc.code)
			}
			if _, err := s.Registry().DescribeThing("nothing"); err == nil || len(s.Registry().ListCertificates()) != before {
				t.Error("something was registered")
			}
		})
	}
}
