package doctor

import (
	"fmt"
	"regexp"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/term"
)

// A Result is the outcome of a check.
type Result string

// The results, from good to bad.
const (
	Skipped Result = "skipped" // could not be made, or does not apply here
	OK      Result = "ok"
	Warn    Result = "warn" // works, but needs attention
	Fail    Result = "fail"
)

var severity = map[Result]int{"": 0, Skipped: 1, OK: 2, Warn: 3, Fail: 4}

// A Check is one finding. Several may share a name: one for each topic filter, for example.
type Check struct {
	Name    string `json:"name"`
	Result  Result `json:"result"`
	Found   string `json:"found"`             // what was found, in one line
	Cause   string `json:"cause,omitempty"`   // why, as far as it is known
	Remedy  string `json:"remedy,omitempty"`  // what to do
	CauseID string `json:"causeId,omitempty"` // names the entry of [Causes] that Cause and Remedy come from, if any
	Class   string `json:"class,omitempty"`   // of a failure, as [awsiot.Class] names it

	class awsiot.Class
}

// A Report is all checks in the order in which they were made.
type Report struct {
	Result Result  `json:"result"` // the worst of all
	Checks []Check `json:"checks"`
}

// Worst returns the failure that decides the exit code: the first one that waiting will not cure,
// since later ones may follow from it, else the first one. ok is false when nothing failed.
func (r Report) Worst() (c Check, class awsiot.Class, ok bool) {
	for _, check := range r.Checks {
		switch {
		case check.Result != Fail:
		case check.class != awsiot.Temporary:
			return check, check.class, true
		case !ok:
			c, ok = check, true
		}
	}
	return c, c.class, ok
}

// Verdict returns the report in one sentence.
func (r Report) Verdict() string {
	count := map[Result]int{}
	for _, c := range r.Checks {
		count[c.Result]++
	}
	warnings := ""
	if n := count[Warn]; n > 0 {
		warnings = fmt.Sprintf("; warnings: %d", n)
	}
	worst, class, failed := r.Worst()
	if !failed {
		return "no check failed" + warnings
	}
	return fmt.Sprintf("checks failed: %d%s; begin with %s (%s)", count[Fail], warnings, worst.Name, class)
}

const indent = 29 // where the text of a check begins

// String returns the check in lines of 80 columns where its words allow, with short certificate IDs.
func (c Check) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-8s %-19s ", c.Result, c.Name)
	term.Fold(&b, certificateID.ReplaceAllString(c.Found, "$1..."), indent)
	for _, part := range [][2]string{{"why: ", c.Cause}, {"do:  ", c.Remedy}} {
		if part[1] != "" {
			b.WriteString(strings.Repeat(" ", indent) + part[0])
			term.Fold(&b, certificateID.ReplaceAllString(part[1], "$1..."), indent+len(part[0]))
		}
	}
	return b.String()
}

var certificateID = regexp.MustCompile(`\b([0-9a-f]{12})[0-9a-f]{52}\b`)

func (r *run) add(c Check) {
	for _, text := range []*string{&c.Found, &c.Cause, &c.Remedy} {
		*text = term.Clean(r.Settings.Commands(*text))
	}
	if c.Result == Fail {
		c.Class = c.class.String()
	}
	if severity[c.Result] > severity[r.report.Result] {
		r.report.Result = c.Result
	}
	r.report.Checks = append(r.report.Checks, c)
	r.Progress(c)
}

func (r *run) ok(name, found string) { r.add(Check{Name: name, Result: OK, Found: found}) }

func (r *run) skip(name, why string) { r.add(Check{Name: name, Result: Skipped, Found: why}) }

func (r *run) warn(name, found, why, remedy string) {
	r.add(Check{Name: name, Result: Warn, Found: found, Cause: why, Remedy: remedy})
}

func (r *run) fail(name string, class awsiot.Class, found string, c Cause) {
	r.add(Check{Name: name, Result: Fail, Found: found, Cause: c.Why, Remedy: c.Remedy, CauseID: c.ID, class: class})
}

// failure reports an error with the cause that the table has for it.
func (r *run) failure(name string, err error) {
	c, _ := CauseOf(err, r.Settings)
	r.fail(name, awsiot.ClassOf(err), err.Error(), c)
}
