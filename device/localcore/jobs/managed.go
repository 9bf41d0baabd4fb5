package jobs

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
)

// A managedTemplate is a job template of AWS's own. All parameters but runAsUser
// and pathToHandler are required.
type managedTemplate struct {
	step, handler string
	parameters    []string
}

// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/job-templates-managed.html
var managedTemplates = map[string]managedTemplate{
	"AWS-Download-File":       {"Download-File", "download-file.sh", []string{"downloadUrl", "filePath"}},
	"AWS-Install-Application": {"Install-Application", "install-packages.sh", []string{"packages"}},
	"AWS-Reboot":              {"Reboot", "reboot.sh", nil},
	"AWS-Remove-Application":  {"Remove-Application", "remove-packages.sh", []string{"packages"}},
	"AWS-Restart-Application": {"Restart-Application", "restart-services.sh", []string{"services"}},
	"AWS-Run-Command":         {"Run-Command", "", []string{"command"}},
	"AWS-Start-Application":   {"Start-Application", "start-services.sh", []string{"services"}},
	"AWS-Stop-Application":    {"Stop-Application", "stop-services.sh", []string{"services"}},
}

var managedARN = regexp.MustCompile(`^arn:aws[a-z-]*:iot:[a-z0-9-]+::jobtemplate/([a-zA-Z-]+)(:1\.0)?$`)

// managedDocument returns the document of a managed template with its parameters.
// Optional ones that are not given are empty, which AWS does not document.
func managedDocument(arn string, given map[string]string) (string, error) {
	match := managedARN.FindStringSubmatch(arn)
	if match == nil {
		return "", invalid("Job template %q is none of AWS's managed templates, and others are not emulated.", arn)
	}
	t, ok := managedTemplates[match[1]]
	if !ok {
		return "", reject(ResourceNotFound, "There is no managed template %s.", match[1])
	}
	optional := []string{"runAsUser"}
	input := map[string]any{"command": given["command"]}
	if t.handler != "" {
		optional = append(optional, "pathToHandler")
		input = map[string]any{"handler": t.handler, "path": given["pathToHandler"]}
		if len(t.parameters) > 0 {
			var args []string
			for _, name := range t.parameters {
				args = append(args, given[name])
			}
			input["args"] = args
		}
	}
	for _, name := range t.parameters {
		if given[name] == "" {
			return "", invalid("Document parameter %s is required.", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(optional, name) && !slices.Contains(t.parameters, name) {
			return "", invalid("Template %s has no document parameter %s, it has %s.", match[1], name, strings.Join(append(t.parameters, optional...), ", "))
		}
	}
	kind := "runHandler"
	if t.handler == "" {
		kind = "runCommand"
	}
	type object = map[string]any
	action := object{"name": t.step, "type": kind, "input": input, "runAsUser": given["runAsUser"]}
	return string(awsiot.EncodeJSON(object{"version": "1.0", "steps": []object{{"action": action}}})), nil
}
