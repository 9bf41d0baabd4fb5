package registry

import (
	"maps"
	"slices"
	"time"
)

// A Thing is one entry of the thing registry.
type Thing struct {
	Name string
	// ID is a random UUID, new for each creation of the name.
	ID string
	// Type is the thing type's name, or empty.
	Type         string
	Attributes   map[string]string
	BillingGroup string
	// Version begins at 1 and grows with each update.
	Version int64
}

func (t Thing) clone() Thing {
	t.Attributes = maps.Clone(t.Attributes)
	return t
}

// A BillingGroup is a label for the costs of things.
type BillingGroup struct {
	Name, ID, Description string
	Created               time.Time
	// Version begins at 1 and grows with each update.
	Version int64
}

// A ThingType describes things of one kind.
type ThingType struct {
	Name, ID, Description string
	SearchableAttributes  []string
	// Propagating are the attributes that AWS IoT adds to MQTT 5 messages. They
	// are kept, not added.
	Propagating []PropagatingAttribute
	Created     time.Time
	Deprecated  bool
	// DeprecatedAt is zero unless Deprecated.
	DeprecatedAt time.Time
}

// A PropagatingAttribute names an attribute of the thing or of the connection
// that becomes a user property.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_PropagatingAttribute.html
type PropagatingAttribute struct {
	UserPropertyKey     string `json:"userPropertyKey"`
	ThingAttribute      string `json:"thingAttribute,omitempty"`
	ConnectionAttribute string `json:"connectionAttribute,omitempty"`
}

func (t ThingType) clone() ThingType {
	t.SearchableAttributes = slices.Clone(t.SearchableAttributes)
	t.Propagating = slices.Clone(t.Propagating)
	return t
}

// A ThingGroup is a node in a tree of groups.
type ThingGroup struct {
	Name, ID, Description string
	// Parent is the parent group's name, empty for a root.
	Parent     string
	Attributes map[string]string
	Created    time.Time
	// Version begins at 1 and grows with each update.
	Version int64
}

func (g ThingGroup) clone() ThingGroup {
	g.Attributes = maps.Clone(g.Attributes)
	return g
}

// A CertificateStatus is the place of a certificate in its life.
type CertificateStatus string

// The statuses that this registry uses. Only Active authenticates.
const (
	Active            CertificateStatus = "ACTIVE"
	Inactive          CertificateStatus = "INACTIVE"
	Revoked           CertificateStatus = "REVOKED"
	PendingActivation CertificateStatus = "PENDING_ACTIVATION"
)

// A CertificateMode says how a certificate was registered.
type CertificateMode string

// The modes of AWS IoT. SNIOnly certificates were registered without a CA.
const (
	DefaultMode CertificateMode = "DEFAULT"
	SNIOnly     CertificateMode = "SNI_ONLY"
)

// A Certificate is a device certificate, known by its fingerprint.
type Certificate struct {
	// ID is the lower-case hex SHA-256 of the certificate's DER.
	ID     string
	PEM    string
	Status CertificateStatus
	Mode   CertificateMode
	// NotBefore and NotAfter are the certificate's own validity.
	NotBefore, NotAfter time.Time
	// Created and Modified are the times of registration and of the last
	// change of status.
	Created, Modified time.Time
	// Version begins at 1 and grows with each change of status.
	Version int64
	// GenerationID is a random UUID, new for each registration; empty in records
	// of earlier versions of this program.
	GenerationID string
	// TokenHash is the hex SHA-256 of the ownership token, empty when there is
	// none or it was used.
	TokenHash string
}

// String returns AWS's name of the status.
func (s CertificateStatus) String() string { return string(s) }

// String returns AWS's name of the mode.
func (m CertificateMode) String() string { return string(m) }

// String returns AWS's name of the type.
func (t PrincipalType) String() string { return string(t) }

// String returns AWS's name of the type.
func (t TemplateType) String() string { return string(t) }

// A PrincipalType says whether a certificate may belong to several things.
type PrincipalType string

// The two kinds of attachment of a certificate to a thing. The empty type
// stands for NonExclusive in requests.
const (
	NonExclusive PrincipalType = "NON_EXCLUSIVE_THING"
	Exclusive    PrincipalType = "EXCLUSIVE_THING"
)

// An Attachment ties a certificate to a thing.
type Attachment struct {
	Thing, CertificateID string
	Type                 PrincipalType
}

// A Policy is an IoT policy with its versions, oldest first.
type Policy struct {
	Name              string
	Versions          []PolicyVersion
	DefaultVersion    int
	NextVersion       int
	Created, Modified time.Time
	// GenerationID is a random UUID, new for each creation of the name; empty in
	// records of earlier versions of this program.
	GenerationID string
}

// A PolicyVersion is one document of a policy. Versions count from 1 and are
// never reused.
type PolicyVersion struct {
	ID       int
	Document string
	Created  time.Time
}

func (p Policy) clone() Policy {
	p.Versions = slices.Clone(p.Versions)
	return p
}

// Version returns the version with this id.
func (p Policy) Version(id int) (PolicyVersion, bool) {
	i := slices.IndexFunc(p.Versions, func(v PolicyVersion) bool { return v.ID == id })
	if i < 0 {
		return PolicyVersion{}, false
	}
	return p.Versions[i], true
}

// Document returns the document of the default version, the one in effect.
func (p Policy) Document() string {
	v, _ := p.Version(p.DefaultVersion)
	return v.Document
}

// A TemplateType is the use of a provisioning template.
type TemplateType string

// The template types of AWS IoT.
const (
	FleetProvisioning TemplateType = "FLEET_PROVISIONING"
	JITP              TemplateType = "JITP"
)

// A Hook is the Lambda function that is invoked before provisioning.
type Hook struct {
	// PayloadVersion is "2020-04-01" where it is empty.
	PayloadVersion string
	TargetARN      string
}

// A ProvisioningTemplate is a template with its versions, oldest first.
type ProvisioningTemplate struct {
	Name, Description string
	RoleARN           string
	Enabled           bool
	Type              TemplateType
	Hook              *Hook
	Versions          []TemplateVersion
	DefaultVersion    int
	NextVersion       int
	Created, Modified time.Time
}

// A TemplateVersion is one body of a provisioning template. Versions count
// from 1 and are never reused.
type TemplateVersion struct {
	ID      int
	Body    string
	Created time.Time
}

func (t ProvisioningTemplate) clone() ProvisioningTemplate {
	t.Versions = slices.Clone(t.Versions)
	if t.Hook != nil {
		h := *t.Hook
		t.Hook = &h
	}
	return t
}

// Version returns the version with this id.
func (t ProvisioningTemplate) Version(id int) (TemplateVersion, bool) {
	i := slices.IndexFunc(t.Versions, func(v TemplateVersion) bool { return v.ID == id })
	if i < 0 {
		return TemplateVersion{}, false
	}
	return t.Versions[i], true
}

// Body returns the body of the default version, the one in effect.
func (t ProvisioningTemplate) Body() string {
	v, _ := t.Version(t.DefaultVersion)
	return v.Body
}
