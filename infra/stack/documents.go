package stack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
)

// maxTemplateBody is AWS's limit on a provisioning template, in characters.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_CreateProvisioningTemplate.html
const maxTemplateBody = 10240

// Documents are the files of templates/: JSON with the placeholders
// ${AWS::Partition}, ${AWS::Region}, ${AWS::AccountId} and ${TemplateName}.
// Every other ${…} is a policy variable, which AWS IoT Core resolves.
type Documents struct {
	FleetTemplate, ClaimPolicy, DevicePolicy string
}

// ReadDocuments reads the three documents in a folder and checks that each is
// a JSON object within AWS's limits.
func ReadDocuments(dir string) (Documents, error) {
	var d Documents
	for _, file := range []struct {
		name string
		to   *string
	}{
		{"fleet_template.json", &d.FleetTemplate},
		{"claim_policy.json", &d.ClaimPolicy},
		{"device_policy.json", &d.DevicePolicy},
	} {
		document, err := readObject(filepath.Join(dir, file.name))
		if err != nil {
			return Documents{}, err
		}
		*file.to = document
	}
	if n := len(d.FleetTemplate); n > maxTemplateBody {
		return Documents{}, fmt.Errorf("fleet_template.json has %d characters without its white space, AWS IoT takes %d", n, maxTemplateBody)
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

// deployable replaces our placeholders with what CloudFormation fills in, and the
// default names of resources with the stack's. The policy variables stay: they
// reach AWS IoT Core as they are.
func deployable(document string, names Names) string {
	quoted := func(name string) string { return `"` + name + `"` }
	return strings.NewReplacer(
		quoted(defaultNames.DevicePolicy), quoted(names.DevicePolicy),
		quoted(defaultNames.ThingGroup), quoted(names.ThingGroup),
		quoted(defaultNames.ThingType), quoted(names.ThingType),
		"${AWS::Partition}", *awscdk.Aws_PARTITION(),
		"${AWS::Region}", *awscdk.Aws_REGION(),
		"${AWS::AccountId}", *awscdk.Aws_ACCOUNT_ID(),
		"${TemplateName}", names.Template,
	).Replace(document)
}

// deployableObject is the document as an object, for properties that want one.
func deployableObject(document string, names Names) map[string]any {
	var object map[string]any
	if err := json.Unmarshal([]byte(deployable(document, names)), &object); err != nil {
		panic(fmt.Sprintf("stack: documents that ReadDocuments did not read: %v", err))
	}
	return object
}
