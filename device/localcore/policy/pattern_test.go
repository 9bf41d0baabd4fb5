package policy

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// https://docs.aws.amazon.com/iot/latest/developerguide/pub-sub-policy.html: in
// a policy * stands for any characters and ? for one; + and # are plain characters.
func TestPatternMatch(t *testing.T) {
	const id = "${iot:ClientId}"
	tests := map[string]struct {
		pattern, clientID, text string
		want                    bool
	}{
		"literals are equal":                    {"a/b", "", "a/b", true},
		"literals differ in case":               {"a/b", "", "A/b", false},
		"a text goes on":                        {"a", "", "ab", false},
		"a text ends early":                     {"ab", "", "a", false},
		"* takes nothing":                       {"a*", "", "a", true},
		"* crosses levels":                      {"a*z", "", "a/b/c/z", true},
		"* goes back more than once":            {"*ab", "", "aabab", true},
		"two * with the same text between":      {"*a*a", "", "a", false},
		"? takes one character":                 {"a?c", "", "abc", true},
		"? takes a slash":                       {"a?c", "", "a/c", true},
		"? takes no less":                       {"a?c", "", "ac", false},
		"? takes a character of several bytes":  {"a?c", "", "aéc", true},
		"+ is literal":                          {"a/+/b", "", "a/x/b", false},
		"# is literal":                          {"a/#", "", "a/b", false},
		"a variable is substituted":             {"a/" + id + "/b", "me", "a/me/b", true},
		"a variable after *":                    {"*/" + id, "me", "x/you/me", true},
		"a substituted * is no wildcard":        {"a/" + id, "*", "a/b", false},
		"a substituted * is itself":             {"a/" + id, "*", "a/*", true},
		"a substituted ? is no wildcard":        {"a/" + id, "?", "a/b", false},
		"a substituted variable is no variable": {"a/" + id, id, "a/" + id, true},
		"names compare without case":            {"${IOT:clientID}", "me", "me", true},
		"an escaped * is literal":               {"a${*}", "", "ab", false},
		"an escaped * is a *":                   {"a${*}", "", "a*", true},
		"an escaped ? is a ?":                   {"a${?}", "", "a?", true},
		"an escaped $ is a $":                   {"${$}{iot:ClientId}", "me", "${iot:ClientId}", true},
		"a lone $ is itself":                    {"topic/$aws/*", "", "topic/$aws/things", true},
		"more variables than are inline":        {id + id + id + id + id, "ab", "ababababab", true},
		"an unknown variable matches nothing":   {"a/${iot:Unknown}", "", "a/${iot:Unknown}", false},
		"a list matches nothing":                {"${iot:ConnectAttributes}", "", "LastWill", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := compilePattern(test.pattern, globbing)
			if err != nil {
				t.Fatal(err)
			}
			r := &Request{Session: stranger(test.clientID), ConnectAttributes: []string{LastWill}}
			if got, _ := p.match(test.text, r, false); got != test.want {
				t.Errorf("%q matches %q: %t, want %t", test.pattern, test.text, got, test.want)
			}
		})
	}
}

func TestMatchingDoesNotBlowUp(t *testing.T) {
	p, err := compilePattern(strings.Repeat("*a", 500)+"b", globbing)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if ok, _ := p.match(strings.Repeat("a", 20_000), &Request{Session: stranger("")}, false); ok {
		t.Error("matched a text without b")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

// naive is the plainest matcher: it tries every length for every *.
func naive(pattern, text []rune) bool {
	if len(pattern) == 0 {
		return len(text) == 0
	}
	switch pattern[0] {
	case '*':
		for n := range len(text) + 1 {
			if naive(pattern[1:], text[n:]) {
				return true
			}
		}
		return false
	case '?':
		return len(text) > 0 && naive(pattern[1:], text[1:])
	}
	return len(text) > 0 && text[0] == pattern[0] && naive(pattern[1:], text[1:])
}

// FuzzGlob compares the matcher with the naive one.
func FuzzGlob(f *testing.F) {
	f.Add("a*b?c", "axxbyc", "")
	f.Add("*a*a*", "aba", "")
	f.Add("x/*/", "x/é/v", "v")
	f.Fuzz(func(t *testing.T, text, subject, id string) {
		if !utf8.ValidString(text) || !utf8.ValidString(subject) || !utf8.ValidString(id) || strings.Contains(text, "$") ||
			strings.Count(text, "*") > 3 || len(subject) > 40 || len(text) > 40 {
			t.Skip("out of the naive matcher's reach")
		}
		p, err := compilePattern(text+"${iot:ClientId}", globbing)
		if err != nil {
			t.Fatal(err)
		}
		want := false
		if prefix, ok := strings.CutSuffix(subject, id); ok {
			want = naive([]rune(text), []rune(prefix))
		}
		r := &Request{Session: stranger(id), Resource: subject}
		if got, _ := p.match(subject, r, false); got != want {
			t.Errorf("%q + %q matches %q: %t, want %t", text, id, subject, got, want)
		}
		if got, reached := p.explode(r); got != want || reached > len(subject) {
			t.Errorf("explode of %q + %q against %q: %t, %d", text, id, subject, got, reached)
		}
	})
}
