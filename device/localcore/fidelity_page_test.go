package localcore_test

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	gocmp "github.com/google/go-cmp/cmp"

	"example.com/fleety/device/conformance"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/controlapi"
)

var updateFidelity = flag.Bool("update-fidelity", false, "write docs/fidelity.md")

const fidelityPage = "../../docs/fidelity.md"

// A behavior of AWS, the page that documents it, and the test that holds it.
type behavior struct {
	text, source, test, file string
	outside                  string // what package conformance says of it
}

// The page lists what the tests say of themselves. A test whose comment begins with the address of
// an AWS page holds the sentence that follows. A comment "Each case is of ADDRESS." makes every
// case of the test's table a behavior, and a field named page that one case: its name is the
// sentence. The last column is from package conformance.
func TestFidelityPageListsTheTestedBehaviors(t *testing.T) {
	t.Parallel()
	behaviors := collectBehaviors(t)
	if len(behaviors) < 100 {
		t.Errorf("only %d behaviors are held", len(behaviors))
	}
	for _, b := range behaviors {
		if strings.Count(b.text, " ") < 2 {
			t.Errorf("%s: %s cites an AWS page, but %q is no sentence", b.file, b.test, b.text)
		}
	}
	want := renderFidelity(seeFromOutside(t, behaviors), hiddenBehaviors(t))
	if *updateFidelity {
		if err := os.WriteFile(fidelityPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(fidelityPage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/fidelity.md is not what the tests hold; write it with: go test ./localcore -run Fidelity -update-fidelity\n%s", diff)
	}
}

// seeFromOutside says of each behavior whether a check of package conformance shows it, and on
// which day on AWS, or why none can. It adds the behaviors that only a check holds.
func seeFromOutside(t *testing.T, behaviors []behavior) []behavior {
	t.Helper()
	checks, err := conformance.Checks()
	if err != nil {
		t.Fatal(err)
	}
	verified := verifiedOnAWS(t)
	points := map[string]string{}
	for _, point := range localcore.Ambiguities() {
		points[point.ID] = point.Question
	}
	rows := map[string][]int{} // of behaviors, by what names them
	for i, b := range behaviors {
		folder := filepath.ToSlash(filepath.Join("localcore", filepath.Dir(b.file)))
		for _, name := range []string{b.text, b.test, folder} {
			rows[name] = append(rows[name], i)
		}
	}
	say := func(name, what string) {
		if len(rows[name]) == 0 {
			t.Errorf("package conformance names %q, which is no row: correct it there, or add the AWS page", name)
		}
		for _, i := range rows[name] {
			behaviors[i].outside = what
		}
	}
	for i, group := range hiddenBehaviors(t) {
		for _, name := range group.rows {
			say(name, fmt.Sprintf("no [%d]", i+1))
		}
	}
	for _, c := range checks {
		what := "yes"
		if day := verified[c.Behavior]; day != "" {
			what = "verified on AWS, " + day
		}
		switch question, known := points[c.Open]; {
		case c.Open != "":
			if known && question != c.Behavior {
				t.Errorf("%s:%d: %s is the question %q", c.File, c.Line, c.Open, question)
			}
		case c.Page != "":
			behaviors = append(behaviors, behavior{c.Behavior, c.Page, "", c.File, what})
		default:
			say(asSentence(c.Behavior), what)
		}
	}
	var missing []string
	for _, b := range behaviors {
		if b.outside == "" {
			missing = append(missing, b.text)
		}
	}
	if len(missing) > 0 {
		t.Errorf("these behaviors have no check in conformance/checks/*.txt, and no reason in conformance/hidden.txt:\n%s", strings.Join(missing, "\n"))
	}
	return behaviors
}

// A hiddenGroup is a group of behaviors that no check can show, and why. Rows are names of tests,
// "localcore/PACKAGE" for all of a package, or the sentences of single rows.
type hiddenGroup struct {
	reason string
	rows   []string
}

func hiddenBehaviors(t *testing.T) (groups []hiddenGroup) {
	t.Helper()
	text, err := os.ReadFile("../conformance/hidden.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if reason, ok := strings.CutPrefix(line, "== "); ok {
			groups = append(groups, hiddenGroup{reason: reason})
		} else if line != "" {
			last := &groups[len(groups)-1]
			last.rows = append(last.rows, line)
		}
	}
	return groups
}

// verifiedOnAWS returns the day on which transcripts show each behavior on AWS, by its sentence.
func verifiedOnAWS(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../conformance/transcripts/*.json")
	if err != nil {
		t.Fatal(err)
	}
	checks, err := conformance.Checks()
	if err != nil {
		t.Fatal(err)
	}
	days := map[string]string{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var r conformance.Report
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		addVerified(days, &r, checks)
	}
	return days
}

// addVerified adds what a run against AWS has shown. Only steps that are still those of the check
// count.
func addVerified(days map[string]string, r *conformance.Report, checks []conformance.Check) {
	current := map[string]bool{}
	for _, c := range checks {
		current[c.Behavior+c.Hash()] = true
	}
	for _, result := range r.Results {
		if r.Endpoint == "aws" && current[result.Behavior+result.Steps] && (result.Verdict == conformance.Same || result.Verdict == conformance.Recorded) {
			days[result.Behavior] = max(days[result.Behavior], r.Started.Format(time.DateOnly))
		}
	}
}

func TestOnlyTranscriptsOfAWSVerify(t *testing.T) {
	t.Parallel()
	checks, err := conformance.Checks()
	if err != nil {
		t.Fatal(err)
	}
	c := checks[0]
	for name, test := range map[string]struct {
		endpoint, steps string
		verdict         conformance.Verdict
		want            string
	}{
		"AWS does so":       {"aws", c.Hash(), conformance.Same, "2026-11-26"},
		"AWS differs":       {"aws", c.Hash(), conformance.Differs, ""},
		"skipped":           {"aws", c.Hash(), conformance.Skipped, ""},
		"another endpoint":  {"other", c.Hash(), conformance.Same, ""},
		"another check now": {"aws", "0000", conformance.Same, ""},
	} {
		t.Run(name, func(t *testing.T) {
			days := map[string]string{}
			addVerified(days, &conformance.Report{
				Endpoint: test.endpoint, Started: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC),
				Results: []conformance.Result{{Behavior: c.Behavior, Steps: test.steps, Verdict: test.verdict}},
			}, checks)
			if days[c.Behavior] != test.want {
				t.Errorf("verified on %q, want %q", days[c.Behavior], test.want)
			}
		})
	}
}

func collectBehaviors(t *testing.T) []behavior {
	t.Helper()
	var all []behavior
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, declaration := range file.Decls {
			if f, ok := declaration.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Test") {
				all = append(all, behaviorsOf(f, filepath.ToSlash(path))...)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b behavior) int {
		return cmp.Or(cmp.Compare(filepath.Dir(a.file), filepath.Dir(b.file)), cmp.Compare(a.source, b.source), cmp.Compare(a.text, b.text))
	})
	return all
}

var (
	sourceAndText = regexp.MustCompile(`^https://docs\.aws\.amazon\.com/(\S+?)\.html(?:[:.]\s*|$)(.*?)(?:\.(?:\s.*)?)?$`)
	sourceOfCases = regexp.MustCompile(`^Each case is of https://docs\.aws\.amazon\.com/(\S+?)\.html\.`)
)

func behaviorsOf(f *ast.FuncDecl, file string) []behavior {
	comment := strings.Join(strings.Fields(f.Doc.Text()), " ")
	ofCases := ""
	if m := sourceOfCases.FindStringSubmatch(comment); m != nil {
		ofCases = m[1]
	}
	cases := behaviorsOfCases(f, file, ofCases)
	if m := sourceAndText.FindStringSubmatch(comment); m != nil {
		return append(cases, behavior{text: asSentence(m[2]), source: m[1], test: f.Name.Name, file: file})
	}
	return cases
}

// behaviorsOfCases finds the cases of a table that name their own page of the developer guide, or
// all of them if there is a source for all.
func behaviorsOfCases(f *ast.FuncDecl, file, source string) (cases []behavior) {
	ast.Inspect(f, func(n ast.Node) bool {
		entry, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		name, isText := stringOf(entry.Key)
		value, isStruct := entry.Value.(*ast.CompositeLit)
		if !isText || !isStruct {
			return true
		}
		of := source
		if page := pageOf(value); page != "" {
			of = "iot/latest/developerguide/" + page
		}
		if of != "" {
			cases = append(cases, behavior{text: asSentence(name), source: of, test: f.Name.Name, file: file})
		}
		return false
	})
	return cases
}

// pageOf returns the value of the field named page, empty without one.
func pageOf(value *ast.CompositeLit) string {
	for _, element := range value.Elts {
		field, ok := element.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		if key, ok := field.Key.(*ast.Ident); ok && key.Name == "page" {
			page, _ := stringOf(field.Value)
			return page
		}
	}
	return ""
}

// asSentence begins with a capital and has no full stop.
func asSentence(s string) string {
	s = strings.TrimSuffix(s, ".")
	first, size := utf8.DecodeRuneInString(s)
	if word, _, _ := strings.Cut(s, " "); strings.ToLower(word) != word {
		return s // a name, such as thingName
	}
	return string(unicode.ToUpper(first)) + s[size:]
}

func stringOf(e ast.Expr) (string, bool) {
	literal, ok := e.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(literal.Value)
	return s, err == nil
}

func renderFidelity(behaviors []behavior, hidden []hiddenGroup) string {
	var page strings.Builder
	fmt.Fprintf(&page, `# What iot_core_local does as AWS IoT Core does

Written from the tests of `+"`device/localcore`"+`, which fail when this page differs. %d behaviors that AWS documents, each with its
page and the test that holds it. %d of them are checked from outside too, by [`+"`iot_core_local conformance`"+`](conformance.md), which runs
against any endpoint; that AWS does so is verified only where the last column says so.
`, len(behaviors), countChecked(behaviors))
	folder := ""
	for _, b := range behaviors {
		f := "conformance"
		if b.test != "" {
			f = filepath.ToSlash(filepath.Join("localcore", filepath.Dir(b.file)))
		}
		if f != folder {
			folder = f
			fmt.Fprintf(&page, "\n## `%s`\n\n| Behavior | AWS page | Test | From outside |\n|---|---|---|---|\n", folder)
		}
		fmt.Fprintf(&page, "| %s | [%s](https://docs.aws.amazon.com/%s.html) | `%s` | %s |\n",
			cell(b.text), pageName(b.source), b.source, cmp.Or(b.test, b.file), b.outside)
	}
	page.WriteString("\n## What cannot be checked from outside\n\n")
	for i, group := range hidden {
		fmt.Fprintf(&page, "%d. What %s.\n", i+1, group.reason)
	}
	page.WriteString("\n## What AWS leaves open\n\n`iot_core_local help fidelity` prints this table too.\n\n| | Point | Here |\n|---|---|---|\n")
	for _, point := range localcore.Ambiguities() {
		fmt.Fprintf(&page, "| %s | %s | %s |\n", point.ID, cell(point.Question), cell(point.Answer))
	}
	page.WriteString("\n## What is not there\n\nThe control API rejects these operations of AWS IoT by their names, and every parameter that it does not emulate:\n")
	fmt.Fprintf(&page, "%s.\n", strings.Join(controlapi.NotEmulated(), ", "))
	return page.String()
}

func countChecked(behaviors []behavior) (n int) {
	for _, b := range behaviors {
		if b.outside == "yes" || strings.HasPrefix(b.outside, "verified") {
			n++
		}
	}
	return n
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func pageName(source string) string { return source[strings.LastIndex(source, "/")+1:] }

func TestEveryAmbiguityIsNamedOnce(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, a := range localcore.Ambiguities() {
		if a.ID == "" || a.Question == "" || a.Answer == "" || seen[a.ID] || seen[a.Question] {
			t.Errorf("empty or repeated: %+v", a)
		}
		seen[a.ID], seen[a.Question] = true, true
	}
}
