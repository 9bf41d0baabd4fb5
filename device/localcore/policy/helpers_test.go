package policy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const arnHead = "arn:aws:iot:us-east-1:123456789012:"

type fields map[string]any

// allow and deny build a statement; resources are given without the head of their ARN.
func allow(action string, resources ...string) fields { return statement("Allow", action, resources) }
func deny(action string, resources ...string) fields  { return statement("Deny", action, resources) }

func statement(effect, action string, resources []string) fields {
	full := make([]string, len(resources))
	for i, r := range resources {
		full[i] = arnHead + r
		if r == "*" {
			full[i] = r
		}
	}
	return fields{"Effect": effect, "Action": strings.Fields(action), "Resource": full}
}

// when adds a condition on one key.
func (f fields) when(operator, key string, values ...string) fields {
	if f["Condition"] == nil {
		f["Condition"] = fields{}
	}
	if values == nil {
		values = []string{}
	}
	f["Condition"].(fields)[operator] = fields{key: values}
	return f
}

// with sets one more key of the statement.
func (f fields) with(key string, value any) fields {
	f[key] = value
	return f
}

func document(t testing.TB, statements ...fields) *Document {
	t.Helper()
	text, err := json.MarshalIndent(fields{"Version": Version, "Statement": statements}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

func parse(t testing.TB, text string) *Document {
	t.Helper()
	d, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse: %v\n%s", err, text)
	}
	return d
}

// shipped parses one of the templates with its placeholders replaced.
func shipped(t testing.TB, name string) *Document {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "templates", name))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, strings.NewReplacer(
		"${AWS::Partition}", "aws",
		"${AWS::Region}", "us-east-1",
		"${AWS::AccountId}", "123456789012",
		"${TemplateName}", "GoFleetProvisioningTemplate",
		"${ThingPrefix}", "fleety_",
	).Replace(string(text)))
}

// device is a session whose client id is the name of an attached thing.
func device(name string) *Session {
	return &Session{ClientID: name, Thing: &Thing{Name: name, Attached: true}}
}

func stranger(clientID string) *Session { return &Session{ClientID: clientID} }

func request(s *Session, action, resource string) *Request {
	return &Request{Action: action, Resource: arnHead + resource, Session: s}
}

// A check is one request to a document and the answer to expect.
type check struct {
	ask  *Request
	want bool
}

func runChecks(t *testing.T, d *Document, checks ...check) {
	t.Helper()
	for _, c := range checks {
		got := Evaluate([]Policy{{Name: "P", Document: d}}, c.ask)
		if got.Allowed != c.want {
			t.Errorf("%s on %s as %q: allowed is %t, want %t: %s",
				c.ask.Action, c.ask.Resource, c.ask.Session.ClientID, got.Allowed, c.want, got.Explain())
		}
		explanation := got.Explain()
		if explanation == "" || strings.Contains(explanation, "\n") {
			t.Errorf("Explain must be one line: %q", explanation)
		}
	}
}
