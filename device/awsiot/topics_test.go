package awsiot_test

import (
	"testing"

	"example.com/fleety/device/awsiot"
	"github.com/google/go-cmp/cmp"
)

func TestTopicsAreThoseOfTheAPIPage(t *testing.T) {
	tests := map[string]struct {
		topic    awsiot.Topic
		request  string
		accepted string
		rejected string
	}{
		"keys and certificate": {
			topic:    awsiot.Topic{Operation: awsiot.CreateKeysAndCertificate, Format: awsiot.JSON},
			request:  "$aws/certificates/create/json",
			accepted: "$aws/certificates/create/json/accepted",
			rejected: "$aws/certificates/create/json/rejected",
		},
		"certificate from CSR": {
			topic:    awsiot.Topic{Operation: awsiot.CreateCertificateFromCSR, Format: awsiot.CBOR},
			request:  "$aws/certificates/create-from-csr/cbor",
			accepted: "$aws/certificates/create-from-csr/cbor/accepted",
			rejected: "$aws/certificates/create-from-csr/cbor/rejected",
		},
		"register thing": {
			topic:    awsiot.Topic{Operation: awsiot.RegisterThing, Template: "T_1-a", Format: awsiot.JSON},
			request:  "$aws/provisioning-templates/T_1-a/provision/json",
			accepted: "$aws/provisioning-templates/T_1-a/provision/json/accepted",
			rejected: "$aws/provisioning-templates/T_1-a/provision/json/rejected",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := []string{tc.topic.String(), tc.topic.Accepted(), tc.topic.Rejected()}
			if diff := cmp.Diff([]string{tc.request, tc.accepted, tc.rejected}, got); diff != "" {
				t.Error(diff)
			}
			parsed, ok := awsiot.ParseTopic(tc.request)
			if !ok || parsed != tc.topic {
				t.Errorf("ParseTopic(%q) = %+v, %t", tc.request, parsed, ok)
			}
		})
	}
}

func TestParseTopicTakesNothingElse(t *testing.T) {
	for _, topic := range []string{
		"",
		"$aws/certificates/create",
		"$aws/certificates/create/",
		"$aws/certificates/create/xml",
		"$aws/certificates/create/JSON",
		"$aws/certificates/create/json/accepted",
		"$aws/certificates/create-from-csr/json/rejected",
		"$aws/provisioning-templates//provision/json",
		"$aws/provisioning-templates/a/b/provision/json",
		"$aws/provisioning-templates/a/provision/json/accepted",
		"$aws/provisioning-templates/a/provision",
		"fleet/fleety_2974685",
	} {
		if got, ok := awsiot.ParseTopic(topic); ok {
			t.Errorf("ParseTopic(%q) = %+v, want none", topic, got)
		}
	}
}

func FuzzParseTopic(f *testing.F) {
	f.Add("$aws/certificates/create/json")
	f.Add("$aws/certificates/create-from-csr/cbor")
	f.Add("$aws/provisioning-templates/T/provision/json")
	f.Add("$aws/provisioning-templates//provision/provision/json")
	f.Fuzz(func(t *testing.T, topic string) {
		parsed, ok := awsiot.ParseTopic(topic)
		if ok && parsed.String() != topic {
			t.Errorf("%q parsed and printed is %q", topic, parsed.String())
		}
		if !ok && parsed != (awsiot.Topic{}) {
			t.Errorf("%q was not taken and yet gave %+v", topic, parsed)
		}
	})
}

func TestFiltersMatchTopics(t *testing.T) {
	for filter, topics := range map[string]map[string]bool{
		"a/b":   {"a/b": true, "a": false, "a/b/c": false, "A/b": false},
		"a/+":   {"a/b": true, "a/": true, "a": false, "a/b/c": false},
		"a/#":   {"a": false, "a/": true, "a/b/c": true, "b": false},
		"+/b/#": {"a/b/c": true, "/b/c": true, "a/c": false, "$b/b/c": false},
		"#":     {"a/b": true, "": true, "$aws/b": false},
		"$b/#":  {"$b/c": true},
	} {
		for topic, want := range topics {
			if awsiot.MatchFilter(filter, topic) != want {
				t.Errorf("%s, %s: %v", filter, topic, !want)
			}
		}
	}
}
