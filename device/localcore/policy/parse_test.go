package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseAcceptsEveryForm(t *testing.T) {
	d := parse(t, `{
  "Version": "2012-10-17",
  "Id": "tolerated",
  "Statement": {
    "Sid": "One",
    "Effect": "Deny",
    "NotAction": "iot:Connect",
    "NotResource": ["arn:aws-cn:iot:*:*:topic/${iot:ClientId}/*", "*"],
    "Condition": {
      "StringLikeIfExists": {"iot:ClientId": ["a*", "b?"]},
      "NumericLessThan": {"iot:Connection.Thing.Attributes[n]": 5},
      "Bool": {"iot:Connection.Thing.IsAttached": true},
      "Null": {"iot:LastWillTopic": "true"}
    }
  }
}`)
	got := d.Statements
	want := []*Statement{{
		Sid: "One", Effect: Deny,
		Actions:   Clause{Not: true, Texts: []string{"iot:Connect"}},
		Resources: Clause{Not: true, Texts: []string{"arn:aws-cn:iot:*:*:topic/${iot:ClientId}/*", "*"}},
	}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Statement{}, Clause{})); diff != "" {
		t.Errorf("Statements (-want +got):\n%s", diff)
	}
	if got := len(got[0].conditions); got != 4 {
		t.Errorf("got %d conditions, want 4", got)
	}
}

// TestParseRejects gives each fault its place. The mark « is taken out; it stands where the error
// must point to.
func TestParseRejects(t *testing.T) {
	const head = "{\"Version\": \"2012-10-17\",\n \"Statement\": ["
	tests := map[string]struct{ doc, path string }{
		"no JSON":                 {`«x`, "$"},
		"cut off":                 {`{"Version"«`, "$"},
		"two documents":           {`{} «{}`, "$"},
		"not UTF-8":               {"{\"«\xff\": 1}", "$"},
		"a list":                  {`«[]`, "$"},
		"no Version":              {`«{"Statement": []}`, "$"},
		"an older Version":        {`{"Version": «"2008-10-17"}`, "$.Version"},
		"an Id of no string":      {`{"Version": "2012-10-17", "Id": «1}`, "$.Id"},
		"no Statement":            {`«{"Version": "2012-10-17"}`, "$"},
		"no statements":           {`{"Version": "2012-10-17", "Statement": «[]}`, "$.Statement"},
		"an unknown key":          {`{"Version": "2012-10-17", "Statements": «[]}`, "$.Statements"},
		"a misspelt key":          {`{"version": «"2012-10-17"}`, "$.version"},
		"a key given twice":       {`{"Version": "2012-10-17", «"Version": ""}`, "$.Version"},
		"too deep":                {head + `{"Condition": {"Bool": {"iot:a": [[«[]]]}}}]}`, `$.Statement[0].Condition.Bool["iot:a"][0][0]`},
		"a statement of null":     {head + "\n  «null]}", "$.Statement[0]"},
		"a Principal":             {head + `{"Effect": "Allow", "Principal": «"*"}]}`, "$.Statement[0].Principal"},
		"a Sid with a space":      {head + `{"Sid": «"my sid"}]}`, "$.Statement[0].Sid"},
		"no Effect":               {head + `«{"Sid": "a"}]}`, "$.Statement[0]"},
		"another Effect":          {head + `{"Effect": «"allow"}]}`, "$.Statement[0].Effect"},
		"no Action":               {head + `«{"Effect": "Allow"}]}`, "$.Statement[0]"},
		"Action and NotAction":    {head + `«{"Effect": "Allow", "Action": "*", "NotAction": "*"}]}`, "$.Statement[0]"},
		"an action of no kind":    {head + `{"Effect": "Allow", "Action": «"Publish"}]}`, "$.Statement[0].Action"},
		"an action of two colons": {head + `{"Effect": "Allow", "Action": ["iot:*", «"iot:a:b"]}]}`, "$.Statement[0].Action[1]"},
		"no actions":              {head + `{"Effect": "Allow", "Action": «[]}]}`, "$.Statement[0].Action"},
		"an empty action":         {head + `{"Effect": "Allow", "Action": «""}]}`, "$.Statement[0].Action"},
		"no Resource":             {head + `«{"Effect": "Allow", "Action": "*"}]}`, "$.Statement[0]"},
		"a topic for an ARN":      {head + `{"Effect": "Allow", "Action": "*", "Resource": «"topic/a"}]}`, "$.Statement[0].Resource"},
		"a list as text": {head + `{"Effect": "Allow", "Action": "*", "Resource": «"[\"arn:aws:iot:r:a:b\"]"}]}`,
			"$.Statement[0].Resource"},
		"an ARN too short": {head + `{"Effect": "Allow", "Action": "*", "Resource": «"arn:aws:iot:topic/a"}]}`,
			"$.Statement[0].Resource"},
		"an ARN of no partition": {head + `{"Effect": "Allow", "Action": "*", "Resource": «"arn::iot:r:a:b"}]}`,
			"$.Statement[0].Resource"},
		"an ARN of no service": {head + `{"Effect": "Allow", "Action": "*", "Resource": «"arn:aws::r:a:b"}]}`,
			"$.Statement[0].Resource"},
		"an ARN of nothing": {head + `{"Effect": "Allow", "Action": "*", "Resource": «"arn:aws:iot:r:a:"}]}`,
			"$.Statement[0].Resource"},
		"an open variable": {head + `{"Effect": "Allow", "Action": "*", "Resource": «"arn:aws:iot:r:a:${iot:ClientId"}]}`,
			"$.Statement[0].Resource"},
		"a placeholder": {head + `{"Effect": "Allow", "Action": "*", "Resource": «"arn:aws:iot:r:${AWS::AccountId}:a"}]}`,
			"$.Statement[0].Resource"},
		"a variable of no prefix": {head + `{"Effect": "Allow", "Action": "*", "Resource": «"arn:aws:iot:r:a:${Name}"}]}`,
			"$.Statement[0].Resource"},
		"an unknown operator": {head + `{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"Like": «{}}}]}`,
			"$.Statement[0].Condition.Like"},
		"a misspelt operator": {head + `{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"bool": «{}}}]}`,
			"$.Statement[0].Condition.bool"},
		"Null with IfExists": {head + `{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"NullIfExists": «{}}}]}`,
			"$.Statement[0].Condition.NullIfExists"},
		"a condition of text": {head + `{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": «"Bool"}]}`,
			"$.Statement[0].Condition"},
		"an operator of text": {head + `{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"Bool": «"true"}}]}`,
			"$.Statement[0].Condition.Bool"},
		"a key of no prefix": {head + `{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"Bool": {"a": «"true"}}}]}`,
			"$.Statement[0].Condition.Bool.a"},
		"Null of two values": {head + `{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"Null": {"a:b": «[true, false]}}}]}`,
			`$.Statement[0].Condition.Null["a:b"]`},
		"an object as value": {head + `{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"Bool": {"a:b": [«{}]}}}]}`,
			`$.Statement[0].Condition.Bool["a:b"][0]`},
	}
	for operator, value := range map[string]string{
		"Bool": "yes", "NumericEquals": "NaN", "DateEquals": "tomorrow", "IpAddress": "1.2.3/24", "BinaryEquals": "%", "ArnLike": "topic/a",
	} {
		test := tests["no value for "+operator]
		test.doc = head + `{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"` + operator + `": {"a:b": «"` + value + `"}}}]}`
		test.path = `$.Statement[0].Condition.` + operator + `["a:b"]`
		tests["no value for "+operator] = test
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before, after, _ := strings.Cut(test.doc, "«")
			_, err := Parse([]byte(before + after))
			got, ok := errors.AsType[*SyntaxError](err)
			if !ok {
				t.Fatalf("Parse: %v, want a *SyntaxError", err)
			}
			line := before[strings.LastIndexByte(before, '\n')+1:]
			want := &SyntaxError{
				Line: strings.Count(before, "\n") + 1, Column: len([]rune(line)) + 1,
				Path: test.path, Reason: got.Reason,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if got.Reason == "" {
				t.Error("no reason")
			}
		})
	}
}

