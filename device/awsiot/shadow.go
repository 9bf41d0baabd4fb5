package awsiot

import (
	"fmt"
	"strings"
)

// A ShadowOperation is one of the three requests of the Device Shadow MQTT API, by the last element
// of its topic.
type ShadowOperation string

// The operations of the Device Shadow service over MQTT.
const (
	GetShadow    ShadowOperation = "get"
	UpdateShadow ShadowOperation = "update"
	DeleteShadow ShadowOperation = "delete"
)

// A ShadowTopic is the request topic of a shadow operation. The service publishes its responses
// below it, to subscribers only.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-mqtt.html
type ShadowTopic struct {
	Thing     string
	Shadow    string // the name of a named shadow, empty for the classic one
	Operation ShadowOperation
}

// String returns the topic to publish the request to.
func (t ShadowTopic) String() string {
	shadow := "/shadow/"
	if t.Shadow != "" {
		shadow += "name/" + t.Shadow + "/"
	}
	return thingsPrefix + t.Thing + shadow + string(t.Operation)
}

// Accepted returns the topic of the response to a request that succeeded.
func (t ShadowTopic) Accepted() string { return t.String() + acceptedSuffix }

// Rejected returns the topic of the error response.
func (t ShadowTopic) Rejected() string { return t.String() + rejectedSuffix }

// Delta returns the topic of the differences between desired and reported state.
func (t ShadowTopic) Delta() string {
	return ShadowTopic{t.Thing, t.Shadow, UpdateShadow}.String() + "/delta"
}

// Documents returns the topic of the documents before and after an update.
func (t ShadowTopic) Documents() string {
	return ShadowTopic{t.Thing, t.Shadow, UpdateShadow}.String() + "/documents"
}

// ParseShadowTopic reads a request topic. ok is false for every other topic, those of the responses
// included. It does not check the names.
func ParseShadowTopic(topic string) (t ShadowTopic, ok bool) {
	thing, rest, ok := cutThing(topic, "shadow")
	if named, found := strings.CutPrefix(rest, "name/"); found {
		t.Shadow, rest, _ = strings.Cut(named, "/")
		ok = ok && t.Shadow != ""
	}
	t.Thing, t.Operation = thing, ShadowOperation(rest)
	switch t.Operation {
	case GetShadow, UpdateShadow, DeleteShadow:
		return t, ok
	}
	return ShadowTopic{}, false
}

// Limits of a shadow.
//
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html#device-shadow-limits
const (
	MaxShadowDocument = 8 << 10 // bytes of desired and reported state, without metadata
	MaxShadowLevels   = 8       // of a section
)

// A ShadowDocument is what the service publishes of a shadow, or the change of it that is
// requested. Version is nil where it is not given.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-document.html
type ShadowDocument struct {
	State       map[string]any `json:"state,omitzero"`
	Metadata    map[string]any `json:"metadata,omitzero"`
	Version     *int64         `json:"version,omitempty"`
	Timestamp   int64          `json:"timestamp,omitempty"` // seconds since 1970
	ClientToken string         `json:"clientToken,omitempty"`
}

// A ShadowError rejects a request. As JSON it is the error response document.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-error-messages.html
type ShadowError struct {
	Code        int    `json:"code"` // an HTTP status
	Message     string `json:"message"`
	Timestamp   int64  `json:"timestamp,omitempty"` // seconds since 1970
	ClientToken string `json:"clientToken,omitempty"`
}

// Error returns message and code in one line.
func (e *ShadowError) Error() string { return fmt.Sprintf("%s (%d)", Printable(e.Message), e.Code) }

const thingsPrefix = "$aws/things/" // begins the reserved topics of things

// cutThing splits a reserved topic of a thing, $aws/things/THING/FEATURE/REST.
func cutThing(topic, feature string) (thing, rest string, ok bool) {
	topic, ok = strings.CutPrefix(topic, thingsPrefix)
	thing, topic, _ = strings.Cut(topic, "/")
	rest, found := strings.CutPrefix(topic, feature+"/")
	return thing, rest, ok && found && thing != ""
}
