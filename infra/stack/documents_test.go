package stack_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/fleety/infra/stack"
)

func TestReadDocumentsRefuses(t *testing.T) {
	good := map[string]string{"fleet_template.json": "{}", "claim_policy.json": "{}", "device_policy.json": "{}"}
	tests := map[string]struct {
		name, content string // one file instead of the good one; no content: no file
		want          string
	}{
		"missing":      {"claim_policy.json", "", "claim_policy.json"},
		"not JSON":     {"device_policy.json", "{", "device_policy.json"},
		"not object":   {"fleet_template.json", "[]", "fleet_template.json"},
		"two objects":  {"fleet_template.json", "{} {}", "fleet_template.json"},
		"far too long": {"fleet_template.json", `{"a":"` + strings.Repeat("a", 10240) + `"}`, "AWS IoT takes 10240"},
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
	for _, document := range []string{d.FleetTemplate, d.ClaimPolicy, d.DevicePolicy} {
		if !strings.HasPrefix(document, "{") || strings.Contains(document, "\n") {
			t.Errorf("document is not compact JSON:\n%s", document)
		}
	}
}
