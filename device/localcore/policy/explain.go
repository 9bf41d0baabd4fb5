package policy

import (
	"cmp"
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

// explainDefault names the Allow statement that came closest, the first of equals.
func (d Decision) explainDefault(asked string) string {
	var names []string
	var best miss
	for _, p := range d.policies {
		if p.Document == nil {
			continue
		}
		names = append(names, p.Name)
		for _, s := range p.Document.statements {
			if s.Effect != Allow {
				continue
			}
			if m := s.miss(&d.request); best.statement == nil || best.less(m.closeness) {
				best, best.policy = m, p.Name
			}
		}
	}
	all := strings.Join(names, ", ")
	switch {
	case len(names) == 0:
		return fmt.Sprintf("nothing allows %s: no policy is attached to the certificate or to a group of its thing", asked)
	case best.statement == nil:
		return fmt.Sprintf("no statement of %s allows %s: none allows anything", all, asked)
	case best.stage == nothingMatched:
		return fmt.Sprintf("no statement of %s allows %s, nor that action on any other resource", all, asked)
	}
	text := fmt.Sprintf("no statement of %s allows %s; nearest is %s", all, asked, best.statement)
	if len(names) > 1 {
		text += " of " + best.policy
	}
	return text + ": " + best.reason
}

// passedOver names the Deny statements that would perhaps have matched, had
// their variables resolved: AWS IoT does not say what becomes of those.
func (d Decision) passedOver() (text string) {
	for _, p := range d.policies {
		if p.Document == nil {
			continue
		}
		for _, s := range p.Document.statements {
			if s.Effect != Deny {
				continue
			}
			if m := s.miss(&d.request); m.stage == variableUnresolved {
				text += fmt.Sprintf("; %s of %s does not deny: %s", s, p.Name, m.reason)
			}
		}
	}
	return text
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

// A miss is an Allow statement that did not match, and why.
type miss struct {
	policy    string
	statement *Statement
	reason    string
	closeness
}

// closeness orders misses: first by how far the statement was matched, then
// by how much of the resource matched.
type closeness struct {
	stage   stage
	reached int
}

type stage uint8

const (
	nothingMatched stage = iota
	resourceMatched
	actionMatched
	variableUnresolved // the resource would match if a variable resolved
	conditionsFailed
)

func (c closeness) less(other closeness) bool {
	return cmp.Or(cmp.Compare(c.stage, other.stage), cmp.Compare(c.reached, other.reached)) < 0
}

// miss says why the statement does not match.
func (s *Statement) miss(r *Request) miss {
	m := miss{statement: s}
	resource := s.matchesResource(r)
	switch {
	case !s.matchesAction(r.Action):
		switch {
		case s.NotActions != nil:
			m.reason = "its NotAction excludes " + r.Action
		case len(s.Actions) == 1:
			m.reason = "its action is " + s.Actions[0]
		default:
			m.reason = "its actions are " + strings.Join(s.Actions, ", ")
		}
		if resource {
			m.stage = resourceMatched
			m.reason = "its resource matches, but " + m.reason
		}
	case resource:
		m.stage = conditionsFailed
		m.reason = s.failing(r).explain(r)
	default:
		m.reason, m.closeness = s.explainResource(r)
	}
	return m
}

// explainResource picks the resource of the statement that comes closest.
func (s *Statement) explainResource(r *Request) (string, closeness) {
	reason, best := "its NotResource excludes the resource", closeness{stage: actionMatched}
	for i := range s.resources {
		p := &s.resources[i]
		if s.NotResources != nil {
			if p.unresolved(r) != nil {
				return p.explainUnresolved(r), closeness{stage: variableUnresolved}
			}
			continue
		}
		matches, reached := p.explode(r)
		if matches {
			return p.explainUnresolved(r), closeness{variableUnresolved, reached}
		}
		if c := (closeness{actionMatched, reached}); i == 0 || best.less(c) {
			best, reason = c, p.explainDifference(r, reached)
		}
	}
	return reason, best
}

// explode matches the request's resource character by character, to learn how
// far it goes. A variable that does not resolve stands for anything here.
func (p *pattern) explode(r *Request) (matches bool, reached int) {
	var parts []part
	for _, pt := range p.parts {
		text := pt.text
		if pt.kind == variable {
			var resolved bool
			if text, resolved = pt.key.text(r); !resolved {
				pt.kind = anyRun
			}
		}
		if pt.kind == anyRun || pt.kind == anyOne {
			parts = append(parts, part{kind: pt.kind})
			continue
		}
		for _, char := range text {
			parts = append(parts, part{kind: literal, text: string(char)})
		}
	}
	return glob(parts, nil, r.Resource, false)
}

// unresolved returns the first variable that does not resolve, or nil.
func (p *pattern) unresolved(r *Request) *key {
	for i := range p.parts {
		if pt := &p.parts[i]; pt.kind == variable {
			if _, resolved := pt.key.text(r); !resolved {
				return &pt.key
			}
		}
	}
	return nil
}

func (p *pattern) explainUnresolved(r *Request) string {
	k := p.unresolved(r)
	return fmt.Sprintf("variable %s in %s does not resolve: %s", show("${"+k.name+"}"), show(shortARN(p.raw)), k.absence(r))
}

func (p *pattern) explainDifference(r *Request, reached int) string {
	wanted := p.expand(r)
	full := strings.HasPrefix(wanted, "arn:") && arnPrefix(wanted) != arnPrefix(r.Resource)
	if !full {
		wanted = shortARN(wanted)
	}
	text := fmt.Sprintf("its resource %s differs", show(wanted))
	if common := r.Resource[:reached]; full {
		text += " after " + show(common) + " from " + show(r.Resource)
	} else if common = common[min(reached, len(arnPrefix(r.Resource))):]; common != "" {
		text += " after " + show(common)
	}
	return text + hint(r.Action, wanted, shortARN(r.Resource))
}

// resourceTypes are what a resource of the actions that devices use begins
// with.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-action-resources.html
var resourceTypes = map[string]string{
	"iot:Connect":       "client/",
	"iot:Publish":       "topic/",
	"iot:RetainPublish": "topic/",
	"iot:Receive":       "topic/",
	"iot:Subscribe":     "topicfilter/",
}

// hint names the two mistakes that a resource is most often wrong by.
func hint(action, wanted, asked string) string {
	want := resourceTypes[action]
	switch {
	case want != "" && strings.HasPrefix(asked, want) && !strings.HasPrefix(wanted, want) && !strings.HasPrefix(wanted, "arn:"):
		return fmt.Sprintf(" (%s is matched against %s…)", action, want)
	case strings.ContainsAny(wanted, "+#") && !strings.ContainsAny(asked, "+#"):
		return " (+ and # are literal in a policy; use *)"
	}
	return ""
}
