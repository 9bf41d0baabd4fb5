// Package template reads fleet provisioning templates and resolves them: from a template, a
// device's parameters and a certificate it makes a [Plan] of what to register. It touches no
// registry: whether a named policy, group or type exists is for the one who carries out the plan.
//
// What AWS does not document is in the table of the emulator, under T.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html
package template

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"example.com/fleety/device/localcore/jsontree"
)

// Limits of a template and of its parameters.
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_CreateProvisioningTemplate.html
// and API_RegisterThing.html.
const (
	MaxBody           = 10_240 // characters of a template
	MaxParameterName  = 2_048  // characters
	MaxParameterValue = 4_096  // characters
)

// ImplicitCertificateID is the parameter that AWS IoT itself gives a value to: the id of the
// certificate that is registered.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html
const ImplicitCertificateID = "AWS::IoT::Certificate::Id"

// Limits that AWS does not name. Without the first one, nested Fn::Sub could use any amount of
// memory.
const (
	maxText  = 64 << 10 // bytes of a resolved value
	maxDepth = 64       // levels of values in each other
)

// The codes of rejections. 400 InvalidParameters with "Cannot resolve reference value: NAME" was
// observed; the others are assumed: the names of AWS's HTTPS exceptions in the same form.
const (
	invalidParameters = "InvalidParameters"
	invalidRequest    = "InvalidRequest"
	malformedPolicy   = "MalformedPolicy"
)

// A Template is a parsed provisioning template. It does not change and is safe for concurrent use.
type Template struct {
	body       []byte
	root       *jsontree.Node
	fleet      bool               // of fleet provisioning
	parameters map[string]*string // that it declares, with their defaults
	mappings   map[string]map[string]map[string]string
}

// Parse reads a fleet provisioning template and finds what is wrong with it whatever the parameters
// will be. The error joins a *[SyntaxError] for each fault, in the order of the text.
func Parse(body []byte) (*Template, error) { return parse(body, true) }

// ParseBody is [Parse] for the template body of RegisterThing over HTTPS, which may give the
// certificate as a signing request or in PEM form too.
func ParseBody(body []byte) (*Template, error) { return parse(body, false) }

func parse(body []byte, fleet bool) (*Template, error) {
	if n := utf8.RuneCount(body); n > MaxBody {
		return nil, errors.Join(jsontree.ErrorAt(body, 0, "$", fmt.Sprintf("the template has %d characters, %d are allowed", n, MaxBody)))
	}
	root, faults := jsontree.Parse(body, maxDepth)
	if root == nil {
		return nil, joined(faults)
	}
	t := &Template{body: body, root: root, fleet: fleet, parameters: map[string]*string{}, mappings: map[string]map[string]map[string]string{}}
	w := &walk{Template: t, checking: true}
	if w.members(root, "Parameters", "Mappings", "Resources", "DeviceConfiguration") {
		w.declarations()
		w.plan()
	}
	if len(w.faults) > 0 {
		return nil, joined(w.faults)
	}
	return t, nil
}

func joined(faults []*SyntaxError) error {
	slices.SortStableFunc(faults, func(a, b *SyntaxError) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	var errs []error
	for _, e := range faults {
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

// Input is what one registration gives to a template.
type Input struct {
	Parameters map[string]string // the device's, with those of the hook's answer laid over them
	// CertificateID is the certificate to be registered. It is the value of
	// AWS::IoT::Certificate::Id and wins over a parameter of that name. When it is empty, as in a
	// call of RegisterThing over HTTPS, that parameter counts.
	CertificateID string
}

// Resolve replaces every function and reference by its value. The error is an
// *[Error], what AWS answers the device. It changes neither t nor in.
func (t *Template) Resolve(in Input) (*Plan, error) {
	w := &walk{Template: t, in: in}
	var undeclared []string
	for _, name := range slices.Sorted(maps.Keys(in.Parameters)) {
		if n := utf8.RuneCountInString(name); n > MaxParameterName {
			w.reject(invalidParameters, "a parameter's name has %d characters, %d are allowed", n, MaxParameterName)
		}
		if n := utf8.RuneCountInString(in.Parameters[name]); n > MaxParameterValue {
			w.reject(invalidParameters, "parameter %s has %d characters, %d are allowed", name, n, MaxParameterValue)
		}
		if _, ok := t.parameters[name]; !ok {
			undeclared = append(undeclared, name)
		}
	}
	plan := w.plan()
	plan.Undeclared = undeclared
	if w.rejection != nil {
		return nil, w.rejection
	}
	return plan, nil
}

// A Plan is a resolved template: what to register for one device.
type Plan struct {
	Thing               *Thing            // nil when the template has none
	Certificate         *Certificate      // nil when the template has none
	Policies            []Policy          // to be attached to the certificate, in the template's order
	DeviceConfiguration map[string]string // returned to the device; it is never nil
	// Undeclared names, sorted, the parameters that were given and that the template does not
	// declare. They resolve all the same.
	Undeclared []string
}

// A Thing is the thing to create or update.
type Thing struct {
	LogicalName        string // of the resource in the template
	Name               string
	Type, BillingGroup string   // empty when there is none
	Groups             []string // names of thing groups, nil if the template says nothing of them, like Attributes
	Attributes         map[string]string
	Override           ThingOverride // says what happens when the thing exists
}

// A ThingOverride holds the OverrideSettings of a thing.
type ThingOverride struct{ AttributePayload, ThingTypeName, ThingGroups Override }

// A Certificate is the certificate to attach to the thing: one of ID, CSR and PEM says which. Fleet
// provisioning allows ID alone.
type Certificate struct {
	LogicalName string // of the resource in the template
	ID          string // that of a registered certificate
	CSR         string // a certificate signing request in PEM form, to issue from
	// PEM is a certificate to register; CAPEM the certificate of the authority that signed it, or
	// empty.
	PEM, CAPEM     string
	Status         string   // the one to set: [StatusActive] or [StatusInactive]
	Exclusive      bool     // ties the certificate to this thing alone (ThingPrincipalType EXCLUSIVE_THING)
	StatusOverride Override // says what happens when the certificate is registered already
}

// The statuses that a template may set.
const (
	StatusActive   = "ACTIVE"
	StatusInactive = "INACTIVE"
)

// A Policy is a policy to attach to the certificate.
type Policy struct {
	LogicalName string // of the resource in the template
	// Name is that of a policy that must exist when Document is nil; else the name to create the
	// document under.
	Name     string
	Document json.RawMessage
}

// An Override is the value of one OverrideSettings key.
type Override string

// String returns AWS's name of the setting, empty for Unset.
func (o Override) String() string { return string(o) }

// The values that AWS documents, and [Unset] for a key that is absent, whose effect AWS leaves open
// (open point U5). Fail rejects a resource that exists already.
const (
	Unset     Override = ""
	DoNothing Override = "DO_NOTHING"
	Replace   Override = "REPLACE"
	Fail      Override = "FAIL"
	Merge     Override = "MERGE" // attributes and groups only
)

// An Error is a rejection of RegisterThing; its status is always 400.
type Error struct {
	Code    string // AWS's spelling, such as InvalidParameters
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("%s (400): %s", e.Code, e.Message) }

// A SyntaxError is one fault of a template's text, with line, column and path.
type SyntaxError = jsontree.Error
