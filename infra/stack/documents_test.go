package stack_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/fleety/infra/stack"
)

func TestReadDocumentsRejects(t *testing.T) {
	good := map[string]string{"fleet_template.json": "{}", "claim_policy.json": "{}", "device_policy.json": "{}", "rotation_policy.json": "{}"}
	tests := map[string]struct {
		name, content string // one file instead of the good one; no content: no file
		want          string
	}{
		"missing":     {"claim_policy.json", "", "claim_policy.json"},
		"not JSON":    {"device_policy.json", "{", "device_policy.json"},
		"not object":  {"fleet_template.json", "[]", "fleet_template.json"},
		"two objects": {"fleet_template.json", "{} {}", "fleet_template.json"},
		"no rotation": {"rotation_policy.json", "", "rotation_policy.json"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			files := maps.Clone(good)
			files[test.name] = test.content
			dir := t.TempDir()
			for name, content := range files {
				if content == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := stack.ReadDocuments(dir)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestReadDocumentsTakesWhiteSpaceOut(t *testing.T) {
	d, err := stack.ReadDocuments(filepath.Join("..", "..", "templates"))
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range []string{d.FleetTemplate, d.ClaimPolicy, d.DevicePolicy, d.RotationPolicy} {
		if !strings.HasPrefix(document, "{") || strings.Contains(document, "\n") {
			t.Errorf("document is not compact JSON:\n%s", document)
		}
	}
}

// The limits hold for what is deployed: the names and the Region count.
func TestCheckFindsDocumentsThatAreTooLong(t *testing.T) {
	documents, err := stack.ReadDocuments(filepath.Join("..", "..", "templates"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(context map[string]any, d stack.Documents) error {
		options, err := stack.ParseOptions(context)
		if err != nil {
			t.Fatal(err)
		}
		return (&stack.Props{Options: options, Documents: d}).Check()
	}
	longest := map[string]any{
		"certificateArn": strings.Replace(strings.Replace(arnA, ":aws:", ":aws-us-gov:", 1), "us-east-1", "us-gov-west-1", 1),
		"name":           strings.Repeat("n", 28), "claimSourceIp": "203.0.113.0/24",
	}
	if err := check(longest, documents); err != nil {
		t.Error(err)
	}
	tooLong := documents
	tooLong.FleetTemplate = `{"a":"` + strings.Repeat("a", 10240) + `"}`
	if err := check(map[string]any{"certificateArn": arnA}, tooLong); err == nil || !strings.Contains(err.Error(), "fleet_template.json") {
		t.Errorf("a template of 10,248 characters: %v", err)
	}
	longest["claimClientIds"] = "claim-*" + strings.Repeat(",another-one-*", 10)
	if err := check(longest, documents); err == nil || !strings.Contains(err.Error(), "claim_policy.json") {
		t.Errorf("ten more client ids: %v", err)
	}
}
