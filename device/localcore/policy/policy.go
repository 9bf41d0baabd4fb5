// Package policy evaluates AWS IoT Core policies and explains the answer.
//
// It parses a policy document into a compiled form, decides whether a set of
// documents allows one action on one resource, and says in one line which
// statement decided, or how the nearest statement differs. It has no
// MQTT and no registry: the caller gathers the policies that apply and
// describes the session.
//
// AWS IoT says that its policies follow the conventions of IAM policies. Where
// its own pages are silent, the grammar and the condition operators of IAM
// hold here too. Identity-based IAM policies, with their principals and
// service-wide condition keys, are not this package's business.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-policies.html
package policy

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
)

// MaxSize is the greatest length of a document in characters, whitespace not
// counted.
//
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
const MaxSize = 2048

// Version is the only policy language version that AWS IoT documents.
const Version = "2012-10-17"

// A Policy is a document with the name it is stored under. The name appears
// in explanations.
type Policy struct {
	Name     string
	Document *Document
}

// A Document is a parsed and compiled policy. It is immutable and safe for
// concurrent use.
type Document struct {
	statements []*Statement
}

// Statements yields the statements in the order of the document.
func (d *Document) Statements() iter.Seq[*Statement] {
	return slices.Values(d.statements)
}

// An Effect is what a statement does when it matches.
type Effect string

// The two effects.
const (
	Allow Effect = "Allow"
	Deny  Effect = "Deny"
)

// String returns the effect as a policy writes it.
func (e Effect) String() string { return string(e) }

// A Statement is one compiled statement of a document. The exported fields
// are as written, variables and wildcards included, and must not be changed.
type Statement struct {
	// Index counts from 0.
	Index int
	// Sid is empty when the document gives none.
	Sid    string
	Effect Effect
	// Exactly one of Actions and NotActions is set.
	Actions, NotActions []string
	// Exactly one of Resources and NotResources is set.
	Resources, NotResources []string

	actions    []pattern // of whichever is set
	resources  []pattern
	conditions []condition
}

// String names the statement as a person would look for it: by its quoted
// Sid, else by its place, such as Statement[2].
func (s *Statement) String() string {
	if s.Sid != "" {
		return strconv.Quote(s.Sid)
	}
	return fmt.Sprintf("Statement[%d]", s.Index)
}
