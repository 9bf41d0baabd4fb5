package localcore

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/template"
)

// Expand fills in what the files of Templates leave to the deployment:
// ${AWS::Partition}, ${AWS::Region}, ${AWS::AccountId} and ${TemplateName}.
// Every other ${…} is a policy variable and stays.
func (c Config) Expand(text string) string {
	c = c.withDefaults()
	return strings.NewReplacer(
		"${AWS::Partition}", c.Partition,
		"${AWS::Region}", c.Region,
		"${AWS::AccountId}", c.Account,
		"${TemplateName}", TemplateName,
	).Replace(text)
}

// ReadPolicy reads a policy from a file and fills in its placeholders. The
// error of a faulty one begins with FILE:LINE:COLUMN and wraps a
// [policy.SyntaxError].
func (c Config) ReadPolicy(path string) (*policy.Document, error) {
	_, document, err := c.readPolicy(path)
	return document, err
}

// A shipped document is a file of Config.Templates.
type shipped struct {
	path   string
	source string
	text   string // source with its placeholders filled in
}

func (c *Config) readShipped(path string) (shipped, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return shipped{}, err
	}
	return shipped{path, string(data), c.Expand(string(data))}, nil
}

func (c *Config) readPolicy(path string) (shipped, *policy.Document, error) {
	s, err := c.readShipped(path)
	if err != nil {
		return s, nil, fmt.Errorf("reading a policy: %w", err)
	}
	document, err := policy.Parse([]byte(s.text))
	if e, ok := errors.AsType[*policy.SyntaxError](err); ok {
		e.Column = c.column(s, e.Line, e.Column)
		return s, nil, &faultyFile{s.path, e.Line, e.Column, e.Path, e.Reason, e}
	}
	return s, document, err
}

func (c *Config) readTemplate(path string) (shipped, error) {
	s, err := c.readShipped(path)
	if err != nil {
		return s, fmt.Errorf("reading the provisioning template: %w", err)
	}
	_, err = template.Parse([]byte(s.text))
	faults, ok := errors.AsType[template.SyntaxErrors](err)
	if !ok {
		return s, err
	}
	var errs []error
	for _, e := range faults {
		e.Column = c.column(s, e.Line, e.Column)
		errs = append(errs, &faultyFile{s.path, e.Line, e.Column, e.Path, e.Reason, e})
	}
	return s, errors.Join(errs...)
}

// column returns the column in the source of a place in the text: placeholders
// before it have another length than what they stand for.
func (c *Config) column(s shipped, line, column int) int {
	lines, expanded := strings.Split(s.source, "\n"), strings.Split(s.text, "\n")
	if line > len(lines) || len(lines) != len(expanded) {
		return column
	}
	source, before := lines[line-1], string([]rune(expanded[line-1])[:column-1])
	for i := range source + "\n" {
		if c.Expand(source[:i]) == before {
			return utf8.RuneCountInString(source[:i]) + 1
		}
	}
	return column
}

// A faultyFile is one fault of a shipped document, with its place in the file.
type faultyFile struct {
	file         string
	line, column int
	path, reason string
	cause        error
}

func (e *faultyFile) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s: %s", e.file, e.line, e.column, e.path, e.reason)
}

func (e *faultyFile) Unwrap() error { return e.cause }
