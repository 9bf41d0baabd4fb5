package stack

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-cdk-go/awscdk/v2"

	"example.com/fleety/hook/payload"
)

// maxTemplateBody is AWS's limit on a provisioning template, in characters.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_CreateProvisioningTemplate.html
const maxTemplateBody = 10240

// maxPolicy is AWS's limit on a policy, in characters without white space.
//
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html#security-limits
const maxPolicy = 2048

// Documents are the files of templates/: JSON with the placeholders ${AWS::Partition},
// ${AWS::Region}, ${AWS::AccountId}, ${TemplateName} and ${ThingPrefix}. Every other ${…} is a
// policy variable, which AWS IoT Core resolves.
type Documents struct {
	FleetTemplate, ClaimPolicy, DevicePolicy, RotationPolicy string
	// ExtraPolicy has the statements of Options.DeviceStatements; empty without them.
	ExtraPolicy string
}

// ReadDocuments reads the documents in a folder, those of Options.Templates in their place, and the
// statements of Options.DeviceStatements. It checks that each is a JSON object, takes its white space
// out, and checks that the folder of the options has no other documents, which would be ignored.
func ReadDocuments(dir string, o Options) (Documents, error) {
	var d Documents
	to := map[string]*string{
		"fleet_template.json": &d.FleetTemplate, "claim_policy.json": &d.ClaimPolicy,
		"device_policy.json": &d.DevicePolicy, "rotation_policy.json": &d.RotationPolicy,
	}
	names, own := slices.Sorted(maps.Keys(to)), map[string]string{} // the folder of each that is there
	if o.Templates != "" {
		entries, err := os.ReadDir(o.Templates)
		if err != nil {
			return d, fmt.Errorf("templates: %w", err)
		}
		for _, entry := range entries {
			switch name := entry.Name(); {
			case to[name] != nil:
				own[name] = o.Templates
			case !strings.HasPrefix(name, "."): // else an editor's, or Finder's
				return d, fmt.Errorf("templates: %s has %q, which is not one of %s", o.Templates, name, strings.Join(names, ", "))
			}
		}
		if len(own) == 0 {
			return d, fmt.Errorf("templates: %s is empty", o.Templates)
		}
	}
	for _, name := range names {
		path, text := filepath.Join(cmp.Or(own[name], dir), name), bytes.Buffer{}
		data, err := os.ReadFile(path)
		err = cmp.Or(err, json.Compact(&text, data))
		if err == nil && text.Bytes()[0] != '{' {
			err = errors.New("it is no JSON object")
		}
		if err != nil {
			return d, fmt.Errorf("reading the documents to deploy, %s: %w", path, err)
		}
		*to[name] = text.String()
	}
	if o.DeviceStatements != "" {
		data, err := os.ReadFile(o.DeviceStatements)
		if err != nil {
			return Documents{}, fmt.Errorf("deviceStatements: %w", err)
		}
		var statements []any
		err = json.Unmarshal(data, &statements)
		d.ExtraPolicy = compact(map[string]any{"Version": "2012-10-17", "Statement": statements})
		if err != nil || incomplete(d.ExtraPolicy) {
			return Documents{}, fmt.Errorf("deviceStatements: %s is not a JSON list of policy statements, each with Effect, Action and Resource, as in [{\"Effect\": \"Allow\", …}]", o.DeviceStatements)
		}
	}
	return d, nil
}

// incomplete reports whether a policy has no statement, or one that lacks what each must have.
func incomplete(policy string) bool {
	statement := object(policy)["Statement"]
	statements, list := statement.([]any)
	if !list {
		statements = []any{statement} // one alone is no list
	}
	return len(statements) == 0 || slices.ContainsFunc(statements, func(statement any) bool {
		s, _ := statement.(map[string]any)
		return s["Effect"] != "Allow" && s["Effect"] != "Deny" || cmp.Or(s["Action"], s["NotAction"]) == nil || cmp.Or(s["Resource"], s["NotResource"]) == nil
	})
}

