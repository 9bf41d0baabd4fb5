package provisioning

import (
	"errors"
	"fmt"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/template"
)

// A rejection is the reply that rejects a request, with the reason for the log,
// which may say more than the device may know.
type rejection struct {
	awsiot.ErrorResponse
	reason string
}

func (r *rejection) Error() string { return r.ErrorResponse.Error() }

// A cause is a row of the table of rejections.
type cause struct {
	status int
	code   string
}

// The table of rejections. AWS publishes none: InvalidCertificateOwnershipToken and
// InvalidParameters were seen in the wild, the others are the exception names of the HTTPS API
// without their suffix, with the status of AWS's service model, where Throttling is 400 (U1, U11,
// U23).
var (
	badRequest       = cause{400, "InvalidRequest"}
	badParameters    = cause{400, "InvalidParameters"} // those of the template come from package template
	denied           = cause{403, "AccessDenied"}      // by the hook, or to a claim of another template
	templateNotFound = cause{404, "ResourceNotFound"}
	templateDisabled = cause{400, "InvalidRequest"}
	throttled        = cause{400, "Throttling"}
	internalFailure  = cause{500, "InternalFailure"}
)

// reject returns a rejection whose message is the whole reason.
func (c cause) reject(format string, args ...any) *rejection {
	message := fmt.Sprintf(format, args...)
	return c.because(message, message)
}

// because returns a rejection whose reason is for the log only.
func (c cause) because(message, reason string) *rejection {
	return &rejection{awsiot.ErrorResponse{StatusCode: c.status, ErrorCode: c.code, ErrorMessage: message}, reason}
}

// rejectionOf turns an error of the packages that do the work into the answer.
func rejectionOf(err error) *rejection {
	if r, ok := errors.AsType[*rejection](err); ok {
		return r
	}
	if e, ok := errors.AsType[*template.Error](err); ok {
		return cause{400, e.Code}.reject("%s", e.Message)
	}
	if e, ok := errors.AsType[*registry.Error](err); ok {
		return cause{e.Status, strings.TrimSuffix(e.Code, "Exception")}.reject("%s", e.Message)
	}
	if e, ok := errors.AsType[*ca.CSRError](err); ok {
		return badRequest.reject("The %v", e)
	}
	return internalFailure.because("Internal failure.", err.Error())
}
