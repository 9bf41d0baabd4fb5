package awsiot

import "strings"

// A ShadowOperation is one of the three requests of the Device Shadow MQTT API,
// by the last element of its topic.
type ShadowOperation string

// The operations of the Device Shadow service over MQTT.
const (
	GetShadow    ShadowOperation = "get"
	UpdateShadow ShadowOperation = "update"
	DeleteShadow ShadowOperation = "delete"
)

// A ShadowTopic is the request topic of a shadow operation. The service
// publishes its responses below it, to subscribers only.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-mqtt.html
type ShadowTopic struct {
	Thing string
	// Shadow is the name of a named shadow, empty for the classic one.
	Shadow    string
	Operation ShadowOperation
}

// String returns the topic to publish the request to.
func (t ShadowTopic) String() string {
	if t.Shadow == "" {
		return thingsPrefix + t.Thing + "/shadow/" + string(t.Operation)
	}
	return thingsPrefix + t.Thing + "/shadow/name/" + t.Shadow + "/" + string(t.Operation)
}

// Accepted returns the topic of the response to a request that succeeded.
func (t ShadowTopic) Accepted() string { return t.String() + acceptedSuffix }

// Rejected returns the topic of the error response.
func (t ShadowTopic) Rejected() string { return t.String() + rejectedSuffix }

// Delta returns the topic of the differences between desired and reported state.
func (t ShadowTopic) Delta() string { return t.of(UpdateShadow) + "/delta" }

// Documents returns the topic of the documents before and after an update.
func (t ShadowTopic) Documents() string { return t.of(UpdateShadow) + "/documents" }

func (t ShadowTopic) of(o ShadowOperation) string {
	t.Operation = o
	return t.String()
}

// ParseShadowTopic reads a request topic. ok is false for every other topic,
// those of the responses included. It does not check the names.
func ParseShadowTopic(topic string) (t ShadowTopic, ok bool) {
	rest, ok := strings.CutPrefix(topic, thingsPrefix)
	levels := strings.Split(rest, "/")
	switch {
	case !ok:
		return ShadowTopic{}, false
	case len(levels) == 3 && levels[1] == "shadow":
		t = ShadowTopic{Thing: levels[0], Operation: ShadowOperation(levels[2])}
	case len(levels) == 5 && levels[1] == "shadow" && levels[2] == "name" && levels[3] != "":
		t = ShadowTopic{Thing: levels[0], Shadow: levels[3], Operation: ShadowOperation(levels[4])}
	}
	switch t.Operation {
	case GetShadow, UpdateShadow, DeleteShadow:
		return t, t.Thing != ""
	}
	return ShadowTopic{}, false
}

// thingsPrefix begins the reserved topics of things.
const thingsPrefix = "$aws/things/"
