package policy

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"example.com/fleety/device/localcore/jsontree"
)

// A SyntaxError says what AWS IoT would reject as a malformed policy, with line,
// column and path.
type SyntaxError = jsontree.Error

// maxDepth is the deepest nesting that a policy can have: the list at
// $.Statement[0].Condition.StringEquals.key, and one level to spare.
const maxDepth = 7

// Parse compiles a policy document. It returns a *SyntaxError for what AWS
// IoT answers with MalformedPolicyException.
//
// AWS IoT names few of its own checks. The choices made here: Version must be
// there; Sid holds letters and digits and is unique, as in IAM; NotAction is
// known, as in IAM; a key given twice is rejected; regions, accounts, action
// names and condition keys are not compared with any list.
func Parse(doc []byte) (*Document, error) {
	root, faults := jsontree.Parse(doc, maxDepth)
	if root == nil {
		return nil, faults[0]
	}
	p := parser{doc: doc}
	if size := visibleLength(doc); size > MaxSize {
		return nil, p.fail(root, "the document has %d characters without whitespace; AWS IoT allows %d", size, MaxSize)
	}
	return p.document(root)
}

func visibleLength(doc []byte) int {
	n := 0
	for _, r := range string(doc) {
		if !unicode.IsSpace(r) {
			n++
		}
	}
	return n
}

type parser struct {
	doc []byte
}

func (p *parser) fail(n *jsontree.Node, format string, args ...any) error {
	return jsontree.ErrorAt(p.doc, n.Start, n.Path(), fmt.Sprintf(format, args...))
}

func (p *parser) document(root *jsontree.Node) (*Document, error) {
	fields, err := p.object(root, "Version", "Id", "Statement")
	if err != nil {
		return nil, err
	}
	version, ok := fields["Version"]
	if !ok {
		return nil, p.fail(root, "Version is missing; it must be %q", Version)
	}
	if version.Kind != jsontree.String || version.Text != Version {
		return nil, p.fail(version, "Version must be %q", Version)
	}
	if id, ok := fields["Id"]; ok {
		if _, err := p.text(id); err != nil {
			return nil, err
		}
	}
	statement, ok := fields["Statement"]
	if !ok {
		return nil, p.fail(root, "Statement is missing")
	}
	list := listed(statement)
	if len(list) == 0 {
		return nil, p.fail(statement, "a policy has at least one statement")
	}
	doc := &Document{}
	sids := map[string]bool{}
	for i, n := range list {
		s, err := p.statement(n)
		if err != nil {
			return nil, err
		}
		if s.Sid != "" && sids[s.Sid] {
			return nil, p.fail(n, "Sid %q is used by an earlier statement", s.Sid)
		}
		sids[s.Sid] = true
		s.Index = i
		doc.statements = append(doc.statements, s)
	}
	return doc, nil
}

var (
	sidFormat    = regexp.MustCompile(`^[A-Za-z0-9]*$`)
	actionFormat = regexp.MustCompile(`^(\*|[A-Za-z0-9-]+:[A-Za-z0-9*?]+)$`)
)

func (p *parser) statement(n *jsontree.Node) (*Statement, error) {
	fields, err := p.object(n, "Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition")
	if err != nil {
		return nil, err
	}
	s := &Statement{}
	if sid, ok := fields["Sid"]; ok {
		if s.Sid, err = p.text(sid); err != nil {
			return nil, err
		}
		if !sidFormat.MatchString(s.Sid) {
			return nil, p.fail(sid, "Sid %q may hold letters and digits only", s.Sid)
		}
	}
	effect, ok := fields["Effect"]
	if !ok {
		return nil, p.fail(n, "Effect is missing; it must be Allow or Deny")
	}
	s.Effect = Effect(effect.Text)
	if effect.Kind != jsontree.String || s.Effect != Allow && s.Effect != Deny {
		return nil, p.fail(effect, "Effect must be Allow or Deny, in this spelling")
	}
	var not bool
	if s.actions, not, err = p.patterns(n, fields, "Action", checkAction); err != nil {
		return nil, err
	}
	if not {
		s.NotActions = raw(s.actions)
	} else {
		s.Actions = raw(s.actions)
	}
	if s.resources, not, err = p.patterns(n, fields, "Resource", checkResource); err != nil {
		return nil, err
	}
	if not {
		s.NotResources = raw(s.resources)
	} else {
		s.Resources = raw(s.resources)
	}
	if c, ok := fields["Condition"]; ok {
		s.conditions, err = p.conditions(c)
	}
	return s, err
}

