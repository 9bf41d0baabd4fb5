package jsontree

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFaultsHaveTheirPlace(t *testing.T) {
	for name, tc := range map[string]struct {
		text   string
		line   int
		column int
		path   string
	}{
		"empty":                  {"", 1, 1, "$"},
		"cut off":                {"{\n \"a\": ", 2, 7, "$"},
		"a missing comma":        {"{\"ü\": 1\n  \"b\": 2}", 2, 3, "$"},
		"two values":             {"{} {}", 1, 4, "$"},
		"a byte order mark":      {"\ufeff{}", 1, 1, "$"},
		"not UTF-8":              {"{\"ü\xff\": 1}", 1, 4, "$"},
		"the replacement rune":   {"{\"\ufffd\": 1,\n}", 2, 1, "$"},
		"a key that comes twice": {"{\"a\": {\"b\": 1,\n  \"b\": 2}}", 2, 3, "$.a.b"},
		"a key that is no name":  {`{"a b": {"c": 1, "c": 2}}`, 1, 18, `$["a b"].c`},
		"too deep":               {`{"a": [[[1]]]}`, 1, 9, "$.a[0][0]"},
		"an object too deep":     {`{"a": {"b": {"c": {"d": 1}}}}`, 1, 19, "$.a.b.c"},
		"and more behind it":     {`[{"a": [{"b": [{}], "b": {"c": null}}]}, {"d": "]"}]`, 1, 9, "$[0].a[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			root, faults := Parse([]byte(tc.text), 3)
			if root != nil || len(faults) != 1 {
				t.Fatalf("got %v", faults)
			}
			want := &Error{Line: tc.line, Column: tc.column, Path: tc.path, Reason: faults[0].Reason}
			if diff := cmp.Diff(want, faults[0]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// plain returns the value as encoding/json decodes it.
func plain(n *Node) any {
	switch n.Kind {
	case Object:
		object := map[string]any{}
		for _, m := range n.Items {
			object[m.Key] = plain(m)
		}
		return object
	case Array:
		array := []any{}
		for _, item := range n.Items {
			array = append(array, plain(item))
		}
		return array
	case String:
		return n.Text
	case Number:
		return json.Number(n.Text)
	case Boolean:
		return n.Text == "true"
	}
	return nil
}

// FuzzParse compares the tree, and each of its values by its place, with what encoding/json reads.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{"a": [1, true, null, "x"], "b c": {"d": 1.50e2}}`, "[\n {} , []]", `"\ud800"`, "{", "\xff", "[[[[[[[[", `{"a":{"a":{"a":{"a":{"a":1}}}}}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		root, faults := Parse([]byte(text), 4)
		if (root == nil) != (len(faults) > 0) {
			t.Fatalf("root %v, faults %v", root, faults)
		}
		if root == nil {
			return
		}
		var check func(*Node)
		check = func(n *Node) {
			decoder := json.NewDecoder(strings.NewReader(text[n.Start:n.End]))
			decoder.UseNumber()
			var want any
			if err := decoder.Decode(&want); err != nil {
				t.Fatalf("%s: %v", n.Path, err)
			}
			if diff := cmp.Diff(want, plain(n)); diff != "" {
				t.Fatalf("%s: %s", n.Path, diff)
			}
			for _, item := range n.Items {
				check(item)
			}
		}
		check(root)
	})
}
