package assembly

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	iotService   = "iot.amazonaws.com"
	invokeAction = "lambda:InvokeFunction"

	// defaultTimeout is Lambda's own.
	defaultTimeout = 3 * time.Second
	// osOnly begins the runtimes that run an executable of the name bootstrap.
	osOnly     = "provided."
	executable = "bootstrap"
)

// A Hook is a template's pre-provisioning hook.
type Hook struct {
	PayloadVersion string
	TargetARN      string `json:"TargetArn"`
	// Function is what the ARN stands for.
	Function *Function `json:"-"`
}

// A Function is a Lambda function.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-function.html
type Function struct {
	LogicalID string
	ARN       string
	// Path is the executable in the assembly that Lambda would run.
	Path string
	// Architecture is arm64 or x86_64.
	Architecture string
	Timeout      time.Duration
	// Environment are the variables, as NAME=VALUE, sorted.
	Environment []string
}

// findHooks finds the functions of the templates' hooks. The templates are in
// the order of their logical ids.
func (r *resolver) findHooks(templates []ProvisioningTemplate) error {
	ids, err := r.deployedOf(typeTemplate)
	if err != nil {
		return err
	}
	for i, id := range ids {
		if hook := templates[i].Hook; hook != nil {
			if err := r.findFunction(id, hook); err != nil {
				return err
			}
		}
	}
	return nil
}

// findFunction finds the function of a template's hook in the stack, and sees
// that AWS IoT Core may call it.
func (r *resolver) findFunction(template string, hook *Hook) error {
	at := r.in(template).field("Properties").field("PreProvisioningHook").field("TargetArn")
	functions, err := r.deployedOf(typeFunction)
	if err != nil {
		return err
	}
	for _, id := range functions {
		arn, err := r.attribute(at, id, kinds[typeFunction].attribute)
		if err != nil {
			return err
		}
		if arn != hook.TargetARN {
			continue
		}
		if hook.Function, err = r.function(id, arn); err != nil {
			return err
		}
		return r.checkPermission(template, hook.Function)
	}
	return at.fail("%s is no function of this stack", hook.TargetARN)
}

// function reads what is needed to run a function. Its other properties, such
// as its role, have no meaning outside of AWS.
func (r *resolver) function(id, arn string) (*Function, error) {
	var p struct {
		Runtime       string
		Timeout       int
		Architectures []string
		Environment   struct{ Variables map[string]string }
	}
	at, properties := r.in(id).field("Properties"), r.stack.template.Resources[id].Properties
	if err := r.decodeSome(at, properties, &p, "Runtime", "Timeout", "Architectures", "Environment"); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(p.Runtime, osOnly) {
		return nil, at.field("Runtime").fail("the runtime is %q; only executables run here, whose runtime is one like provided.al2023", p.Runtime)
	}
	path, err := r.executable(at.field("Code"), properties["Code"])
	if err != nil {
		return nil, err
	}
	f := &Function{LogicalID: id, ARN: arn, Path: path, Architecture: "x86_64", Timeout: defaultTimeout}
	if len(p.Architectures) > 0 {
		f.Architecture = p.Architectures[0]
	}
	if p.Timeout > 0 {
		f.Timeout = time.Duration(p.Timeout) * time.Second
	}
	for _, name := range slices.Sorted(maps.Keys(p.Environment.Variables)) {
		f.Environment = append(f.Environment, name+"="+p.Environment.Variables[name])
	}
	return f, nil
}

// decodeSome decodes the named properties and leaves the others unresolved.
func (r *resolver) decodeSome(at place, properties map[string]any, into any, names ...string) error {
	some := map[string]any{}
	for _, name := range names {
		if v, ok := properties[name]; ok {
			some[name] = v
		}
	}
	return r.decode(at, some, into)
}

// executable finds the code that the CDK would upload.
func (r *resolver) executable(at place, code any) (string, error) {
	object, _ := code.(map[string]any)
	key, err := r.text(at.field("S3Key"), object["S3Key"])
	if err != nil {
		return "", err
	}
	asset, ok := r.stack.assets[key]
	if !ok {
		return "", at.field("S3Key").fail("%s is not among the assets of the assembly", key)
	}
	folder := filepath.FromSlash(asset.Path)
	if !filepath.IsLocal(folder) || asset.Packaging != "zip" {
		return "", at.field("S3Key").fail("asset %s is not a folder of the assembly", asset.Path)
	}
	return filepath.Join(r.stack.dir, folder, executable), nil
}

// checkPermission checks that a permission allows AWS IoT Core to call the
// function for this template: without it AWS IoT denies every device.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html
func (r *resolver) checkPermission(template string, f *Function) error {
	source, err := r.attribute(r.in(template), template, kinds[typeTemplate].attribute)
	if err != nil {
		return err
	}
	permissions, err := r.deployedOf(typePermission)
	if err != nil {
		return err
	}
	problem := "no " + typePermission + " allows " + iotService + " to call it, so that AWS IoT would deny every device"
	for _, id := range permissions {
		reason, err := r.permits(id, f.ARN, source)
		if err != nil || reason == "" {
			return err
		}
		problem += "; " + id + " does not: " + reason
	}
	return r.in(f.LogicalID).fail("%s", problem)
}

// permits returns why a permission does not let AWS IoT Core call the function
// for the template, or nothing when it does.
func (r *resolver) permits(id, function, source string) (reason string, err error) {
	var p struct{ Action, FunctionName, Principal, SourceAccount, SourceArn string }
	at, properties := r.in(id).field("Properties"), r.stack.template.Resources[id].Properties
	if err := r.decodeSome(at, properties, &p, "FunctionName"); err != nil {
		return "", err
	}
	_, name, _ := strings.Cut(function, ":function:")
	if p.FunctionName != function && p.FunctionName != name {
		return "its function is " + p.FunctionName, nil // and its source perhaps a resource that is not known here
	}
	if err := r.decodeSome(at, properties, &p, "Action", "Principal", "SourceAccount", "SourceArn"); err != nil {
		return "", err
	}
	switch {
	case p.Action != invokeAction:
		return "its action is " + p.Action, nil
	case p.Principal != iotService:
		return "its principal is " + p.Principal, nil
	case p.SourceAccount != "" && p.SourceAccount != r.env.Account:
		return "its source account is " + p.SourceAccount, nil
	case p.SourceArn != "" && p.SourceArn != source:
		return fmt.Sprintf("its source is %s, the template is %s", p.SourceArn, source), nil
	}
	return "", nil
}
