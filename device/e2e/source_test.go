package e2e

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the repository's, seen from here.
const root = "../.."

// tracked returns the files of the repository that git tracks and that fit a
// pattern, as paths from here.
func tracked(t *testing.T, patterns ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"ls-files", "-z", "--"}, patterns...)...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Skip("not a git checkout: ", err)
	}
	var files []string
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		files = append(files, filepath.Join(root, name))
	}
	if len(files) < 3 {
		t.Fatalf("only %d files fit %q", len(files), patterns)
	}
	return files
}

// What is printed of an enumeration is a word: a number helps nobody who reads a log.
func TestExportedEnumerationsPrintWords(t *testing.T) {
	t.Parallel()
	enumerations, printed := map[string]bool{}, map[string]bool{} // by package and type
	for _, name := range tracked(t, "device/*.go", "hook/*.go", ":!*_test.go") {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		in := filepath.Dir(name) + "."
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.GenDecl:
				if d.Tok != token.CONST {
					continue
				}
				for _, spec := range d.Specs {
					v := spec.(*ast.ValueSpec)
					kind, ok := v.Type.(*ast.Ident)
					if ok && kind.IsExported() && len(v.Values) == 1 && mentions(v.Values[0], "iota") {
						enumerations[in+kind.Name] = true
					}
				}
			case *ast.FuncDecl:
				if d.Recv != nil && d.Name.Name == "String" {
					if kind, ok := d.Recv.List[0].Type.(*ast.Ident); ok {
						printed[in+kind.Name] = true
					}
				}
			}
		}
	}
	if len(enumerations) < 3 {
		t.Errorf("found only %v", enumerations)
	}
	for kind := range enumerations {
		if !printed[kind] {
			t.Errorf("%s has no method String", kind)
		}
	}
}

// mentions reports whether an expression has an identifier.
func mentions(e ast.Expr, name string) (found bool) {
	ast.Inspect(e, func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		found = found || ok && id.Name == name
		return true
	})
	return found
}

// A context belongs to a call: https://go.dev/blog/context-and-structs.
func TestNoStructKeepsAContext(t *testing.T) {
	t.Parallel()
	for _, name := range tracked(t, "*.go", ":!*_test.go") {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			s, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range s.Fields.List {
				if sel, ok := field.Type.(*ast.SelectorExpr); ok && sel.Sel.Name == "Context" {
					if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "context" {
						t.Errorf("%s: a struct has a field of type context.Context", name)
					}
				}
			}
			return true
		})
	}
}

// oldWords are metaphors that an earlier version used for what MQTT, AWS IoT and Go have words for,
// each by text that all its forms have, in lower case: the other lines, nearly all, are not matched.
var oldWords = map[string]*regexp.Regexp{
	"com":     regexp.MustCompile(`\bcom(es?|ing) in\b`),
	"came in": regexp.MustCompile(`\bcame in\b`),
	"let":     regexp.MustCompile(`\blet(s|ting)? (it |them |\w+ )?in\b`),
	"tell":    regexp.MustCompile(`\btell(s|ing)?\b`),
	"told":    regexp.MustCompile(`\btold\b`),
	"judg":    regexp.MustCompile(`\bjudg(e[sd]?|ing|ment)\b`),
	"laps":    regexp.MustCompile(`\blaps(e[sd]?|ing)\b`),
	"play":    regexp.MustCompile(`\bplay(s|ed|ing)? (a|the) (stack|account|assembly)`),
	"whoever": regexp.MustCompile(`\bwhoever\b`),
	"hold":    regexp.MustCompile(`\bholds? to\b`),
}

// reviewed are the places where one of the words is right.
var reviewed = map[string]*regexp.Regexp{
	"device/e2e/source_test.go": regexp.MustCompile(``),             // the list itself
	"CHANGELOG.md":              regexp.MustCompile(`_local/lapse`), // a name that is gone
}

func TestTheWordsAreTheFieldsOwn(t *testing.T) {
	t.Parallel()
	for _, name := range tracked(t, "*.go", "*.md", "*.sh", "*.yaml", "*.json", "*.txt", "*.txtar", "*.service", "Makefile",
		":!*package-lock.json", ":!*/testdata/aws/*", ":!LICENSE") {
		short, err := filepath.Rel(root, name)
		if err != nil {
			t.Fatal(err)
		}
		exception := reviewed[filepath.ToSlash(short)]
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for n := 1; lines.Scan(); n++ {
			lower := strings.ToLower(lines.Text())
			for stem, word := range oldWords {
				if strings.Contains(lower, stem) && word.MatchString(lower) && (exception == nil || !exception.MatchString(lines.Text())) {
					t.Errorf("%s:%d: %q in %q", short, n, word.FindString(lower), strings.TrimSpace(lines.Text()))
				}
			}
		}
		if err := lines.Err(); err != nil {
			t.Errorf("%s: %v", short, err)
		}
		f.Close()
	}
}
