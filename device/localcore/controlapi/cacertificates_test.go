package controlapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/google/go-cmp/cmp"
)

// An authority signs certificates, its own first.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  *string
}

func newAuthority(t *testing.T, name string, change ...func(*x509.Certificate)) *authority {
	t.Helper()
	a := &authority{key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)}
	a.cert = &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert.SerialNumber, a.cert.NotBefore, a.cert.NotAfter = must(rand.Int(rand.Reader, big.NewInt(1<<62)))(t), epoch.AddDate(0, 0, -1), epoch.AddDate(1, 0, 0).Truncate(time.Second)
	for _, f := range change {
		f(a.cert)
	}
	a.pem = a.sign(t, a.cert, a.key)
	return a
}

// issue returns a certificate in PEM form for a new key.
func (a *authority) issue(t *testing.T, name string) *string {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: epoch, NotAfter: epoch.AddDate(0, 1, 0)}
	template.SerialNumber = must(rand.Int(rand.Reader, big.NewInt(1<<62)))(t)
	return a.sign(t, template, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t))
}

func (a *authority) sign(t *testing.T, template *x509.Certificate, key *ecdsa.PrivateKey) *string {
	t.Helper()
	der := must(x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key))(t)
	return aws.String(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// proof returns a verification certificate.
func (e *environment) proof(t *testing.T, a *authority) *string {
	t.Helper()
	return a.issue(t, *must(e.iot.GetRegistrationCode(t.Context(), &iot.GetRegistrationCodeInput{}))(t).RegistrationCode)
}

// registerCA registers an active CA certificate.
func (e *environment) registerCA(t *testing.T, a *authority) (id string) {
	t.Helper()
	made := must(e.iot.RegisterCACertificate(t.Context(), &iot.RegisterCACertificateInput{
		CaCertificate: a.pem, VerificationCertificate: e.proof(t, a), SetAsActive: true,
	}))(t)
	return *made.CertificateId
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_GetRegistrationCode.html:
// the registration code stays the same until it is deleted.
func TestRegistrationCodeStaysUntilItIsDeleted(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	if _, err := e.iot.DeleteRegistrationCode(ctx, &iot.DeleteRegistrationCodeInput{}); !is[*types.ResourceNotFoundException](err) {
		t.Errorf("deleting what is not there: %v", err)
	}
	code := func() string {
		return *must(e.iot.GetRegistrationCode(ctx, &iot.GetRegistrationCodeInput{}))(t).RegistrationCode
	}
	first := code()
	if len(first) != 64 || code() != first {
		t.Errorf("code %q, then %q", first, code())
	}
	must(e.iot.DeleteRegistrationCode(ctx, &iot.DeleteRegistrationCodeInput{}))(t)
	if code() == first {
		t.Error("the deleted code is given again")
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_DescribeCACertificate.html:
// a CA certificate is described with its status, mode, validity, auto-registration
// and registration configuration, and updated by UpdateCACertificate.
func TestCACertificateIsDescribedAndUpdated(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	a := newAuthority(t, "Acme")
	made := must(e.iot.RegisterCACertificate(ctx, &iot.RegisterCACertificateInput{CaCertificate: a.pem, VerificationCertificate: e.proof(t, a)}))(t)
	if want := arnPrefix + "cacert/" + fingerprint(*a.pem); *made.CertificateArn != want || *made.CertificateId != fingerprint(*a.pem) {
		t.Errorf("registered %s, want %s", *made.CertificateArn, want)
	}
	describe := func() *iot.DescribeCACertificateOutput {
		return must(e.iot.DescribeCACertificate(ctx, &iot.DescribeCACertificateInput{CertificateId: made.CertificateId}))(t)
	}
	got := describe()
	d := got.CertificateDescription
	if d.Status != types.CACertificateStatusInactive || d.AutoRegistrationStatus != types.AutoRegistrationStatusDisable || d.CertificateMode != types.CertificateModeDefault ||
		*d.CertificatePem != *a.pem || !d.Validity.NotAfter.Equal(a.cert.NotAfter) || *d.OwnedBy != account || *d.CustomerVersion != 1 || *d.GenerationId == "" || got.RegistrationConfig != nil {
		t.Errorf("described %+v with %+v", d, got.RegistrationConfig)
	}
	config := &types.RegistrationConfig{TemplateBody: aws.String("{}"), RoleArn: aws.String("arn:aws:iam::123456789012:role/r")}
	must(e.iot.UpdateCACertificate(ctx, &iot.UpdateCACertificateInput{
		CertificateId: made.CertificateId, NewStatus: types.CACertificateStatusActive,
		NewAutoRegistrationStatus: types.AutoRegistrationStatusEnable, RegistrationConfig: config,
	}))(t)
	got = describe()
	if got.CertificateDescription.Status != types.CACertificateStatusActive || got.CertificateDescription.AutoRegistrationStatus != types.AutoRegistrationStatusEnable ||
		*got.RegistrationConfig.TemplateBody != "{}" || *got.RegistrationConfig.RoleArn != *config.RoleArn {
		t.Errorf("described %+v with %+v", got.CertificateDescription, got.RegistrationConfig)
	}
	must(e.iot.UpdateCACertificate(ctx, &iot.UpdateCACertificateInput{CertificateId: made.CertificateId, RemoveAutoRegistration: true}))(t)
	if got = describe(); got.CertificateDescription.AutoRegistrationStatus != types.AutoRegistrationStatusDisable || got.RegistrationConfig != nil {
		t.Errorf("described %+v with %+v", got.CertificateDescription, got.RegistrationConfig)
	}
}

// Each case is of https://docs.aws.amazon.com/iot/latest/apireference/API_RegisterCACertificate.html.
func TestCACertificateThatIsNotRegistered(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	a, other := newAuthority(t, "Acme"), newAuthority(t, "Acme")
	leaf := newAuthority(t, "no CA", func(c *x509.Certificate) { c.IsCA = false })
	expired := newAuthority(t, "expired", func(c *x509.Certificate) { c.NotAfter = epoch })
	must(e.iot.CreateProvisioningTemplate(ctx, &iot.CreateProvisioningTemplateInput{
		TemplateName: aws.String("fleet"), TemplateBody: aws.String("{}"), ProvisioningRoleArn: aws.String("arn:aws:iam::123456789012:role/r"),
	}))(t)
	proof, role := e.proof(t, a), aws.String("arn:aws:iam::123456789012:role/r")
	for name, test := range map[string]struct {
		in    *iot.RegisterCACertificateInput
		typed func(error) bool
	}{
		"A CA certificate that cannot be read is CertificateValidationException.": {
			&iot.RegisterCACertificateInput{CaCertificate: aws.String("no"), VerificationCertificate: proof}, is[*types.CertificateValidationException]},
		"A certificate that is not that of a CA is CertificateValidationException.": {
			&iot.RegisterCACertificateInput{CaCertificate: leaf.pem, VerificationCertificate: proof}, is[*types.CertificateValidationException]},
		"A CA certificate that has expired is CertificateValidationException.": {
			&iot.RegisterCACertificateInput{CaCertificate: expired.pem, VerificationCertificate: e.proof(t, expired)}, is[*types.CertificateValidationException]},
		"A verification certificate of another CA is CertificateValidationException.": {
			&iot.RegisterCACertificateInput{CaCertificate: a.pem, VerificationCertificate: e.proof(t, other)}, is[*types.CertificateValidationException]},
		"A verification certificate for another code is RegistrationCodeValidationException.": {
			&iot.RegisterCACertificateInput{CaCertificate: a.pem, VerificationCertificate: a.issue(t, "code")}, is[*types.RegistrationCodeValidationException]},
		"Without verification certificate the mode is SNI_ONLY, or it is InvalidRequestException.": {
			&iot.RegisterCACertificateInput{CaCertificate: a.pem}, is[*types.InvalidRequestException]},
		"In mode SNI_ONLY a verification certificate is InvalidRequestException.": {
			&iot.RegisterCACertificateInput{CaCertificate: a.pem, VerificationCertificate: proof, CertificateMode: types.CertificateModeSniOnly}, is[*types.InvalidRequestException]},
		"A registration configuration by a template that is missing is ResourceNotFoundException.": {
			&iot.RegisterCACertificateInput{CaCertificate: a.pem, VerificationCertificate: proof, RegistrationConfig: &types.RegistrationConfig{TemplateName: aws.String("none")}}, is[*types.ResourceNotFoundException]},
		"A registration configuration by a template of another type is InvalidRequestException.": {
			&iot.RegisterCACertificateInput{CaCertificate: a.pem, VerificationCertificate: proof, RegistrationConfig: &types.RegistrationConfig{TemplateName: aws.String("fleet")}}, is[*types.InvalidRequestException]},
		"A registration configuration with a malformed template body is InvalidRequestException.": {
			&iot.RegisterCACertificateInput{CaCertificate: a.pem, VerificationCertificate: proof, RegistrationConfig: &types.RegistrationConfig{TemplateBody: aws.String("["), RoleArn: role}}, is[*types.InvalidRequestException]},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := e.iot.RegisterCACertificate(ctx, test.in); !test.typed(err) {
				t.Errorf("got %v", err)
			}
		})
	}
	if listed := must(e.iot.ListCACertificates(ctx, &iot.ListCACertificatesInput{}))(t); len(listed.Certificates) != 0 {
		t.Errorf("registered %v", listed.Certificates)
	}
	e.registerCA(t, a)
	if _, err := e.iot.RegisterCACertificate(ctx, &iot.RegisterCACertificateInput{CaCertificate: a.pem, VerificationCertificate: proof}); !is[*types.ResourceAlreadyExistsException](err) {
		t.Errorf("registered twice: %v", err)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_RegisterCACertificate.html:
// an account registers up to 10 CA certificates with the same subject.
func TestTenCACertificatesMayHaveOneSubject(t *testing.T) {
	t.Parallel()
	e := start(t)
	for range 10 {
		e.registerCA(t, newAuthority(t, "Acme"))
	}
	e.registerCA(t, newAuthority(t, "Other"))
	a := newAuthority(t, "Acme")
	_, err := e.iot.RegisterCACertificate(t.Context(), &iot.RegisterCACertificateInput{CaCertificate: a.pem, VerificationCertificate: e.proof(t, a)})
	if !is[*types.LimitExceededException](err) {
		t.Errorf("got %v", err)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_RegisterCertificate.html: a
// certificate is registered if a registered, active CA signed it; where two have the
// issuer's name, caCertificatePem says which.
func TestCertificateIsRegisteredByItsCA(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	a, twin := newAuthority(t, "Acme"), newAuthority(t, "Acme")
	register := func(a *authority, caPEM *string) (*iot.RegisterCertificateOutput, error) {
		return e.iot.RegisterCertificate(ctx, &iot.RegisterCertificateInput{CertificatePem: a.issue(t, "device"), CaCertificatePem: caPEM, Status: types.CertificateStatusActive})
	}
	if _, err := register(a, nil); !is[*types.CertificateValidationException](err) {
		t.Errorf("by a CA that is not registered: %v", err)
	}
	id := e.registerCA(t, a)
	if _, err := register(twin, nil); !is[*types.CertificateValidationException](err) {
		t.Errorf("by another CA of that name: %v", err)
	}
	made := must(register(a, nil))(t)
	e.registerCA(t, twin)
	if _, err := register(a, nil); !is[*types.CertificateConflictException](err) {
		t.Errorf("by one of two CAs: %v", err)
	}
	must(register(a, a.pem))(t)
	if _, err := register(a, twin.pem); !is[*types.CertificateValidationException](err) {
		t.Errorf("by the other of two CAs: %v", err)
	}
	described := must(e.iot.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: made.CertificateId}))(t).CertificateDescription
	if *described.CaCertificateId != id || described.CertificateMode != types.CertificateModeDefault || described.Status != types.CertificateStatusActive {
		t.Errorf("described %+v", described)
	}
	listed := must(e.iot.ListCertificatesByCA(ctx, &iot.ListCertificatesByCAInput{CaCertificateId: &id, AscendingOrder: true}))(t)
	if len(listed.Certificates) != 2 || *listed.Certificates[0].CertificateId != *made.CertificateId {
		t.Errorf("listed %+v", listed.Certificates)
	}
	must(e.iot.UpdateCACertificate(ctx, &iot.UpdateCACertificateInput{CertificateId: &id, NewStatus: types.CACertificateStatusInactive}))(t)
	if _, err := register(a, a.pem); !is[*types.CertificateStateException](err) {
		t.Errorf("by a CA that is inactive: %v", err)
	}
	keys := must(e.iot.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{}))(t)
	_, err := e.iot.RegisterCertificate(ctx, &iot.RegisterCertificateInput{CertificatePem: keys.CertificatePem})
	if exists, ok := errors.AsType[*types.ResourceAlreadyExistsException](err); !ok || *exists.ResourceId != *keys.CertificateId {
		t.Errorf("of AWS IoT, which is registered: %v", err)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_DeleteCACertificate.html: a
// CA certificate is deleted when it is not active; what it signed stays.
func TestDeletedCACertificateIsInactive(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	a := newAuthority(t, "Acme")
	id := e.registerCA(t, a)
	must(e.iot.RegisterCertificate(ctx, &iot.RegisterCertificateInput{CertificatePem: a.issue(t, "device")}))(t)
	if _, err := e.iot.DeleteCACertificate(ctx, &iot.DeleteCACertificateInput{CertificateId: &id}); !is[*types.CertificateStateException](err) {
		t.Errorf("deleted while active: %v", err)
	}
	must(e.iot.UpdateCACertificate(ctx, &iot.UpdateCACertificateInput{CertificateId: &id, NewStatus: types.CACertificateStatusInactive}))(t)
	must(e.iot.DeleteCACertificate(ctx, &iot.DeleteCACertificateInput{CertificateId: &id}))(t)
	if _, err := e.iot.DescribeCACertificate(ctx, &iot.DescribeCACertificateInput{CertificateId: &id}); !is[*types.ResourceNotFoundException](err) {
		t.Errorf("described when deleted: %v", err)
	}
	if listed := must(e.iot.ListCertificates(ctx, &iot.ListCertificatesInput{}))(t); len(listed.Certificates) != 1 {
		t.Errorf("left %v", listed.Certificates)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_ListCACertificates.html: CA
// certificates are listed in pages, also by the template that they name.
func TestCACertificatesAreListed(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	must(e.iot.CreateProvisioningTemplate(ctx, &iot.CreateProvisioningTemplateInput{
		TemplateName: aws.String("jitp"), Type: types.TemplateTypeJitp, TemplateBody: aws.String("{}"), ProvisioningRoleArn: aws.String("arn:aws:iam::123456789012:role/r"),
	}))(t)
	var ids []string
	for i := range 3 {
		ids = append(ids, e.registerCA(t, newAuthority(t, fmt.Sprint(i))))
	}
	must(e.iot.UpdateCACertificate(ctx, &iot.UpdateCACertificateInput{CertificateId: &ids[1], RegistrationConfig: &types.RegistrationConfig{TemplateName: aws.String("jitp")}}))(t)
	list := func(in iot.ListCACertificatesInput) (listed []string) {
		for pages := iot.NewListCACertificatesPaginator(e.iot, &in); pages.HasMorePages(); {
			for _, c := range must(pages.NextPage(ctx))(t).Certificates {
				listed = append(listed, *c.CertificateId)
			}
		}
		return listed
	}
	if diff := cmp.Diff(ids, list(iot.ListCACertificatesInput{PageSize: aws.Int32(2), AscendingOrder: true})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(ids[1:2], list(iot.ListCACertificatesInput{TemplateName: aws.String("jitp")})); diff != "" {
		t.Error(diff)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateCertificateProvider.html:
// an account has one certificate provider, for CreateCertificateFromCsr, with tags.
func TestCertificateProviderOfAnAccount(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	operations := []types.CertificateProviderOperation{types.CertificateProviderOperationCreateCertificateFromCsr}
	function, other := aws.String("arn:aws:lambda:us-east-1:123456789012:function:sign"), aws.String("arn:aws:lambda:us-east-1:123456789012:function:other")
	in := &iot.CreateCertificateProviderInput{
		CertificateProviderName: aws.String("own"), LambdaFunctionArn: function, AccountDefaultForOperations: operations,
		Tags: []types.Tag{{Key: aws.String("team"), Value: aws.String("pki")}},
	}
	made := must(e.iot.CreateCertificateProvider(ctx, in))(t)
	if *made.CertificateProviderArn != arnPrefix+"certificateprovider/own" {
		t.Errorf("made %s", *made.CertificateProviderArn)
	}
	must(e.iot.CreateCertificateProvider(ctx, in))(t) // idempotent
	describe := func() *iot.DescribeCertificateProviderOutput {
		return must(e.iot.DescribeCertificateProvider(ctx, &iot.DescribeCertificateProviderInput{CertificateProviderName: aws.String("own")}))(t)
	}
	if got := describe(); *got.LambdaFunctionArn != *function || !cmp.Equal(got.AccountDefaultForOperations, operations) || got.CreationDate.IsZero() {
		t.Errorf("described %+v", got)
	}
	for name, test := range map[string]struct {
		in    iot.CreateCertificateProviderInput
		typed func(error) bool
	}{
		"another function":  {iot.CreateCertificateProviderInput{CertificateProviderName: aws.String("own"), LambdaFunctionArn: other, AccountDefaultForOperations: operations}, is[*types.ResourceAlreadyExistsException]},
		"a second one":      {iot.CreateCertificateProviderInput{CertificateProviderName: aws.String("two"), LambdaFunctionArn: other, AccountDefaultForOperations: operations}, is[*types.LimitExceededException]},
		"another operation": {iot.CreateCertificateProviderInput{CertificateProviderName: aws.String("own"), LambdaFunctionArn: function, AccountDefaultForOperations: []types.CertificateProviderOperation{"RegisterThing"}}, is[*types.InvalidRequestException]},
		"no operation":      {iot.CreateCertificateProviderInput{CertificateProviderName: aws.String("own"), LambdaFunctionArn: function, AccountDefaultForOperations: []types.CertificateProviderOperation{}}, is[*types.InvalidRequestException]},
		"another name":      {iot.CreateCertificateProviderInput{CertificateProviderName: aws.String("a b"), LambdaFunctionArn: function, AccountDefaultForOperations: operations}, is[*types.InvalidRequestException]},
	} {
		if _, err := e.iot.CreateCertificateProvider(ctx, &test.in); !test.typed(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(e.iot.UpdateCertificateProvider(ctx, &iot.UpdateCertificateProviderInput{CertificateProviderName: aws.String("own"), LambdaFunctionArn: other}))(t)
	if got := describe(); *got.LambdaFunctionArn != *other {
		t.Errorf("described %+v", got)
	}
	if listed := must(e.iot.ListCertificateProviders(ctx, &iot.ListCertificateProvidersInput{}))(t); len(listed.CertificateProviders) != 1 {
		t.Errorf("listed %+v", listed)
	}
	tags := must(e.iot.ListTagsForResource(ctx, &iot.ListTagsForResourceInput{ResourceArn: made.CertificateProviderArn}))(t).Tags
	if len(tags) != 1 || *tags[0].Value != "pki" {
		t.Errorf("tags %+v", tags)
	}
	remove := &iot.DeleteCertificateProviderInput{CertificateProviderName: aws.String("own")}
	must(e.iot.DeleteCertificateProvider(ctx, remove))(t)
	if _, err := e.iot.DeleteCertificateProvider(ctx, remove); !is[*types.ResourceNotFoundException](err) {
		t.Errorf("deleted twice: %v", err)
	}
}
