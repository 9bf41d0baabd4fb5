package scripttest

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeCloud is an aws command line over a folder of answers: $FAKE/SERVICE OPERATION NAME holds
// what is answered; a file that ends with .error holds the message of a failure; without either,
// the thing is not there.
const fakeCloud = `#!/bin/sh
question="$1 $2"
echo "${AWS_PROFILE:+$AWS_PROFILE: }$@" >>"$FAKE/asked"
shift 2
while [ $# -gt 0 ]; do
	case $1 in
	--region | --output | --endpoint-type) shift ;;
	--query) case $2 in *OutputKey*) question="$question $2" ;; esac; shift ;;
	--*) question="$question $2"; shift ;;
	esac
	shift
done
file=$FAKE/$(echo "$question" | tr '/' '_')
if [ -e "$file.error" ]; then cat "$file.error" >&2; exit 255; fi
if [ -e "$file" ]; then cat "$file"; exit 0; fi
echo "An error occurred (ResourceNotFoundException): $question" >&2
exit 254
`

// ready are the answers of an account that a stack can be deployed to.
var ready = map[string]string{
	"sts get-caller-identity": "123456789012",
	"iot describe-endpoint":   "abc-ats.iot.us-east-1.amazonaws.com",
	"iot describe-certificate " + claimARN[strings.Index(claimARN, "/")+1:]: "ACTIVE",
	"ssm get-parameter _cdk-bootstrap_hnb659fds_version":                    "21",
}

const deployedStack = "UPDATE_COMPLETE\tFleet provisioning by claim: devices trade a shared claim certificate for their own."

