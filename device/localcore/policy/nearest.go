package policy

import (
	"fmt"
	"strings"
)

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
	if c.stage != other.stage {
		return c.stage < other.stage
	}
	return c.reached < other.reached
}

// nearest returns the Allow statement that came closest, the first of equals.
func (d Decision) nearest() (miss, bool) {
	var best miss
	for _, p := range d.policies {
		if p.Document == nil {
			continue
		}
		for _, s := range p.Document.statements {
			if s.Effect != Allow {
				continue
			}
			m := s.miss(&d.request)
			if best.statement == nil || best.less(m.closeness) {
				best = m
				best.policy = p.Name
			}
		}
	}
	return best, best.statement != nil
}

// miss says why the statement does not match.
func (s *Statement) miss(r *Request) miss {
	m := miss{statement: s}
	resource := s.matchesResource(r)
	switch {
	case !s.matchesAction(r.Action):
		m.reason = s.explainAction(r.Action)
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

func (s *Statement) explainAction(action string) string {
	if s.NotActions != nil {
		return "its NotAction excludes " + action
	}
	if len(s.Actions) == 1 {
		return "its action is " + s.Actions[0]
	}
	return "its actions are " + strings.Join(s.Actions, ", ")
}

// explainResource picks the resource of the statement that comes closest.
func (s *Statement) explainResource(r *Request) (string, closeness) {
	if s.NotResources != nil {
		return s.explainNotResource(r)
	}
	var reason string
	best := closeness{}
	for i := range s.resources {
		p := &s.resources[i]
		matches, reached := p.explode(r)
		if matches {
			return p.explainUnresolved(r), closeness{variableUnresolved, reached}
		}
		if c := (closeness{actionMatched, reached}); best.less(c) {
			best, reason = c, p.explainDifference(r, reached)
		}
	}
	return reason, best
}

func (s *Statement) explainNotResource(r *Request) (string, closeness) {
	for i := range s.resources {
		if p := &s.resources[i]; p.unresolved(r) != nil {
			return p.explainUnresolved(r), closeness{stage: variableUnresolved}
		}
	}
	return "its NotResource excludes the resource", closeness{stage: actionMatched}
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
