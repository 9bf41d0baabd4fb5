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
	"unicode"
	"unicode/utf8"

	gocmp "github.com/google/go-cmp/cmp"

	"example.com/fleety/device/conformance"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/controlapi"
)

var updateFidelity = flag.Bool("update-fidelity", false, "write docs/fidelity.md")

const fidelityPage = "../../docs/fidelity.md"

// A behaviour of AWS, the page that documents it, and the test that holds it.
type behaviour struct {
	text, source, test, file string
	outside                  string // what package conformance says of it
}

// The page lists what the tests say of themselves. A test whose comment begins
// with the address of an AWS page holds the sentence that follows. A comment
// "Each case is of ADDRESS." makes every case of the test's table a behaviour,
// and a field named page that one case: its name is the sentence. The last column
// is from package conformance.
func TestFidelityPageListsTheTestedBehaviors(t *testing.T) {
	t.Parallel()
	behaviours := collectBehaviours(t)
	if len(behaviours) < 100 {
		t.Errorf("only %d behaviours are held", len(behaviours))
	}
	for _, b := range behaviours {
		if strings.Count(b.text, " ") < 2 {
			t.Errorf("%s: %s cites an AWS page, but %q is no sentence", b.file, b.test, b.text)
		}
	}
	want := renderFidelity(seeFromOutside(t, behaviours))
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

// seeFromOutside says of each behaviour whether a check of package conformance
// shows it, and on which day on AWS, or why none can. It adds the behaviours that
// only a check holds.
func seeFromOutside(t *testing.T, behaviours []behaviour) []behaviour {
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
	rows := map[string][]int{} // of behaviours, by what names them
	for i, b := range behaviours {
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
			behaviours[i].outside = what
		}
	}
	for i, group := range conformance.HiddenBehaviors() {
		for _, name := range group.Rows {
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
			behaviours = append(behaviours, behaviour{c.Behavior, c.Page, "", c.File, what})
		default:
			say(asSentence(c.Behavior), what)
		}
	}
	var missing []string
	for _, b := range behaviours {
		if b.outside == "" {
			missing = append(missing, b.text)
		}
	}
	if len(missing) > 20 { // a few may wait; the page says so
		t.Errorf("these behaviors have no check in conformance/checks/*.txt, and no reason in conformance/hidden.txt:\n%s", strings.Join(missing, "\n"))
	}
	return behaviours
}

func verifiedOnAWS(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../conformance/transcripts/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var transcripts []*conformance.Report
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var r conformance.Report
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		transcripts = append(transcripts, &r)
	}
	days, err := conformance.VerifiedOnAWS(transcripts)
	if err != nil {
		t.Fatal(err)
	}
	return days
}

func collectBehaviours(t *testing.T) []behaviour {
	t.Helper()
	var all []behaviour
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
				all = append(all, behavioursOf(f, filepath.ToSlash(path))...)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b behaviour) int {
		return cmp.Or(cmp.Compare(filepath.Dir(a.file), filepath.Dir(b.file)), cmp.Compare(a.source, b.source), cmp.Compare(a.text, b.text))
	})
	return all
}

var (
	sourceAndText = regexp.MustCompile(`^https://docs\.aws\.amazon\.com/(\S+?)\.html(?:[:.]\s*|$)(.*?)(?:\.(?:\s.*)?)?$`)
	sourceOfCases = regexp.MustCompile(`^Each case is of https://docs\.aws\.amazon\.com/(\S+?)\.html\.`)
)

func behavioursOf(f *ast.FuncDecl, file string) []behaviour {
	comment := strings.Join(strings.Fields(f.Doc.Text()), " ")
	ofCases := ""
	if m := sourceOfCases.FindStringSubmatch(comment); m != nil {
		ofCases = m[1]
	}
	cases := behavioursOfCases(f, file, ofCases)
	if m := sourceAndText.FindStringSubmatch(comment); m != nil {
		return append(cases, behaviour{text: asSentence(m[2]), source: m[1], test: f.Name.Name, file: file})
	}
	return cases
}

// behavioursOfCases finds the cases of a table that name their own page of the
// developer guide, or all of them if there is a source for all.
func behavioursOfCases(f *ast.FuncDecl, file, source string) (cases []behaviour) {
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
			cases = append(cases, behaviour{text: asSentence(name), source: of, test: f.Name.Name, file: file})
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

func renderFidelity(behaviours []behaviour) string {
	var page strings.Builder
	fmt.Fprintf(&page, `# What iot_core_local does as AWS IoT Core does

Written from the tests of `+"`device/localcore`"+`, which fail when this page differs. %d behaviours that AWS documents, each with its
page and the test that holds it. %d of them are checked from outside too, by [`+"`iot_core_local conformance`"+`](conformance.md), which runs
against any endpoint; that AWS does so is verified only where the last column says so.
`, len(behaviours), countChecked(behaviours))
	folder := ""
	for _, b := range behaviours {
		f := "conformance"
		if b.test != "" {
			f = filepath.ToSlash(filepath.Join("localcore", filepath.Dir(b.file)))
		}
		if f != folder {
			folder = f
			fmt.Fprintf(&page, "\n## `%s`\n\n| Behaviour | AWS page | Test | From outside |\n|---|---|---|---|\n", folder)
		}
		fmt.Fprintf(&page, "| %s | [%s](https://docs.aws.amazon.com/%s.html) | `%s` | %s |\n",
			cell(b.text), pageName(b.source), b.source, cmp.Or(b.test, b.file), cmp.Or(b.outside, "not yet"))
	}
	page.WriteString("\n## What cannot be checked from outside\n\n")
	for i, group := range conformance.HiddenBehaviors() {
		fmt.Fprintf(&page, "%d. What %s.\n", i+1, group.Reason)
	}
	page.WriteString("\n## What AWS leaves open\n\n`iot_core_local help fidelity` prints this table too.\n\n| | Point | Here |\n|---|---|---|\n")
	for _, point := range localcore.Ambiguities() {
		fmt.Fprintf(&page, "| %s | %s | %s |\n", point.ID, cell(point.Question), cell(point.Answer))
	}
	page.WriteString("\n## What is not there\n\nThe control API rejects these operations of AWS IoT by their names, and every parameter that it does not emulate:\n")
	fmt.Fprintf(&page, "%s.\n", strings.Join(controlapi.NotEmulated(), ", "))
	return page.String()
}

func countChecked(behaviours []behaviour) (n int) {
	for _, b := range behaviours {
		if b.outside == "yes" || strings.HasPrefix(b.outside, "verified") {
			n++
		}
	}
	return n
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func pageName(source string) string { return source[strings.LastIndex(source, "/")+1:] }
