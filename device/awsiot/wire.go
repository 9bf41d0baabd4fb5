package awsiot

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
)

// OwnershipTokenLife is how long a certificate ownership token lasts. A certificate that is not
// registered by then is deleted by AWS IoT.
const OwnershipTokenLife = time.Hour

// A Secret is text that must not be shown: a private key or an ownership token. Every way of
// printing or logging it gives a mask; it is encoded as it is. Convert it to string to use it.
type Secret string

const mask = "[secret]"

// String returns a mask.
func (Secret) String() string { return mask }

// Format writes a mask, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, mask) }

// LogValue returns a mask.
func (Secret) LogValue() slog.Value { return slog.StringValue(mask) }

// CreateKeysAndCertificateResponse accepts a CreateKeysAndCertificate request, whose own payload is
// empty.
type CreateKeysAndCertificateResponse struct {
	CertificateID             string `json:"certificateId"`
	CertificatePEM            string `json:"certificatePem"`
	PrivateKey                Secret `json:"privateKey"`
	CertificateOwnershipToken Secret `json:"certificateOwnershipToken"`
}

// CreateCertificateFromCSRRequest asks for a certificate for a key that stays with the device. The
// CSR is PEM, 4,096 characters at most.
type CreateCertificateFromCSRRequest struct {
	CertificateSigningRequest string `json:"certificateSigningRequest"`
}

// CreateCertificateFromCSRResponse accepts a CreateCertificateFromCsr request.
type CreateCertificateFromCSRResponse struct {
	CertificateOwnershipToken Secret `json:"certificateOwnershipToken"`
	CertificateID             string `json:"certificateId"`
	CertificatePEM            string `json:"certificatePem"`
}

// RegisterThingRequest asks for a thing, made by a provisioning template, with the certificate that
// the token stands for.
type RegisterThingRequest struct {
	CertificateOwnershipToken Secret            `json:"certificateOwnershipToken"`
	Parameters                map[string]string `json:"parameters,omitempty"`
}

// RegisterThingResponse accepts a RegisterThing request. ThingName is empty when the template makes
// no thing. AWS documents strings as the values of the configuration; a device should expect any
// JSON.
type RegisterThingResponse struct {
	DeviceConfiguration map[string]any `json:"deviceConfiguration"`
	ThingName           string         `json:"thingName,omitempty"`
}

// An ErrorResponse rejects any of the three requests. Decide by [ErrorResponse.Class], never by the
// text.
type ErrorResponse struct {
	StatusCode   int       `json:"statusCode"`
	ErrorCode    string    `json:"errorCode"`
	ErrorMessage string    `json:"errorMessage"`
	Operation    Operation `json:"-"` // that of the rejected request, for the receiver; it is not in the message
}

// Error returns the rejection in one line. Line breaks and control characters, which the server
// chose, are shown escaped.
func (e *ErrorResponse) Error() string {
	text := fmt.Sprintf("rejected by AWS IoT: %s (%d)", e.ErrorCode, e.StatusCode)
	if e.ErrorMessage != "" {
		text += ": " + e.ErrorMessage
	}
	return Printable(text)
}

// Printable escapes every character that could forge a line or steer a terminal: control and
// formatting characters, bidirectional ones included.
func Printable(text string) string {
	var b strings.Builder
	for _, r := range text {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}

// Clip shortens text that came from outside, for use in a message.
func Clip(text string) string {
	const most = 130 // bytes
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// temporaryCodes begin the codes of errors that pass. The service model of AWS IoT gives Throttling
// the status 400 and ConflictingResourceUpdate 409, so the status alone does not show them.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/CommonErrors.html
var temporaryCodes = []string{
	"Throttl", "TooManyRequests", "RequestThrottled", "RequestLimitExceeded", "ConflictingResourceUpdate",
	"InternalFailure", "InternalServer", "InternalError", "ServiceUnavailable", "ServiceFailure", "RequestTimeout",
}

// Class returns Temporary where the same request may succeed later, else Denied. The code decides;
// a code that is not known is classed by its status (408, 429 and 5xx are temporary). AWS publishes
// no list of the codes.
func (e *ErrorResponse) Class() Class {
	known := func(code string) bool { return strings.HasPrefix(e.ErrorCode, code) }
	if slices.ContainsFunc(temporaryCodes, known) ||
		e.StatusCode == 408 || e.StatusCode == 429 || e.StatusCode >= 500 {
		return Temporary
	}
	return Denied
}

// EncodeJSON writes JSON in one line, with <, > and & as they are: what a device sent is returned
// as it was. It panics at a value that JSON does not have.
func EncodeJSON(v any) []byte {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// DecodeJSON reads exactly one JSON value, and numbers as [json.Number], so that they stay as they
// are written.
func DecodeJSON(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("reading JSON: more than one value")
	}
	return nil
}

// A Message is published by a service of AWS IoT.
type Message struct {
	Topic   string
	Payload []byte
}

// NewUUID returns a random UUID, RFC 9562 version 4.
func NewUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return UUID(b)
}

// UUID returns the UUID, RFC 9562 version 4, of these bytes.
func UUID(b [16]byte) string {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// ThingNameHeader is the header of a request to the credentials provider that names the thing of
// the certificate. It is optional.
const ThingNameHeader = "X-Amzn-Iot-Thingname"

// CredentialsPath is the path of the credentials of a role alias.
func CredentialsPath(roleAlias string) string { return "/role-aliases/" + roleAlias + "/credentials" }

// A CredentialsResponse is the credentials provider's response.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/authorizing-direct-aws.html
type CredentialsResponse struct {
	Credentials Credentials `json:"credentials"`
}

// Credentials are temporary AWS credentials.
type Credentials struct {
	AccessKeyID     string    `json:"accessKeyId"`
	SecretAccessKey Secret    `json:"secretAccessKey"`
	SessionToken    Secret    `json:"sessionToken"`
	Expiration      time.Time `json:"expiration"`
}

// AssumeRoleWithCertificate is the operation of the credentials provider, named as the action
// iot:AssumeRoleWithCertificate that a policy must allow.
const AssumeRoleWithCertificate Operation = "AssumeRoleWithCertificate"
