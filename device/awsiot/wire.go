package awsiot

import (
	"fmt"
	"log/slog"
	"time"
)

// OwnershipTokenLife is how long a certificate ownership token lasts. A
// certificate that is not registered by then is deleted by AWS IoT.
const OwnershipTokenLife = time.Hour

// MaxCSRLength is the greatest length of a CSR in PEM form, in characters.
const MaxCSRLength = 4096

// A Secret is text that must not be shown: a private key or an ownership
// token. Every way of printing or logging it gives a mask; it is encoded as it
// is. Convert it to string to use it.
type Secret string

const mask = "[secret]"

// String returns a mask.
func (Secret) String() string { return mask }

// GoString returns a mask.
func (Secret) GoString() string { return mask }

// Format writes a mask, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, mask) }

// LogValue returns a mask.
func (Secret) LogValue() slog.Value { return slog.StringValue(mask) }

// CreateKeysAndCertificateResponse accepts a CreateKeysAndCertificate
// request, whose own payload is empty.
type CreateKeysAndCertificateResponse struct {
	CertificateID             string `json:"certificateId"`
	CertificatePEM            string `json:"certificatePem"`
	PrivateKey                Secret `json:"privateKey"`
	CertificateOwnershipToken Secret `json:"certificateOwnershipToken"`
}

// CreateCertificateFromCSRRequest asks for a certificate for a key that stays
// with the device. The CSR is PEM, [MaxCSRLength] characters at most.
type CreateCertificateFromCSRRequest struct {
	CertificateSigningRequest string `json:"certificateSigningRequest"`
}

// CreateCertificateFromCSRResponse accepts a CreateCertificateFromCsr request.
type CreateCertificateFromCSRResponse struct {
	CertificateOwnershipToken Secret `json:"certificateOwnershipToken"`
	CertificateID             string `json:"certificateId"`
	CertificatePEM            string `json:"certificatePem"`
}

// RegisterThingRequest asks for a thing, made by a provisioning template, with
// the certificate that the token stands for.
type RegisterThingRequest struct {
	CertificateOwnershipToken Secret            `json:"certificateOwnershipToken"`
	Parameters                map[string]string `json:"parameters,omitempty"`
}

// RegisterThingResponse accepts a RegisterThing request. ThingName is empty
// when the template makes no thing.
type RegisterThingResponse struct {
	DeviceConfiguration map[string]string `json:"deviceConfiguration"`
	ThingName           string            `json:"thingName,omitempty"`
}

// An ErrorResponse refuses any of the three requests. As an error it is what
// AWS IoT said; judge it by [ErrorResponse.Temporary], never by its text.
type ErrorResponse struct {
	StatusCode   int    `json:"statusCode"`
	ErrorCode    string `json:"errorCode"`
	ErrorMessage string `json:"errorMessage"`
}

// Error returns the refusal in one line.
func (e *ErrorResponse) Error() string {
	if e.ErrorMessage == "" {
		return fmt.Sprintf("refused by AWS IoT: %s (%d)", e.ErrorCode, e.StatusCode)
	}
	return fmt.Sprintf("refused by AWS IoT: %s (%d): %s", e.ErrorCode, e.StatusCode, e.ErrorMessage)
}

// Temporary reports whether the same request may succeed later: status 429 and
// the 5xx class. AWS publishes no list of the codes, so only the class counts.
func (e *ErrorResponse) Temporary() bool {
	return e.StatusCode == 429 || e.StatusCode >= 500
}
