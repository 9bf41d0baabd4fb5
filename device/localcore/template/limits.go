package template

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of a template and of its parameters.
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_CreateProvisioningTemplate.html
// and API_RegisterThing.html.
const (
	MaxBody           = 10_240 // characters of a template
	MaxParameterName  = 2_048  // characters
	MaxParameterValue = 4_096  // characters
)

// Limits of what a template registers.
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
const (
	MaxAttributes        = 50 // of a thing with a type
	MaxAttributesUntyped = 3  // of a thing without one
	MaxGroups            = 10 // of a thing
)

// A rule is what AWS IoT demands of a name or value.
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_CreateThing.html
type rule struct {
	what     string
	min, max int    // characters
	extra    string // characters beside letters and digits
}

var (
	thingName      = rule{"thing name", 1, 128, ":_-"}
	thingTypeName  = rule{"thing type name", 1, 128, ":_-"}
	groupName      = rule{"thing group name", 1, 128, ":_-"}
	billingGroup   = rule{"billing group name", 1, 128, ":_-"}
	policyName     = rule{"policy name", 1, 128, "_+=,.@-"}
	attributeName  = rule{"attribute name", 1, 128, "_.,@/:#-"}
	attributeValue = rule{"attribute value", 0, 800, "_.,@/:#=[]-"}
)

// check tells what is wrong with s, in one line; empty means nothing.
func (r rule) check(s string) string {
	if n := utf8.RuneCountInString(s); n < r.min || n > r.max {
		return fmt.Sprintf("%s has %d characters, must have %d to %d", r.what, n, r.min, r.max)
	}
	for _, c := range s {
		if !r.allows(c) {
			return fmt.Sprintf("%s %q has %q; allowed are letters, digits and %s", r.what, s, c, r.extra)
		}
	}
	return ""
}

func (r rule) allows(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(r.extra, c)
}
