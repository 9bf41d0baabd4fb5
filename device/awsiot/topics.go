// Package awsiot is the vocabulary of AWS IoT Core: names and their limits, ARNs, endpoints,
// certificates, topics and wire types, and the classes of errors. They are built and read here and
// spelled nowhere else. It does no I/O.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/fleet-provision-api.html
package awsiot

import (
	"path"
	"strings"
)

// A Format is the encoding of a request and of its answer: the last element of the request's topic.
type Format string

// The two formats that AWS IoT offers. Field names are the same in both.
const (
	JSON Format = "json"
	CBOR Format = "cbor"
)

// An Operation is one of the three requests of the API, by AWS's name.
type Operation string

// The operations of the API.
const (
	CreateKeysAndCertificate Operation = "CreateKeysAndCertificate"
	CreateCertificateFromCSR Operation = "CreateCertificateFromCsr"
	RegisterThing            Operation = "RegisterThing"
)

const (
	createPrefix    = "$aws/certificates/create/"
	createCSRPrefix = "$aws/certificates/create-from-csr/"
	templatePrefix  = "$aws/provisioning-templates/"
	provisionInfix  = "/provision/"
	acceptedSuffix  = "/accepted"
	rejectedSuffix  = "/rejected"
)

// A Topic is the request topic of one operation. The answers to it come on Accepted and Rejected.
type Topic struct {
	Operation Operation
	Template  string // the provisioning template's name, for RegisterThing only
	Format    Format
}

// String returns the topic to publish the request to.
func (t Topic) String() string {
	switch t.Operation {
	case CreateKeysAndCertificate:
		return createPrefix + string(t.Format)
	case CreateCertificateFromCSR:
		return createCSRPrefix + string(t.Format)
	case RegisterThing:
		return templatePrefix + t.Template + provisionInfix + string(t.Format)
	}
	return ""
}

// Accepted returns the topic on which success is answered.
func (t Topic) Accepted() string { return t.String() + acceptedSuffix }

// Rejected returns the topic on which a rejection is answered, with an [ErrorResponse] as its
// payload.
func (t Topic) Rejected() string { return t.String() + rejectedSuffix }

// ParseTopic reads a request topic. ok is false for every other topic, those of the answers
// included.
func ParseTopic(topic string) (t Topic, ok bool) {
	request, format := path.Split(topic)
	template, under := strings.CutPrefix(request, templatePrefix)
	template, provision := strings.CutSuffix(template, provisionInfix)
	switch {
	case format != string(JSON) && format != string(CBOR):
	case request == createPrefix:
		return Topic{CreateKeysAndCertificate, "", Format(format)}, true
	case request == createCSRPrefix:
		return Topic{CreateCertificateFromCSR, "", Format(format)}, true
	case under && provision && template != "" && !strings.Contains(template, "/"):
		return Topic{RegisterThing, template, Format(format)}, true
	}
	return Topic{}, false
}

// IngestPrefix begins the topics of Basic Ingest, which go to rules past the broker.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-basic-ingest.html
const IngestPrefix = "$aws/rules/"

// Limits of a topic and of a topic filter.
//
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
const (
	MaxTopic        = 256 // bytes
	MaxTopicSlashes = 7
)

// ValidFilter reports whether each wildcard in a topic filter is a level of its own, and # the last
// one [MQTT-4.7.1].
func ValidFilter(filter string) bool {
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		if len(level) > 1 && strings.ContainsAny(level, "+#") || level == "#" && i < len(levels)-1 {
			return false
		}
	}
	return true
}

// MatchFilter reports whether a topic filter matches a topic. Other than in MQTT, a/# does not
// match a. A filter that begins with a wildcard does not match reserved topics [MQTT-4.7.2-1].
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/topics.html
func MatchFilter(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && !strings.HasPrefix(filter, "$") {
		return false
	}
	levels, filters := strings.Split(topic, "/"), strings.Split(filter, "/")
	for i, f := range filters {
		switch {
		case i == len(levels):
			return false
		case f == "#":
			return true
		case f != "+" && f != levels[i]:
			return false
		}
	}
	return len(filters) == len(levels)
}
