package doctor

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"example.com/fleety/device/session"
)

// A Result is how a check came out.
type Result string

// The results.
const (
	OK      Result = "ok"
	Warn    Result = "warn" // works, but should not stay
	Fail    Result = "fail"
	Skipped Result = "skipped" // could not be made, or is of no use here
)

// A Check is one finding. Several may share a name: one for each topic filter,
// for example.
type Check struct {
	Name   string `json:"name"`
	Result Result `json:"result"`
	Found  string `json:"found"`            // what was found, in one line
	Cause  string `json:"cause,omitempty"`  // why, as far as it can be known
	Remedy string `json:"remedy,omitempty"` // what to do
	Class  string `json:"class,omitempty"`  // of a failure: failed, config, refused or temporary

	class session.Class
}

// A Report is all checks in the order in which they were made.
type Report struct {
	Result Result  `json:"result"` // the worst of all
	Checks []Check `json:"checks"`
}

// Worst returns the failure that decides the exit code: the first one that
// waiting will not cure, since the later ones may follow from it, else the
// first one. ok is false when nothing failed.
func (r Report) Worst() (c Check, class session.Class, ok bool) {
	for _, check := range r.Checks {
		switch {
		case check.Result != Fail:
		case check.class != session.ClassTemporary:
			return check, check.class, true
		case !ok:
			c, ok = check, true
		}
	}
	return c, c.class, ok
}

// WriteText writes the report for a person.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, c := range r.Checks {
		b.WriteString(c.String())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// String returns the check in one line, or three when there is something to do.
func (c Check) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-8s %-19s %s\n", c.Result, c.Name, c.Found)
	if c.Cause != "" {
		fmt.Fprintf(&b, "%28s why: %s\n", "", c.Cause)
	}
	if c.Remedy != "" {
		fmt.Fprintf(&b, "%28s do:  %s\n", "", c.Remedy)
	}
	return b.String()
}

var severity = map[Result]int{Skipped: 0, OK: 1, Warn: 2, Fail: 3}

func (e *examination) add(c Check) {
	c.Found, c.Cause, c.Remedy = clean(c.Found), clean(c.Cause), clean(c.Remedy)
	if c.Result == Fail {
		c.Class = c.class.String()
	}
	if severity[c.Result] > severity[e.report.Result] || e.report.Result == "" {
		e.report.Result = c.Result
	}
	e.report.Checks = append(e.report.Checks, c)
	e.Progress(c)
}

func (e *examination) ok(name, found string) {
	e.add(Check{Name: name, Result: OK, Found: found})
}

func (e *examination) warn(name, found, cause, remedy string) {
	e.add(Check{Name: name, Result: Warn, Found: found, Cause: cause, Remedy: remedy})
}

func (e *examination) fail(name string, class session.Class, found, cause, remedy string) {
	e.add(Check{Name: name, Result: Fail, Found: found, Cause: cause, Remedy: remedy, class: class})
}

func (e *examination) skip(name, why string) {
	e.add(Check{Name: name, Result: Skipped, Found: why})
}

// clean drops what could command a terminal: some of the text is the server's.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}
