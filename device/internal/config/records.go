package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// parseRecords reads a list of mappings in the form of the environment and of flags:
// a JSON array. form shows one of its objects.
func parseRecords[T any](value, form string) (records []T, err error) {
	d := json.NewDecoder(bytes.NewReader([]byte(value)))
	d.DisallowUnknownFields()
	if err := d.Decode(&records); err != nil {
		return nil, fmt.Errorf("%q is not a JSON array of %s", value, form)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || notUTF8(value) {
		return nil, fmt.Errorf("%q is not one JSON array in UTF-8", value)
	}
	return records, nil
}

// readRecords reads a list of mappings in the file. fields are those of a record by
// their names in lower case; all but "name" are paths. form shows one record.
func readRecords[T any](f *file, k key, n ast.Node, form string, fields func(*T) map[string]*string) (records []T) {
	if _, null := n.(*ast.NullNode); null {
		return nil
	}
	sequence, ok := n.(*ast.SequenceNode)
	if !ok {
		f.report(n, k.name, fmt.Sprintf("%s must be %s, not %s", k.name, k.kind, describe(n)), "write it as ["+form+"]")
		return nil
	}
	for _, item := range sequence.Values {
		entries, ok := mappingOf(item)
		if !ok {
			f.report(item, k.name, fmt.Sprintf("%s has %s in it, not a mapping", k.name, describe(item)), "write it as "+form)
			continue
		}
		var record T
		for _, e := range entries {
			name, _ := scalarOf(e.Key, text)
			value, isText := scalarOf(e.Value, text)
			field := fields(&record)[strings.ToLower(name)]
			switch {
			case field == nil:
				f.report(e.Key, k.name, fmt.Sprintf("%s: unknown key %q", k.name, name), "write it as "+form)
			case !isText || notUTF8(value):
				f.report(e.Value, k.name, fmt.Sprintf("%s must be text in UTF-8, not %s", name, describe(e.Value)), "put its value in quotes")
			case *field != "":
				f.report(e.Key, k.name, fmt.Sprintf("%s is there twice", name), "keep one")
			case strings.EqualFold(name, "name"):
				*field = strings.TrimSpace(value)
			default:
				*field = key{kind: path}.in(f.dir, value)
			}
		}
		records = append(records, record)
	}
	return records
}

// records reads a key that is a list of mappings.
func (f *file) records(k key, n ast.Node) {
	switch k.name {
	case claimsKey:
		f.config.Bootstrap.Claims = readRecords(f, k, n, claimForm, (*Claim).fields)
	case shadowsKey:
		f.config.Agent.Shadows = readRecords(f, k, n, shadowForm, (*Shadow).fields)
	}
}
