package template

import (
	"fmt"
	"regexp"

	"example.com/fleety/device/awsiot"
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

// A rule is what AWS IoT requires of a name or value.
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_CreateThing.html
type rule struct {
	what  string
	valid func(string) bool
	must  string // have
}

var (
	thingName     = rule{"thing name", awsiot.ValidThingName, awsiot.ThingNameRule}
	thingTypeName = rule{"thing type name", awsiot.ValidThingName, awsiot.ThingNameRule}
	groupName     = rule{"thing group name", awsiot.ValidThingName, awsiot.ThingNameRule}
	billingGroup  = rule{"billing group name", awsiot.ValidThingName, awsiot.ThingNameRule}
	policyName    = rule{"policy name", awsiot.ValidPolicyName, awsiot.PolicyNameRule}
	attributeName = rule{
		"attribute name", regexp.MustCompile(`^[a-zA-Z0-9_.,@/:#-]{1,128}$`).MatchString,
		"1 to 128 characters of a-z A-Z 0-9 _ . , @ / : # -",
	}
	attributeValue = rule{
		"attribute value", regexp.MustCompile(`^[a-zA-Z0-9_.,@/:#=\[\]-]{0,800}$`).MatchString,
		"at most 800 characters of a-z A-Z 0-9 _ . , @ / : # = [ ] -",
	}
)

// check returns what is wrong with s, in one line; empty means nothing.
func (r rule) check(s string) string {
	if r.valid(s) {
		return ""
	}
	const most = 130
	if len(s) > most {
		s = s[:most] + "…"
	}
	return fmt.Sprintf("%s %q must have %s", r.what, s, r.must)
}