// Check finds documents that are longer than AWS accepts, as they will be deployed with these
// options, policies with a statement that is incomplete, and a template that names what the stack
// does not create, so that no device could be registered.
func (p *Props) Check() error {
	home := p.ClaimCertificates[0]
	problems := p.checkTemplate()
	claimPolicy, takesOptions := p.claimPolicy()
	if !takesOptions && (p.ClaimSourceIPs != nil || p.ClaimClientIDs != nil) {
		problems = append(problems, errors.New("claim_policy.json: claimClientIds and claimSourceIp would have no effect; "+
			"allow iot:Connect, and nothing else, in statements of its own"))
	}
	for _, document := range []struct {
		name, text string
		limit      int
	}{
		{"fleet_template.json", p.fleetTemplate(), maxTemplateBody},
		{"claim_policy.json", claimPolicy, maxPolicy},
		{"device_policy.json", p.fill(p.DevicePolicy), maxPolicy},
		{"rotation_policy.json", p.fill(p.RotationPolicy), maxPolicy},
		{"deviceStatements", p.fill(p.ExtraPolicy), maxPolicy},
	} {
		if document.limit == maxPolicy && document.text != "" && incomplete(document.text) {
			problems = append(problems, fmt.Errorf("%s: a policy has a list of statements, each with Effect, Action and Resource", document.name))
		}
		resolved := strings.NewReplacer(
			*awscdk.Aws_PARTITION(), home.Partition, *awscdk.Aws_REGION(), home.Region, *awscdk.Aws_ACCOUNT_ID(), home.Account,
		).Replace(document.text)
		if n := utf8.RuneCountInString(resolved); n > document.limit {
			problems = append(problems, fmt.Errorf("%s has %d characters as it would be deployed, without its white space; AWS IoT accepts %d", document.name, n, document.limit))
		}
		if name := unfilled.FindString(resolved); name != "" && document.limit == maxPolicy {
			problems = append(problems, fmt.Errorf("%s: %s is neither a placeholder that is filled in nor a policy variable; see docs/customize.md", document.name, name))
		}
	}
	return errors.Join(problems...)
}

// unfilled finds what is none of our placeholders, such as a misspelt one: AWS IoT would take it for a
// policy variable that no device has.
var unfilled = regexp.MustCompile(`\$\{(AWS::[^}]*|[^:*?$}"][^:}"]*)?[}"]`)

// checkTemplate compares the names in the template with those of the stack: the hook, the role and
// the alarms rely on them.
func (p *Props) checkTemplate() (problems []error) {
	var template struct {
		Parameters map[string]any
		Resources  map[string]struct {
			Type       string
			Properties struct {
				ThingName, ThingTypeName, PolicyName, PolicyDocument, BillingGroup any
				ThingGroups                                                        []any
			}
		}
	}
	problem := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("fleet_template.json: "+format, args...))
	}
	if err := json.Unmarshal([]byte(p.fleetTemplate()), &template); err != nil {
		problem("%w", err)
		return problems
	}
	if template.Parameters[payload.SerialNumber] == nil {
		problem("there is no parameter %s, which the hook needs", payload.SerialNumber)
	}
	n, given := p.Names, map[string]bool{}
	// named finds a name, unless it is computed, that is none of what the stack creates.
	named := func(option, want string, names ...any) {
		for _, name := range names {
			text, literal := name.(string)
			if given[text] = true; literal && text != want {
				problem("%s %q is not created by the stack; add -c %[1]s=%[2]s, or write %[3]q", option, text, want)
			}
		}
	}
	wantName := fmt.Sprintf(`{"Fn::Join":["",["%s",{"Ref":"%s"}]]}`, n.ThingPrefix, payload.SerialNumber)
	policies := []any{n.DevicePolicy, n.RotationPolicy}
	if p.ExtraPolicy != "" {
		policies = append(policies, n.ExtraPolicy)
	}
	things := 0
	for _, id := range slices.Sorted(maps.Keys(template.Resources)) {
		own := template.Resources[id].Properties
		if template.Resources[id].Type == "AWS::IoT::Thing" {
			things++
			if name, _ := json.Marshal(own.ThingName); string(name) != wantName {
				problem(`ThingName is %s; the hook and the roles need {"Fn::Join": ["", ["${ThingPrefix}", {"Ref": %q}]]}`, name, payload.SerialNumber)
			}
		}
		if _, literal := own.PolicyName.(string); literal && !slices.Contains(policies, own.PolicyName) {
			problem("policy %q is not created by the stack; add statements with -c deviceStatements=FILE", own.PolicyName)
		}
		if p.MinimalRole && (own.PolicyDocument != nil || own.BillingGroup != nil) {
			problem("%s has a PolicyDocument or BillingGroup, which the role of minimalRole may not use; remove it, or minimalRole", id)
		}
		named("thingType", n.ThingType, own.ThingTypeName)
		named("thingGroup", n.ThingGroup, own.ThingGroups...)
	}
	if things == 0 {
		problem("there is no resource AWS::IoT::Thing; devices connect by the name of theirs")
	}
	for option, names := range map[string][2]string{"thingType": {n.ThingType, namesOf(n.Stack).ThingType}, "thingGroup": {n.ThingGroup, namesOf(n.Stack).ThingGroup}} {
		if names[0] != names[1] && !given[names[0]] {
			problem("%s=%s is of no use, for the template has none", option, names[0])
		}
	}
	return problems
}

