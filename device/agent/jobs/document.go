package jobs

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"example.com/fleety/device/awsiot"
)

// A document is a job document of AWS's schema 1.0, or of the one before it, which has "operation"
// in place of steps.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/job-templates-managed.html; the schema is described
// at https://github.com/awslabs/aws-iot-device-client/tree/main/source/jobs
type document struct {
	includeStdOut bool
	conditions    []condition
	steps         []step // the final step is the last: it runs when all others have succeeded
}

// A condition is met when the device's fact of that name has one of the values.
type condition struct {
	at     string
	key    string
	values []string
}

type step struct {
	at            string // its place in the document
	name          string
	handler       string   // a file of the folder of handlers, or a built-in operation
	path          string   // the folder, empty for the configured one
	pathAt        string   // the place of path
	command       []string // in place of a handler
	args          []string
	runAsUser     string // empty: the agent's own
	allowStdErr   int    // lines, -1 for any number
	ignoreFailure bool
}

// runCommand is the operation of all steps of that type.
const runCommand = "runCommand"

// operation is what the configuration must allow.
func (s *step) operation() string {
	if s.command != nil {
		return runCommand
	}
	return s.handler
}

const root = "job document"

// parse reads a job document. Its error begins with the place of what is wrong.
func parse(text []byte) (*document, error) {
	var err error
	n := node{at: root, err: &err}
	if err := awsiot.DecodeJSON(text, &n.value); err != nil {
		return nil, fmt.Errorf("%s: %w", root, err)
	}
	d := &document{includeStdOut: n.get("includeStdOut").boolean()}
	if n.get("version").value == nil {
		s := step{at: "operation", name: n.need("operation").text(), allowStdErr: n.get("allowStdErr").lines()}
		s.readHandler(n, "operation")
		d.steps = []step{s}
		return d, err
	}
	if version := n.get("version").text(); version != "1.0" {
		n.get("version").fail("%q is not supported, 1.0 is", version)
	}
	for _, c := range n.get("conditions").list() {
		d.conditions = append(d.conditions, condition{c.at, c.need("key").text(), c.need("value").texts()})
		if kind := c.get("type").text(); !slices.Contains([]string{"", "stringEqual", "equals"}, kind) {
			c.get("type").fail("%q is not supported, stringEqual is", kind)
		}
	}
	steps := n.need("steps").list()
	if len(steps) == 0 {
		n.get("steps").fail("has no step")
	}
	if final := n.get("finalStep"); final.value != nil {
		steps = append(steps, final)
	}
	for _, n := range steps {
		d.steps = append(d.steps, n.step())
	}
	return d, err
}

func (n node) step() step {
	action := n.need("action")
	input := action.need("input")
	s := step{
		at: n.at, name: action.need("name").text(), runAsUser: action.get("runAsUser").text(),
		allowStdErr: action.get("allowStdErr").lines(), ignoreFailure: action.get("ignoreStepFailure").boolean(),
	}
	switch kind := action.need("type").text(); kind {
	case "runHandler":
		s.readHandler(input, "handler")
	case runCommand:
		command := input.need("command")
		const comma = "\x00" // which no text of a document has
		for part := range strings.SplitSeq(strings.ReplaceAll(command.text(), `\,`, comma), ",") {
			s.command = append(s.command, strings.TrimSpace(strings.ReplaceAll(part, comma, ","))) // as AWS's client does
		}
		if name := s.command[0]; name == "" || strings.ContainsAny(name, " \t\n") {
			command.fail("begins with %q, which is not a program: separate the arguments by commas", name)
		}
	default:
		action.get("type").fail("%q is neither runHandler nor runCommand", kind)
	}
	return s
}

func (s *step) readHandler(n node, key string) {
	s.handler, s.path, s.pathAt, s.args = n.need(key).text(), n.get("path").text(), n.get("path").at, n.get("args").texts()
	if s.handler != filepath.Base(s.handler) || strings.HasPrefix(s.handler, ".") {
		n.get(key).fail("%q is not the name of a file", s.handler)
	}
}

// A node is a value of the document, nil where there is none, and its place there.
type node struct {
	at    string
	value any
	err   *error // the first one of all nodes
}

func (n node) fail(format string, args ...any) {
	if *n.err == nil {
		*n.err = fmt.Errorf("%s: "+format, append([]any{n.at}, args...)...)
	}
}

// get returns a member of an object. null counts as none.
func (n node) get(key string) node {
	object, ok := n.value.(map[string]any)
	if !ok && n.value != nil {
		n.fail("is not an object")
	}
	return node{strings.TrimPrefix(n.at+"."+key, root+"."), object[key], n.err}
}

// need returns a member that must be there. An empty text counts as none.
func (n node) need(key string) node {
	m := n.get(key)
	if m.value == nil || m.value == "" {
		m.fail("is missing")
	}
	return m
}

func (n node) text() string {
	text, ok := n.value.(string)
	if n.value != nil && !ok || strings.Contains(text, "\x00") {
		n.fail("is not text without NUL characters")
	}
	return text
}

func (n node) list() (nodes []node) {
	values, ok := n.value.([]any)
	if n.value != nil && !ok {
		n.fail("is not a list")
	}
	for i, value := range values {
		nodes = append(nodes, node{fmt.Sprintf("%s[%d]", n.at, i), value, n.err})
		if value == nil {
			nodes[i].fail("is null")
		}
	}
	return nodes
}

func (n node) texts() (texts []string) {
	for _, item := range n.list() {
		texts = append(texts, item.text())
	}
	return texts
}

// boolean also accepts text, which is how AWS's documents write it.
func (n node) boolean() bool {
	switch n.value {
	case true, "true":
		return true
	case nil, false, "false", "":
	default:
		n.fail("is neither true nor false")
	}
	return false
}

// lines also accepts text, which is what the parameter of a template becomes.
func (n node) lines() int {
	if n.value == nil || n.value == "" {
		return -1
	}
	lines, err := strconv.ParseUint(fmt.Sprint(n.value), 10, 30)
	if err != nil {
		n.fail("is not a number of lines")
	}
	return int(lines)
}
