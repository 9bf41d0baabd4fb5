package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"example.com/fleety/device/internal/osfile"
)

// maxFileSize is far more than a configuration needs. The YAML parser takes time that grows faster
// than its input.
const maxFileSize = 16 << 10

const maxPEMSize = 1 << 20 // enough for a whole system bundle of root certificates

// applyFile reads the file into c. It walks the syntax tree instead of decoding into a struct, so
// that every problem is found at once, each with its place. It reports whether there was anything
// to walk.
func applyFile(c *Config, path string) (found Problems, readable bool) {
	doc, err := osfile.Read(path, maxFileSize)
	switch {
	case err != nil:
		return Problems{{Origin: Origin{Source: path}, What: cause(err), Remedy: remedyForFile(err), Machine: isMachine(err)}}, false
	case isUTF16(doc):
		return Problems{{Origin: Origin{Source: path}, What: "is UTF-16 text", Remedy: saveAsUTF8}}, false
	}
	doc = bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf")) // a byte order mark (YAML 1.2, 5.2)
	f := file{path: path, dir: filepath.Dir(path), keys: keys, into: reflect.ValueOf(c).Elem(), origins: c.origins}
	tree, err := parser.ParseBytes(doc, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		f.syntax(err)
		return f.found, false
	}
	f.document(tree)
	return f.found, true
}

const saveAsUTF8 = "save the file as UTF-8"

// isUTF16 recognizes UTF-16 by its byte order mark, or by the zero bytes that every second of its
// ASCII characters has.
func isUTF16(doc []byte) bool {
	return bytes.HasPrefix(doc, []byte{0xff, 0xfe}) || bytes.HasPrefix(doc, []byte{0xfe, 0xff}) ||
		len(doc) > 1 && (doc[0] == 0) != (doc[1] == 0)
}

// isMachine reports whether the machine keeps a file from being read, which may be the right one:
// permission, a failing disk, a stale mount, too many open files.
func isMachine(err error) bool {
	number, system := errors.AsType[syscall.Errno](err)
	switch number {
	case syscall.ENOENT, syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EINVAL, syscall.ENXIO:
		return false // it is not there, or cannot be such a file
	}
	return system
}

func remedyForFile(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return `name the configuration with --config, or write one with "iot_device config init"`
	case errors.Is(err, fs.ErrPermission):
		return "make it readable for this user"
	case isMachine(err):
		return "check the disk and the limits of this machine"
	}
	return "name a YAML file with --config"
}

// cause drops the operation and the path from an error of package os: the message that it goes into
// names the file already.
func cause(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

// file is the walk over one file's syntax tree: at first into the settings, within a list of
// mappings into one record.
type file struct {
	path    string
	dir     string // where relative paths start
	keys    []key
	into    reflect.Value // the struct that has their fields
	origins map[string]Origin
	list    string // the key of the list that the record is in
	found   Problems
}

func (f *file) report(n ast.Node, key, remedy, what string, args ...any) {
	f.found = append(f.found, Problem{Origin: f.at(start(n)), Key: cmp.Or(f.list, key), What: fmt.Sprintf(what, args...), Remedy: remedy})
}

// start is the token where a node begins: of a mapping it is the first key, not the colon behind
// it.
func start(n ast.Node) *token.Token {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 {
		return m.Values[0].Key.GetToken()
	}
	return n.GetToken()
}

func (f *file) at(t *token.Token) Origin {
	if t == nil || t.Position == nil {
		return Origin{Source: f.path}
	}
	return Origin{Source: f.path, Line: t.Position.Line, Column: t.Position.Column}
}

func (f *file) document(tree *ast.File) {
	n := 0 // an empty file has none, and lacks all that is required
	for _, d := range tree.Docs {
		if _, directive := d.Body.(*ast.DirectiveNode); d.Body == nil || directive { // %YAML 1.2
			continue
		}
		if n++; n == 1 {
			f.mapping("", d.Body)
		} else if n == 2 {
			f.report(d.Body, "", "keep one document in the file", "a second YAML document")
		}
	}
}

func (f *file) syntax(err error) {
	origin, what := Origin{Source: f.path}, err.Error()
	if e, ok := errors.AsType[yaml.Error](err); ok {
		origin, what = f.at(e.GetToken()), e.GetMessage()
	}
	what = strings.Join(strings.Fields("not YAML: "+strings.ReplaceAll(what, "character '\t'", "a tab")), " ") // one line
	f.found = append(f.found, Problem{Origin: origin, What: what, Remedy: "correct the file there: the indentation, quotes and brackets, or the space behind a colon"})
}

// mapping reads the keys of one section; the empty section is the file itself, or a record.
func (f *file) mapping(section string, n ast.Node) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		f.report(n, section, "write it as KEY: VALUE", "%s must be a mapping of keys to values, not %s", cmp.Or(section, f.list, "the file"), describe(n))
		return
	}
	first := map[string]int{}
	for _, e := range m.Values {
		key, ok := e.Key.(*ast.StringNode)
		if !ok {
			f.report(e.Key, section, "write KEY: VALUE", "%s is not a plain key", strings.TrimSpace(e.Key.String()))
			continue
		}
		name := strings.TrimPrefix(section+"."+key.Value, ".")
		if line, twice := first[strings.ToLower(name)]; twice {
			f.twice(e, key.Value, line)
			continue
		}
		first[strings.ToLower(name)] = e.Key.GetToken().Position.Line
		f.entry(name, e)
	}
}

