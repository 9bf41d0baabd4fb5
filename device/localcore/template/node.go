package template

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep values may be nested in each other.
const maxDepth = 64

type kind string

const (
	object  kind = "an object"
	array   kind = "an array"
	text    kind = "a string"
	number  kind = "a number"
	boolean kind = "a boolean"
	null    kind = "null"
)

// A node is a JSON value that knows where it stands.
type node struct {
	kind   kind
	start  int    // offset of its first byte
	end    int    // offset behind its last byte
	text   string // of a string its value, of a number its digits
	items  []*node
	parent *node
	index  int    // in a parent that is an array
	key    string // in a parent that is an object
	keyAt  int    // offset of the key
}

// get returns the member of an object, or nil.
func (n *node) get(key string) *node {
	for _, m := range n.items {
		if n.kind == object && m.key == key {
			return m
		}
	}
	return nil
}

var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// path returns the JSON path of n.
func (n *node) path() string {
	var steps []string
	for ; n.parent != nil; n = n.parent {
		switch {
		case n.parent.kind == array:
			steps = append(steps, fmt.Sprintf("[%d]", n.index))
		case plainKey.MatchString(n.key):
			steps = append(steps, "."+n.key)
		default:
			steps = append(steps, "["+strconv.Quote(n.key)+"]")
		}
	}
	var b strings.Builder
	b.WriteByte('$')
	for i := len(steps) - 1; i >= 0; i-- {
		b.WriteString(steps[i])
	}
	return b.String()
}

// position turns an offset into line and column, both from 1.
func position(body []byte, offset int) (line, column int) {
	before := body[:min(max(offset, 0), len(body))]
	line = 1 + bytes.Count(before, []byte("\n"))
	column = 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	return line, column
}

// A reader turns valid JSON into nodes.
type reader struct {
	body    []byte
	decoder *json.Decoder
	fail    func(offset int, path, reason string)
}

// readJSON returns the tree of body, and reports faults to fail. The tree is
// nil when body is not JSON at all.
func readJSON(body []byte, fail func(offset int, path, reason string)) *node {
	var whole json.RawMessage
	if err := json.Unmarshal(body, &whole); err != nil {
		offset := len(body)
		if e, ok := errors.AsType[*json.SyntaxError](err); ok && int(e.Offset) <= len(body) && !strings.Contains(e.Error(), "unexpected end") {
			offset = int(e.Offset) - 1 // it counts the faulty byte
		}
		fail(offset, "$", "not JSON: "+err.Error())
		return nil
	}
	r := &reader{body: body, decoder: json.NewDecoder(bytes.NewReader(body)), fail: fail}
	r.decoder.UseNumber()
	return r.read(&node{}, 0)
}

// read fills n, whose place in its parent is set, from the next value.
func (r *reader) read(n *node, depth int) *node {
	n.start = r.next()
	token, _ := r.decoder.Token() // the body is valid
	switch v := token.(type) {
	case json.Delim:
		n.kind = array
		if v == '{' {
			n.kind = object
		}
		r.readItems(n, depth+1)
	case string:
		n.kind, n.text = text, v
	case json.Number:
		n.kind, n.text = number, v.String()
	case bool:
		n.kind = boolean
	default:
		n.kind = null
	}
	n.end = int(r.decoder.InputOffset())
	return n
}

func (r *reader) readItems(n *node, depth int) {
	tooDeep := depth > maxDepth
	if tooDeep {
		r.fail(n.start, n.path(), fmt.Sprintf("nested deeper than %d levels", maxDepth))
	}
	seen := make(map[string]bool)
	for i := 0; r.decoder.More(); i++ {
		if tooDeep {
			r.decoder.Decode(new(json.RawMessage)) // skip it
			continue
		}
		item := &node{parent: n, index: i}
		if n.kind == object {
			item.keyAt = r.next()
			key, _ := r.decoder.Token()
			item.key, _ = key.(string)
			if seen[item.key] {
				r.fail(item.keyAt, item.path(), "this key was given before")
			}
			seen[item.key] = true
		}
		n.items = append(n.items, r.read(item, depth))
	}
	r.decoder.Token() // the closing bracket
}

// next returns the offset of the next token.
func (r *reader) next() int {
	at := int(r.decoder.InputOffset())
	return at + len(r.body[at:]) - len(bytes.TrimLeft(r.body[at:], " \t\r\n,:"))
}
