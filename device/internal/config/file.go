package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxFileSize is far more than a configuration needs. The YAML parser takes time
// that grows faster than its input.
const maxFileSize = 16 << 10

// maxPEMSize is enough for a whole system bundle of root certificates.
const maxPEMSize = 1 << 20

// applyFile reads the file into c. It walks the syntax tree instead of decoding
// into a struct, so that every problem is found at once, each with its place.
// It reports whether there was anything to walk.
func applyFile(c *Config, path string) (found Problems, readable bool) {
	doc, err := readFile(path, maxFileSize)
	if err != nil {
		return Problems{{Origin: Origin{Source: path}, What: cause(err), Remedy: remedyForFile(err), Machine: isMachine(err)}}, false
	}
	if isUTF16(doc) {
		return Problems{{Origin: Origin{Source: path}, What: "is UTF-16 text", Remedy: saveAsUTF8}}, false
	}
	doc = bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf")) // a byte order mark (YAML 1.2, 5.2)
	f := file{path: path, dir: filepath.Dir(path), config: c}
	tree, err := parser.ParseBytes(doc, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		f.syntax(err)
		return f.found, false
	}
	f.document(tree)
	return f.found, true
}

// readFile reads a regular file of a limited size. Anything else, such as a FIFO
// that nobody writes to, could block for ever.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	switch info, err := f.Stat(); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("is a %s, not a regular file", kindOfFile(info.Mode()))
	}
	doc, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(doc)) > limit {
		return nil, fmt.Errorf("has more than %d bytes", limit)
	}
	return doc, nil
}

func kindOfFile(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "directory"
	case mode&fs.ModeNamedPipe != 0:
		return "FIFO"
	case mode&fs.ModeSocket != 0:
		return "socket"
	}
	return "device"
}

const saveAsUTF8 = "save the file as UTF-8"

// isUTF16 recognizes UTF-16 by its byte order mark, or by the zero bytes that
// every second of its ASCII characters has.
func isUTF16(doc []byte) bool {
	return bytes.HasPrefix(doc, []byte{0xff, 0xfe}) || bytes.HasPrefix(doc, []byte{0xfe, 0xff}) ||
		len(doc) > 1 && (doc[0] == 0) != (doc[1] == 0)
}

// isMachine reports whether the machine keeps a file from being read, which may
// be the right one: permission, a failing disk, a stale mount, too many open files.
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