func (f *file) twice(e *ast.MappingValueNode, name string, line int) {
	f.report(e.Key, name, "keep one", "key %q is there twice, first in line %d", name, line)
}

func (f *file) entry(name string, e *ast.MappingValueNode) {
	k, known := lookup(f.keys, name)
	_, below := e.Value.(*ast.MappingNode)
	section := isSection(f.keys, name)
	known = known && !(section && below) // serialNumberFrom is a value or a section
	_, null := e.Value.(*ast.NullNode)   // "key:" alone leaves the default
	switch {
	case known && f.origins[k.name].Source == f.path: // also as "server.port" beside server: {port: …}
		f.twice(e, name, f.origins[k.name].Line)
	case !known && section && null:
	case !known && section:
		f.mapping(strings.ToLower(name), e.Value)
	case !known:
		p := unknownKey(f.keys, f.at(e.Key.GetToken()), name)
		p.Key = cmp.Or(f.list, p.Key)
		f.found = append(f.found, p)
	case k.kind == mapping || k.kind == records:
		f.origins[k.name] = f.at(e.Key.GetToken())
		switch to := f.into.FieldByIndex(k.index); {
		case null:
		case k.kind == mapping:
			f.names(k, to.Addr().Interface().(*map[string]string), e.Value)
		default:
			f.records(k, to, e.Value)
		}
	default:
		f.origins[k.name] = f.at(e.Value.GetToken())
		f.scalar(k, e.Value)
	}
}

func (f *file) scalar(k key, n ast.Node) {
	value, ok := scalarOf(n, k.kind)
	if sequence, isList := n.(*ast.SequenceNode); isList && k.kind == list {
		ok = true
		for _, item := range sequence.Values {
			name, isText := scalarOf(item, text)
			ok = ok && isText
			value += strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(name) + ","
		}
	}
	if !ok {
		f.notOfKind(k, n, "correct its value")
	} else if value == "" {
		return
	} else if err := k.set(f.into, f.dir, value); err != nil {
		remedy := "set it to " + string(k.kind)
		if errors.Is(err, errNotUTF8) {
			remedy = saveAsUTF8
		}
		f.report(n, k.name, remedy, "%s: %v", k.name, err)
	}
}

func (f *file) notOfKind(k key, n ast.Node, remedy string) {
	f.report(n, k.name, remedy, "%s must be %s, not %s", k.name, k.kind, describe(n))
}

func (f *file) names(k key, to *map[string]string, n ast.Node) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		f.notOfKind(k, n, "write it as {NAME: VALUE}")
		return
	}
	values, entry := map[string]string{}, k.tag.Get("entry")
	for _, e := range m.Values {
		name, ok := scalarOf(e.Key, text) // a number is a name too
		value, okValue := scalarOf(e.Value, text)
		switch _, twice := values[name]; {
		case !ok:
			f.report(e.Key, k.name, "put it in quotes", "the name of a %s must be text, not %s", entry, describe(e.Key))
		case !okValue:
			f.report(e.Value, k.name, "put its value in quotes", "%s %q must be text, not %s", entry, name, describe(e.Value))
		case notUTF8(name + value):
			f.report(e.Value, k.name, saveAsUTF8, "%s %q is not UTF-8 text", entry, name)
		case twice:
			f.report(e.Key, k.name, "keep one", "%s %q is there twice", entry, name)
		}
		values[name] = value
	}
	*to = values
}

func (f *file) records(k key, to reflect.Value, n ast.Node) {
	sequence, ok := n.(*ast.SequenceNode)
	if !ok {
		f.notOfKind(k, n, "write it as ["+formOf(to.Type().Elem())+"]")
		return
	}
	for _, item := range sequence.Values {
		record := reflect.New(to.Type().Elem()).Elem()
		within := file{path: f.path, dir: f.dir, keys: keysOf(record.Type(), "", nil), into: record, origins: map[string]Origin{}, list: k.name}
		within.mapping("", item)
		f.found = append(f.found, within.found...)
		to.Set(reflect.Append(to, record))
	}
}

// scalarOf returns a value as text. A number is taken as text in the very letters of the file: a
// serial number without quotes keeps its leading zeros.
func scalarOf(n ast.Node, want kind) (string, bool) {
	switch n := n.(type) {
	case *ast.NullNode:
		return "", true
	case *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, want != boolean
	case *ast.TagNode:
		if n.GetToken().Value == "!!str" {
			return scalarOf(n.Value, want)
		}
	case *ast.StringNode:
		return n.Value, true // "8883" is a number, too
	case *ast.LiteralNode:
		return n.Value.Value, want != number && want != boolean
	case *ast.BoolNode:
		return n.GetToken().Value, want == boolean
	}
	return "", false
}

var descriptions = map[ast.NodeType]string{
	ast.MappingType: "a mapping", ast.SequenceType: "a list", ast.BoolType: "true or false",
	ast.StringType: "text", ast.LiteralType: "text", ast.NullType: "empty",
	ast.IntegerType: "a number", ast.FloatType: "a number", ast.InfinityType: "a number", ast.NanType: "a number",
	ast.AnchorType: anchor, ast.AliasType: anchor, ast.TagType: anchor, ast.MergeKeyType: anchor,
}

const anchor = "an anchor, an alias or a tag"

func describe(n ast.Node) string { return cmp.Or(descriptions[n.Type()], "something else") }
