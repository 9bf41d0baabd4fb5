package template

import (
	"bytes"
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"strings"

	"example.com/fleety/device/localcore/jsontree"
)

// A document is a policy document that was given as an object: JSON with
// expressions in it.
type document []documentPart

// A documentPart is JSON text, or a value yet to come: one of the three.
type documentPart struct {
	json string
	text expression
	list listExpression
}

func (d document) eval(s *scope) (string, error) {
	var b strings.Builder
	for _, part := range d {
		var value any
		var err error
		switch {
		case part.text != nil:
			value, err = part.text.eval(s)
		case part.list != nil:
			value, err = part.list.evalList(s)
		default:
			b.WriteString(part.json)
			continue
		}
		if err != nil {
			return "", err
		}
		b.Write(encode(value))
	}
	return bounded(b.String())
}

// encode returns strings as JSON, with no more escapes than needed.
func encode(value any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(value) // strings always encode
	return bytes.TrimSpace(b.Bytes())
}

// A compacted expression must give a JSON object and loses its white space.
type compacted struct{ expression }

func (c compacted) eval(s *scope) (string, error) {
	value, err := c.expression.eval(s)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(value)); err != nil {
		return "", badDocument.errorf("the policy document is not JSON: %v", err)
	}
	if !strings.HasPrefix(b.String(), "{") {
		return "", badDocument.errorf("the policy document is not a JSON object")
	}
	return b.String(), nil
}

// documentName names the policy of a document by its hash, in the form of AWS's
// example: 40 hexadecimal digits in capitals.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/single-thing-provisioning.html
func documentName(body string) string { return fmt.Sprintf("%X", sha1.Sum([]byte(body))) }

// readDocument reads a policy document: an object, or a string or function
// that holds one.
func (p *parser) readDocument(n *jsontree.Node) expression {
	if n.Kind != jsontree.Object || isFunction(n) {
		return p.value(n, func(e expression) expression { return compacted{e} })
	}
	d := p.appendDocument(nil, n)
	_, err := d.eval(&scope{parsing: true})
	p.failEarly(n, err)
	return d
}

func (p *parser) appendDocument(d document, n *jsontree.Node) document {
	switch {
	case isFunction(n):
		return append(d, p.readDocumentFunction(n))
	case n.Kind == jsontree.Object:
		return p.appendItems(d, n, "{", "}")
	case n.Kind == jsontree.Array:
		return p.appendItems(d, n, "[", "]")
	}
	return d.append(string(p.body[n.Start:n.End]))
}

func (p *parser) appendItems(d document, n *jsontree.Node, open, closing string) document {
	d = d.append(open)
	for i, m := range n.Items {
		if i > 0 {
			d = d.append(",")
		}
		if n.Kind == jsontree.Object {
			d = d.append(string(encode(m.Key)) + ":")
		}
		d = p.appendDocument(d, m)
	}
	return d.append(closing)
}

func (p *parser) readDocumentFunction(n *jsontree.Node) documentPart {
	if n.Get("Fn::Split") != nil {
		return documentPart{list: p.list(n)}
	}
	return documentPart{text: p.expression(n)}
}

// append adds JSON text, to the last part where that is text too.
func (d document) append(text string) document {
	if last := len(d) - 1; last >= 0 && d[last].text == nil && d[last].list == nil {
		d[last].json += text
		return d
	}
	return append(d, documentPart{json: text})
}
