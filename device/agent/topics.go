package agent

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
)

// What the shipped device policy, templates/device_policy.json, allows a thing to publish and to
// subscribe to. An asterisk stands for any characters, as in a policy.
var (
	publishable = []string{
		"fleet/THING",
		"fleet/THING/up/*",
		"$aws/things/THING/*/get",
		"$aws/things/THING/*/update",
		"$aws/things/THING/jobs/start-next",
	}
	subscribable = []string{
		"fleet/THING/down/*",
		"$aws/things/THING/shadow/*",
		"$aws/things/THING/jobs/*",
		"$aws/things/THING/tunnels/notify",
	}
)

// resolveTopic returns the whole name of a topic that a program publishes to: relative ones are
// below fleet/THING/up/. The error has the status of an answer.
func resolveTopic(thing, topic string) (string, error) {
	if strings.ContainsAny(topic, "+#") {
		return "", &Error{400, "a topic to publish to has no wildcards"}
	}
	return resolve(thing, topic, "up/", publishable)
}

// resolveFilter is resolveTopic for topic filters, which are relative to fleet/THING/down/.
func resolveFilter(thing, filter string) (string, error) {
	if !awsiot.ValidFilter(filter) {
		return "", &Error{400, "in a topic filter + stands for one level, and # for all that are left (MQTT 3.1.1, section 4.7.1)"}
	}
	return resolve(thing, filter, "down/", subscribable)
}

func resolve(thing, topic, relative string, allowed []string) (string, error) {
	if topic == "" {
		return "", &Error{400, "the topic is missing"}
	}
	if !strings.HasPrefix(topic, "fleet/") && !strings.HasPrefix(topic, "$aws/") {
		topic = "fleet/" + thing + "/" + relative + topic
	}
	switch {
	case !utf8.ValidString(topic) || strings.ContainsFunc(topic, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Noncharacter_Code_Point) }):
		return "", &Error{400, "the topic is not plain text in UTF-8 (MQTT 3.1.1, section 1.5.3)"}
	case len(topic) > awsiot.MaxTopic || strings.Count(topic, "/") > awsiot.MaxTopicSlashes:
		return "", &Error{400, fmt.Sprintf("AWS IoT accepts topics of %d bytes and %d slashes at most", awsiot.MaxTopic, awsiot.MaxTopicSlashes)}
	}
	for _, pattern := range allowed {
		if before, after, ok := strings.Cut(strings.ReplaceAll(pattern, "THING", thing), "*"); topic == before ||
			ok && len(topic) >= len(before)+len(after) && strings.HasPrefix(topic, before) && strings.HasSuffix(topic, after) {
			return topic, nil
		}
	}
	return "", &Error{403, fmt.Sprintf("the device policy does not allow %s; it allows %s", topic, strings.ReplaceAll(strings.Join(allowed, ", "), "THING", thing))}
}
