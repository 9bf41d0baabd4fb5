package provision

import (
	"bytes"
	"encoding/json"
	"fmt"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

// encode returns a request's payload. No request at all is zero bytes, as
// CreateKeysAndCertificate requires.
func encode(request any) ([]byte, error) {
	if request == nil {
		return nil, nil
	}
	return json.Marshal(request)
}

// read reads a message as the answer to a request on topic. mine is false for
// messages of other topics: late, repeated or foreign ones.
func read(topic awsiot.Topic, m session.Message, answer any) (mine bool, err error) {
	switch m.Topic {
	case topic.Accepted():
		err = decode(m, answer)
		if err == nil {
			err = complete(m, answer)
		}
		return true, err
	case topic.Rejected():
		var rejection awsiot.ErrorResponse
		if err := decode(m, &rejection); err != nil {
			return true, err
		}
		if rejection.StatusCode == 0 {
			return true, &ReplyError{Topic: m.Topic, Reason: "it is a rejection without a status code"}
		}
		rejection.Operation = topic.Operation
		return true, &rejection
	}
	return false, nil
}

// decode reads JSON; numbers of a device configuration keep their digits. Its
// error does not repeat what was read: there may be a secret in it.
func decode(m session.Message, into any) error {
	if len(m.Payload) > session.MaxPayload {
		return &ReplyError{Topic: m.Topic, Reason: fmt.Sprintf("it is %d bytes long", len(m.Payload))}
	}
	d := json.NewDecoder(bytes.NewReader(m.Payload))
	d.UseNumber()
	if err := d.Decode(into); err != nil || d.More() {
		return &ReplyError{Topic: m.Topic, Reason: "it is not the JSON that AWS documents"}
	}
	return nil
}

// complete reports the first field that an accepted answer lacks.
func complete(m session.Message, answer any) error {
	var missing string
	switch a := answer.(type) {
	case *awsiot.CreateCertificateFromCSRResponse:
		missing = firstEmpty("certificateId", a.CertificateID, "certificatePem", a.CertificatePEM,
			"certificateOwnershipToken", string(a.CertificateOwnershipToken))
	case *awsiot.CreateKeysAndCertificateResponse:
		missing = firstEmpty("certificateId", a.CertificateID, "certificatePem", a.CertificatePEM,
			"privateKey", string(a.PrivateKey), "certificateOwnershipToken", string(a.CertificateOwnershipToken))
	}
	if missing != "" {
		return &ReplyError{Topic: m.Topic, Reason: missing + " is missing"}
	}
	return nil
}

func firstEmpty(namesAndValues ...string) string {
	for i := 0; i < len(namesAndValues); i += 2 {
		if namesAndValues[i+1] == "" {
			return namesAndValues[i]
		}
	}
	return ""
}
