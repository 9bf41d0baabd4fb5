// Package payload holds what AWS IoT Core sends to the pre-provisioning hook, what the hook
// answers, and the names both sides must agree on. The hook, the local emulator and the CDK app
// share it. It has types and constants only: the rules are in package admit.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html
package payload

import (
	"encoding/json"
	"time"
)

// Version is the payload version to name in a template's PreProvisioningHook.
const Version = "2020-04-01"

// AnswerWithin is how long AWS IoT waits for the hook. It cannot be changed; a later answer fails
// the registration.
const AnswerWithin = 5 * time.Second

// Names of the parameters that a device sends with RegisterThing.
const (
	SerialNumber   = "serialNumber"
	DeviceLocation = "deviceLocation"
	Author         = "author"
)

// SerialPrefix begins every serial number of our fleet.
const SerialPrefix = "297468"

// ThingNamePrefix begins the name of every thing; the serial number follows.
// templates/fleet_template.json builds the same name.
const ThingNamePrefix = "fleety_"

// MaxSerialLength is the greatest length of a serial number, in bytes.
const MaxSerialLength = 64

// A Request is the event that AWS IoT invokes the hook with, once for every RegisterThing.
type Request struct {
	ClaimCertificateID string     `json:"claimCertificateId"` // the certificate of the MQTT session, the claim
	CertificateID      string     `json:"certificateId"`      // the new certificate, the one to be registered
	CertificatePEM     string     `json:"certificatePem"`
	TemplateARN        string     `json:"templateArn"` // arn:PARTITION:iot:REGION:ACCOUNT:provisioningtemplate/NAME
	ClientID           string     `json:"clientId"`    // the MQTT client id of the claim's session
	Parameters         Parameters `json:"parameters"`  // the device's own, unchecked
}

// A Response is the hook's answer. Anything but AllowProvisioning true makes AWS IoT deny the
// device.
type Response struct {
	AllowProvisioning bool `json:"allowProvisioning"`
	// ParameterOverrides are added to the device's parameters and win over them. AWS wants an
	// object here: nil is sent as {}, never as null.
	ParameterOverrides map[string]string `json:"parameterOverrides"`
}

// MarshalJSON writes the response with an object for ParameterOverrides.
func (r Response) MarshalJSON() ([]byte, error) {
	type plain Response
	if r.ParameterOverrides == nil {
		r.ParameterOverrides = map[string]string{}
	}
	return json.Marshal(plain(r))
}

// Parameters are the parameters of a RegisterThing request. AWS documents strings; whatever else a
// device sends is kept here as it came, so that the hook can deny it by name instead of failing to
// read the event.
type Parameters map[string]json.RawMessage

// UnmarshalJSON reads a JSON object. Anything else reads as no parameters, so that a device that
// sends it is denied rather than taken for a fault.
func (p *Parameters) UnmarshalJSON(data []byte) error {
	*p = nil
	_ = json.Unmarshal(data, (*map[string]json.RawMessage)(p))
	return nil
}

// ParametersOf returns strings as Parameters.
func ParametersOf(values map[string]string) Parameters {
	p := make(Parameters, len(values))
	for name, value := range values {
		p[name], _ = json.Marshal(value) // a string always marshals
	}
	return p
}

// String returns the parameter of that name. present says whether it was sent, ok whether it is a
// string.
func (p Parameters) String(name string) (value string, present, ok bool) {
	raw, present := p[name]
	// A JSON null leaves a string untouched without an error, hence the pointer.
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil { // also of none
		return "", present, false
	}
	return *s, true, true
}
