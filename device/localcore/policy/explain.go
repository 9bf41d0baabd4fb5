package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Explain says in one line why the request was allowed or denied: the
// statement that decided or, for a default deny, the nearest statement and
// what differed. It is built on demand and costs nothing otherwise. The zero
// Decision explains nothing.
func (d Decision) Explain() string {
	r := &d.request
	if r.Session == nil {
		return "no decision"
	}
	asked := r.Action + " on " + show(shortARN(r.Resource))
	switch {
	case d.Allowed:
		return fmt.Sprintf("%s of %s allows %s: %s", d.Statement, d.Policy, asked, d.Statement.because(r)) + d.passedOver()
	case d.Statement != nil:
		return fmt.Sprintf("%s of %s explicitly denies %s: %s", d.Statement, d.Policy, asked, d.Statement.because(r))
	}
	return d.explainDefault(asked)
}

func (d Decision) explainDefault(asked string) string {
	names := d.policyNames()
	if len(names) == 0 {
		return fmt.Sprintf("nothing allows %s: no policy is attached to the certificate or to a group of its thing", asked)
	}
	best, ok := d.nearest()
	if !ok {
		return fmt.Sprintf("no statement of %s allows %s: none allows anything", strings.Join(names, ", "), asked)
	}
	if best.stage == nothingMatched {
		return fmt.Sprintf("no statement of %s allows %s, nor that action on any other resource", strings.Join(names, ", "), asked)
	}
	text := fmt.Sprintf("no statement of %s allows %s; nearest is %s", strings.Join(names, ", "), asked, best.statement)
	if len(names) > 1 {
		text += " of " + best.policy
	}
	return text + ": " + best.reason
}

// passedOver names the Deny statements that would perhaps have matched, had
// their variables resolved: AWS IoT does not say what becomes of those.
func (d Decision) passedOver() string {
	var b strings.Builder
	for _, p := range d.policies {
		if p.Document == nil {
			continue
		}
		for _, s := range p.Document.statements {
			if s.Effect != Deny {
				continue
			}
			if m := s.miss(&d.request); m.stage == variableUnresolved {
				fmt.Fprintf(&b, "; %s of %s does not deny: %s", s, p.Name, m.reason)
			}
		}
	}
	return b.String()
}

func (d Decision) policyNames() []string {
	var names []string
	for _, p := range d.policies {
		if p.Document != nil {
			names = append(names, p.Name)
		}
	}
	return names
}

// because names what matched.
func (s *Statement) because(r *Request) string {
	text := "the resource is none of its NotResource"
	if s.NotResources == nil {
		i := slices.IndexFunc(s.resources, func(p pattern) bool {
			matches, _ := p.match(r.Resource, r)
			return matches
		})
		text = "the resource matches " + show(shortARN(s.resources[i].raw))
	}
	switch len(s.conditions) {
	case 0:
		return text
	case 1:
		return text + " and its condition holds"
	}
	return text + " and its conditions hold"
}

// explain says what the condition requires and what it found.
func (c *condition) explain(r *Request) string {
	wants := make([]string, len(c.operands))
	for i := range c.operands {
		o := &c.operands[i]
		if k := o.pattern.unresolved(r); k != nil {
			return fmt.Sprintf("its condition %s on %s does not hold: %s", c.written, show(c.key.name), o.pattern.explainUnresolved(r))
		}
		wants[i] = o.pattern.expand(r)
		if len(o.pattern.parts) == 0 {
			wants[i] = o.raw
		}
	}
	text := fmt.Sprintf("its condition %s on %s with %s does not hold: ", c.written, show(c.key.name), quoteAll(wants))
	values := c.key.values(nil, r)
	if len(values) == 0 {
		return text + "it has no value, because " + c.key.absence(r)
	}
	text += "it is " + quoteAll(values)
	if c.key.kind == thingAttached && r.Session.attached() == nil {
		text += ", because " + c.key.absence(r)
	}
	return text
}

func quoteAll(items []string) string {
	if len(items) == 0 {
		return "no value"
	}
	quoted := make([]string, len(items))
	for i, item := range items {
		quoted[i] = strconv.Quote(item)
	}
	return strings.Join(quoted, ", ")
}

// show quotes a text that would break the line or hide its own end.
func show(text string) string {
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' || r == '"' }) {
		return strconv.Quote(text)
	}
	return text
}
