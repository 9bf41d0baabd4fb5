package jobs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A document is a job document of AWS's schema 1.0, or of the one before it, which
// has "operation" in place of steps.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/job-templates-managed.html;
// the schema is described at https://github.com/awslabs/aws-iot-device-client/tree/main/source/jobs
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

// parse reads a job document. Its error begins with the place of what is wrong.
func parse(text []byte) (*document, error) {
	var tree any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&tree); err != nil {
		return nil, fmt.Errorf("job document: %w", err)
	}
	var r reader
	d := r.document(node{at: "job document", value: tree})
	if r.err != nil {
		return nil, r.err
	}
	return d, nil
}

// A reader reads nodes, and keeps the first error.
type reader struct{ err error }

// A node is a value of the document, and its place there.
type node struct {
	at    string
	value any
}

func (r *reader) document(n node) *document {
	d := &document{includeStdOut: r.boolean(n, "includeStdOut")}
	if _, ok := r.member(n, "version", false); !ok {
		d.steps = []step{{
			at: "operation", name: r.text(n, "operation", true), handler: r.handler(n, "operation"),
			path: r.text(n, "path", false), pathAt: "path", args: r.texts(n, "args", false), allowStdErr: r.lines(n, "allowStdErr"),
		}}
		return d
	}
	if version := r.text(n, "version", true); version != "1.0" {
		r.fail("version", "%q is not supported, 1.0 is", version)
	}
	for _, c := range r.list(n, "conditions", false) {
		d.conditions = append(d.conditions, condition{c.at, r.text(c, "key", true), r.texts(c, "value", true)})
		if kind := r.text(c, "type", false); !slices.Contains([]string{"", "stringEqual", "equals"}, kind) {
			r.fail(c.at+".type", "%q is not supported, stringEqual is", kind)
		}
	}
	for _, s := range r.list(n, "steps", true) {
		d.steps = append(d.steps, r.step(s))
	}
	if len(d.steps) == 0 {
		r.fail("steps", "has no step")
	}
	if final, ok := r.member(n, "finalStep", false); ok {
		d.steps = append(d.steps, r.step(final))
	}
	return d
}

func (r *reader) step(n node) step {
	action, _ := r.member(n, "action", true)
	input, _ := r.member(action, "input", true)
	s := step{
		at: n.at, name: r.text(action, "name", true), runAsUser: r.text(action, "runAsUser", false),
		allowStdErr: r.lines(action, "allowStdErr"), ignoreFailure: r.boolean(action, "ignoreStepFailure"),
	}
	switch kind := r.text(action, "type", true); kind {
	case "runHandler":
		s.handler, s.path, s.args = r.handler(input, "handler"), r.text(input, "path", false), r.texts(input, "args", false)
		s.pathAt = input.at + ".path"
	case runCommand:
		s.command = splitCommand(r.text(input, "command", true))
		if name := s.command[0]; name == "" || strings.ContainsAny(name, " \t\n") {
			r.fail(input.at+".command", "begins with %q, which is not a program: separate the arguments by commas", name)
		}
	default:
		r.fail(action.at+".type", "%q is neither runHandler nor runCommand", kind)
	}
	return s
}

// splitCommand splits a command at its commas, but for those behind a backslash.
func splitCommand(text string) []string {
	const comma = "\x00" // which no text of a document has
	parts := strings.Split(strings.ReplaceAll(text, `\,`, comma), ",")
	for i := range parts {
		parts[i] = strings.ReplaceAll(parts[i], comma, ",")
	}
	return parts
}

func (r *reader) fail(at, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: "+format, append([]any{at}, args...)...)
	}
}

// member returns a member of an object. null counts as none.
func (r *reader) member(n node, key string, required bool) (node, bool) {
	object, ok := n.value.(map[string]any)
	if !ok && r.err == nil {
		r.fail(n.at, "is not an object")
	}
	at := key
	if n.at != "job document" {
		at = n.at + "." + key
	}
	m := node{at, object[key]}
	if m.value == nil && required {
		r.fail(at, "is missing")
	}
	return m, m.value != nil
}

// text returns a member that is text. An empty one counts as none.
func (r *reader) text(n node, key string, required bool) string {
	m, ok := r.member(n, key, required)
	if !ok {
		return ""
	}
	text, ok := m.value.(string)
	switch {
	case !ok:
		r.fail(m.at, "is not text")
	case text == "" && required:
		r.fail(m.at, "is empty")
	case strings.Contains(text, "\x00"):
		r.fail(m.at, "has a NUL character")
	}
	return text
}

// handler returns the name of a file.
func (r *reader) handler(n node, key string) string {
	m, _ := r.member(n, key, true)
	name := r.text(n, key, true)
	if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		r.fail(m.at, "%q is not the name of a file", name)
	}
	return name
}

func (r *reader) list(n node, key string, required bool) (nodes []node) {
	m, ok := r.member(n, key, required)
	values, isList := m.value.([]any)
	if ok && !isList {
		r.fail(m.at, "is not a list")
	}
	for i, value := range values {
		nodes = append(nodes, node{fmt.Sprintf("%s[%d]", m.at, i), value})
	}
	return nodes
}

func (r *reader) texts(n node, key string, required bool) (texts []string) {
	for _, item := range r.list(n, key, required) {
		text, ok := item.value.(string)
		if !ok || strings.Contains(text, "\x00") {
			r.fail(item.at, "is not text without NUL characters")
		}
		texts = append(texts, text)
	}
	return texts
}

// boolean also accepts text, which is how AWS's documents write it.
func (r *reader) boolean(n node, key string) bool {
	m, ok := r.member(n, key, false)
	if text := fmt.Sprint(m.value); ok && text != "true" && text != "false" && text != "" {
		r.fail(m.at, "is neither true nor false")
	}
	return m.value == true || m.value == "true"
}

// lines also accepts text, which is what the parameter of a template becomes.
func (r *reader) lines(n node, key string) int {
	m, ok := r.member(n, key, false)
	if !ok || m.value == "" {
		return -1
	}
	text := m.value
	if number, ok := m.value.(json.Number); ok {
		text = number.String()
	}
	digits, _ := text.(string)
	lines, err := strconv.ParseUint(digits, 10, 30)
	if err != nil {
		r.fail(m.at, "is not a number of lines")
	}
	return int(lines)
}
