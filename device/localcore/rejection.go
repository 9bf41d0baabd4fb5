package localcore

import (
	"errors"
	"fmt"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/template"
)

// A rejection is the answer to a provisioning request that was refused, with
// the reason for the log, which may tell more than the device may know.
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

// The table of rejections. AWS publishes none: InvalidCertificateOwnershipToken
// and InvalidParameters were seen in the wild, the others are the exception
// names of the HTTPS API without their suffix (U1, U11, U23).
var (
	badRequest       = cause{400, "InvalidRequest"}
	badParameters    = cause{400, "InvalidParameters"} // those of the template come from package template
	deniedByHook     = cause{403, "AccessDenied"}
	deniedToClaim    = cause{403, "AccessDenied"}
	templateNotFound = cause{404, "ResourceNotFound"}
	templateDisabled = cause{400, "InvalidRequest"}
	throttled        = cause{429, "Throttling"}
	internalFailure  = cause{500, "InternalFailure"}
)

// reject answers with a message that tells the device all there is to know.
func (c cause) reject(format string, args ...any) *rejection {
	message := fmt.Sprintf(format, args...)
	return c.because(message, message)
}

// because answers with a message, and keeps the reason for the log.
func (c cause) because(message, reason string) *rejection {
	return &rejection{awsiot.ErrorResponse{StatusCode: c.status, ErrorCode: c.code, ErrorMessage: message}, reason}
}

// rejectionOf turns an error of the packages that do the work into the answer.
func rejectionOf(err error) *rejection {
	if r, ok := errors.AsType[*rejection](err); ok {
		return r
	}
	if e, ok := errors.AsType[*template.Error](err); ok {
		return cause{e.StatusCode, e.Code}.reject("%s", e.Message)
	}
	if e, ok := errors.AsType[*registry.Error](err); ok {
		return cause{e.Status, strings.TrimSuffix(e.Code, "Exception")}.reject("%s", e.Message)
	}
	if e, ok := errors.AsType[*ca.CSRError](err); ok {
		return badRequest.reject("The %v", e)
	}
	return internalFailure.because("Internal failure.", err.Error())
}