// cause drops the operation and the path from an error of package os: the
// message that it goes into names the file already.
func cause(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

// file is the walk over one file's syntax tree.
type file struct {
	path   string
	dir    string // where relative paths start
	config *Config
	found  Problems
}

func (f *file) report(n ast.Node, key, what, remedy string) {
	f.found = append(f.found, Problem{Origin: f.at(start(n)), Key: key, What: what, Remedy: remedy})
}

// start is the token where a node begins: of a mapping it is the first key, not
// the colon behind it.
func start(n ast.Node) *token.Token {
	if entries, ok := mappingOf(n); ok && len(entries) > 0 {
		return entries[0].Key.GetToken()
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
	var bodies []ast.Node
	for _, d := range tree.Docs {
		if _, directive := d.Body.(*ast.DirectiveNode); d.Body != nil && !directive { // %YAML 1.2
			bodies = append(bodies, d.Body)
		}
	}
	if len(bodies) > 0 { // an empty file lacks all that is required
		f.mapping("", bodies[0])
	}
	if len(bodies) > 1 {
		f.report(bodies[1], "", "a second YAML document", "keep one document in the file")
	}
}

func (f *file) syntax(err error) {
	p := Problem{
		Origin: Origin{Source: f.path},
		What:   "not YAML: " + err.Error(), Remedy: "correct the file there",
	}
	if e, ok := errors.AsType[yaml.Error](err); ok {
		p.Origin, p.What = f.at(e.GetToken()), "not YAML: "+e.GetMessage()
	}
	tabs := strings.ReplaceAll(p.What, "'\t'", "a tab")
	p.What = strings.Join(strings.Fields(tabs), " ") // one line
	f.found = append(f.found, p)
}

// mapping reads the keys of one section; the empty section is the file itself.
func (f *file) mapping(section string, n ast.Node) {
	entries, ok := mappingOf(n)
	if !ok {
		f.report(n, section, fmt.Sprintf("%s must be a mapping of keys to values, not %s", cmp.Or(section, "the file"), describe(n)), "write it as KEY: VALUE")
		return
	}
	first := map[string]int{}
	for _, e := range entries {
		name, ok := keyOf(e)
		if !ok {
			f.report(e.Key, section, fmt.Sprintf("%s is not a plain key", strings.TrimSpace(e.Key.String())), "write KEY: VALUE")
			continue
		}
		if line, twice := first[strings.ToLower(name)]; twice {
			f.report(e.Key, name, fmt.Sprintf("key %q is there twice, first in line %d", name, line), "keep one")
			continue
		}
		first[strings.ToLower(name)] = e.Key.GetToken().Position.Line
		if section != "" {
			name = section + "." + name
		}
		f.entry(name, e)
	}
}

func (f *file) entry(name string, e *ast.MappingValueNode) {
	k, known := lookup(name)
	if _, section := mappingOf(e.Value); section && isSection(name) {
		known = false // serialNumberFrom is a value or a section
	}
	switch {
	case known && f.config.origins[k.name].Source == f.path: // also as "server.port" beside server: {port: …}
		f.report(e.Key, name, fmt.Sprintf("key %q is there twice, first in line %d", name, f.config.origins[k.name].Line), "keep one")
	case !known && isSection(name):
		if _, null := e.Value.(*ast.NullNode); !null {
			f.mapping(strings.ToLower(name), e.Value)
		}
	case !known:
		f.found = append(f.found, unknownKey(f.at(e.Key.GetToken()), name))
	case k.kind == mapping:
		f.config.origins[k.name] = f.at(e.Key.GetToken())
		f.entries(k, e.Value)
	case k.kind == records:
		f.config.origins[k.name] = f.at(e.Key.GetToken())
		f.records(k, e.Value)
	default:
		f.config.origins[k.name] = f.at(e.Value.GetToken())
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
			value += strings.ReplaceAll(name, ",", `\,`) + ","
		}
	}
	if !ok {
		f.report(n, k.name, fmt.Sprintf("%s must be %s, not %s", k.name, k.kind, describe(n)), "correct its value")
		return
	}
	if value == "" {
		return // "key:" alone leaves the default
	}
	if err := k.set(f.config, k.in(f.dir, value)); err != nil {
		remedy := "set it to " + k.kind.String()
		if errors.Is(err, errNotUTF8) {
			remedy = saveAsUTF8
		}
		f.report(n, k.name, fmt.Sprintf("%s: %v", k.name, err), remedy)
	}
}

func (f *file) entries(k key, n ast.Node) {
	if _, null := n.(*ast.NullNode); null {
		return
	}
	entries, ok := mappingOf(n)
	if !ok {
		f.report(n, k.name, fmt.Sprintf("%s must be %s, not %s", k.name, k.kind, describe(n)), "write it as {NAME: VALUE}")
		return
	}
	stored, entry := mappingOfKey(f.config, k.name)
	*stored = map[string]string{}
	for _, e := range entries {
		name, ok := scalarOf(e.Key, text) // a number is a name too
		value, okValue := scalarOf(e.Value, text)
		if !ok || !okValue {
			f.report(e.Value, k.name, fmt.Sprintf("%s %q must be text, not %s", entry, strings.TrimSpace(e.Key.String()), describe(e.Value)), "put its value in quotes")
			continue
		}
		if notUTF8(name + value) {
			f.report(e.Value, k.name, fmt.Sprintf("%s %q is not UTF-8 text", entry, name), saveAsUTF8)
		}
		if _, twice := (*stored)[name]; twice {
			f.report(e.Key, k.name, fmt.Sprintf("%s %q is there twice", entry, name), "keep one")
		}
		(*stored)[name] = value
	}
}

func mappingOf(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

func keyOf(e *ast.MappingValueNode) (string, bool) {
	if n, ok := e.Key.(*ast.StringNode); ok {
		return n.Value, true
	}
	return "", false
}

// scalarOf returns a value as text. A number is taken as text in the very
// letters of the file: a serial number without quotes keeps its leading zeros.
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
		return n.Value, want != mapping // "8883" is a number, too
	case *ast.LiteralNode:
		return n.Value.Value, want != number && want != boolean
	case *ast.BoolNode:
		return n.GetToken().Value, want == boolean
	}
	return "", false
}

func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.BoolNode:
		return "true or false"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.NullNode:
		return "empty"
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		return "an anchor, an alias or a tag"
	}
	return "something else"
}
