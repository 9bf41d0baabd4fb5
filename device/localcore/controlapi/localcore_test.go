package controlapi_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/aws-sdk-go-v2/service/iotdataplane"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

const root = "../../.."

func startEmulator(t *testing.T) *localcore.Server {
	t.Helper()
	s := must(localcore.Start(t.Context(), localcore.Config{Templates: filepath.Join(root, "templates"), Account: account}))(t)
	t.Cleanup(func() { s.Close() })
	return s
}

func TestLocalCoreBehindTheSDK(t *testing.T) {
	t.Parallel()
	s, ctx := startEmulator(t), t.Context()
	url := s.APIURL()
	control := iot.New(iot.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: aws.AnonymousCredentials{}})
	data := iotdataplane.New(iotdataplane.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: aws.AnonymousCredentials{}})

	made := must(control.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{SetAsActive: true}))(t)
	template := localcore.Config{}.Expand(string(must(os.ReadFile(filepath.Join(root, "templates", "fleet_template.json")))(t)))
	registered := must(control.RegisterThing(ctx, &iot.RegisterThingInput{TemplateBody: &template, Parameters: map[string]string{
		"serialNumber": "2974685", "deviceLocation": "USA", "AWS::IoT::Certificate::Id": *made.CertificateId,
	}}))(t)
	if got, want := registered.ResourceArns["thing"], s.ARN("thing/fleety_2974685"); got != want {
		t.Errorf("registered %s, want %s", got, want)
	}
	asked := must(control.TestAuthorization(ctx, &iot.TestAuthorizationInput{
		Principal: made.CertificateArn, ClientId: aws.String("fleety_2974685"),
		AuthInfos: []types.AuthInfo{{ActionType: types.ActionTypeConnect, Resources: []string{
			s.ARN("client/fleety_2974685"), s.ARN("client/fleety_2974686"),
		}}},
	}))(t)
	var decisions []types.AuthDecision
	for _, r := range asked.AuthResults {
		decisions = append(decisions, r.AuthDecision)
	}
	if diff := cmp.Diff([]types.AuthDecision{types.AuthDecisionAllowed, types.AuthDecisionImplicitDeny}, decisions); diff != "" {
		t.Error(diff)
	}
	must(data.Publish(ctx, &iotdataplane.PublishInput{Topic: aws.String("fleet/a b"), Payload: []byte("kept"), Retain: true}))(t)
	kept := must(data.GetRetainedMessage(ctx, &iotdataplane.GetRetainedMessageInput{Topic: aws.String("fleet/a b")}))(t)
	if string(kept.Payload) != "kept" {
		t.Errorf("retained %q", kept.Payload)
	}
}

// A policy, a template and a body of RegisterThing that are not JSON, or wrong in
// some place, are answered with line and column.
func TestFaultsOfDocumentsAreAnsweredWithLineAndColumn(t *testing.T) {
	t.Parallel()
	client, ctx := sdkClient(startEmulator(t).APIURL()), t.Context()
	role := aws.String("arn:aws:iam::" + account + ":role/r")
	for text, place := range map[string]string{
		"{\n  \"Version\": x}":              "line 2, column 14:",
		"{\n":                               "line 2, column 1:",
		"{\"Statement\": [],\n \"Odd\": 1}": "line 2, column ",
	} {
		for name, call := range map[string]func() error{
			"CreatePolicy": func() error {
				_, err := client.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: aws.String("p"), PolicyDocument: &text})
				return err
			},
			"CreateProvisioningTemplate": func() error {
				_, err := client.CreateProvisioningTemplate(ctx, &iot.CreateProvisioningTemplateInput{
					TemplateName: aws.String("t"), TemplateBody: &text, ProvisioningRoleArn: role,
				})
				return err
			},
			"RegisterThing": func() error {
				_, err := client.RegisterThing(ctx, &iot.RegisterThingInput{TemplateBody: &text})
				return err
			},
		} {
			err := call()
			if code := codeOf(err); code != registry.CodeInvalidRequest && code != registry.CodeMalformedPolicy || !strings.Contains(err.Error(), place) {
				t.Errorf("%s of %q: got %v, want %s", name, text, err, place)
			}
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateKeysAndCertificate.html:
// the aws command makes a claim against this API as against AWS.
func TestClaimScript(t *testing.T) {
	t.Parallel()
	s := startEmulator(t)
	client := newCLI(t, s.APIURL())
	dir := t.TempDir()
	real := must(exec.LookPath("aws"))(t)
	wrapper := fmt.Sprintf("#!/bin/sh\nexec '%s' --endpoint-url '%s' \"$@\"\n", real, s.APIURL())
	const name = "create-keys-and-cert.sh"
	script := must(os.ReadFile(filepath.Join(root, "scripts", name)))(t)
	for file, content := range map[string][]byte{"bin/aws": []byte(wrapper), "scripts/" + name: script} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), "sh", filepath.Join(dir, "scripts", name))
	command.Env = slices.Concat(client.env, []string{"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH")})
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	id, ok := strings.CutPrefix(strings.TrimSpace(string(out)), s.ARN("cert/"))
	if c, there := s.Registry().CertificateByID(id); !ok || !there || c.Status != registry.Active {
		t.Errorf("the script printed %q, the certificate is %+v", out, c)
	}
}
