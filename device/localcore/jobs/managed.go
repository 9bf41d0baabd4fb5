package jobs

import (
	_ "embed"
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
)

// managedTemplates has the documents of AWS's own job templates by name, with ${PARAMETER} in the
// place of each parameter.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/job-templates-managed.html
//
//go:embed managed_templates.json
var managedTemplates []byte

var managedARN = regexp.MustCompile(`^arn:aws[a-z-]*:iot:[a-z0-9-]+::jobtemplate/([a-zA-Z-]+)(:1\.0)?$`)

// managedDocument returns the document of a managed template with its parameters. Optional ones
// that are not given are empty, which AWS does not document.
func managedDocument(arn string, given map[string]string) (string, error) {
	match := managedARN.FindStringSubmatch(arn)
	if match == nil {
		return "", invalid("Job template %q is none of AWS's managed templates, and others are not emulated.", arn)
	}
	var templates map[string]json.RawMessage
	_ = json.Unmarshal(managedTemplates, &templates) // a test uses one of them
	template, ok := templates[match[1]]
	if !ok {
		return "", reject(awsiot.JobsResourceNotFound, "There is no managed template %s.", match[1])
	}
	var all, missing []string
	document := os.Expand(string(template), func(name string) string {
		all = append(all, name)
		if given[name] == "" && name != "runAsUser" && name != "pathToHandler" {
			missing = append(missing, name)
		}
		text := awsiot.EncodeJSON(given[name])
		return string(text[1 : len(text)-1])
	})
	for _, name := range missing {
		return "", invalid("Document parameter %s is required.", name)
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(all, name) {
			return "", invalid("Template %s has no document parameter %s, it has %s.", match[1], name, strings.Join(all, ", "))
		}
	}
	return document, nil
}
