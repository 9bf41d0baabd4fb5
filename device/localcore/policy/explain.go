package policy

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Explain says in one line why the request was allowed or denied: the statement that decided or,
// for a default deny, the nearest statement and what differed. It is built on demand and costs
// nothing otherwise. The zero Decision explains nothing.
func (d Decision) Explain() string {
	r := &d.request
	if r.Session == nil {
		return "no decision"
	}
	asked, text := r.Action+" on "+show(shortARN(r.Resource)), ""
	switch {
	case d.Allowed:
		text = fmt.Sprintf("%s of %s allows %s: %s", d.Statement, d.Policy, asked, d.Statement.because(r))
	case d.Statement != nil:
		return fmt.Sprintf("%s of %s explicitly denies %s: %s", d.Statement, d.Policy, asked, d.Statement.because(r))
	}
	var names []string
	var nearest miss // the first of equals
	for _, p := range d.policies {
		names = append(names, p.Name)
		for _, s := range p.Document.Statements {
			if (s.Effect == Deny) != d.Allowed {
				continue
			}
			m := s.miss(r)
			if m.policy = p.Name; nearest.statement == nil || nearest.less(m) {
				nearest = m
			}
			if d.Allowed && m.stage == variableUnresolved { // it would perhaps deny: AWS IoT does not say what becomes of it
				text += fmt.Sprintf("; %s of %s does not deny: %s", s, p.Name, m.reason)
			}
		}
	}
	all := strings.Join(names, ", ")
	switch {
	case d.Allowed:
		return text
	case len(names) == 0:
		return fmt.Sprintf("nothing allows %s: no policy is attached to the certificate or to a group of its thing", asked)
	case nearest.statement == nil:
		return fmt.Sprintf("no statement of %s allows %s: none allows anything", all, asked)
	case nearest.stage == nothingMatched:
		return fmt.Sprintf("no statement of %s allows %s, nor that action on any other resource", all, asked)
	}
	of := ""
	if len(names) > 1 {
		of = " of " + nearest.policy
	}
	return fmt.Sprintf("no statement of %s allows %s; nearest is %s%s: %s", all, asked, nearest.statement, of, nearest.reason)
}

func (s *Statement) because(r *Request) string {
	text := "the resource is none of its NotResource"
	for _, p := range s.Resources.patterns {
		if matches, _ := p.match(r.Resource, r, false); matches {
			text = "the resource matches " + show(shortARN(p.raw))
			break
		}
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
	var wants []string
	for _, o := range c.operands {
		want, unresolved := o.pattern.expand(r)
		if unresolved != nil {
			return fmt.Sprintf("its condition %s on %s does not hold: %s", c.written, show(c.key.name), o.pattern.explainUnresolved(r))
		}
		if o.accepts != nil {
			want = o.raw
		}
		wants = append(wants, want)
	}
	text := fmt.Sprintf("its condition %s on %s with %s does not hold: ", c.written, show(c.key.name), quoteAll(wants))
	values := c.key.values(nil, r)
	if len(values) == 0 {
		return text + "it has no value, because " + c.key.absence(r)
	}
	text += "it is " + quoteAll(values)
	if c.key.kind == thingAttached && !r.Session.attached().Attached {
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

// A miss is a statement that did not match, and why. Misses are ordered by how far the statement
// was matched, then by how much of the resource.
type miss struct {
	policy    string
	statement *Statement
	reason    string
	stage     stage
	reached   int
}

type stage uint8

const (
	nothingMatched stage = iota
	resourceMatched
	actionMatched
	variableUnresolved // the resource would match if a variable resolved
	conditionsFailed
)

func (m miss) less(other miss) bool {
	return cmp.Or(cmp.Compare(m.stage, other.stage), cmp.Compare(m.reached, other.reached)) < 0
}

// miss says why the statement does not match. Of several resources it takes the one that comes
// closest.
func (s *Statement) miss(r *Request) miss {
	resource := s.matchesResource(r)
	switch {
	case !s.matchesAction(r):
		m := miss{statement: s, reason: "its actions are " + strings.Join(s.Actions.Texts, ", ")}
		if s.Actions.Not {
			m.reason = "its NotAction excludes " + r.Action
		} else if len(s.Actions.Texts) == 1 {
			m.reason = "its action is " + s.Actions.Texts[0]
		}
		if resource {
			m.stage, m.reason = resourceMatched, "its resource matches, but "+m.reason
		}
		return m
	case resource:
		return miss{statement: s, stage: conditionsFailed, reason: s.failing(r).explain(r)}
	}
	nearest := miss{statement: s, stage: actionMatched, reached: -1, reason: "its NotResource excludes the resource"}
	for i := range s.Resources.patterns {
		p := &s.Resources.patterns[i]
		_, unresolved := p.expand(r)
		matches, reached := p.explode(r)
		switch m := (miss{statement: s, stage: actionMatched, reached: reached}); {
		case s.Resources.Not && unresolved != nil, !s.Resources.Not && matches:
			m.stage, m.reason = variableUnresolved, p.explainUnresolved(r)
			return m
		case !s.Resources.Not && nearest.less(m):
			nearest = m
			nearest.reason = p.explainDifference(r, reached)
		}
	}
	return nearest
}

// explode matches the request's resource character by character, to learn how far it goes. A
// variable that does not resolve stands for anything here.
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

func (p *pattern) explainUnresolved(r *Request) string {
	_, k := p.expand(r)
	return fmt.Sprintf("variable %s in %s does not resolve: %s", show("${"+k.name+"}"), show(shortARN(p.raw)), k.absence(r))
}

// explainDifference also names the two mistakes that a resource is most often wrong by.
func (p *pattern) explainDifference(r *Request, reached int) string {
	wanted, _ := p.expand(r)
	asked, common := shortARN(r.Resource), r.Resource[:reached]
	full := strings.HasPrefix(wanted, "arn:") && arnPrefix(wanted) != arnPrefix(r.Resource)
	if !full {
		wanted = shortARN(wanted)
	}
	text := fmt.Sprintf("its resource %s differs", show(wanted))
	if full {
		text += " after " + show(common) + " from " + show(r.Resource)
	} else if common = common[min(reached, len(arnPrefix(r.Resource))):]; common != "" {
		text += " after " + show(common)
	}
	want := ResourceType(r.Action) + "/"
	switch {
	case want != "/" && strings.HasPrefix(asked, want) && !strings.HasPrefix(wanted, want) && !full:
		text += fmt.Sprintf(" (%s is matched against %s…)", r.Action, want)
	case strings.ContainsAny(wanted, "+#") && !strings.ContainsAny(asked, "+#"):
		text += " (+ and # are literal in a policy; use *)"
	}
	return text
}

// ResourceType returns what a resource of an action is, such as client, topic or topicfilter, of
// the actions that devices use, and the empty text for others. Case does not count.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-action-resources.html
func ResourceType(action string) string {
	switch strings.ToLower(action) {
	case "iot:connect":
		return "client"
	case "iot:publish", "iot:retainpublish", "iot:receive":
		return "topic"
	case "iot:subscribe":
		return "topicfilter"
	}
	return ""
}
