package localcore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/template"
	"example.com/fleety/device/localcore/templates"
	"example.com/fleety/hook/payload"
)

// Expand fills in what the files of Templates leave to the deployment:
// ${AWS::Partition}, ${AWS::Region}, ${AWS::AccountId}, ${TemplateName} and
// ${ThingPrefix}.
// Every other ${…} is a policy variable and stays.
func (c Config) Expand(text string) string {
	return strings.NewReplacer(c.placeholders()...).Replace(text)
}

// placeholders returns each with what it stands for.
func (c Config) placeholders() []string {
	c = c.withDefaults()
	return []string{
		"${AWS::Partition}", c.Partition,
		"${AWS::Region}", c.Region,
		"${AWS::AccountId}", c.Account,
		"${TemplateName}", TemplateName,
		"${ThingPrefix}", payload.ThingNamePrefix,
	}
}

// ReadPolicy reads a policy from a file and fills in its placeholders. The
// error of a faulty one begins with FILE:LINE:COLUMN and wraps a
// [policy.SyntaxError].
func (c Config) ReadPolicy(path string) (*policy.Document, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a policy: %w", err)
	}
	return c.parsePolicy(c.shipped(path, data))
}

// A shipped document is a file of Config.Templates.
type shipped struct {
	path   string
	source string
	text   string // source with its placeholders filled in
}

func (c *Config) shipped(path string, data []byte) shipped {
	return shipped{path, string(data), c.Expand(string(data))}
}

// readShipped reads a file of Config.Templates.
func (c *Config) readShipped(name string) (shipped, error) {
	path, read := name+" (embedded)", templates.FS.ReadFile
	if c.Templates != EmbeddedTemplates {
		path, read = filepath.Join(c.Templates, name), os.ReadFile
		name = path
	}
	data, err := read(name)
	if err != nil {
		return shipped{}, fmt.Errorf("reading the templates: %w", err)
	}
	return c.shipped(path, data), nil
}

func (c *Config) parsePolicy(s shipped) (*policy.Document, error) {
	document, err := policy.Parse([]byte(s.text))
	if e, ok := errors.AsType[*policy.SyntaxError](err); ok {
		e.Column = c.column(s, e.Line, e.Column)
		return nil, &faultyFile{s.path, e}
	}
	return document, err
}

func (c *Config) readPolicy(name string) (shipped, error) {
	s, err := c.readShipped(name)
	if err == nil {
		_, err = c.parsePolicy(s)
	}
	return s, err
}

func (c *Config) readTemplate(name string) (shipped, error) {
	s, err := c.readShipped(name)
	if err != nil {
		return s, err
	}
	_, err = template.Parse([]byte(s.text))
	faults, ok := errors.AsType[template.SyntaxErrors](err)
	if !ok {
		return s, err
	}
	var errs []error
	for _, e := range faults {
		e.Column = c.column(s, e.Line, e.Column)
		errs = append(errs, &faultyFile{s.path, e})
	}
	return s, errors.Join(errs...)
}

// column returns the column in the source of a place in the text: placeholders
// before it have another length than what they stand for.
func (c *Config) column(s shipped, line, column int) int {
	lines := strings.Split(s.source, "\n")
	if line > len(lines) {
		return column
	}
	placeholders, passed := c.placeholders(), 0
	for rest, at := lines[line-1], 1; at < column && rest != ""; {
		written, meant := nextPart(rest, placeholders)
		if at += utf8.RuneCountInString(meant); at > column {
			break // the place is inside what a placeholder stands for
		}
		passed += utf8.RuneCountInString(written)
		rest = rest[len(written):]
	}
	return passed + 1
}

// nextPart returns the placeholder that a text begins with and what it stands
// for, else the first character, twice.
func nextPart(text string, placeholders []string) (written, meant string) {
	for i := 0; i < len(placeholders); i += 2 {
		if strings.HasPrefix(text, placeholders[i]) {
			return placeholders[i], placeholders[i+1]
		}
	}
	_, size := utf8.DecodeRuneInString(text)
	return text[:size], text[:size]
}

// A faultyFile is one fault of a shipped document, with its place in the file.
type faultyFile struct {
	file  string
	fault *policy.SyntaxError
}

func (e *faultyFile) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s: %s", e.file, e.fault.Line, e.fault.Column, e.fault.Path, e.fault.Reason)
}

func (e *faultyFile) Unwrap() error { return e.fault }
