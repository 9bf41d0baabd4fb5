package stack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

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

// Documents are the files of templates/: JSON with the placeholders
// ${AWS::Partition}, ${AWS::Region}, ${AWS::AccountId}, ${TemplateName} and
// ${ThingPrefix}. Every other ${…} is a policy variable, which AWS IoT Core
// resolves.
type Documents struct {
	FleetTemplate, ClaimPolicy, DevicePolicy, RotationPolicy string
}

// ReadDocuments reads the documents in a folder and checks that each is a JSON
// object.
func ReadDocuments(dir string) (Documents, error) {
	var d Documents
	for _, file := range []struct {
		name string
		to   *string
	}{
		{"fleet_template.json", &d.FleetTemplate},
		{"claim_policy.json", &d.ClaimPolicy},
		{"device_policy.json", &d.DevicePolicy},
		{"rotation_policy.json", &d.RotationPolicy},
	} {
		document, err := readObject(filepath.Join(dir, file.name))
		if err != nil {
			return Documents{}, err
		}
		*file.to = document
	}
	return d, nil
}

// readObject reads a JSON object and takes the white space out of it.
func readObject(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the documents to deploy: %w", err)
	}
	var object map[string]any
	if err := json.Unmarshal(data, &object); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	return compact.String(), nil
}

// Check finds documents that are longer than AWS accepts, as they will be
// deployed with these options.
func (p *Props) Check() error {
	home := p.ClaimCertificates[0]
	var problems []error
	for _, document := range []struct {
		name, text string
		limit      int
	}{
		{"fleet_template.json", p.fleetTemplate(), maxTemplateBody},
		{"claim_policy.json", p.claimPolicy(), maxPolicy},
		{"device_policy.json", p.fill(p.DevicePolicy), maxPolicy},
		{"rotation_policy.json", p.fill(p.RotationPolicy), maxPolicy},
	} {
		resolved := strings.NewReplacer(
			*awscdk.Aws_PARTITION(), home.Partition, *awscdk.Aws_REGION(), home.Region, *awscdk.Aws_ACCOUNT_ID(), home.Account,
		).Replace(document.text)
		if n := len(resolved); n > document.limit {
			problems = append(problems, fmt.Errorf("%s has %d characters as it would be deployed, without its white space; AWS IoT accepts %d", document.name, n, document.limit))
		}
	}
	return errors.Join(problems...)
}

// fill replaces our placeholders with what CloudFormation fills in, and the
// default names of resources with the stack's. The policy variables stay: they
// reach AWS IoT Core as they are.
func (p *Props) fill(document string) string {
	quoted := func(name string) string { return `"` + name + `"` }
	return strings.NewReplacer(
		quoted(defaultNames.DevicePolicy), quoted(p.Names.DevicePolicy),
		quoted(defaultNames.RotationPolicy), quoted(p.Names.RotationPolicy),
		quoted(defaultNames.ThingGroup), quoted(p.Names.ThingGroup),
		quoted(defaultNames.ThingType), quoted(p.Names.ThingType),
		"${AWS::Partition}", *awscdk.Aws_PARTITION(),
		"${AWS::Region}", *awscdk.Aws_REGION(),
		"${AWS::AccountId}", *awscdk.Aws_ACCOUNT_ID(),
		"${TemplateName}", p.Names.Template,
		"${ThingPrefix}", p.Names.ThingPrefix,
	).Replace(document)
}

// fleetTemplate is the provisioning template; without rotation, devices do not
// get its policy.
func (p *Props) fleetTemplate() string {
	text := p.fill(p.FleetTemplate)
	if p.Rotation {
		return text
	}
	template := object(text)
	resources, _ := template["Resources"].(map[string]any)
	maps.DeleteFunc(resources, func(_ string, r any) bool {
		resource, _ := r.(map[string]any)
		properties, _ := resource["Properties"].(map[string]any)
		return properties["PolicyName"] == p.Names.RotationPolicy
	})
	return compact(template)
}

// claimPolicy is the claim policy with the client ids and addresses that the
// options allow.
func (p *Props) claimPolicy() string {
	policy := object(p.fill(p.ClaimPolicy))
	statements, _ := policy["Statement"].([]any)
	for _, s := range statements {
		statement, _ := s.(map[string]any)
		if statement["Action"] != "iot:Connect" {
			continue
		}
		var clients []any
		for _, id := range p.ClaimClientIDs {
			clients = append(clients, *iotARN("client/" + id))
		}
		if statement["Resource"] = clients; len(clients) == 1 {
			statement["Resource"] = clients[0]
		}
		if conditions, ok := statement["Condition"].(map[string]any); ok && p.ClaimSourceIPs != nil {
			conditions["IpAddress"] = map[string]any{"aws:SourceIp": p.ClaimSourceIPs}
		}
	}
	return compact(policy)
}

// locations are those that the provisioning template can register, sorted; nil
// if it accepts any.
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
