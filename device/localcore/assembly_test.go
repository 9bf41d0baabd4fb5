package localcore_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// lambdaArchitecture is Lambda's name of this machine's architecture.
var lambdaArchitecture = map[string]string{"amd64": "x86_64", "arm64": "arm64"}[runtime.GOARCH]

// newAssembly writes the assembly of the golden stack for this machine, after edit, with the hook
// at hook as its asset; it stands for the function that retires certificates too.
func newAssembly(t *testing.T, hook string, edit ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cdk.out")
	for _, asset := range []string{"asset.HOOK", "asset.RETIRE"} {
		if err := os.CopyFS(filepath.Join(dir, asset), os.DirFS(filepath.Dir(hook))); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile("../../infra/stack/testdata/template.golden.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(edit) == 0 {
		edit = []string{`"arm64"`, `"` + lambdaArchitecture + `"`}
	}
	edit = append(edit, `"SERIAL_TABLE"`, `"NO_TABLE"`) // the emulator is no DynamoDB
	for name, text := range map[string]string{
		"manifest.json": `{"artifacts": {
			"Fleet.assets": {"type": "cdk:asset-manifest", "properties": {"file": "Fleet.assets.json"}},
			"Fleet": {"type": "aws:cloudformation:stack", "environment": "aws://123456789012/us-east-1",
				"properties": {"templateFile": "Fleet.template.json"}, "dependencies": ["Fleet.assets"]}}}`,
		"Fleet.assets.json": `{"files": {"HOOK": {"source": {"path": "asset.HOOK", "packaging": "zip"}, "destinations": {"d": {"objectKey": "HOOK.zip"}}},
			"RETIRE": {"source": {"path": "asset.RETIRE", "packaging": "zip"}, "destinations": {"d": {"objectKey": "RETIRE.zip"}}}}}`,
		"Fleet.template.json": strings.NewReplacer(edit...).Replace(string(golden)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAssemblyIsEmulatedWithItsHook(t *testing.T) {
	t.Parallel()
	dir := newAssembly(t, buildHook(t), `"arm64"`, `"`+lambdaArchitecture+`"`, `"SERIAL_PREFIX": "297468"`, `"SERIAL_PREFIX": "77"`)
	s := start(t, localcore.Config{Assembly: dir})
	if name, _ := enroll(t, s, "7712"); name != "fleety_7712" {
		t.Errorf("thing name %q", name)
	}
	thing, err := s.Registry().DescribeThing("fleety_7712")
	if err != nil || thing.Type != "fleety" {
		t.Errorf("thing %+v, error %v", thing, err)
	}
	claim := dialClaim(t, s)
	for _, serial := range []string{"2974685", "7712"} { // the shared prefix, and a thing in use
		got := rejected(t, registerTopic, claim.ask(t, registerTopic, registration(pending(t, claim).CertificateOwnershipToken, serial)))
		if want := (awsiot.ErrorResponse{StatusCode: 403, ErrorCode: "AccessDenied", ErrorMessage: "Access denied"}); got != want {
			t.Errorf("serial %s: rejected with %+v", serial, got)
		}
	}
}

// The rule of the stack invokes the function that retires the former certificate of a device, whose
// birth message names it.
func TestRuleOfAnAssemblyRunsWithItsFunction(t *testing.T) {
	t.Parallel()
	dir := newAssembly(t, buildHook(t))
	if err := buildFunction(must(filepath.Abs(filepath.Join(dir, "asset.RETIRE", "bootstrap")))(t), "./cmd/retire"); err != nil {
		t.Fatal(err)
	}
	clock := newClock()
	s := start(t, localcore.Config{Assembly: dir, HookFunc: allowEvery, Now: clock.Now})
	if rules := must(controlPlane(s).ListTopicRules(within(t), &iot.ListTopicRulesInput{}))(t).Rules; len(rules) != 1 || aws.ToString(rules[0].RuleName) != "Fleet_BirthMessages" {
		t.Errorf("rules %+v", rules)
	}
	enroll(t, s, "2974685")
	former := must(s.Registry().ListThingPrincipals("fleety_2974685"))(t)[0].CertificateID
	clock.advance(time.Minute)
	cert, key := selfSigned(t)
	next := must(s.Registry().CreateCertificate(registry.Certificate{PEM: string(cert), Status: registry.Active}))(t)
	if err := errors.Join(s.Registry().AttachThingPrincipal("fleety_2974685", next.ID, registry.NonExclusive),
		s.Registry().AttachPolicy(localcore.DevicePolicyName, registry.CertificateTarget(next.ID))); err != nil {
		t.Fatal(err)
	}
	d := mustDial(t, s, "fleety_2974685", tlsConfig(t, s, cert, key))
	if err := d.publish(t, "fleet/fleety_2974685", 1, `{"replaces":"`+former+`"}`); err != nil {
		t.Fatal(err)
	}
	for ctx := within(t); ; {
		c, _ := s.Registry().CertificateByID(former)
		if c.Status == registry.Inactive {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("the former certificate was not retired: it is %s", c.Status)
		}
	}
}

// A rule that is not emulated keeps nobody from rehearsing the rest.
func TestRuleOfAnAssemblyThatIsNotEmulatedIsLeftOut(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{HookFunc: allowEvery, Assembly: newAssembly(t, buildHook(t), `"arm64"`, `"`+lambdaArchitecture+`"`, "isUndefined(replaces)", "aws_lambda(replaces)")})
	if rules := must(controlPlane(s).ListTopicRules(within(t), &iot.ListTopicRulesInput{}))(t).Rules; len(rules) != 0 {
		t.Errorf("rules %+v", rules)
	}
}

// Without a table of serial numbers the hook denies, and no account is called.
func TestHookOfAnAssemblyReachesNoAccount(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Assembly: newAssembly(t, buildHook(t), `"arm64"`, `"`+lambdaArchitecture+`"`,
		`"SERIAL_PREFIX"`, `"SERIAL_TABLE": "serials", "SERIAL_PREFIX"`)})
	claim := dialClaim(t, s)
	rejected(t, registerTopic, claim.ask(t, registerTopic, registration(pending(t, claim).CertificateOwnershipToken, "2974685")))
	awaitRejection(t, s, localcore.ActionProvision, "StatusCode: 404")
}

// The claim of the stack is a certificate in a real account.
func TestClaimOfTheEmulatorReplacesThatOfTheAssembly(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	for _, c := range []localcore.Config{
		{State: state, Templates: templates, HookFunc: allowEvery},
		{State: state, Assembly: newAssembly(t, buildHook(t)), HookFunc: allowEvery},
	} {
		s := start(t, c)
		policies, err := s.Registry().ListAttachedPolicies(registry.CertificateTarget(s.Claim().CertificateID), false)
		if err != nil || len(policies) != 1 || policies[0] != localcore.ClaimPolicyName {
			t.Errorf("the claim has policies %q, error %v", policies, err)
		}
		s.Close()
	}
}

// Templates after a stack, or another stack, bring their claim policies; a restart with the same
// brings none back that was detached.
func TestClaimHasThePoliciesOfTheDeployment(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	stack := localcore.Config{State: state, FastIssuer: true, HookFunc: allowEvery, Assembly: newAssembly(t, buildHook(t), `"arm64"`, `"`+lambdaArchitecture+`"`,
		localcore.ClaimPolicyName, "OtherClaimPolicy")}
	embedded := localcore.Config{State: state, HookFunc: allowEvery}
	for _, step := range []struct {
		config localcore.Config
		want   []string
	}{
		{stack, []string{"OtherClaimPolicy"}}, {stack, nil},
		{embedded, []string{localcore.ClaimPolicyName}}, {embedded, nil},
	} {
		s := start(t, step.config)
		claim := registry.CertificateTarget(s.Claim().CertificateID)
		policies, err := s.Registry().ListAttachedPolicies(claim, false)
		if diff := cmp.Diff(step.want, policies); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
		for _, name := range policies {
			err = errors.Join(err, s.Registry().DetachPolicy(name, claim))
		}
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInvalidAssemblyIsRejectedInOneLine(t *testing.T) {
	t.Parallel()
	hook := buildHook(t)
	lost := newAssembly(t, hook)
	if err := os.Remove(filepath.Join(lost, "asset.HOOK", "bootstrap")); err != nil {
		t.Fatal(err)
	}
	other := map[string]string{"arm64": "x86_64", "x86_64": "arm64"}[lambdaArchitecture]
	good := newAssembly(t, hook)
	tests := map[string]struct {
		config localcore.Config
		want   string
	}{
		"another machine's hook": {localcore.Config{Assembly: newAssembly(t, hook, `"arm64"`, `"`+other+`"`)}, "synthesize it with -c hookArchitecture=" + lambdaArchitecture},
		"no executable":          {localcore.Config{Assembly: lost}, "bootstrap does not exist: synthesize the assembly anew"},
		"another account":        {localcore.Config{Assembly: good, Account: "210987654321"}, "stack Fleet was synthesized for 123456789012"},
		"another region":         {localcore.Config{Assembly: good, Region: "eu-west-1"}, "stack Fleet was synthesized for us-east-1"},
		"templates besides":      {localcore.Config{Assembly: good, Templates: templates}, "give none besides"},
		"a hook besides":         {localcore.Config{Assembly: good, Hook: hook}, "give none besides"},
		"no hook":                {localcore.Config{Assembly: good, Hook: localcore.NoHook}, "give none besides"},
		"another stack":          {localcore.Config{Assembly: good, Stack: "Other"}, "holds no stack Other; it holds Fleet"},
		"a stack alone":          {localcore.Config{Stack: "Fleet"}, "there is no assembly to find it in"},
		"no template":            {localcore.Config{Assembly: newAssembly(t, hook, "AWS::IoT::ProvisioningTemplate", "AWS::Other")}, "it has no provisioning template"},
		"no claim":               {localcore.Config{Assembly: newAssembly(t, hook, "AWS::IoT::PolicyPrincipalAttachment", "AWS::Other")}, "it attaches no policy to a certificate"},
		"a malformed policy":     {localcore.Config{Assembly: newAssembly(t, hook, `"arm64"`, `"`+lambdaArchitecture+`"`, `"Allow"`, `"Permit"`)}, "policy GoIoTFleetProvisioningPolicy: "},
		"not there":              {localcore.Config{Assembly: filepath.Join(t.TempDir(), "cdk.out")}, "no such file or directory; cdk synth writes it"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := localcore.Start(t.Context(), test.config)
			if err == nil {
				s.Close()
				t.Fatal("it started")
			}
			if text := err.Error(); !strings.Contains(text, test.want) || strings.Contains(text, "\n") {
				t.Errorf("error %q, want one line with %q", text, test.want)
			}
		})
	}
}

func TestLogNamesTheLoadedStack(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s, err := localcore.Start(t.Context(), localcore.Config{
		Assembly: newAssembly(t, buildHook(t)), HookFunc: allowEvery, Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "stack=Fleet") || !strings.Contains(log.String(), "account=123456789012") {
		t.Errorf("the log is\n%s", &log)
	}
}