func TestParseRejectsASidUsedTwice(t *testing.T) {
	_, err := Parse([]byte(`{"Version": "2012-10-17", "Statement": [
{"Sid": "A", "Effect": "Allow", "Action": "*", "Resource": "*"},
{"Sid": "A", "Effect": "Allow", "Action": "*", "Resource": "*"}]}`))
	if e, ok := errors.AsType[*SyntaxError](err); !ok || e.Line != 3 || e.Column != 1 || e.Path != "$.Statement[1]" {
		t.Errorf("Parse: %v", err)
	}
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a policy has
// 2048 characters at most, white space not counted.
func TestParseCountsNoWhitespace(t *testing.T) {
	sized := func(size int) []byte {
		const head, tail = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"arn:aws:iot:r:a:`, `"}}`
		text := head + strings.Repeat("x", size-len(head)-len(tail)) + tail
		return []byte(strings.ReplaceAll(text, ",", ",\n\t  "))
	}
	if _, err := Parse(sized(MaxSize)); err != nil {
		t.Errorf("Parse of %d characters: %v", MaxSize, err)
	}
	if _, err := Parse(sized(MaxSize + 1)); err == nil {
		t.Errorf("Parse of one character more: %v", err)
	}
	// A text of any size has one fault, its size: to place each of its faults took minutes.
	large := []byte(`{` + strings.Repeat(`"Version":"",`, 150_000) + `"Id":""}`)
	if _, err := Parse(large); err == nil || !strings.Contains(err.Error(), "AWS IoT allows 2048") {
		t.Errorf("Parse of a large text: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"iot:*","Resource":"*"}}`)
	f.Add(`{"Version":"2012-10-17","Statement":[{"Effect":"Deny","NotAction":["a:b"],"NotResource":"arn:aws:iot:r:a:${iot:ClientId}?"}]}`)
	f.Add(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"ForAllValues:ArnLikeIfExists":{"iot:LastWillTopic":["arn:aws:iot:*:*:topic/${iot:Certificate.Subject.Country.List}"]}}}]}`)
	f.Add(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"DateLessThan":{"iot:Connection.Thing.Attributes[a]":"2026-01-01"}, "NumericGreaterThan":{"a:b":-1e3}, "Null":{"a:b":true}}}]}`)
	f.Add(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"arn:aws:iot:r:a:${iot:a\nb}"}]}`)
	f.Add(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringLike":{"a:\n":"${iot:\n}"}}}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		d, err := Parse([]byte(text))
		if err != nil {
			bad, ok := errors.AsType[*SyntaxError](err)
			if !ok || d != nil || bad.Line < 1 || bad.Column < 1 || bad.Path == "" || bad.Reason == "" {
				t.Fatalf("Parse: document %v, error %#v", d, err)
			}
			return
		}
		for _, s := range d.Statements {
			if len(s.Actions.Texts) == 0 || len(s.Resources.Texts) == 0 {
				t.Fatalf("statement without actions or resources: %+v", s)
			}
		}
		r := request(device("a"), "iot:Publish", "topic/a")
		if got := Evaluate([]Policy{{"P", d}}, r).Explain(); got == "" || strings.ContainsAny(got, "\n\r") {
			t.Fatalf("Explain is not one line: %q", got)
		}
	})
}
