package localcore_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// A testCA is a customer's own certificate authority.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newTestCA makes a CA that signer has signed, nil for one of its own.
func newTestCA(t *testing.T, name string, signer *testCA) *testCA {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	if signer == nil {
		signer = &testCA{template, key}
	}
	der := must(x509.CreateCertificate(rand.Reader, template, signer.cert, key.Public(), signer.key))(t)
	return &testCA{must(x509.ParseCertificate(der))(t), key}
}

// issue makes a certificate for a new key, valid for an hour unless change says otherwise.
func (ca *testCA) issue(t *testing.T, subject pkix.Name, change ...func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: subject,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	for _, f := range change {
		f(template)
	}
	der := must(x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key))(t)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: must(x509.ParseCertificate(der))(t)}
}

func certificatePEM(der []byte) *string {
	return aws.String(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// register registers a CA, active and for automatic registration.
func (ca *testCA) register(t *testing.T, s *localcore.Server, config *types.RegistrationConfig) (id string) {
	t.Helper()
	client := controlPlane(s)
	code := must(client.GetRegistrationCode(t.Context(), &iot.GetRegistrationCodeInput{}))(t)
	proof := ca.issue(t, pkix.Name{CommonName: *code.RegistrationCode})
	made := must(client.RegisterCACertificate(t.Context(), &iot.RegisterCACertificateInput{
		CaCertificate: certificatePEM(ca.cert.Raw), VerificationCertificate: certificatePEM(proof.Certificate[0]),
		SetAsActive: true, AllowAutoRegistration: true, RegistrationConfig: config,
	}))(t)
	return *made.CertificateId
}

// present connects with a certificate, which must fail, and returns its record.
func present(t *testing.T, s *localcore.Server, cert tls.Certificate) (registry.Certificate, bool) {
	t.Helper()
	config := &tls.Config{RootCAs: s.RootCAs(), Certificates: []tls.Certificate{cert}, ServerName: "localhost"}
	if d, err := dial(t, s, "T", config); err == nil {
		d.Disconnect(0)
		t.Fatal("the first connection was accepted")
	}
	return s.Registry().CertificateByID(awsiot.CertificateID(cert.Leaf))
}

// A CA that was renewed has two certificates with one key; the one that is active registers, whichever
// is found first.
func TestRenewedCARegistersByItsActiveCertificate(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	ca := newTestCA(t, "Factory", nil)
	renewed := &testCA{must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, ca.cert, ca.cert, ca.key.Public(), ca.key))(t)))(t), ca.key}
	ids := []string{ca.register(t, s.Server, nil), renewed.register(t, s.Server, nil)}
	for i, id := range ids {
		err := s.Registry().UpdateCACertificate(registry.CACertificateUpdate{ID: id, Status: registry.Active})
		if err == nil {
			err = s.Registry().UpdateCACertificate(registry.CACertificateUpdate{ID: ids[1-i], Status: registry.Inactive})
		}
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := present(t, s.Server, ca.issue(t, pkix.Name{CommonName: "T"})); !ok || c.CAID != id {
			t.Errorf("registered %v by %s, want %s", ok, c.CAID, id)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/auto-register-device-cert.html:
// a connection with a certificate of a registered CA registers it as PENDING_ACTIVATION and ends,
// and each such connection publishes an event.
func TestConnectionRegistersACertificateOfARegisteredCA(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	ca := newTestCA(t, "Factory", nil)
	caID := ca.register(t, s.Server, nil)
	app := mustDial(t, s.Server, "app", s.tls)
	app.subscribe(t, "$aws/events/certificates/registered/"+caID)
	device := ca.issue(t, pkix.Name{CommonName: "T"})
	id := awsiot.CertificateID(device.Leaf)
	for range 2 {
		c, ok := present(t, s.Server, device)
		if !ok || c.Status != registry.PendingActivation || c.CAID != caID {
			t.Fatalf("registered %v: %+v", ok, c)
		}
		var event struct {
			CertificateID, CACertificateID, CertificateStatus, AWSAccountID, CertificateRegistrationTimestamp string
			Timestamp                                                                                         int64
		}
		if err := json.Unmarshal(app.next(t).Payload(), &event); err != nil {
			t.Fatal(err)
		}
		if event.CertificateID != id || event.CACertificateID != caID || event.CertificateStatus != "PENDING_ACTIVATION" ||
			event.AWSAccountID != "123456789012" || event.Timestamp == 0 || event.CertificateRegistrationTimestamp == "" {
			t.Errorf("event %+v", event)
		}
	}
	if err := s.Registry().UpdateCertificate(id, registry.Active); err != nil {
		t.Fatal(err)
	}
	if err := s.Registry().AttachPolicy("own", registry.CertificateTarget(id)); err != nil {
		t.Fatal(err)
	}
	mustDial(t, s.Server, "T", &tls.Config{RootCAs: s.RootCAs(), Certificates: []tls.Certificate{device}, ServerName: "localhost"})
}

// Certificates are public: who has seen one, and not its key, makes nothing with it.
func TestConnectionWithoutTheKeyRegistersNothing(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	ca := newTestCA(t, "Factory", nil)
	ca.register(t, s.Server, &types.RegistrationConfig{TemplateBody: aws.String(jitpTemplate), RoleArn: aws.String("arn:aws:iam::123456789012:role/jitp")})
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		seen := ca.issue(t, pkix.Name{CommonName: "T", SerialNumber: "17", Country: []string{"DE"}})
		seen.PrivateKey = ca.issue(t, pkix.Name{CommonName: "other"}).PrivateKey
		config := &tls.Config{RootCAs: s.RootCAs(), Certificates: []tls.Certificate{seen}, ServerName: "localhost", MaxVersion: version}
		if d, err := dial(t, s.Server, "T", config); err == nil {
			d.Disconnect(0)
			t.Fatal("the connection was accepted")
		}
		if c, ok := s.Registry().CertificateByID(awsiot.CertificateID(seen.Leaf)); ok {
			t.Errorf("%s: registered %+v", tls.VersionName(version), c)
		}
		if thing, err := s.Registry().DescribeThing("T"); err == nil {
			t.Errorf("%s: provisioned %+v", tls.VersionName(version), thing)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/manage-your-CA-certs.html:
// a certificate is registered by connecting only while its CA is active and allows that.
func TestConnectionRegistersNothingWithoutAnActiveCA(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	ca := newTestCA(t, "Factory", nil)
	id := aws.String(ca.register(t, s.Server, nil))
	for name, update := range map[string]*iot.UpdateCACertificateInput{
		"INACTIVE":                     {CertificateId: id, NewStatus: types.CACertificateStatusInactive},
		"without auto-registration":    {CertificateId: id, NewStatus: types.CACertificateStatusActive, NewAutoRegistrationStatus: types.AutoRegistrationStatusDisable},
		"auto-registration is removed": {CertificateId: id, RemoveAutoRegistration: true},
	} {
		must(controlPlane(s.Server).UpdateCACertificate(t.Context(), update))(t)
		if c, ok := present(t, s.Server, ca.issue(t, pkix.Name{CommonName: "T"})); ok {
			t.Errorf("%s: registered %+v", name, c)
		}
	}
	must(controlPlane(s.Server).UpdateCACertificate(t.Context(), &iot.UpdateCACertificateInput{
		CertificateId: id, NewStatus: types.CACertificateStatusActive, NewAutoRegistrationStatus: types.AutoRegistrationStatusEnable,
	}))(t)
	for name, device := range map[string]tls.Certificate{
		"signed by another CA of that name": newTestCA(t, "Factory", nil).issue(t, pkix.Name{CommonName: "T"}),
		"expired":                           ca.issue(t, pkix.Name{CommonName: "T"}, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }),
	} {
		if c, ok := present(t, s.Server, device); ok {
			t.Errorf("%s: registered %+v", name, c)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/x509-client-certs.html:
// a client may present its chain, and the CA that is registered may be any in it.
func TestChainLeadsToTheRegisteredCA(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	root := newTestCA(t, "Root", nil)
	line := newTestCA(t, "Line 1", newTestCA(t, "Plant", root))
	plant := newTestCA(t, "Plant 2", root)
	lineOfPlant := newTestCA(t, "Line 2", plant)
	caID := root.register(t, s.Server, nil)
	if c, ok := present(t, s.Server, line.issue(t, pkix.Name{CommonName: "T"})); ok {
		t.Errorf("registered without its chain: %+v", c)
	}
	device := lineOfPlant.issue(t, pkix.Name{CommonName: "T"})
	device.Certificate = append(device.Certificate, plant.cert.Raw, lineOfPlant.cert.Raw) // in any order
	if c, ok := present(t, s.Server, device); !ok || c.CAID != caID {
		t.Errorf("registered %v: %+v", ok, c)
	}
}

const jitpTemplate = `{
 "Parameters": {"AWS::IoT::Certificate::CommonName": {"Type": "String"}, "AWS::IoT::Certificate::SerialNumber": {"Type": "String"},
                "AWS::IoT::Certificate::Country": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
 "Resources": {
  "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "AWS::IoT::Certificate::CommonName"},
   "AttributePayload": {"serial": {"Ref": "AWS::IoT::Certificate::SerialNumber"}, "country": {"Ref": "AWS::IoT::Certificate::Country"}}}},
  "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}},
  "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "own"}}}}`

// https://docs.aws.amazon.com/iot/latest/developerguide/jit-provisioning.html:
// the first connection with a certificate of a CA that has a template provisions the thing, with
// parameters from the certificate's subject, and activates the certificate; the next one is
// accepted.
func TestConnectionProvisionsByTheTemplateOfItsCA(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	must(controlPlane(s.Server).CreateProvisioningTemplate(t.Context(), &iot.CreateProvisioningTemplateInput{
		TemplateName: aws.String("jitp"), TemplateBody: aws.String(jitpTemplate), Type: types.TemplateTypeJitp, Enabled: aws.Bool(true),
		ProvisioningRoleArn: aws.String("arn:aws:iam::123456789012:role/jitp"),
	}))(t)
	for name, config := range map[string]*types.RegistrationConfig{
		"body": {TemplateBody: aws.String(jitpTemplate), RoleArn: aws.String("arn:aws:iam::123456789012:role/jitp")},
		"name": {TemplateName: aws.String("jitp")},
	} {
		ca := newTestCA(t, "Factory by "+name, nil)
		ca.register(t, s.Server, config)
		device := ca.issue(t, pkix.Name{CommonName: "by-" + name, SerialNumber: "17", Country: []string{"DE"}})
		if c, ok := present(t, s.Server, device); !ok || c.Status != registry.Active {
			t.Errorf("%s: registered %v: %+v", name, ok, c)
		}
		thing, err := s.Registry().DescribeThing("by-" + name)
		if diff := cmp.Diff(map[string]string{"serial": "17", "country": "DE"}, thing.Attributes); err != nil || diff != "" {
			t.Errorf("%s: %v %s", name, err, diff)
		}
		d := mustDial(t, s.Server, "by-"+name, &tls.Config{RootCAs: s.RootCAs(), Certificates: []tls.Certificate{device}, ServerName: "localhost"})
		if err := d.publish(t, "x", 1, "x"); err != nil {
			t.Error(err)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/jit-provisioning.html: a
// subject without a value that the template refers to provisions nothing.
func TestJustInTimeProvisioningNeedsEveryParameter(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	ca := newTestCA(t, "Factory", nil)
	ca.register(t, s.Server, &types.RegistrationConfig{TemplateBody: aws.String(jitpTemplate), RoleArn: aws.String("arn:aws:iam::123456789012:role/jitp")})
	c, _ := present(t, s.Server, ca.issue(t, pkix.Name{CommonName: "T", Country: []string{"DE"}}))
	if c.Status != registry.PendingActivation {
		t.Errorf("status %s", c.Status)
	}
	if _, err := s.Registry().DescribeThing("T"); err == nil {
		t.Error("a thing was made")
	}
	awaitRejection(t, s.Server, localcore.ActionTLS, "AWS::IoT::Certificate::SerialNumber")
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CertificateDescription.html:
// a certificate in mode SNI_ONLY requires SNI.
func TestCertificateInModeSNIOnlyRequiresSNI(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{AmbiguousBehavior: localcore.AmbiguousBehavior{AllowMissingSNI: true}})
	ca := newTestCA(t, "Shared", nil)
	made := must(controlPlane(s.Server).RegisterCACertificate(t.Context(), &iot.RegisterCACertificateInput{
		CaCertificate: certificatePEM(ca.cert.Raw), CertificateMode: types.CertificateModeSniOnly, SetAsActive: true,
	}))(t)
	device := ca.issue(t, pkix.Name{CommonName: "T"})
	registered := must(controlPlane(s.Server).RegisterCertificate(t.Context(), &iot.RegisterCertificateInput{
		CertificatePem: certificatePEM(device.Certificate[0]), Status: types.CertificateStatusActive,
	}))(t)
	if err := s.Registry().AttachPolicy("own", registry.CertificateTarget(*registered.CertificateId)); err != nil {
		t.Fatal(err)
	}
	if c, _ := s.Registry().CertificateByID(*registered.CertificateId); c.Mode != registry.SNIOnly || c.CAID != *made.CertificateId {
		t.Errorf("registered %+v", c)
	}
	named := &tls.Config{RootCAs: s.RootCAs(), Certificates: []tls.Certificate{device}, ServerName: "localhost"}
	mustDial(t, s.Server, "T", named)
	unnamed := named.Clone()
	unnamed.ServerName = "127.0.0.1" // no SNI is sent for an address
	if _, err := dial(t, s.Server, "T", unnamed); err == nil {
		t.Error("accepted without SNI")
	}
	awaitRejection(t, s.Server, localcore.ActionTLS, "SNI_ONLY")
}

// The commands of docs/local-core.md, with openssl and the aws command line.
//
// https://docs.aws.amazon.com/iot/latest/developerguide/register-CA-cert.html: a CA
// certificate is registered with a verification certificate for the registration code.
func TestCommandLinesRegisterACA(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		missing(t, "openssl", "apt-get install openssl")
	}
	s := startFree(t, localcore.Config{})
	aws := awsCLI(t, s.Server)
	_, section, _ := strings.Cut(string(must(os.ReadFile("../../docs/local-core.md"))(t)), "\n## Own certificates\n")
	_, script, _ := strings.Cut(section, "```sh\n")
	script, _, ok := strings.Cut(script, "```")
	if !ok {
		t.Fatal("docs/local-core.md has no commands")
	}
	dir := t.TempDir()
	command := exec.CommandContext(t.Context(), "sh", "-euc", strings.ReplaceAll(script, "http://127.0.0.1:8480", s.APIURL())+`
		openssl req -new -newkey rsa:2048 -nodes -keyout device.key -out device.csr -subj /CN=T
		openssl x509 -req -in device.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out device.pem -days 30`)
	command.Dir, command.Env = dir, awsEnvironment(t, s.Server)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	id := aws("iot", "list-ca-certificates")["certificates"].([]any)[0].(map[string]any)["certificateId"].(string)
	file := func(name string) string { return "file://" + filepath.Join(dir, name) }
	made := aws("iot", "register-certificate", "--certificate-pem", file("device.pem"), "--ca-certificate-pem", file("ca.pem"), "--set-as-active")
	if err := s.Registry().AttachPolicy("own", registry.CertificateTarget(made["certificateId"].(string))); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte { return must(os.ReadFile(filepath.Join(dir, name)))(t) }
	mustDial(t, s.Server, "T", tlsConfig(t, s.Server, read("device.pem"), read("device.key")))
	if listed := aws("iot", "list-certificates-by-ca", "--ca-certificate-id", id)["certificates"].([]any); len(listed) != 1 {
		t.Errorf("listed %v", listed)
	}
	aws("iot", "tag-resource", "--resource-arn", s.ARN("cacert/"+id), "--tags", "Key=plant,Value=1")
	if tags := aws("iot", "list-tags-for-resource", "--resource-arn", s.ARN("cacert/"+id))["tags"].([]any); len(tags) != 1 {
		t.Errorf("tags %v", tags)
	}
}
