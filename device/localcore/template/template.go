// Package template reads fleet provisioning templates and resolves them: from
// a template, a device's parameters and a certificate it makes a [Plan] of what
// to register. It touches no registry: whether a named policy, group or type
// exists is for the one who carries out the plan.
//
// What AWS does not document is decided in ambiguous.go and nowhere else.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html
package template

import (
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"example.com/fleety/device/localcore/jsontree"
)

// A Template is a parsed provisioning template. It does not change and is safe
// for concurrent use.
type Template struct {
	parameters    map[string]parameter
	thing         *thing
	certificate   *certificate
	policies      []policy
	configuration map[string]expression
}

// A parameter is a declared one.
type parameter struct{ fallback *string }

// A thing is a Thing before its values are known.
type thing struct {
	logicalName     string
	name            expression
	kind            expression // nil when absent, like the two that follow
	groups          listExpression
	billingGroup    expression
	attributes      map[string]expression
	packageVersions map[string]expression
	override        ThingOverride
}

type certificate struct {
	logicalName    string
	id             expression // of these three exactly one is set
	csr            expression
	pem            expression
	caPEM          expression // beside pem, or nil
	status         expression
	principalType  expression
	statusOverride Override
}

// A policy has a name or a document.
type policy struct {
	logicalName string
	name        expression
	document    expression
}

// Input is what one registration gives to a template.
type Input struct {
	// Parameters are the device's, with those of the hook's answer laid over them.
	Parameters map[string]string
	// CertificateID is the certificate to be registered. It is the value of
	// AWS::IoT::Certificate::Id and wins over a parameter of that name. When it
	// is empty, as in a call of RegisterThing over HTTPS, that parameter counts.
	CertificateID string
}

// Resolve replaces every function and reference by its value. The error is an
// *[Error], what AWS answers the device. It changes neither t nor in.
func (t *Template) Resolve(in Input) (*Plan, error) {
	s := &scope{certificateID: in.CertificateID, given: in.Parameters, declared: t.parameters}
	plan := &Plan{}
	for _, name := range slices.Sorted(maps.Keys(in.Parameters)) {
		if n := utf8.RuneCountInString(name); n > MaxParameterName {
			s.reject(badParameter, "a parameter's name has %d characters, %d are allowed", n, MaxParameterName)
		}
		if n := utf8.RuneCountInString(in.Parameters[name]); n > MaxParameterValue {
			s.reject(badParameter, "parameter %s has %d characters, %d are allowed", name, n, MaxParameterValue)
		}
		if _, ok := t.parameters[name]; !ok {
			plan.Undeclared = append(plan.Undeclared, name)
		}
	}
	if t := t.thing; t != nil {
		plan.Thing = &Thing{
			LogicalName: t.logicalName, Override: t.override,
			Name: s.text(t.name), Type: s.text(t.kind), BillingGroup: s.text(t.billingGroup),
		}
		if t.groups != nil {
			plan.Thing.Groups = t.groups(s)
		}
		plan.Thing.Attributes, plan.Thing.PackageVersions = s.texts(t.attributes), s.texts(t.packageVersions)
	}
	if c := t.certificate; c != nil {
		plan.Certificate = &Certificate{
			LogicalName: c.logicalName, StatusOverride: c.statusOverride,
			ID: s.text(c.id), CSR: s.text(c.csr), PEM: s.text(c.pem), CAPEM: s.text(c.caPEM),
		}
		if id := plan.Certificate.ID; c.id != nil && s.certificateID != "" && id != s.certificateID {
			s.reject(otherCertificate, "CertificateId resolves to %q, not to the certificate of the ownership token", id)
		}
		plan.Certificate.Exclusive = c.principalType(s) == exclusiveThing
		plan.Certificate.Status = c.status(s)
	}
	for _, p := range t.policies {
		resolved := Policy{LogicalName: p.logicalName, Name: s.text(p.name)}
		if p.document != nil {
			// The name is the hash of the document, in the form of AWS's example.
			// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/single-thing-provisioning.html
			resolved.Document = []byte(p.document(s))
			resolved.Name = fmt.Sprintf("%X", sha1.Sum(resolved.Document))
		}
		plan.Policies = append(plan.Policies, resolved)
	}
	if plan.DeviceConfiguration = s.texts(t.configuration); plan.DeviceConfiguration == nil {
		plan.DeviceConfiguration = map[string]string{}
	}
	if s.err != nil {
		return nil, s.err
	}
	return plan, nil
}

