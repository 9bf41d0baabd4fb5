package template

import (
	"fmt"
	"net/http"
	"slices"
)

// ImplicitCertificateID is the parameter that AWS IoT itself gives a value to:
// the id of the certificate that is registered.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html
const ImplicitCertificateID = "AWS::IoT::Certificate::Id"

// A refusal is the code and status of an [Error].
type refusal struct {
	status int
	code   string
}

// String returns status and code.
func (r refusal) String() string { return fmt.Sprint(r.status, " ", r.code) }

// unresolved answers a reference that has no value. It was observed:
// 400 InvalidParameters, "Cannot resolve reference value: NAME".
var unresolved = refusal{http.StatusBadRequest, "InvalidParameters"}

// The refusals that AWS does not document are our choice: the names of its
// HTTPS exceptions in the form of the observed code.
var (
	noSuchKey        = refusal{http.StatusBadRequest, "InvalidParameters"} // our choice
	badSelection     = refusal{http.StatusBadRequest, "InvalidParameters"} // our choice
	badParameter     = refusal{http.StatusBadRequest, "InvalidParameters"} // our choice
	badValue         = refusal{http.StatusBadRequest, "InvalidRequest"}    // our choice
	badDocument      = refusal{http.StatusBadRequest, "MalformedPolicy"}   // our choice
	otherCertificate = refusal{http.StatusBadRequest, "InvalidParameters"} // our choice
)

// maxText is the greatest length, in bytes, of a resolved value. AWS names no
// such limit; without one, nested Fn::Sub could ask for any amount of memory.
const maxText = 64 << 10 // our choice

// A Choice is what this package does at a point that AWS leaves open.
type Choice struct{ Point, Taken string }

var choices = []Choice{
	{"Fn::FindInMap with a key that is not in the map", noSuchKey.String() + "; the message names the map, the key and the known keys"},
	{"Fn::Select with an index that is not in the list", badSelection.String()},
	{"a parameter whose name or value is too long", badParameter.String()},
	{"a resolved name or value that the registry does not allow", badValue.String()},
	{"a resolved policy document that is not a JSON object", badDocument.String()},
	{"a CertificateId that resolves to another certificate than the token's", otherCertificate.String()},
	{"a parameter that is sent but not declared", "it resolves; it is reported"},
	{"a parameter that is declared and has the name of the implicit one", "accepted; the implicit value wins"},
	{"a parameter that is sent and has the name of the implicit one", "accepted; the implicit value wins"},
	{"AWS::IoT::Certificate:: parameters other than Id", "they have no value"},
	{"letter case of Status, ThingPrincipalType and OverrideSettings values", "any"},
	{"OverrideSettings keys in capitals (ATTRIBUTE_PAYLOAD)", "accepted like the CamelCase ones"},
	{"the name of a policy that is given as a document", "the hexadecimal SHA-1 of the document without white space, in capitals as in AWS's example"},
	{"functions inside a policy document that is an object", "resolved, Fn::Join excepted"},
	{"the syntax of Fn::Sub", "CloudFormation's: a string or [string, variables], ${Name}, and ${!Name} for ${Name} itself"},
	{"delimiters of Fn::Join and Fn::Split", "constant strings; that of Fn::Split is not empty"},
	{"values of Mappings", "strings only"},
	{"values of AttributePayload, PackageVersions and DeviceConfiguration", "strings only; numbers and booleans are refused"},
	{"sections, properties and settings that are not documented", "refused"},
	{"several things or several certificates in one template", "refused"},
	{"the length of a resolved value", fmt.Sprintf("%d bytes at most", maxText)},
	{"the depth of nesting", fmt.Sprintf("%d levels at most", maxDepth)},
}

// Choices lists what this package does where AWS documents nothing.
func Choices() []Choice { return slices.Clone(choices) }
