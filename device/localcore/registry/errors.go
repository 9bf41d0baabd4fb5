package registry

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
)

// An Error is a rejection, as the control plane of AWS IoT would answer it. Test
// for it with [errors.AsType] and compare Code.
type Error struct {
	Code    string // AWS's exception name, one of the Code constants
	Status  int    // the HTTP status that goes with Code
	Message string // says what was rejected and why
	// Resource names the record that is in the way or is missing, as the part
	// of its ARN after the account: "thing/NAME", "cert/ID". It may be empty.
	Resource string
}

// Error returns code and message in one line.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// The codes that this package answers with.
const (
	CodeInvalidRequest        = "InvalidRequestException"
	CodeMalformedPolicy       = "MalformedPolicyException"
	CodeNotFound              = "ResourceNotFoundException"
	CodeCertificateState      = "CertificateStateException"
	CodeAlreadyExists         = "ResourceAlreadyExistsException"
	CodeDeleteConflict        = "DeleteConflictException"
	CodeVersionConflict       = "VersionConflictException"
	CodeVersionsLimitExceeded = "VersionsLimitExceededException"
	CodeLimitExceeded         = "LimitExceededException"
	CodeCertificateInvalid    = "CertificateValidationException"
	CodeCertificateConflict   = "CertificateConflictException"
	CodeRegistrationCode      = "RegistrationCodeValidationException"
	CodeRegistrationFailure   = "ResourceRegistrationFailureException"
	CodeThrottling            = "ThrottlingException"
	CodeInternalFailure       = "InternalFailureException"

	// CodeInvalidToken answers an unknown, used, expired or foreign ownership token. AWS is known
	// to send it for a missing one; the other cases are our choice.
	CodeInvalidToken = "InvalidCertificateOwnershipToken"
	// CodeResourceConflicts answers an override setting FAIL that meets an
	// existing resource. The developer guide names it; its status is our choice.
	CodeResourceConflicts = "ResourceConflictsException"
)

// statuses of the codes that have another than 400. By the service model that is
// the one of throttling too, not 429.
var statuses = map[string]int{
	CodeNotFound:              http.StatusNotFound,
	CodeCertificateState:      http.StatusNotAcceptable,
	CodeAlreadyExists:         http.StatusConflict,
	CodeCertificateConflict:   http.StatusConflict,
	CodeDeleteConflict:        http.StatusConflict,
	CodeVersionConflict:       http.StatusConflict,
	CodeVersionsLimitExceeded: http.StatusConflict,
	CodeResourceConflicts:     http.StatusConflict,
	CodeLimitExceeded:         http.StatusGone,
	CodeInternalFailure:       http.StatusInternalServerError,
}

// Reject returns an Error with one of the codes above and its status. The message
// becomes one printable line, whatever names from outside it holds.
func Reject(code, format string, args ...any) *Error {
	return &Error{Code: code, Status: cmp.Or(statuses[code], http.StatusBadRequest), Message: awsiot.Printable(fmt.Sprintf(format, args...))}
}

func invalid(format string, args ...any) error { return Reject(CodeInvalidRequest, format, args...) }

// rejectFor is Reject with the Resource.
func rejectFor(resource, code, format string, args ...any) error {
	e := Reject(code, format, args...)
	e.Resource = resource
	return e
}

// Limits of AWS IoT.
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
const (
	MaxAttributeData        = 47 << 10 // bytes of names and values of one thing
	MaxGroupDepth           = 7
	MaxGroupChildren        = 100
	MaxPoliciesPerGroup     = 2
	MaxPoliciesPerPrincipal = 10
	MaxPolicyVersions       = 5
	MaxPolicyDocument       = 2048 // characters, white space not counted
	MaxCAsPerSubject        = 10
	MaxTemplates            = 256
	MaxTemplateVersions     = 5
	MaxTemplateDescription  = 500
	MaxDescription          = 2028
	MaxSearchable           = 3
	MaxPropagating          = 20
	MaxRoleAliases          = 100
)

// checkName checks a name, or the value of an attribute.
func checkName(rule awsiot.NameRule, what, name string) error {
	if !rule.Valid(name) {
		return invalid("%s %q must have %s", what, awsiot.Clip(name), rule)
	}
	return nil
}

// checkAttributes checks the attributes of a thing or thing group; typed is false
// for a thing without a type.
func checkAttributes(attributes map[string]string, typed bool) error {
	limit := awsiot.MaxAttributes
	if !typed {
		limit = awsiot.MaxAttributesUntyped
	}
	if len(attributes) > limit {
		return invalid("%d attributes, at most %d are allowed here (%d for a thing with a type, %d without)",
			len(attributes), limit, awsiot.MaxAttributes, awsiot.MaxAttributesUntyped)
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		value := attributes[name]
		err := cmp.Or(checkName(awsiot.AttributeNames, "attribute name", name),
			checkName(awsiot.AttributeValues, "the value of attribute "+name, value))
		if err != nil {
			return err
		}
		size += len(name) + len(value)
	}
	if size > MaxAttributeData {
		return invalid("%d bytes of attributes, at most %d are allowed", size, MaxAttributeData)
	}
	return nil
}

func checkDescription(text string) error {
	if n := utf8.RuneCountInString(text); n > MaxDescription {
		return invalid("a description of %d characters, at most %d are allowed", n, MaxDescription)
	}
	return nil
}

// checkVersion checks an expectedVersion; nil means any.
func checkVersion(what string, expected *int64, current int64) error {
	if expected != nil && *expected != current {
		return Reject(CodeVersionConflict, "%s has version %d, expected version %d.", what, current, *expected)
	}
	return nil
}

func (o *Options) checkPolicy(document string) error {
	if n := utf8.RuneCountInString(strings.Join(strings.Fields(document), "")); n > MaxPolicyDocument {
		return Reject(CodeMalformedPolicy, "The policy document has %d characters without white space, at most %d are allowed.", n, MaxPolicyDocument)
	}
	if o.CheckPolicy != nil {
		if err := o.CheckPolicy([]byte(document)); err != nil {
			return Reject(CodeMalformedPolicy, "The policy document is malformed: %v", err)
		}
	}
	return nil
}

func (o *Options) checkTemplate(body string) error {
	if o.CheckTemplate != nil {
		if err := o.CheckTemplate([]byte(body)); err != nil {
			return invalid("The template body is invalid: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	return nil
}
