package stack_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"

	"example.com/fleety/infra/stack"
)

// TestMain runs the tests in a second process of the same binary, whose temporary files it removes.
// The tests themselves do not call jsii.Close: it waits for the CDK's Node.js process in two
// goroutines at once, which the race detector reports; that process ends when the second one does.
//
// The CDK drives one Node.js process, which tests in parallel would crash: none here calls
// t.Parallel.
func TestMain(m *testing.M) {
	const second = "FLEETY_SECOND_PROCESS"
	if os.Getenv(second) != "" {
		os.Exit(m.Run())
	}
	jsii.Close() // nothing runs yet: this removes what loading the CDK's packages left
	temporary, err := os.MkdirTemp("", "fleety-stack-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	tests := exec.Command(os.Args[0], os.Args[1:]...)
	tests.Stdout, tests.Stderr = os.Stdout, os.Stderr
	tests.Env = append(os.Environ(), second+"=1", "TMPDIR="+temporary)
	err = tests.Run()
	os.RemoveAll(temporary)
	if err != nil {
		os.Exit(1)
	}
}

// A template is what was synthesized, as text and decoded.
type template struct {
	Text      []byte
	Resources map[string]resource
	Outputs   map[string]struct{ Value any }
}

type resource struct {
	Type, DeletionPolicy string
	DependsOn            []string
	Properties           map[string]any
}

// synth synthesizes the stack with the real documents, as the app would with the options in
// context, but around a stub of the hook.
func synth(context map[string]any) (template, error) {
	dir, err := os.MkdirTemp("", "fleety-synth-")
	if err != nil {
		return template{}, err
	}
	defer os.RemoveAll(dir)
	props := &stack.Props{HookFolder: filepath.Join(dir, "hook"), RetireFolder: filepath.Join(dir, "retire")}
	if props.Options, err = stack.ParseOptions(context); err != nil {
		return template{}, err
	}
	if props.Documents, err = stack.ReadDocuments(filepath.Join("..", "..", "templates"), props.Options); err != nil {
		return template{}, err
	}
	if err := props.Check(); err != nil {
		return template{}, err
	}
	for _, folder := range []string{props.HookFolder, props.RetireFolder} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			return template{}, err
		}
		if err := os.WriteFile(filepath.Join(folder, "bootstrap"), []byte("a stub of "+filepath.Base(folder)), 0o700); err != nil {
			return template{}, err
		}
	}

	out := filepath.Join(dir, "out")
	app := awscdk.NewApp(&awscdk.AppProps{Outdir: &out})
	stack.New(app, props)
	app.Synth(nil)
	return readTemplate(filepath.Join(out, props.Names.Stack+".template.json"))
}

func readTemplate(path string) (t template, err error) {
	if t.Text, err = os.ReadFile(path); err != nil {
		return t, err
	}
	return t, json.Unmarshal(t.Text, &t)
}

// byDefault and withOptions, which has every option but its default, are synthesized once: each
// takes seconds.
var (
	byDefault = sync.OnceValues(func() (template, error) {
		return synth(map[string]any{"certificateArn": arnA})
	})
	withOptions = sync.OnceValues(func() (template, error) {
		return synth(map[string]any{
			"certificateArn": arnA + "," + arnB, "name": "Second", "serialPrefix": "ACME-", "thingPrefix": "acme-", "hookArchitecture": "x86_64",
			"minimalRole": "true", "existingThings": "allow", "serialRegistry": "none", "rotation": "false", "hookConcurrency": "10",
			"templates": "testdata/own", "thingType": "acme-sensor", "thingGroup": "acme", "deviceStatements": "testdata/statements.json",
			"claimClientIds": "claim-*,gg-?", "claimSourceIp": "203.0.113.0/24", "expectedAdmissions": "7", "xray": "true", "alarmEmail": "ops@example.com",
		})
	})
)

func synthesized(t *testing.T, synth func() (template, error)) template {
	t.Helper()
	tmpl, err := synth()
	if err != nil {
		t.Fatal(err)
	}
	return tmpl
}

// ofType finds the resources of a type, by logical id.
func (t template) ofType(kind string) map[string]resource {
	found := map[string]resource{}
	for id, r := range t.Resources {
		if r.Type == kind {
			found[id] = r
		}
	}
	return found
}

// named returns the one resource of a type whose logical id begins with prefix.
func (t template) named(tb testing.TB, kind, prefix string) (id string, r resource) {
	tb.Helper()
	var ids []string
	for id := range t.ofType(kind) {
		if strings.HasPrefix(id, prefix) {
			ids = append(ids, id)
		}
	}
	if len(ids) != 1 {
		tb.Fatalf("%d resources of type %s begin with %q, want one", len(ids), kind, prefix)
	}
	return ids[0], t.Resources[ids[0]]
}

// resolved works out the CloudFormation functions in a value: pseudo parameters get the values of
// our account, a resource's reference reads "ref(ID)" or "att(ID.Arn)".
func resolved(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = resolved(v[i])
		}
		return out
	case map[string]any:
		if len(v) == 1 {
			for function, argument := range v {
				if s, ok := call(function, argument); ok {
					return s
				}
			}
		}
		out := make(map[string]any, len(v))
		for key := range v {
			out[key] = resolved(v[key])
		}
		return out
	}
	return v
}

func call(function string, argument any) (string, bool) {
	switch function {
	case "Ref":
		switch argument {
		case "AWS::Partition":
			return "aws", true
		case "AWS::Region":
			return "us-east-1", true
		case "AWS::AccountId":
			return "123456789012", true
		}
		return fmt.Sprintf("ref(%v)", argument), true
	case "Fn::GetAtt":
		of := argument.([]any)
		return fmt.Sprintf("att(%v.%v)", of[0], of[1]), true
	case "Fn::Join":
		parts := argument.([]any)[1].([]any)
		var joined strings.Builder
		for _, part := range parts {
			fmt.Fprint(&joined, resolved(part))
		}
		return joined.String(), true
	}
	return "", false
}
