package conformance

import "testing"

func TestPatterns(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pattern, got string
		exact, want  bool
	}{
		"any payload":           {``, `x`, true, true},
		"text":                  {`a b`, `a b`, true, true},
		"other text":            {`a b`, `a`, true, false},
		"text where JSON is":    {`{"a":1}`, `x`, true, false},
		"equal":                 {`{"a":[1,"x",null,true]}`, `{"a":[1.0,"x",null,true]}`, true, true},
		"numbers beyond 2^53":   {`{"a":9007199254740993}`, `{"a":9007199254740992}`, true, false},
		"one more member":       {`{"a":1}`, `{"a":1,"b":2}`, true, false},
		"one more, of an API":   {`{"a":1}`, `{"a":1,"b":2}`, false, true},
		"one more, allowed":     {`{"...":0,"a":1}`, `{"a":1,"b":2}`, true, true},
		"a member is missing":   {`{"a":1}`, `{}`, false, false},
		"null is not missing":   {`{"a":"<absent>"}`, `{"a":null}`, false, false},
		"missing":               {`{"a":"<absent>"}`, `{}`, true, true},
		"a shorter list":        {`["<any>","<any>"]`, `[1]`, false, false},
		"a number":              {`{"a":"<number>"}`, `{"a":1}`, true, true},
		"text is no number":     {`{"a":"<number>"}`, `{"a":"1"}`, true, false},
		"a number is no text":   {`{"a":"<string>"}`, `{"a":1}`, true, false},
		"a regular expression":  {`{"a":"<~^x+$>"}`, `{"a":"xx"}`, true, true},
		"and what it excludes":  {`{"a":"<~^x+$>"}`, `{"a":"xy"}`, true, false},
		"a captured value":      {`{"a":"<=v>"}`, `{"a":"x"}`, true, true},
		"two values":            {`{}`, `{} {}`, true, false},
		"text with angles":      {`{"a":"<b"}`, `{"a":"<b"}`, true, true},
		"five minutes from now": {`{"a":"<soon>"}`, `{"a":1}`, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := matcher{map[string]string{}, test.exact}.text(test.pattern, test.got)
			if (err == nil) != test.want {
				t.Errorf("%s with %s: %v", test.got, test.pattern, err)
			}
		})
	}
}

func TestScriptsAreExpanded(t *testing.T) {
	t.Parallel()
	checks, err := parse("f", "# comment\nneeds: role\nsetup A connect\ndef say A publish $1 $2\n\n== First\nsay t | {\"a\":\n  1}\nrepeat: 2\n\n== U7: what\nA x {ab*2}\n")
	if err != nil || len(checks) != 2 {
		t.Fatal(checks, err)
	}
	a, b := checks[0], checks[1]
	if a.Behavior != "First" || a.Repeat != 2 || len(a.Needs) != 1 || len(a.steps) != 2 || a.steps[1].text != `A publish t {"a": 1}` {
		t.Errorf("%+v", a)
	}
	if b.Open != "U7" || b.Behavior != "what" || b.steps[1].text != "A x abab" || a.Hash() == b.Hash() {
		t.Errorf("%+v", b)
	}
	if _, err := parse("f", "A connect"); err == nil {
		t.Error("a step before the first check")
	}
}
