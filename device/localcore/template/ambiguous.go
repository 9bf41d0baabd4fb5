package template

import (
	"fmt"
	"slices"
)

// ImplicitCertificateID is the parameter that AWS IoT itself gives a value to:
// the id of the certificate that is registered.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html
const ImplicitCertificateID = "AWS::IoT::Certificate::Id"

// unresolved answers a reference that has no value. It was observed:
// 400 InvalidParameters, "Cannot resolve reference value: NAME".
const unresolved = "InvalidParameters"

// The codes that AWS does not document are assumed: the names of its HTTPS
// exceptions in the form of the observed code.
const (
	noSuchKey        = "InvalidParameters" // assumed
	badSelection     = "InvalidParameters" // assumed
	badParameter     = "InvalidParameters" // assumed
	badValue         = "InvalidRequest"    // assumed
	badDocument      = "MalformedPolicy"   // assumed
	otherCertificate = "InvalidParameters" // assumed
)

// maxText is the greatest length, in bytes, of a resolved value. AWS names no
// such limit; without one, nested Fn::Sub could use any amount of memory.
const maxText = 64 << 10 // assumed

// An Ambiguity is what this package does at a point that AWS leaves open.
type Ambiguity struct{ Question, Answer string }

var ambiguities = []Ambiguity{
	{"Fn::FindInMap with a key that is not in the map", "400 " + noSuchKey + "; the message names the map, the key and the known keys"},
	{"Fn::Select with an index that is not in the list", "400 " + badSelection},
	{"a parameter whose name or value is too long", "400 " + badParameter},
	{"a resolved name or value that the registry does not allow", "400 " + badValue},
	{"a resolved policy document that is not a JSON object", "400 " + badDocument},
	{"PackageVersions", "accepted; software packages are not emulated"},
	{"CertificatePem whose authority is not registered", "accepted; CACertificatePem must have signed it"},
	{"a certificate that is no longer pending, without OverrideSettings", "gets the template's Status, unless it is REVOKED"},
	{"a CertificateId that resolves to another certificate than the token's", "400 " + otherCertificate},
	{"a parameter that is sent but not declared", "it resolves; it is reported"},
	{"a parameter that is declared and has the name of the implicit one", "accepted; the implicit value wins"},
	{"a parameter that is sent and has the name of the implicit one", "accepted; the implicit value wins"},
	{"AWS::IoT::Certificate:: parameters other than Id", "they have a value in just-in-time provisioning only"},
	{"letter case of Status, ThingPrincipalType and OverrideSettings values", "any"},
	{"OverrideSettings keys in capitals (ATTRIBUTE_PAYLOAD)", "accepted like the CamelCase ones"},
	{"the name of a policy that is given as a document", "the hexadecimal SHA-1 of the document without white space, in capitals as in AWS's example"},
	{"functions inside a policy document that is an object", "resolved, Fn::Join excepted"},
	{"the syntax of Fn::Sub", "CloudFormation's: a string or [string, variables], ${Name}, and ${!Name} for ${Name} itself"},
	{"delimiters of Fn::Join and Fn::Split", "constant strings; that of Fn::Split is not empty"},
	{"values of Mappings", "strings only"},
	{"values of AttributePayload, PackageVersions and DeviceConfiguration", "strings only; numbers and booleans are rejected"},
	{"sections, properties and settings that are not documented", "rejected"},
	{"several things or several certificates in one template", "rejected"},
	{"the length of a resolved value", fmt.Sprintf("%d bytes at most", maxText)},
	{"the depth of nesting", fmt.Sprintf("%d levels at most", maxDepth)},
}

// Ambiguities lists what this package does where AWS documents nothing.
func Ambiguities() []Ambiguity { return slices.Clone(ambiguities) }