// newCloud is a place with the tools of a deployment: changed answers replace those of ready; an
// empty one takes it away.
func newCloud(t *testing.T, changed map[string]string) (p *place, notes string) {
	t.Helper()
	p = newPlace(t, "tail")
	notes = p.fake(t, fakeCloud)
	answers := maps.Clone(ready)
	maps.Copy(answers, changed)
	for question, answer := range answers {
		if answer == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(notes, question), []byte(answer+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.tool(t, filepath.Join("bin", "node"), "echo v22.1.0")
	p.tool(t, filepath.Join("bin", "go"), "exit 0")
	p.tool(t, filepath.Join("infra", "node_modules", ".bin", "cdk"),
		`case $1 in --version) echo "2.1148.1 (build abc)" ;; *) echo "cdk $*" >>"$FAKE/cdk"; echo the CDK speaks ;; esac
case $1 in destroy) rm -f "$FAKE/cloudformation describe-stacks "* ;; esac`)
	return p, notes
}

// tool puts a shell script into the place.
func (p *place) tool(t *testing.T, name, script string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(p.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.path(name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestPreflightIsSilentWhenAllIsWell(t *testing.T) {
	again := map[string]string{"cloudformation describe-stacks GoFleetProvisioning": deployedStack, "iot get-policy GoIoTDevicePolicy": "there"}
	underReview := map[string]string{"cloudformation describe-stacks GoFleetProvisioning": "REVIEW_IN_PROGRESS\tNone"}
	for name, test := range map[string]struct {
		answers map[string]string
		args    []string
	}{
		"first time":   {nil, []string{claimARN}},
		"its policy":   {map[string]string{policiesOfClaim: "GoIoTFleetProvisioningPolicy"}, []string{claimARN}},
		"again":        {again, []string{claimARN}},
		"another name": {again, []string{"--name", "Second", claimARN}},
		"removal":      {again, []string{"--destroy", claimARN}},
		// What cdk diff leaves, or a deployment that was not confirmed.
		"under review":         {underReview, []string{claimARN}},
		"under review removal": {underReview, []string{"--destroy", claimARN}},
	} {
		t.Run(name, func(t *testing.T) {
			p, notes := newCloud(t, test.answers)
			if r := p.run(t, "preflight.sh", test.args...); r != (result{}) {
				t.Errorf("%+v", r)
			}
			for line := range strings.Lines(note(t, notes, "asked")) {
				operation := strings.Fields(line)[1]
				if !strings.HasPrefix(operation, "describe-") && !strings.HasPrefix(operation, "get-") && !strings.HasPrefix(operation, "list-") {
					t.Errorf("preflight does more than read: %s", line)
				}
				if !strings.Contains(line, "--region us-east-1") {
					t.Errorf("not in the claim's Region: %s", line)
				}
			}
		})
	}
}

var policiesOfClaim = "iot list-attached-policies " + strings.ReplaceAll(claimARN, "/", "_")

// A claim with more rights is no reason not to deploy, but one for a warning.
func TestPreflightWarnsOfAClaimThatMayDoMore(t *testing.T) {
	for question, answer := range map[string]string{
		policiesOfClaim: "GoIoTFleetProvisioningPolicy\tAllowAll",
		"iot list-principal-things " + strings.ReplaceAll(claimARN, "/", "_"): "fleety_1",
	} {
		p, _ := newCloud(t, map[string]string{question: answer})
		r := p.run(t, "preflight.sh", claimARN)
		if r.code != 0 || strings.Count(r.stderr, ": warning: ") != 1 || !strings.Contains(r.stderr, strings.TrimPrefix(answer, "GoIoTFleetProvisioningPolicy\t")) {
			t.Errorf("%s: %+v", question, r)
		}
	}
}

func TestPreflightSaysWhatToDo(t *testing.T) {
	const certificate, bootstrap, stack = "iot describe-certificate " + "57c92eba56f4a8a5bf4d2bb4b2f5a9b5ea9ad4ecf0b5e7ec0f3fdd9d3ca32f10",
		"ssm get-parameter _cdk-bootstrap_hnb659fds_version", "cloudformation describe-stacks GoFleetProvisioning"
	tests := map[string]struct {
		answers map[string]string
		args    []string // beyond the ARN
		want    string
	}{
		"no credentials":       {map[string]string{"sts get-caller-identity.error": "Unable to locate credentials. You can configure credentials"}, nil, "run aws configure, or set AWS_PROFILE"},
		"expired credentials":  {map[string]string{"sts get-caller-identity.error": "An error occurred (ExpiredToken)"}, nil, "renew them"},
		"another account":      {map[string]string{"sts get-caller-identity": "999999999999"}, nil, "set AWS_PROFILE to one of 123456789012"},
		"no such Region":       {map[string]string{"iot describe-endpoint.error": "Could not connect to the endpoint URL"}, nil, "whether us-east-1 is a Region"},
		"no rights":            {map[string]string{"iot describe-endpoint.error": "(AccessDeniedException) not authorized to perform: iot:DescribeEndpoint"}, nil, "iot:DescribeEndpoint"},
		"certificate inactive": {map[string]string{certificate: "INACTIVE"}, nil, "--new-status ACTIVE --region us-east-1"},
		"certificate missing":  {map[string]string{certificate: ""}, nil, "is not in this account and Region"},
		"certificate unclear":  {map[string]string{certificate + ".error": "(ThrottlingException) slow down"}, nil, "slow down"},
		"not bootstrapped":     {map[string]string{bootstrap: "", bootstrap + ".error": "(ParameterNotFound)"}, nil, "run npx cdk bootstrap aws://123456789012/us-east-1"},
		"bootstrap too old":    {map[string]string{bootstrap: "5"}, nil, "of version 5: run npx cdk bootstrap"},
		"stack in progress":    {map[string]string{stack: strings.Replace(deployedStack, "UPDATE_COMPLETE", "UPDATE_IN_PROGRESS", 1)}, nil, "is being changed: wait"},
		"stack rolled back":    {map[string]string{stack: strings.Replace(deployedStack, "UPDATE_COMPLETE", "ROLLBACK_COMPLETE", 1)}, nil, "make destroy"},
		"stack of another app": {map[string]string{stack: "CREATE_COMPLETE\tA shop"}, nil, "-c name=NAME"},
		"template there":       {map[string]string{"iot describe-provisioning-template GoFleetProvisioningTemplate": "there"}, nil, "aws iot delete-provisioning-template --template-name GoFleetProvisioningTemplate"},
		"claim policy there":   {map[string]string{"iot get-policy GoIoTFleetProvisioningPolicy": "there"}, nil, "aws iot delete-policy --policy-name GoIoTFleetProvisioningPolicy"},
		"device policy there":  {map[string]string{"iot get-policy GoIoTDevicePolicy": "there"}, nil, "aws iot delete-policy --policy-name GoIoTDevicePolicy"},
		"group there":          {map[string]string{"iot describe-thing-group fleet-provisioning-group": "there"}, nil, "aws iot delete-thing-group"},
		"own type there":       {map[string]string{"iot describe-thing-type acme": "there"}, []string{"--type", "acme"}, "aws iot deprecate-thing-type --thing-type-name acme"},
		"own group there":      {map[string]string{"iot describe-thing-group acme": "there"}, []string{"--group", "acme"}, "aws iot delete-thing-group --thing-group-name acme"},
		"extra policy there":   {map[string]string{"iot get-policy GoIoTExtraPolicy": "there"}, nil, "aws iot delete-policy --policy-name GoIoTExtraPolicy"},
		"type there":           {map[string]string{"iot describe-thing-type fleety": "there"}, nil, "aws iot deprecate-thing-type --thing-type-name fleety"},
		"second stack's names": {map[string]string{"iot get-policy SecondDevicePolicy": "there"}, []string{"--name", "Second"}, "SecondDevicePolicy"},
		"nothing to remove":    {nil, []string{"--destroy"}, "there is no stack GoFleetProvisioning"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, _ := newCloud(t, test.answers)
			r := p.run(t, "preflight.sh", append(test.args, claimARN)...)
			r.fails(t, 1, test.want)
			if strings.Count(r.stderr, ": error: ") != 1 || !strings.HasSuffix(r.stderr, "nothing was changed in AWS\n") {
				t.Errorf("want one problem:\n%s", r.stderr)
			}
		})
	}
}

// The tools of Alpine Linux know fewer character classes and options.
func TestPreflightIsReadableWithBusyBox(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip(err)
	}
	p, _ := newCloud(t, map[string]string{"sts get-caller-identity": "999999999999"})
	for _, tool := range []string{"cat", "cut", "grep", "mktemp", "rm", "sed", "tail", "tr"} {
		link := filepath.Join(p.bin, tool)
		if err := errors.Join(os.Remove(link), os.Symlink(busybox, link)); err != nil {
			t.Fatal(err)
		}
	}
	p.run(t, "preflight.sh", claimARN).fails(t, 1, "the credentials are of account 999999999999, the claim certificate is in 123456789012")
}

func TestPreflightChecksTheTools(t *testing.T) {
	tests := map[string]struct{ tool, script, want string }{
		"no node":     {"bin/node", "", "Node.js is not installed"},
		"old node":    {"bin/node", "echo v18.20.4", "Node.js is version 18"},
		"no cdk":      {"infra/node_modules/.bin/cdk", "", "run npm ci in infra/"},
		"old cdk":     {"infra/node_modules/.bin/cdk", "echo '2.1100.0 (build x)'", "2.1148 or later"},
		"ancient cdk": {"infra/node_modules/.bin/cdk", "echo '1.204.0 (build x)'", "2.1148 or later"},
		"no go":       {"bin/go", "", "Go is not installed"},
		"no aws":      {"bin/aws", "", "the aws command line is not installed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, _ := newCloud(t, nil)
			if test.script != "" {
				p.tool(t, test.tool, test.script)
			} else if err := os.Remove(p.path(test.tool)); err != nil {
				t.Fatal(err)
			}
			p.run(t, "preflight.sh", claimARN).fails(t, 1, test.want)
		})
	}
}

func TestPreflightNamesEveryProblemAtOnce(t *testing.T) {
	p, _ := newCloud(t, map[string]string{
		"sts get-caller-identity": "999999999999", "ssm get-parameter _cdk-bootstrap_hnb659fds_version": "", "iot get-policy GoIoTDevicePolicy": "there",
	})
	p.tool(t, "bin/node", "echo v18.0.0")
	r := p.run(t, "preflight.sh", claimARN+","+strings.Replace(claimARN, "cert/57", "cert/99", 1))
	if got := strings.Count(r.stderr, ": error: "); got != 5 || r.code != 1 {
		t.Errorf("%d problems, want 5:\n%s", got, r.stderr)
	}
}

func TestMalformedARNIsRejectedBeforeAWSIsAsked(t *testing.T) {
	for _, arn := range []string{"", "claim", "arn:aws:iot:us-east-1:123456789012:policy/x", "arn:aws:iot::123456789012:cert/x", claimARN + ";x", claimARN + ",$(x)", "\x1b[2J\u009b31m\u202e", `\033[2J`, "arn:aws:iot:--x:123456789012:cert/x"} {
		p, notes := newCloud(t, nil)
		r := p.run(t, "preflight.sh", arn)
		r.fails(t, 1, "scripts/create-keys-and-cert.sh creates one")
		if strings.ContainsAny(r.stderr, "\x1b\u009b\u202e") {
			t.Errorf("%q acts on the terminal: %q", arn, r.stderr)
		}
		if _, err := os.Stat(filepath.Join(notes, "asked")); err == nil {
			t.Errorf("%q: AWS was asked", arn)
		}
	}
}

const templateOutput = "cloudformation describe-stacks GoFleetProvisioning Stacks[0].Outputs[?OutputKey=='ProvisioningTemplateName'].OutputValue"

func TestDeployPrintsTheConfiguration(t *testing.T) {
	p, notes := newCloud(t, map[string]string{
		templateOutput: "GoFleetProvisioningTemplate",
		strings.Replace(templateOutput, "ProvisioningTemplateName", "SerialTableName", 1): "Serials-1ABC",
	})
	if err := os.WriteFile(p.path("infra/cdk.json"), []byte(`{"context": {"serialPrefix": 12, "xray": true}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := p.run(t, "deploy.sh", claimARN, "-c", "serialRegistry=listed")
	want := `# The device's configuration, .simple-go-iot-device.yaml:
server:
  port: 8883
  endpoint: abc-ats.iot.us-east-1.amazonaws.com
bootstrap:
  provisioningTemplate: GoFleetProvisioningTemplate
# Load serial numbers before you provision devices, in hook/:
#   AWS_REGION=us-east-1 go run ./cmd/serials load --table Serials-1ABC --prefix 12 FILE.csv
`
	if r.code != 0 || r.stdout != want {
		t.Errorf("%+v", r)
	}
	if got, want := note(t, notes, "cdk"), "cdk deploy -c certificateArn="+claimARN+" -c serialRegistry=listed\n"; got != want {
		t.Errorf("the CDK was run as %q, want %q", got, want)
	}
}

// The CDK warns of an option without a value, leaves it out, and deploys the stack without it.
func TestAnOptionWithoutAValueIsNotLeftOut(t *testing.T) {
	for _, args := range [][]string{{"-c", "minimalRole"}, {"--context", "minimalRole"}, {"-c=minimalRole"}, {"-c", "name=Second", "--context=minimalRole"}} {
		p, notes := newCloud(t, nil)
		p.run(t, "deploy.sh", append([]string{claimARN}, args...)...).fails(t, 2, "-c minimalRole=VALUE")
		if asked, err := os.Stat(filepath.Join(notes, "asked")); err == nil {
			t.Errorf("%v: %v", args, asked)
		}
	}
}

func TestDeployWithoutAListPrintsNoCommandForIt(t *testing.T) {
	p, _ := newCloud(t, map[string]string{templateOutput: "GoFleetProvisioningTemplate"})
	if r := p.run(t, "deploy.sh", claimARN); r.code != 0 || strings.Contains(r.stdout, "serials") {
		t.Errorf("%+v", r)
	}
}

func TestDestroyPrintsWhatIsRetained(t *testing.T) {
	p, notes := newCloud(t, map[string]string{"cloudformation describe-stacks Second": deployedStack})
	r := p.run(t, "deploy.sh", "--destroy", claimARN, "-c", "name=Second", "-c", "thingType=acme-sensor", "--force")
	if r.code != 0 || !strings.Contains(r.stdout, "SecondDevicePolicy") || !strings.Contains(r.stdout, "SecondRotationPolicy") || !strings.Contains(r.stdout, "thing type acme-sensor") {
		t.Errorf("%+v", r)
	}
	if got, want := note(t, notes, "cdk"), "cdk destroy -c certificateArn="+claimARN+" -c name=Second -c thingType=acme-sensor --force\n"; got != want {
		t.Errorf("the CDK was run as %q, want %q", got, want)
	}
}

// The CDK ends with exit code 0 also where its question was answered with no.
func TestDestroyThatIsNotConfirmedDeletedNothing(t *testing.T) {
	p, _ := newCloud(t, map[string]string{"cloudformation describe-stacks GoFleetProvisioning": deployedStack})
	p.tool(t, "infra/node_modules/.bin/cdk", `case $1 in --version) echo 2.1148.1 ;; *) echo "Aborted by user" ;; esac`)
	p.run(t, "deploy.sh", "--destroy", claimARN).fails(t, 1, "GoFleetProvisioning is still there")
}

// A configuration without a template would be copied to devices.
func TestDeployPrintsNoConfigurationThatLacksItsTemplate(t *testing.T) {
	for _, answer := range []string{"None", "\n"} { // as of a change set that was not executed
		p, _ := newCloud(t, map[string]string{templateOutput: answer})
		p.run(t, "deploy.sh", claimARN, "--no-execute").fails(t, 0, "has no outputs yet")
	}
	for _, failing := range []string{"ProvisioningTemplateName", "SerialTableName"} {
		question := strings.Replace(templateOutput, "ProvisioningTemplateName", failing, 1)
		p, _ := newCloud(t, map[string]string{templateOutput: "GoFleetProvisioningTemplate", question: "", question + ".error": "An error occurred (Throttling)"})
		if r := p.run(t, "deploy.sh", claimARN, "-c", "serialRegistry=listed"); r.code != 255 || !strings.Contains(r.stderr, "Throttling") {
			t.Errorf("%s: %+v", failing, r)
		}
	}
}

// The CDK takes options in other forms, too, and from several files.
func TestDeployKnowsTheStackHoweverItIsNamed(t *testing.T) {
	const file = `{"app": "go run .", "context": {"cli-telemetry": false, "name": "Second","thingType" : "acme-sensor"}}`
	const others = `{"name": "Third", "thingType": "acme-other"}`
	for name, test := range map[string]struct {
		file, context string
		args          []string
	}{
		"one argument":     {"", "", []string{"--context=name=Second", "--context=thingType=acme-sensor"}},
		"short":            {"", "", []string{"-c=name=Second", "--c=thingType=acme-sensor"}},
		"two dashes":       {"", "", []string{"--c", "name=Second", "--context", "thingType=acme-sensor"}},
		"several flags":    {"", "", []string{"-vc", "name=Second", "-fc", "thingType=acme-sensor"}},
		"not a stack":      {file, "", []string{"--toolkit-stack-name", "name=Third"}},
		"cdk.json":         {file, "", nil},
		"several lines":    {strings.ReplaceAll(file, ",", ",\n"), "", nil},
		"both":             {strings.Replace(file, "Second", "Third", 1), "", []string{"--context", "name=Second"}},
		"cdk.context.json": {`{"app": "go run ."}`, strings.NewReplacer("Third", "Second", "acme-other", "acme-sensor").Replace(others), nil},
		"two files":        {file, others, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := newCloud(t, map[string]string{"cloudformation describe-stacks Second": deployedStack})
			for name, text := range map[string]string{"infra/cdk.json": test.file, "infra/cdk.context.json": test.context} {
				if err := os.WriteFile(p.path(name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r := p.run(t, "deploy.sh", append([]string{"--destroy", claimARN}, test.args...)...)
			if r.code != 0 || !strings.Contains(r.stdout, "Stack Second deleted") || !strings.Contains(r.stdout, "thing type acme-sensor") {
				t.Errorf("%+v", r)
			}
		})
	}
}

// The CDK can have a bootstrap stack of another name, and other credentials than the environment's.
func TestDeployChecksWhatTheCDKUses(t *testing.T) {
	const qualifier = "@aws-cdk/core:bootstrapQualifier"
	for name, test := range map[string]struct {
		file string
		args []string
	}{
		"options":      {"", []string{"--profile", "prod", "-c", qualifier + "=acme"}},
		"one argument": {"", []string{"--profile=prod", "--context=" + qualifier + "=acme"}},
		"cdk.json":     {`{"profile": "prod", "context": {"` + qualifier + `": "acme"}}`, nil},
		"both":         {`{"profile": "test", "context": {"` + qualifier + `": "acme"}}`, []string{"--profile=prod"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, notes := newCloud(t, map[string]string{
				"ssm get-parameter _cdk-bootstrap_hnb659fds_version": "", "ssm get-parameter _cdk-bootstrap_acme_version": "21", templateOutput: "T",
			})
			if err := os.WriteFile(p.path("infra/cdk.json"), []byte(test.file), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := p.run(t, "deploy.sh", append([]string{claimARN}, test.args...)...); r.code != 0 {
				t.Errorf("%+v", r)
			}
			for line := range strings.Lines(note(t, notes, "asked")) {
				if !strings.HasPrefix(line, "prod: ") {
					t.Errorf("asked with other credentials: %s", line)
				}
			}
		})
	}
}

// The claims of a stack can reach every thing whose name begins with its prefix.
func TestStacksOfOneAccountHavePrefixesOfTheirOwn(t *testing.T) {
	others := func(stack string) string {
		return "cloudformation describe-stacks Stacks[?StackName!='" + stack + "'].Outputs[] | [?OutputKey=='ThingNamePrefix'].OutputValue"
	}
	for name, test := range map[string]struct {
		stack, prefixes string
		args            []string
		collides        bool
	}{
		"no other":             {"GoFleetProvisioning", "None", nil, false},
		"another":              {"Second", "fleety_\tacme-", []string{"-c", "name=Second"}, false},
		"the default":          {"GoFleetProvisioning", "acme-\tfleety_", nil, true},
		"by option":            {"Second", "fleety_\tacme-", []string{"-c", "name=Second", "-c", "thingPrefix=acme-"}, true},
		"within another":       {"Second", "acme-", []string{"-c", "name=Second", "-c", "thingPrefix=acme-2"}, true},
		"around another":       {"Second", "acme-2", []string{"-c", "name=Second", "-c", "thingPrefix=acme-"}, true},
		"of another's default": {"GoFleetProvisioning", "Second_", []string{"-c", "thingPrefix=Second_x"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, notes := newCloud(t, map[string]string{others(test.stack): test.prefixes, strings.Replace(templateOutput, "GoFleetProvisioning", test.stack, 1): "T"})
			if r := p.run(t, "deploy.sh", append([]string{claimARN}, test.args...)...); (r.code != 0) != test.collides || strings.Contains(r.stderr, "thingPrefix=PREFIX") != test.collides {
				t.Errorf("%+v", r)
			}
			if _, err := os.Stat(filepath.Join(notes, "cdk")); (err != nil) != test.collides {
				t.Errorf("the CDK: %v", err)
			}
		})
	}
}

// Devices keep the names that they have.
func TestPreflightWarnsOfAnotherThingPrefix(t *testing.T) {
	p, _ := newCloud(t, map[string]string{
		"cloudformation describe-stacks GoFleetProvisioning":                              deployedStack,
		strings.Replace(templateOutput, "ProvisioningTemplateName", "ThingNamePrefix", 1): "fleety_",
	})
	for prefix, warnings := range map[string]int{"": 0, "fleety_": 0, "acme-": 1} {
		if r := p.run(t, "preflight.sh", "--prefix", prefix, claimARN); r.code != 0 || strings.Count(r.stderr, ": warning: ") != warnings {
			t.Errorf("%q: %+v", prefix, r)
		}
	}
}

func TestNothingIsDeployedAfterAProblem(t *testing.T) {
	for _, args := range [][]string{{claimARN}, {"--destroy", claimARN}} {
		p, notes := newCloud(t, map[string]string{"sts get-caller-identity": "999999999999"})
		p.run(t, "deploy.sh", args...).fails(t, 1, "999999999999")
		if _, err := os.Stat(filepath.Join(notes, "cdk")); err == nil {
			t.Errorf("%v: the CDK was run", args)
		}
	}
}

func TestDeployWithoutAClaimSaysHowToGetOne(t *testing.T) {
	p, _ := newCloud(t, nil)
	p.run(t, "deploy.sh", "").fails(t, 1, "scripts/create-keys-and-cert.sh creates one")
	p.run(t, "deploy.sh").fails(t, 2, "usage: ")
}

func TestFailureOfTheCDKIsTheScripts(t *testing.T) {
	p, _ := newCloud(t, nil)
	p.tool(t, "infra/node_modules/.bin/cdk", `case $1 in --version) echo 2.1148.1 ;; *) echo boom >&2; exit 7 ;; esac`)
	p.run(t, "deploy.sh", claimARN).fails(t, 7, "boom")
}

// TestPreflightKnowsTheNamesOfTheStack compares the script with the app.
func TestPreflightKnowsTheNamesOfTheStack(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "stack", "options.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, stack := range []string{"GoFleetProvisioning", "Second"} {
		p, notes := newCloud(t, nil)
		if r := p.run(t, "preflight.sh", "--name", stack, claimARN); r.code != 0 {
			t.Fatalf("%+v", r)
		}
		var names []string
		for line := range strings.Lines(note(t, notes, "asked")) {
			fields := strings.Fields(line)
			if fields[0] == "iot" && strings.HasSuffix(fields[2], "-name") {
				names = append(names, strings.TrimPrefix(fields[3], "Second"))
			}
		}
		if len(names) != 7 {
			t.Errorf("names asked for: %v", names)
		}
		for _, name := range slices.Compact(names) {
			if !strings.Contains(string(source), `"`+name+`"`) {
				t.Errorf("options.go has no %q", name)
			}
		}
	}
}
