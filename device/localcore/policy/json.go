package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"unicode/utf8"
)

// A SyntaxError says what AWS IoT would refuse as a malformed policy, and
// where it stands in the document.
type SyntaxError struct {
	// Line and Column count from 1; Column counts characters.
	Line, Column int
	// Path leads to the value, such as $.Statement[0].Effect.
	Path   string
	Reason string
}

// Error gives place and reason in one line.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("line %d, column %d (%s): %s", e.Line, e.Column, e.Path, e.Reason)
}

// syntaxError places a reason at a byte offset of the document.
func syntaxError(doc []byte, offset int, path, reason string) *SyntaxError {
	before := doc[:min(max(offset, 0), len(doc))]
	line := before[bytes.LastIndexByte(before, '\n')+1:]
	return &SyntaxError{
		Line:   bytes.Count(before, []byte("\n")) + 1,
		Column: utf8.RuneCount(line) + 1,
		Path:   path,
		Reason: reason,
	}
}

// A node is a JSON value that knows its place, which encoding/json does not
// keep. Its value is a string, json.Number, bool, nil, []node or []member.
type node struct {
	offset int
	path   string
	value  any
}

type member struct {
	name string
	node
}

// maxDepth is the deepest nesting that a policy can have: the list below
// $.Statement[0].Condition.StringEquals.key.
const maxDepth = 7

type treeReader struct {
	doc []byte
	dec *json.Decoder
}

// readTree reads a whole document. Its errors are *SyntaxError.
func readTree(doc []byte) (node, error) {
	if !utf8.Valid(doc) {
		return node{}, syntaxError(doc, validPrefix(doc), "$", "the document is not UTF-8")
	}
	var raw json.RawMessage
	if err := json.Unmarshal(doc, &raw); err != nil {
		offset := len(doc)
		if bad, ok := errors.AsType[*json.SyntaxError](err); ok {
			offset = int(bad.Offset) - 1
		}
		return node{}, syntaxError(doc, offset, "$", "not JSON: "+err.Error())
	}
	t := &treeReader{doc: doc, dec: json.NewDecoder(bytes.NewReader(doc))}
	t.dec.UseNumber()
	return t.read("$", 1)
}

func validPrefix(doc []byte) int {
	n := 0
	for n < len(doc) {
		r, size := utf8.DecodeRune(doc[n:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		n += size
	}
	return n
}

func (t *treeReader) read(path string, depth int) (node, error) {
	n := node{offset: t.next(), path: path}
	if depth > maxDepth {
		return n, syntaxError(t.doc, n.offset, path, "nested deeper than any policy")
	}
	token, err := t.dec.Token()
	if err != nil {
		return n, syntaxError(t.doc, n.offset, path, "not JSON: "+err.Error())
	}
	switch token {
	case json.Delim('['):
		n.value, err = t.list(path, depth)
	case json.Delim('{'):
		n.value, err = t.object(path, depth)
	default:
		n.value = token
	}
	return n, err
}

// next returns the offset where the next token begins.
func (t *treeReader) next() int {
	offset := int(t.dec.InputOffset())
	rest := t.doc[offset:]
	return offset + len(rest) - len(bytes.TrimLeft(rest, " \t\r\n,:"))
}

func (t *treeReader) list(path string, depth int) ([]node, error) {
	list := []node{}
	for t.dec.More() {
		n, err := t.read(fmt.Sprintf("%s[%d]", path, len(list)), depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	_, err := t.dec.Token()
	return list, err
}

func (t *treeReader) object(path string, depth int) ([]member, error) {
	members := []member{}
	seen := map[string]bool{}
	for t.dec.More() {
		offset := t.next()
		token, err := t.dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string)
		if seen[name] {
			return nil, syntaxError(t.doc, offset, memberPath(path, name), "the key is there twice")
		}
		seen[name] = true
		n, err := t.read(memberPath(path, name), depth+1)
		if err != nil {
			return nil, err
		}
		members = append(members, member{name, n})
	}
	_, err := t.dec.Token()
	return members, err
}

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func memberPath(path, name string) string {
	if plainName.MatchString(name) {
		return path + "." + name
	}
	return path + "[" + strconv.Quote(name) + "]"
}
