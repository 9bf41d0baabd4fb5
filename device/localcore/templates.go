package localcore

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"example.com/fleety/device/internal/osfile"
	"example.com/fleety/device/localcore/assembly"
	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/template"
	"example.com/fleety/hook/payload"
)

// Files of Config.Templates.
const (
	templateFile     = "fleet_template.json"
	claimPolicyFile  = "claim_policy.json"
	devicePolicyFile = "device_policy.json"
	rotationFile     = "rotation_policy.json" // need not be there
)

//go:generate sh -c "cp ../../templates/*.json templates"

// embeddedTemplates are those of this repository, so that the emulator needs no folder beside it.
// The files are copies: /templates is their source.
//
//go:embed templates/*.json
var embeddedTemplates embed.FS

// maxFile is more than any file that the emulator reads has, in bytes.
const maxFile = 1 << 20

// openClaimPolicy is the claim policy with [NoTemplates]: the provisioning topics of every
// template, and nothing else.
//
//go:embed open_claim_policy.json
var openClaimPolicy string

// Expand fills in what the files of Templates leave to the deployment: ${AWS::Partition},
// ${AWS::Region}, ${AWS::AccountId}, ${TemplateName} and ${ThingPrefix}. Every other ${…} is a
// policy variable and stays.
func (c Config) Expand(text string) string {
	c = c.withDefaults()
	return strings.NewReplacer(
		"${AWS::Partition}", c.Partition,
		"${AWS::Region}", c.Region,
		"${AWS::AccountId}", c.Account,
		"${TemplateName}", TemplateName,
		"${ThingPrefix}", payload.ThingNamePrefix,
	).Replace(text)
}

// ParsePolicy parses the policy of a file and fills in its placeholders. The error of a faulty one
// begins with FILE:LINE:COLUMN and wraps a [policy.SyntaxError].
func (c Config) ParsePolicy(path string, source []byte) (*policy.Document, error) {
	document, err := policy.Parse([]byte(c.Expand(string(source))))
	return document, c.inFile(path, string(source), err)
}

// readTemplates reads the files of Templates, as the resources of a stack that deploys them.
func (c Config) readTemplates() (*deployment, error) {
	d := &deployment{Resources: &assembly.Resources{}, claimPolicies: []string{ClaimPolicyName}}
	if c.Hook != "" || c.HookFunc != nil {
		d.hook = &assembly.Function{ARN: c.functionARN(hookFunction), Path: c.Hook, Timeout: c.HookTimeout}
	}
	if c.Templates == NoTemplates {
		d.Policies = []assembly.Policy{{Name: ClaimPolicyName, Document: []byte(c.Expand(openClaimPolicy))}}
		return d, nil
	}
	var errs []error
	for _, p := range []struct{ name, file string }{
		{ClaimPolicyName, claimPolicyFile}, {DevicePolicyName, devicePolicyFile}, {RotationPolicyName, rotationFile},
	} {
		text, err := c.readFile(p.file, checkPolicy)
		if p.file == rotationFile && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		errs = append(errs, err)
		d.Policies = append(d.Policies, assembly.Policy{Name: p.name, Document: []byte(text)})
	}
	body, err := c.readFile(templateFile, checkTemplate)
	t := assembly.ProvisioningTemplate{
		Name: TemplateName, Body: body, Enabled: true,
		RoleARN: "arn:" + c.Partition + ":iam::" + c.Account + ":role/" + TemplateName,
	}
	if d.hook != nil {
		t.Hook = &assembly.Hook{TargetARN: d.hook.ARN}
	}
	d.Templates = []assembly.ProvisioningTemplate{t}
	d.ThingTypes = []assembly.ThingType{{Name: ThingTypeName}}
	d.ThingGroups = []assembly.ThingGroup{{Name: ThingGroupName}}
	return d, errors.Join(append(errs, err)...)
}

// readFile reads a file of Templates and fills in its placeholders.
func (c Config) readFile(name string, check func(text []byte) error) (text string, err error) {
	path := name + " (embedded)"
	source, err := embeddedTemplates.ReadFile("templates/" + name)
	if c.Templates != EmbeddedTemplates {
		path = filepath.Join(c.Templates, name)
		source, err = osfile.Read(path, maxFile)
	}
	if err != nil {
		return "", fmt.Errorf("reading the templates: %w", err)
	}
	text = c.Expand(string(source))
	return text, c.inFile(path, string(source), check([]byte(text)))
}

func checkPolicy(document []byte) error {
	_, err := policy.Parse(document)
	return err
}

func checkTemplate(body []byte) error {
	_, err := template.Parse(body)
	return err
}

// inFile gives the faults of an expanded text, which err is or joins, their places in its file.
func (c Config) inFile(path, source string, err error) error {
	if all, ok := err.(interface{ Unwrap() []error }); ok { // of [errors.Join]
		for _, e := range all.Unwrap() {
			_ = c.inFile(path, source, e)
		}
	} else if e, ok := errors.AsType[*policy.SyntaxError](err); ok {
		e.File, e.Column = path, c.column(source, e.Line, e.Column)
	}
	return err
}

var placeholder = regexp.MustCompile(`\$\{[A-Za-z:]+\}`)

// column returns the column in the source of a place in its expanded text, where a placeholder has
// another length. A place inside is that of the placeholder.
func (c Config) column(source string, line, column int) int {
	lines := strings.Split(source, "\n")
	if line > len(lines) {
		return column
	}
	text, shift := lines[line-1], 0
	for _, at := range placeholder.FindAllStringIndex(text, -1) {
		begin := utf8.RuneCountInString(text[:at[0]]) + 1
		length := utf8.RuneCountInString(c.Expand(text[at[0]:at[1]]))
		if column+shift < begin {
			break
		}
		if column+shift < begin+length {
			return begin
		}
		shift += at[1] - at[0] - length
	}
	return column + shift
}
