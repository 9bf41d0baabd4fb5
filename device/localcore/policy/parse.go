package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"example.com/fleety/device/localcore/jsontree"
)

// A SyntaxError says what AWS IoT would reject as a malformed policy, with line, column and path.
type SyntaxError = jsontree.Error

// maxDepth is the deepest nesting that a policy can have: the list at
// $.Statement[0].Condition.StringEquals.key, and one level to spare.
const maxDepth = 7

// Parse compiles a policy document. It returns a *SyntaxError for what AWS IoT answers with
// MalformedPolicyException.
//
// AWS IoT names few of its own checks. The choices made here: Version must be there; Sid holds
// letters and digits and is unique, as in IAM; NotAction is known, as in IAM; a key given twice is
// rejected; regions, accounts, action names and condition keys are not compared with any list.
func Parse(doc []byte) (*Document, error) {
	size := len(slices.DeleteFunc([]rune(string(doc)), unicode.IsSpace))
	if size > MaxSize { // first: a text of any size may have any number of faults
		return nil, jsontree.ErrorAt(doc, 0, "$", fmt.Sprintf("the document has %d characters without whitespace; AWS IoT allows %d", size, MaxSize))
	}
	root, faults := jsontree.Parse(doc, maxDepth)
	if root == nil {
		return nil, faults[0]
	}
	p := &parser{doc: doc}
	if d := p.document(root); p.err == nil {
		return d, nil
	}
	return nil, p.err
}

// A parser keeps the first fault. What it returns after one means nothing.
type parser struct {
	doc []byte
	err error
}

func (p *parser) fail(n *jsontree.Node, format string, args ...any) {
	if p.err == nil {
		p.err = jsontree.ErrorAt(p.doc, n.Start, n.Path, fmt.Sprintf(format, args...))
	}
}

// failed reports an error that has no place yet.
func (p *parser) failed(n *jsontree.Node, err error) {
	if err != nil {
		p.fail(n, "%v", err)
	}
}

func (p *parser) document(root *jsontree.Node) *Document {
	p.object(root, "Version", "Id", "Statement")
	if version := root.Get("Version"); version == nil {
		p.fail(root, "Version is missing; it must be %q", Version)
	} else if version.Kind != jsontree.String || version.Text != Version {
		p.fail(version, "Version must be %q", Version)
	}
	if id := root.Get("Id"); id != nil {
		p.text(id)
	}
	doc := &Document{}
	statement := root.Get("Statement")
	if statement == nil {
		p.fail(root, "Statement is missing")
		return doc
	}
	list := listed(statement)
	if len(list) == 0 {
		p.fail(statement, "a policy has at least one statement")
	}
	sids := map[string]bool{}
	for i, n := range list {
		s := p.statement(n)
		if s.Sid != "" && sids[s.Sid] {
			p.fail(n, "Sid %q is used by an earlier statement", s.Sid)
		}
		sids[s.Sid] = true
		s.Index = i
		doc.Statements = append(doc.Statements, s)
	}
	return doc
}

var (
	sidFormat    = regexp.MustCompile(`^[A-Za-z0-9]*$`)
	actionFormat = regexp.MustCompile(`^(\*|[A-Za-z0-9-]+:[A-Za-z0-9*?]+)$`)
)

func (p *parser) statement(n *jsontree.Node) *Statement {
	p.object(n, "Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition")
	s := &Statement{}
	if sid := n.Get("Sid"); sid != nil {
		if s.Sid = p.text(sid); !sidFormat.MatchString(s.Sid) {
			p.fail(sid, "Sid %q may hold letters and digits only", s.Sid)
		}
	}
	if effect := n.Get("Effect"); effect == nil {
		p.fail(n, "Effect is missing; it must be Allow or Deny")
	} else if s.Effect = Effect(effect.Text); effect.Kind != jsontree.String || s.Effect != Allow && s.Effect != Deny {
		p.fail(effect, "Effect must be Allow or Deny, in this spelling")
	}
	s.Actions = p.clause(n, "Action", func(text string) error {
		if !actionFormat.MatchString(text) {
			return fmt.Errorf("action %q must be * or SERVICE:NAME, such as iot:Publish", text)
		}
		return nil
	})
	s.Resources = p.clause(n, "Resource", func(text string) error {
		if err := checkARN(text); text != "*" && err != nil {
			return fmt.Errorf("the resource %q is not in valid ARN format: %w", text, err)
		}
		return nil
	})
	if c := n.Get("Condition"); c != nil {
		s.conditions = p.conditions(c)
	}
	return s
}

// clause compiles the texts of a key or of its opposite, such as Action or NotAction, of which
// exactly one must be there.
func (p *parser) clause(n *jsontree.Node, name string, check func(string) error) (c Clause) {
	value, opposite := n.Get(name), n.Get("Not"+name)
	switch {
	case value != nil && opposite != nil:
		p.fail(n, "%s and Not%s exclude each other", name, name)
	case opposite != nil:
		c.Not, value = true, opposite
	case value == nil:
		p.fail(n, "%s is missing", name)
		return c
	}
	list := listed(value)
	if len(list) == 0 {
		p.fail(value, "the list is empty")
	}
	for _, item := range list {
		if p.text(item) == "" {
			p.fail(item, "the text is empty")
		}
		p.failed(item, check(item.Text))
		compiled, err := compilePattern(item.Text, globbing)
		p.failed(item, err)
		c.Texts, c.patterns = append(c.Texts, item.Text), append(c.patterns, compiled)
	}
	return c
}

func (p *parser) expect(n *jsontree.Node, want jsontree.Kind) {
	if n.Kind != want {
		p.fail(n, "must be %s, not %s", want, n.Kind)
	}
}

func (p *parser) text(n *jsontree.Node) string {
	p.expect(n, jsontree.String)
	return n.Text
}

// listed returns the items of a list, or the one value that stands for a list of it.
func listed(n *jsontree.Node) []*jsontree.Node {
	if n.Kind == jsontree.Array {
		return n.Items
	}
	return []*jsontree.Node{n}
}

// object expects an object whose keys are among the known ones.
func (p *parser) object(n *jsontree.Node, known ...string) {
	p.expect(n, jsontree.Object)
	for _, m := range n.Items {
		i := slices.IndexFunc(known, func(name string) bool { return strings.EqualFold(m.Key, name) })
		switch {
		case i >= 0 && m.Key == known[i]:
		case i >= 0:
			p.fail(m, "unknown key %q; it is spelled %q", m.Key, known[i])
		case m.Key == "Principal" || m.Key == "NotPrincipal":
			p.fail(m, "%s is not part of an AWS IoT policy, which applies to what it is attached to", m.Key)
		default:
			p.fail(m, "unknown key %q; known are %s", m.Key, strings.Join(known, ", "))
		}
	}
}
