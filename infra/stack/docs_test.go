package stack_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tableUnder returns the rows of the first table under a heading of docs/cloud.md, cell by cell.
func tableUnder(t *testing.T, heading string) (rows [][]string) {
	t.Helper()
	_, section, found := strings.Cut(readText(t, "docs/cloud.md"), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/cloud.md has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		if cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | "); len(cells) > 1 {
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
		}
	}
	if len(rows) < 2 {
		t.Fatalf("no table under %q", heading)
	}
	return rows[1:] // without the heading; its rule has no " | "
}

func readText(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// withoutHash takes away what the CDK adds to the id of a construct, and what depends on a
// certificate or an address.
func withoutHash(id string) string {
	switch {
	case regexp.MustCompile(`^Claim[0-9a-f]{64}$`).MatchString(id):
		return "Claim…"
	case strings.HasPrefix(id, "Alarmsops"):
		return "AlarmsAddress"
	}
	return regexp.MustCompile(`[0-9A-F]{8}$`).ReplaceAllString(id, "")
}

func quoted(s string) string { return "`" + s + "`" }

func TestDocumentedResourcesAreTheDeployedOnes(t *testing.T) {
	type facts struct{ Type, Deployed, OnDeletion string }
	want := map[string]facts{}
	byDefault, withOptions := synthesized(t, byDefault).Resources, synthesized(t, withOptions).Resources
	always := map[string]bool{}
	for id := range byDefault {
		_, found := withOptions[id]
		always[withoutHash(id)] = found
	}
	all := maps.Clone(withOptions)
	maps.Copy(all, byDefault)
	for id, r := range all {
		f := facts{quoted(r.Type), "on request", "deleted"}
		if always[withoutHash(id)] {
			f.Deployed = "always"
		}
		if strings.HasPrefix(r.DeletionPolicy, "Retain") {
			f.OnDeletion = "retained"
		}
		want[quoted(withoutHash(id))] = f
	}
	got := map[string]facts{}
	for _, row := range tableUnder(t, "Resources") {
		f := facts{row[1], row[3], row[4]}
		if f.Deployed != "always" {
			f.Deployed = "on request"
		}
		got[row[0]] = f
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/cloud.md differs from the template (-template +page):\n%s", diff)
	}
}

// granted lists "who may" for everything that the templates give.
func granted(t *testing.T, tmpl template) (all []string) {
	roles := map[string]string{}
	for id, r := range tmpl.ofType("AWS::IAM::Role") {
		roles["ref("+id+")"] = quoted(withoutHash(id))
		managed, _ := resolved(r.Properties["ManagedPolicyArns"]).([]any)
		for _, arn := range managed {
			all = append(all, quoted(withoutHash(id))+" "+quoted(strings.TrimPrefix(arn.(string), "arn:aws:iam::aws:policy/")))
		}
	}
	for _, policy := range tmpl.ofType("AWS::IAM::Policy") {
		p := resolved(policy.Properties).(map[string]any)
		for _, s := range p["PolicyDocument"].(map[string]any)["Statement"].([]any) {
			actions, many := s.(map[string]any)["Action"].([]any)
			if !many {
				actions = []any{s.(map[string]any)["Action"]}
			}
			for _, action := range actions {
				all = append(all, roles[p["Roles"].([]any)[0].(string)]+" "+quoted(action.(string)))
			}
		}
	}
	for range tmpl.ofType("AWS::Lambda::Permission") {
		all = append(all, "AWS IoT Core "+quoted("lambda:InvokeFunction"))
	}
	return all
}

func TestDocumentedPermissionsAreTheGivenOnes(t *testing.T) {
	want := append(granted(t, synthesized(t, byDefault)), granted(t, synthesized(t, withOptions))...)
	slices.Sort(want)
	var got []string
	neededBy := regexp.MustCompile("`([^`]+)`: `([^`]+)`$")
	for _, row := range tableUnder(t, "Permissions") {
		got = append(got, row[0]+" "+row[1])
		m := neededBy.FindStringSubmatch(row[3])
		if m == nil {
			t.Errorf("%s: no line needs it: %q", row[1], row[3])
		} else if !strings.Contains(readText(t, m[1]), m[2]) {
			t.Errorf("%s: %s has no %s", row[1], m[1], m[2])
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(slices.Compact(want), slices.Compact(got)); diff != "" {
		t.Errorf("docs/cloud.md differs from the template (-template +page):\n%s", diff)
	}
}

func TestDocumentedOptionsAreTheOnesThatAreRead(t *testing.T) {
	read := regexp.MustCompile(`r\.[a-zA-Z]+\("([a-zA-Z]+)"`).FindAllStringSubmatch(readText(t, "infra/stack/options.go"), -1)
	var want, got []string
	for _, m := range read {
		want = append(want, quoted(m[1]))
	}
	for _, row := range tableUnder(t, "Options") {
		got = append(got, row[0])
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options differ (-options.go +page):\n%s", diff)
	}
}
