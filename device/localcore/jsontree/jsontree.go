// Package jsontree reads JSON into values that have their place in the text, which encoding/json
// does not keep: policies and provisioning templates are checked with it, and each fault is
// reported with line, column and path.
package jsontree

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

// An Error is one fault of a JSON text and its place.
type Error struct {
	File string // empty for a text that is not from a file
	// Line and Column count from 1; a column is a character.
	Line, Column int
	Path         string // leads to the faulty value, such as $.Statement[0].Effect
	Reason       string
}

// Error returns place and reason in one line.
func (e *Error) Error() string {
	if e.File != "" {
		return fmt.Sprintf("%s:%d:%d: %s: %s", e.File, e.Line, e.Column, e.Path, e.Reason)
	}
	return fmt.Sprintf("line %d, column %d: %s: %s", e.Line, e.Column, e.Path, e.Reason)
}

// ErrorAt returns an error with the place of a byte offset of the text.
func ErrorAt(text []byte, offset int, path, reason string) *Error {
	before := text[:min(max(offset, 0), len(text))]
	line := before[bytes.LastIndexByte(before, '\n')+1:]
	return &Error{Line: bytes.Count(before, []byte("\n")) + 1, Column: utf8.RuneCount(line) + 1, Path: path, Reason: reason}
}

// SyntaxError returns an error with the place of the fault for what [json.Unmarshal] returned for
// the text, or nil if it found no fault of syntax.
func SyntaxError(text []byte, err error) *Error {
	e, ok := errors.AsType[*json.SyntaxError](err)
	if !ok {
		return nil
	}
	offset := int(e.Offset) - 1 // it counts the faulty byte
	if strings.HasPrefix(e.Error(), "unexpected end") {
		offset = len(text)
	}
	return ErrorAt(text, offset, "$", "not JSON: "+e.Error())
}

// A Kind is the type of a JSON value, as text for messages.
type Kind string

// String returns the kind with its article.
func (k Kind) String() string { return string(k) }

// The kinds of JSON values.
const (
	Object  Kind = "an object"
	Array   Kind = "an array"
	String  Kind = "a string"
	Number  Kind = "a number"
	Boolean Kind = "a boolean"
	Null    Kind = "null"
)

// A Node is one JSON value.
type Node struct {
	Kind Kind
	Path string // leads to the value, as that of [Error]
	// Start and End are the offsets of its first byte and behind its last one.
	Start, End int
	Text       string  // the value of a string, or the number or boolean as it is written
	Items      []*Node // those of an array or the values of an object's members
	Key        string  // the name, in a parent that is an object
	KeyStart   int     // its offset
}

// Get returns the member of an object, or nil.
func (n *Node) Get(key string) *Node {
	if n.Kind == Object {
		for _, m := range n.Items {
			if m.Key == key {
				return m
			}
		}
	}
	return nil
}

var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

type reader struct {
	text     []byte
	decoder  *json.Decoder
	maxDepth int
	faults   []*Error
}

// Parse reads a text whose arrays and objects are nested at most maxDepth deep. The faults are
// those of encoding, syntax and nesting, and keys that come twice; the tree is nil if there is one.
func Parse(text []byte, maxDepth int) (*Node, []*Error) {
	for i, char := range string(text) {
		if char == utf8.RuneError && !bytes.HasPrefix(text[i:], []byte(string(char))) {
			return nil, []*Error{ErrorAt(text, i, "$", "not UTF-8")}
		}
	}
	var whole json.RawMessage
	if e := SyntaxError(text, json.Unmarshal(text, &whole)); e != nil {
		return nil, []*Error{e}
	}
	r := &reader{text: text, decoder: json.NewDecoder(bytes.NewReader(text)), maxDepth: maxDepth}
	r.decoder.UseNumber()
	root := r.read(&Node{Path: "$"}, 0)
	if len(r.faults) > 0 {
		return nil, r.faults
	}
	return root, nil
}

func (r *reader) fail(n *Node, offset int, reason string) {
	r.faults = append(r.faults, ErrorAt(r.text, offset, n.Path, reason))
}

// read fills n, whose path and key are set, from the next value. The text is valid, so that
// no call of the decoder fails.
func (r *reader) read(n *Node, depth int) *Node {
	n.Start = r.next()
	token, _ := r.decoder.Token()
	switch v := token.(type) {
	case json.Delim:
		n.Kind = Array
		if v == '{' {
			n.Kind = Object
		}
		r.readItems(n, depth+1)
	case string:
		n.Kind, n.Text = String, v
	case json.Number:
		n.Kind, n.Text = Number, v.String()
	case bool:
		n.Kind, n.Text = Boolean, strconv.FormatBool(v)
	default:
		n.Kind = Null
	}
	n.End = int(r.decoder.InputOffset())
	return n
}

func (r *reader) readItems(n *Node, depth int) {
	if depth > r.maxDepth {
		r.fail(n, n.Start, fmt.Sprintf("nested deeper than %d levels", r.maxDepth))
		r.decoder = json.NewDecoder(new(bytes.Reader)) // nothing of what follows is read
		return
	}
	seen := make(map[string]bool)
	for i := 0; r.decoder.More(); i++ {
		item := &Node{Path: fmt.Sprintf("%s[%d]", n.Path, i)}
		if n.Kind == Object {
			item.KeyStart = r.next()
			key, _ := r.decoder.Token()
			item.Key, _ = key.(string)
			if item.Path = n.Path + "." + item.Key; !plainKey.MatchString(item.Key) {
				item.Path = n.Path + "[" + strconv.Quote(item.Key) + "]"
			}
			if seen[item.Key] {
				r.fail(item, item.KeyStart, "this key was given before")
			}
			seen[item.Key] = true
		}
		n.Items = append(n.Items, r.read(item, depth))
	}
	_, _ = r.decoder.Token() // the closing bracket
}

func (r *reader) next() int {
	at := int(r.decoder.InputOffset())
	return at + len(r.text[at:]) - len(bytes.TrimLeft(r.text[at:], " \t\r\n,:"))
}
