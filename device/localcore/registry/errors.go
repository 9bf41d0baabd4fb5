package registry

import (
	"fmt"
	"net/http"

	"example.com/fleety/device/awsiot"
)

// An Error is a rejection, as the control plane of AWS IoT would answer it. Test
// for it with errors.As and compare Code.
type Error struct {
	// Code is AWS's exception name, one of the Code constants.
	Code string
	// Status is the HTTP status that goes with Code.
	Status int
	// Message says what was rejected and why.
	Message string
	// Resource names the record that is in the way or is missing, as the part
	// of its ARN after the account: "thing/NAME", "cert/ID". It may be empty.
	Resource string
}

// Error returns code and message in one line.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code
	}
	return e.Code + ": " + e.Message
}

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
	CodeConflictingUpdate     = "ConflictingResourceUpdateException"
	CodeLimitExceeded         = "LimitExceededException"
	CodeCertificateInvalid    = "CertificateValidationException"
	CodeRegistrationFailure   = "ResourceRegistrationFailureException"
	CodeThrottling            = "ThrottlingException"
	CodeInternalFailure       = "InternalFailureException"
	CodeServiceUnavailable    = "ServiceUnavailableException"

	// CodeInvalidToken answers an unknown, used, expired or foreign ownership
	// token. AWS is known to send it for a missing one; the other cases are
	// our choice.
	CodeInvalidToken = "InvalidCertificateOwnershipToken"
	// CodeResourceConflicts answers an override setting FAIL that meets an
	// existing resource. The developer guide names it; its status is our choice.
	CodeResourceConflicts = "ResourceConflictsException"
)

var statuses = map[string]int{
	CodeInvalidRequest:        http.StatusBadRequest,
	CodeMalformedPolicy:       http.StatusBadRequest,
	CodeCertificateInvalid:    http.StatusBadRequest,
	CodeRegistrationFailure:   http.StatusBadRequest,
	CodeInvalidToken:          http.StatusBadRequest,
	CodeThrottling:            http.StatusBadRequest, // by the service model, not 429
	CodeNotFound:              http.StatusNotFound,
	CodeCertificateState:      http.StatusNotAcceptable,
	CodeAlreadyExists:         http.StatusConflict,
	CodeDeleteConflict:        http.StatusConflict,
	CodeVersionConflict:       http.StatusConflict,
	CodeVersionsLimitExceeded: http.StatusConflict,
	CodeConflictingUpdate:     http.StatusConflict,
	CodeResourceConflicts:     http.StatusConflict,
	CodeLimitExceeded:         http.StatusGone,
	CodeInternalFailure:       http.StatusInternalServerError,
	CodeServiceUnavailable:    http.StatusServiceUnavailable,
}

// Reject returns an Error with one of the codes above and its status. The message
// becomes one printable line, whatever names from outside it holds.
func Reject(code, format string, args ...any) *Error {
	return &Error{Code: code, Status: statuses[code], Message: awsiot.Printable(fmt.Sprintf(format, args...))}
}

func invalid(format string, args ...any) *Error { return Reject(CodeInvalidRequest, format, args...) }

func notFound(resource, what string) *Error {
	e := Reject(CodeNotFound, "%s cannot be found.", what)
	e.Resource = resource
	return e
}

func alreadyExists(resource, what string) *Error {
	e := Reject(CodeAlreadyExists, "%s already exists with different properties.", what)
	e.Resource = resource
	return e
}
