package jobs

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
)

// A managedTemplate is a job template of AWS's own. All parameters but runAsUser and pathToHandler
// are required.
type managedTemplate struct {
	step, handler string // without a handler it runs a command
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

// managedDocument returns the document of a managed template with its parameters. Optional ones
// that are not given are empty, which AWS does not document.
func managedDocument(arn string, given map[string]string) (string, error) {
	match := managedARN.FindStringSubmatch(arn)
	if match == nil {
		return "", invalid("Job template %q is none of AWS's managed templates, and others are not emulated.", arn)
	}
	t, ok := managedTemplates[match[1]]
	if !ok {
		return "", reject(awsiot.JobsResourceNotFound, "There is no managed template %s.", match[1])
	}
	var args []string
	for _, name := range t.parameters {
		if given[name] == "" {
			return "", invalid("Document parameter %s is required.", name)
		}
		args = append(args, given[name])
	}
	kind, optional := "runCommand", []string{"runAsUser"}
	input := map[string]any{"command": given["command"]}
	if t.handler != "" {
		kind, optional = "runHandler", append(optional, "pathToHandler")
		if input = map[string]any{"handler": t.handler, "path": given["pathToHandler"]}; len(args) > 0 {
			input["args"] = args
		}
	}
	all := slices.Concat(t.parameters, optional)
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(all, name) {
			return "", invalid("Template %s has no document parameter %s, it has %s.", match[1], name, strings.Join(all, ", "))
		}
	}
	type object = map[string]any
	action := object{"name": t.step, "type": kind, "input": input, "runAsUser": given["runAsUser"]}
	return string(awsiot.EncodeJSON(object{"version": "1.0", "steps": []object{{"action": action}}})), nil
}
