package template

import "encoding/json"

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
