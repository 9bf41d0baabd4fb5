package assembly

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const iotService = "iot.amazonaws.com"

// A Function is a Lambda function.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-function.html
type Function struct {
	LogicalID    string
	ARN          string
	Path         string // the executable in the assembly that Lambda would run
	Architecture string // arm64 or x86_64
	Timeout      time.Duration
	Environment  []string // the variables, as NAME=VALUE, sorted
}

// functionOf returns the function of this stack with an ARN, nil if there is none.
func (r *resolver) functionOf(at place, arn string) *Function {
	for _, id := range r.idsOf(typeFunction) {
		if r.attribute(at, id, kinds[typeFunction].attribute) == arn {
			return r.function(id, arn)
		}
	}
	return nil
}

// invoked returns the functions of this stack that a rule invokes.
func (r *resolver) invoked(rule string) (functions []*Function) {
	at := place(rule).field("Properties").field("TopicRulePayload")
	properties, _ := r.stack.template.Resources[rule].Properties["TopicRulePayload"].(map[string]any)
	var payload struct {
		Sql, AwsIotSqlVersion, Description, RuleDisabled any
		Actions                                          []map[string]any
		ErrorAction                                      map[string]any
	}
	r.decode(at, properties, &payload)
	for i, action := range append(payload.Actions, payload.ErrorAction) {
		var a struct {
			Lambda    struct{ FunctionArn string }
			Republish struct{ RoleArn, Topic, Qos, Headers any }
			Http      struct{ Url, ConfirmationUrl, Headers, Auth, BatchConfig, EnableBatching any }
		}
		in := at.field("ErrorAction")
		if i < len(payload.Actions) {
			in = at.field("Actions").index(i)
		}
		r.decodeSome(in, action, &a, "Lambda", "Republish", "Http")
		if f := r.functionOf(in, a.Lambda.FunctionArn); f != nil {
			r.checkPermission(rule, f, "the rule could not invoke it")
			functions = append(functions, f)
		}
	}
	return functions
}

// function reads what is needed to run a function. Its other properties, such as its role, have no
// meaning outside of AWS.
func (r *resolver) function(id, arn string) *Function {
	var p struct {
		Runtime       string
		Timeout       int
		Architectures []string
		Environment   struct{ Variables map[string]string }
	}
	at, properties := place(id).field("Properties"), r.stack.template.Resources[id].Properties
	r.decodeSome(at, properties, &p, "Runtime", "Timeout", "Architectures", "Environment")
	if !strings.HasPrefix(p.Runtime, "provided.") {
		r.fail(at.field("Runtime"), "the runtime is %q; only executables run here, whose runtime is one like provided.al2023", p.Runtime)
	}
	f := &Function{
		LogicalID: id, ARN: arn, Path: r.executable(at.field("Code"), properties["Code"]), // and with Lambda's own defaults:
		Architecture: append(p.Architectures, "x86_64")[0], Timeout: time.Duration(cmp.Or(p.Timeout, 3)) * time.Second,
	}
	for _, name := range slices.Sorted(maps.Keys(p.Environment.Variables)) {
		f.Environment = append(f.Environment, name+"="+p.Environment.Variables[name])
	}
	return f
}

// decodeSome decodes the named properties, in whatever letter case, and leaves the others unresolved.
func (r *resolver) decodeSome(at place, properties map[string]any, into any, names ...string) {
	some := maps.Clone(properties)
	maps.DeleteFunc(some, func(name string, _ any) bool {
		return !slices.ContainsFunc(names, func(known string) bool { return strings.EqualFold(known, name) })
	})
	r.decode(at, some, into)
}

// executable finds the code that the CDK would upload.
func (r *resolver) executable(at place, code any) string {
	at = at.field("S3Key")
	object, _ := code.(map[string]any)
	key := r.text(at, object["S3Key"])
	asset, ok := r.stack.assets[key]
	folder := filepath.FromSlash(asset.Path)
	switch {
	case !ok:
		r.fail(at, "%s is not among the assets of the assembly", key)
	case !filepath.IsLocal(folder) || asset.Packaging != "zip":
		r.fail(at, "asset %s is not a folder of the assembly", asset.Path)
	}
	return filepath.Join(r.stack.dir, folder, "bootstrap")
}

// checkPermission checks that a permission allows AWS IoT Core to call the function for this
// template or rule.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html
func (r *resolver) checkPermission(caller string, f *Function, consequence string) {
	source := r.attribute(place(caller), caller, kinds[r.stack.template.Resources[caller].Type].attribute)
	problem := "no " + typePermission + " allows " + iotService + " to call it, so that " + consequence
	for _, id := range r.idsOf(typePermission) {
		reason := r.whyNot(id, f.ARN, source)
		if reason == "" {
			return
		}
		problem += "; " + id + " does not: " + reason
	}
	r.fail(place(f.LogicalID), "%s", problem)
}

// whyNot returns why a permission does not allow AWS IoT Core to call the function for the source,
// or nothing when it does.
func (r *resolver) whyNot(id, function, source string) string {
	var p struct{ Action, FunctionName, Principal, SourceAccount, SourceArn string }
	at, properties := place(id).field("Properties"), r.stack.template.Resources[id].Properties
	r.decodeSome(at, properties, &p, "FunctionName")
	_, name, _ := strings.Cut(function, ":function:")
	if p.FunctionName != function && p.FunctionName != name {
		return "its function is " + p.FunctionName // and its source perhaps a resource that is not known here
	}
	r.decodeSome(at, properties, &p, "Action", "Principal", "SourceAccount", "SourceArn")
	switch {
	case !like(p.Action, "lambda:InvokeFunction"):
		return "its action is " + p.Action
	case p.Principal != iotService:
		return "its principal is " + p.Principal
	case p.SourceAccount != "" && p.SourceAccount != r.env.Account:
		return "its source account is " + p.SourceAccount
	case p.SourceArn != "" && !like(p.SourceArn, source):
		return fmt.Sprintf("its source is %s, not %s", p.SourceArn, source)
	}
	return ""
}

// like compares with wildcards, as Lambda does with what a permission names.
//
// AWS page: https://docs.aws.amazon.com/lambda/latest/api/API_AddPermission.html
func like(pattern, text string) bool {
	expression := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern))
	return regexp.MustCompile("^" + expression + "$").MatchString(text)
}