// fill replaces our placeholders with what CloudFormation fills in, and the default names of
// resources with the stack's. The policy variables stay: they reach AWS IoT Core as they are.
func (p *Props) fill(document string) string {
	quoted := func(name string) string { return `"` + name + `"` }
	return strings.NewReplacer(
		quoted(defaultNames.DevicePolicy), quoted(p.Names.DevicePolicy),
		quoted(defaultNames.RotationPolicy), quoted(p.Names.RotationPolicy),
		quoted(defaultNames.ExtraPolicy), quoted(p.Names.ExtraPolicy),
		quoted(defaultNames.ThingGroup), quoted(p.Names.ThingGroup),
		quoted(defaultNames.ThingType), quoted(p.Names.ThingType),
		"${AWS::Partition}", *awscdk.Aws_PARTITION(),
		"${AWS::Region}", *awscdk.Aws_REGION(),
		"${AWS::AccountId}", *awscdk.Aws_ACCOUNT_ID(),
		"${TemplateName}", p.Names.Template,
		"${ThingPrefix}", p.Names.ThingPrefix,
	).Replace(document)
}

// fleetTemplate is the provisioning template; without rotation, devices do not get its policy, and
// with further statements they get those.
func (p *Props) fleetTemplate() string {
	text := p.fill(p.FleetTemplate)
	if p.Rotation && p.ExtraPolicy == "" {
		return text
	}
	template := object(text)
	resources, _ := template["Resources"].(map[string]any)
	maps.DeleteFunc(resources, func(_ string, r any) bool {
		resource, _ := r.(map[string]any)
		properties, _ := resource["Properties"].(map[string]any)
		return !p.Rotation && properties["PolicyName"] == p.Names.RotationPolicy
	})
	if p.ExtraPolicy != "" && resources != nil {
		resources["extraPolicy"] = map[string]any{"Type": "AWS::IoT::Policy", "Properties": map[string]any{"PolicyName": p.Names.ExtraPolicy}}
	}
	return compact(template)
}

// claimPolicy is the claim policy with the client ids and addresses that the options allow, which it
// takes where statements of their own allow to connect.
func (p *Props) claimPolicy() (document string, takesOptions bool) {
	policy := object(p.fill(p.ClaimPolicy))
	statements, _ := policy["Statement"].([]any)
	takesOptions = len(statements) > 0
	for _, s := range statements {
		statement, _ := s.(map[string]any)
		action := strings.ToLower(strings.Trim(fmt.Sprint(statement["Action"]), "[]"))
		if action != "iot:connect" || statement["Effect"] != "Allow" {
			takesOptions = takesOptions && statement["Action"] != nil && !strings.Contains(action, "iot:connect") && !strings.Contains(action, "*")
			continue
		}
		if p.ClaimClientIDs != nil {
			var clients []any
			for _, id := range p.ClaimClientIDs {
				clients = append(clients, *iotARN("client/" + id))
			}
			statement["Resource"] = clients
		}
		if p.ClaimSourceIPs != nil {
			own, _ := statement["Condition"].(map[string]any)
			conditions := maps.Collect(maps.All(own))
			conditions["IpAddress"] = map[string]any{"aws:SourceIp": p.ClaimSourceIPs}
			statement["Condition"] = conditions
		}
	}
	return compact(policy), takesOptions
}

// locations are those that the provisioning template can register, sorted; nil if it accepts any.
func (d Documents) locations() []string {
	var template struct {
		Parameters map[string]map[string]any
		Mappings   map[string]map[string]any
	}
	if err := json.Unmarshal([]byte(d.FleetTemplate), &template); err != nil || template.Parameters[payload.DeviceLocation]["Default"] != nil {
		return nil
	}
	lookup := regexp.MustCompile(`"Fn::FindInMap":\["([^"]+)",{"Ref":"` + payload.DeviceLocation + `"}`)
	m := lookup.FindStringSubmatch(d.FleetTemplate)
	if m == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(template.Mappings[m[1]]))
}

// object decodes a document that ReadDocuments has read.
func object(document string) (decoded map[string]any) {
	if err := json.Unmarshal([]byte(document), &decoded); err != nil {
		panic(fmt.Sprintf("stack: documents that ReadDocuments did not read: %v", err))
	}
	return decoded
}

func compact(object map[string]any) string {
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(object) // decoded from JSON, it can be encoded
	return strings.TrimSuffix(text.String(), "\n")
}