func checkAction(text string) error {
	if !actionFormat.MatchString(text) {
		return fmt.Errorf("action %q must be * or SERVICE:NAME, such as iot:Publish", text)
	}
	return nil
}

func checkResource(text string) error {
	if text == "*" {
		return nil
	}
	if err := checkARN(text); err != nil {
		return fmt.Errorf("the resource %q is not in valid ARN format: %w", text, err)
	}
	return nil
}

// patterns compiles the texts of a key or of its opposite, such as Action or
// NotAction, of which exactly one must be there.
func (p *parser) patterns(n *jsontree.Node, fields map[string]*jsontree.Node, name string, check func(string) error) (compiled []pattern, not bool, err error) {
	value, positive := fields[name]
	opposite, not := fields["Not"+name]
	switch {
	case positive && not:
		return nil, not, p.fail(n, "%s and Not%s exclude each other", name, name)
	case not:
		value = opposite
	case !positive:
		return nil, not, p.fail(n, "%s is missing", name)
	}
	list, err := p.texts(value)
	if err != nil {
		return nil, not, err
	}
	for _, item := range list {
		if err := check(item.Text); err != nil {
			return nil, not, p.fail(item, "%v", err)
		}
		c, err := compilePattern(item.Text, globbing)
		if err != nil {
			return nil, not, p.fail(item, "%v", err)
		}
		compiled = append(compiled, c)
	}
	return compiled, not, nil
}

// texts reads one string or a list of at least one.
func (p *parser) texts(n *jsontree.Node) ([]*jsontree.Node, error) {
	list := listed(n)
	if len(list) == 0 {
		return nil, p.fail(n, "the list is empty")
	}
	for _, item := range list {
		text, err := p.text(item)
		if err != nil {
			return nil, err
		}
		if text == "" {
			return nil, p.fail(item, "the text is empty")
		}
	}
	return list, nil
}

func (p *parser) text(n *jsontree.Node) (string, error) {
	if n.Kind != jsontree.String {
		return "", p.fail(n, "must be a string, not %s", n.Kind)
	}
	return n.Text, nil
}

// listed returns the items of a list, or the one value that stands for a list
// of it.
func listed(n *jsontree.Node) []*jsontree.Node {
	if n.Kind == jsontree.Array {
		return n.Items
	}
	return []*jsontree.Node{n}
}

// object reads an object whose keys are among the known ones.
func (p *parser) object(n *jsontree.Node, known ...string) (map[string]*jsontree.Node, error) {
	if n.Kind != jsontree.Object {
		return nil, p.fail(n, "must be an object, not %s", n.Kind)
	}
	fields := map[string]*jsontree.Node{}
	for _, m := range n.Items {
		if err := p.known(m, known); err != nil {
			return nil, err
		}
		fields[m.Key] = m
	}
	return fields, nil
}

func (p *parser) known(m *jsontree.Node, known []string) error {
	for _, name := range known {
		if m.Key == name {
			return nil
		}
		if strings.EqualFold(m.Key, name) {
			return p.fail(m, "unknown key %q; it is spelled %q", m.Key, name)
		}
	}
	if m.Key == "Principal" || m.Key == "NotPrincipal" {
		return p.fail(m, "%s is not part of an AWS IoT policy, which applies to what it is attached to", m.Key)
	}
	return p.fail(m, "unknown key %q; known are %s", m.Key, strings.Join(known, ", "))
}

func raw(patterns []pattern) []string {
	texts := make([]string, len(patterns))
	for i := range patterns {
		texts[i] = patterns[i].raw
	}
	return texts
}
