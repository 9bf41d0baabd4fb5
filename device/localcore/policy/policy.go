// Package policy evaluates AWS IoT Core policies and explains the answer: whether a set of documents
// allows an action on a resource, which statement decided, or how the nearest one differs. It has no
// MQTT and no registry: the caller gathers the policies that apply and describes the session.
//
// AWS IoT says that its policies follow the conventions of IAM policies. Where its own pages are
// silent, the grammar and the condition operators of IAM hold here too, but not what its
// identity-based policies have: principals and service-wide condition keys.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-policies.html
package policy

import (
	"fmt"
	"strconv"
)

// MaxSize is the greatest length of a document in characters, whitespace not counted.
//
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
const MaxSize = 2048

// Version is the only policy language version that AWS IoT documents.
const Version = "2012-10-17"

// A Policy is a document, which must not be nil, with the name it is stored under. The name appears
// in explanations.
type Policy struct {
	Name     string
	Document *Document
}

// A Document is a parsed and compiled policy. It must not be changed, and so is safe for concurrent
// use.
type Document struct {
	Statements []*Statement // in the order of the text
}

// An Effect is what a statement does when it matches, as a policy writes it.
type Effect string

// The two effects.
const (
	Allow Effect = "Allow"
	Deny  Effect = "Deny"
)

// A Statement is one compiled statement of a document.
type Statement struct {
	Index              int    // counts from 0
	Sid                string // empty when the document gives none
	Effect             Effect
	Actions, Resources Clause

	conditions []condition
}

// A Clause is Action or Resource of a statement or, if Not is set, NotAction or NotResource.
type Clause struct {
	Not   bool
	Texts []string // as written, variables and wildcards included

	patterns []pattern
}

// String names the statement as a person would look for it: by its quoted Sid, else by its place,
// such as Statement[2].
func (s *Statement) String() string {
	if s.Sid != "" {
		return strconv.Quote(s.Sid)
	}
	return fmt.Sprintf("Statement[%d]", s.Index)
}