// A Plan is a resolved template: what to register for one device.
type Plan struct {
	// Thing is nil when the template has none.
	Thing *Thing
	// Certificate is nil when the template has none.
	Certificate *Certificate
	// Policies are to be attached to the certificate, in the template's order.
	Policies []Policy
	// DeviceConfiguration is returned to the device. It is never nil.
	DeviceConfiguration map[string]string
	// Undeclared names, sorted, the parameters that were given and that the
	// template does not declare. They resolve all the same.
	Undeclared []string
}

// A Thing is the thing to create or update.
type Thing struct {
	// LogicalName is the resource's name in the template.
	LogicalName string
	Name        string
	// Type is the thing type's name; empty means none.
	Type string
	// Groups are names of thing groups.
	Groups []string
	// BillingGroup is empty when there is none.
	BillingGroup string
	Attributes   map[string]string
	// PackageVersions maps names of software packages to versions.
	PackageVersions map[string]string
	// Override says what happens when the thing exists.
	Override ThingOverride
}

// A ThingOverride holds the OverrideSettings of a thing.
type ThingOverride struct {
	AttributePayload Override
	ThingTypeName    Override
	ThingGroups      Override
}

// A Certificate is the certificate to attach to the thing: one of ID, CSR and
// PEM says which. Fleet provisioning allows ID alone.
type Certificate struct {
	// LogicalName is the resource's name in the template.
	LogicalName string
	// ID is that of a registered certificate.
	ID string
	// CSR is a certificate signing request in PEM form, to issue from.
	CSR string
	// PEM is a certificate to register; CAPEM the certificate of the authority
	// that signed it, or empty.
	PEM, CAPEM string
	// Status is the one to set: [StatusActive] or [StatusInactive].
	Status string
	// Exclusive ties the certificate to this thing alone (ThingPrincipalType
	// EXCLUSIVE_THING).
	Exclusive bool
	// StatusOverride says what happens when the certificate is registered already.
	StatusOverride Override
}

// The statuses that a template may set.
const (
	StatusActive   = "ACTIVE"
	StatusInactive = "INACTIVE"
)

// A Policy is a policy to attach to the certificate.
type Policy struct {
	// LogicalName is the resource's name in the template.
	LogicalName string
	// Name is that of a policy that must exist when Document is nil; else the
	// name to create the document under.
	Name     string
	Document json.RawMessage
}

// An Override is the value of one OverrideSettings key.
type Override string

// String returns AWS's name of the setting.
func (o Override) String() string { return string(o) }

// The values that AWS documents, and [Unset] for a key that is absent, whose
// effect AWS leaves open.
const (
	Unset     Override = ""
	DoNothing Override = "DO_NOTHING"
	Replace   Override = "REPLACE"
	Fail      Override = "FAIL"
	Merge     Override = "MERGE"
)

// A Cache keeps parsed fleet provisioning templates, so that a registration
// does not read its template anew. The zero value is empty. It is safe for
// concurrent use.
type Cache struct {
	mu     sync.Mutex
	parsed map[string]*Template // by body
}

// maxCached is how many bodies a Cache keeps: more than the versions that are
// in use at one time.
const maxCached = 64

// Parse is [Parse] for a body that was perhaps parsed before.
func (c *Cache) Parse(body string) (*Template, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.parsed[body]; ok {
		return t, nil
	}
	t, err := Parse([]byte(body))
	if err != nil {
		return nil, err
	}
	if c.parsed == nil || len(c.parsed) >= maxCached {
		c.parsed = map[string]*Template{}
	}
	c.parsed[body] = t
	return t, nil
}

// An Error is a rejection of RegisterThing, in the form in which the device gets it.
type Error struct {
	StatusCode int
	Code       string // AWS's spelling, such as InvalidParameters
	Message    string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s (%d): %s", e.Code, e.StatusCode, e.Message)
}

// A SyntaxError is one fault of a template's text, with line, column and path.
type SyntaxError = jsontree.Error

// SyntaxErrors are all faults of a template's text, in its order. There is at
// least one.
type SyntaxErrors []*SyntaxError

func (e SyntaxErrors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the faults one by one.
func (e SyntaxErrors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}
