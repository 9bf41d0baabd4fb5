package policy

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

type partKind uint8 // says what one part of a pattern stands for

const (
	literal  partKind = iota
	anyOne            // ?, exactly one character
	anyRun            // *, any run of characters, slashes included
	variable          // ${…}
)

type part struct {
	kind partKind
	text string // of a literal
	key  key    // of a variable
}

// A pattern is a compiled text of a policy. Variables are substituted when it is matched, and what
// they yield is literal: a * that comes from a client id is no wildcard. The MQTT wildcards + and #
// are always literal.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/pub-sub-policy.html
type pattern struct {
	raw   string
	parts []part
}

// globbing says whether * and ? are wildcards in a pattern.
const (
	globbing = true
	verbatim = false
)

func compilePattern(text string, wildcards bool) (pattern, error) {
	p := pattern{raw: text}
	for text != "" {
		size := 1
		switch {
		case strings.HasPrefix(text, "${"):
			var err error
			if size, err = p.addVariable(text); err != nil {
				return pattern{}, err
			}
		case wildcards && text[0] == '*':
			p.parts = append(p.parts, part{kind: anyRun})
		case wildcards && text[0] == '?':
			p.parts = append(p.parts, part{kind: anyOne})
		default:
			if size = 1 + strings.IndexAny(text[1:], "*?$"); size == 0 { // none follows
				size = len(text)
			}
			p.parts = append(p.parts, part{kind: literal, text: text[:size]})
		}
		text = text[size:]
	}
	return p, nil
}

// addVariable adds the ${…} that text begins with, and returns its length. ${*}, ${?} and ${$}
// stand for the characters themselves.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-policy-variables.html
func (p *pattern) addVariable(text string) (int, error) {
	end := strings.IndexByte(text, '}')
	if end < 0 {
		return 0, fmt.Errorf("the variable in %q has no closing brace", text)
	}
	name := text[len("${"):end]
	switch {
	case name == "*" || name == "?" || name == "$":
		p.parts = append(p.parts, part{kind: literal, text: name})
	case strings.HasPrefix(name, "AWS::"):
		return 0, fmt.Errorf("${%s} is a CloudFormation placeholder that nothing has replaced", name)
	case !strings.Contains(name, ":"):
		return 0, fmt.Errorf("${%s} is not a policy variable: it has no prefix, such as in ${iot:ClientId}", name)
	default:
		p.parts = append(p.parts, part{kind: variable, key: parseKey(name)})
	}
	return end + 1, nil
}

const inlineVariables = 4 // how many variables a pattern can have before matching it needs memory

// match says whether the whole text matches; fold compares without case. A pattern with a variable
// that does not resolve matches nothing, and resolved is false.
func (p *pattern) match(text string, r *Request, fold bool) (matches, resolved bool) {
	var buf [inlineVariables]string
	values := buf[:0]
	for i := range p.parts {
		if p.parts[i].kind != variable {
			continue
		}
		value, ok := p.parts[i].key.text(r)
		if !ok {
			return false, false
		}
		values = append(values, value)
	}
	matches, _ = glob(p.parts, values, text, fold)
	return matches, true
}

// glob matches the whole text against the parts, where the n-th variable stands for values[n]. It
// also returns how many bytes of the text the parts could match at most, not counting what a * has
// to swallow. On a mismatch it goes back to the last * only, which is enough, so the time is
// bounded by the product of the two lengths.
func glob(parts []part, values []string, text string, fold bool) (matches bool, reached int) {
	i, v, t := 0, 0, 0                    // next part, next variable, next byte
	star, starValue, starText := -1, 0, 0 // where to go back to
	for {
		if i == len(parts) && t == len(text) {
			return true, t
		}
		n := -1
		if i < len(parts) {
			switch parts[i].kind {
			case anyRun:
				star, starValue, starText = i, v, t
				n = 0
			case anyOne:
				if _, size := utf8.DecodeRuneInString(text[t:]); size > 0 {
					n = size
				}
			case literal:
				n = prefixLength(text[t:], parts[i].text, fold)
			case variable:
				n = prefixLength(text[t:], values[v], fold)
				v++
			}
		}
		if n >= 0 {
			t += n
			i++
			reached = max(reached, t)
			continue
		}
		if star < 0 || starText == len(text) {
			return false, reached
		}
		_, size := utf8.DecodeRuneInString(text[starText:])
		starText += size
		i, v, t = star+1, starValue, starText
	}
}

// prefixLength returns the length of prefix if text begins with it, or -1.
func prefixLength(text, prefix string, fold bool) int {
	if strings.HasPrefix(text, prefix) || fold && len(text) >= len(prefix) && strings.EqualFold(text[:len(prefix)], prefix) {
		return len(prefix)
	}
	return -1
}

// expand returns the text with the variables that resolve substituted, and the first one that does
// not resolve, or nil.
func (p *pattern) expand(r *Request) (text string, unresolved *key) {
	for i := range p.parts {
		switch pt := &p.parts[i]; pt.kind {
		case anyOne:
			text += "?"
		case anyRun:
			text += "*"
		case literal:
			text += pt.text
		case variable:
			value, ok := pt.key.text(r)
			if !ok {
				value = "${" + pt.key.name + "}"
				unresolved = cmp.Or(unresolved, &pt.key)
			}
			text += value
		}
	}
	return text, unresolved
}

// arnParts is the number of colon-separated parts of an ARN. Colons in the last part belong to it.
const arnParts = 6

// splitARN cuts at the first five colons that are not inside a variable.
func splitARN(text string) []string {
	var parts []string
	start, inVariable := 0, false
	for i := 0; i < len(text) && len(parts) < arnParts-1; i++ {
		switch {
		case strings.HasPrefix(text[i:], "${"):
			inVariable = true
		case text[i] == '}':
			inVariable = false
		case text[i] == ':' && !inVariable:
			parts = append(parts, text[start:i])
			start = i + 1
		}
	}
	return append(parts, text[start:])
}

func checkARN(text string) error {
	switch parts := splitARN(text); {
	case len(parts) < arnParts || parts[0] != "arn":
		return errors.New("it must be * or arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE")
	case !strings.HasPrefix(parts[1], "aws") && parts[1] != "*":
		return errors.New("the partition must be aws, aws-cn, aws-us-gov or another of AWS's")
	case parts[2] == "":
		return errors.New("the service is empty")
	case parts[5] == "":
		return errors.New("the resource part is empty")
	}
	return nil
}

// arnPrefix returns the first five parts with their colons, and shortARN the rest, such as
// topic/a/b. A text that is no ARN is all rest.
func arnPrefix(arn string) string { return strings.TrimSuffix(arn, shortARN(arn)) }

func shortARN(arn string) string {
	if parts := splitARN(arn); len(parts) == arnParts && parts[0] == "arn" {
		return parts[arnParts-1]
	}
	return arn
}
