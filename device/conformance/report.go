package conformance

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// A Verdict is how a check ended.
type Verdict string

// The verdicts.
const (
	Same     Verdict = "same"     // the endpoint does what AWS documents
	Differs  Verdict = "differs"  // it does not
	Recorded Verdict = "recorded" // an open point: what it does is in Got
	Skipped  Verdict = "skipped"  // the endpoint lacks what the check needs
	Failed   Verdict = "failed"   // the check could not be made
)

// A Result is that of one check.
type Result struct {
	Behavior   string   `json:"behavior"`
	Open       string   `json:"open,omitempty"`
	Steps      string   `json:"steps"` // [Check.Hash]
	Verdict    Verdict  `json:"verdict"`
	Want       string   `json:"want,omitempty"` // what AWS documents, where that differs
	Got        string   `json:"got,omitempty"`  // what came
	Seconds    float64  `json:"seconds"`
	Transcript []string `json:"transcript,omitempty"` // what was sent and received, without secrets, the account and the endpoint's name
}

// A Report is that of a run: the transcript file, as JSON.
type Report struct {
	Endpoint string    `json:"endpoint"` // "aws" or "other"
	Started  time.Time `json:"started"`
	Seconds  float64   `json:"seconds"`
	Results  []Result  `json:"results"`
	LeftOver []string  `json:"leftOver,omitempty"` // what could not be deleted

	mu sync.Mutex // of LeftOver
}

// Count returns how many results have this verdict.
func (r *Report) Count(v Verdict) (n int) {
	for _, result := range r.Results {
		if result.Verdict == v {
			n++
		}
	}
	return n
}

// WriteJUnit writes the report as JUnit XML, which CI systems read.
func (r *Report) WriteJUnit(w io.Writer) error {
	type message struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type testcase struct {
		Name    string   `xml:"name,attr"`
		Class   string   `xml:"classname,attr"`
		Time    string   `xml:"time,attr"`
		Failure *message `xml:"failure,omitempty"`
		Error   *message `xml:"error,omitempty"`
		Skipped *message `xml:"skipped,omitempty"`
		Out     string   `xml:"system-out,omitempty"`
	}
	suite := struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Errors   int        `xml:"errors,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Time     string     `xml:"time,attr"`
		Started  string     `xml:"timestamp,attr"`
		Cases    []testcase `xml:"testcase"`
	}{Name: "conformance", Tests: len(r.Results), Failures: r.Count(Differs), Errors: r.Count(Failed), Skipped: r.Count(Skipped),
		Time: fmt.Sprintf("%.3f", r.Seconds), Started: r.Started.Format(time.RFC3339)}
	for _, result := range r.Results {
		c := testcase{Name: result.Behavior, Class: "conformance", Time: fmt.Sprintf("%.3f", result.Seconds)}
		switch result.Verdict {
		case Differs:
			c.Failure = &message{"want " + result.Want + ", got " + result.Got, strings.Join(result.Transcript, "\n")}
		case Failed:
			c.Error = &message{Message: result.Got}
		case Skipped:
			c.Skipped = &message{Message: result.Got}
		case Recorded:
			c.Out = result.Got
		}
		suite.Cases = append(suite.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	return e.Encode(suite)
}

// WriteTranscript writes the report as JSON.
func (r *Report) WriteTranscript(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}
