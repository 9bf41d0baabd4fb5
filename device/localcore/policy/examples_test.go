package policy

import (
	"net/netip"
	"testing"
)

// TestAWSExamples holds the facts that AWS's own example policies state. Each case names the page
// of
// https://docs.aws.amazon.com/iot/latest/developerguide/ that it is from.
func TestAWSExamples(t *testing.T) {
	const thing = "${iot:Connection.Thing.ThingName}"
	connect := func(s *Session, attributes ...string) *Request {
		r := request(s, "iot:Connect", "client/"+s.ClientID)
		r.ConnectAttributes = attributes
		return r
	}
	will := func(topic string, attributes ...string) *Request {
		r := connect(stranger("client1"), attributes...)
		if topic != "" {
			r.LastWillTopic = arnHead + "topic/" + topic
		}
		return r
	}
	c1 := stranger("client1")
	thing1 := device("thing1")
	typed := &Session{ClientID: "thing1", Thing: &Thing{
		Name: "thing1", Type: "Thing_Type_Name", Attached: true,
		Attributes: map[string]string{"attributeName": "attributeValue", "building": "b1"},
	}}
	detached := &Session{ClientID: "thing1", Thing: &Thing{Name: "thing1", Type: "Thing_Type_Name",
		Attributes: map[string]string{"attributeName": "attributeValue", "building": "b1"}}}
	located := &Session{ClientID: "client1", SourceIP: netip.MustParseAddr("123.45.167.89")}
	elsewhere := &Session{ClientID: "client1", SourceIP: netip.MustParseAddr("123.45.168.89")}
	const attributes = "iot:ConnectAttributes"

	tests := map[string]struct {
		page       string
		statements []fields
		checks     []check
	}{
		"an unregistered client connects under its listed id": {
			page:       "connect-policy",
			statements: []fields{allow("iot:Connect", "client/client1")},
			checks: []check{
				{connect(c1), true},
				{connect(stranger("client2")), false},
			},
		},
		"listed ids are denied, things may connect": {
			page: "connect-policy",
			statements: []fields{
				deny("iot:Connect", "client/client1", "client/client2"),
				allow("iot:Connect", "client/"+thing).when("Bool", "iot:Connection.Thing.IsAttached", "true"),
			},
			checks: []check{
				{connect(device("client1")), false},
				{connect(thing1), true},
				{connect(detached), false},
				{connect(stranger("thing1")), false},
			},
		},
		"only PersistentConnect may be asked for": {
			page:       "connect-policy",
			statements: []fields{allow("iot:Connect", "*").when("ForAllValues:StringEquals", attributes, PersistentConnect)},
			checks: []check{
				{connect(c1), true},
				{connect(c1, PersistentConnect), true},
				{connect(c1, LastWill), false},
				{connect(c1, PersistentConnect, LastWill), false},
			},
		},
		"PersistentConnect may not be asked for": {
			page:       "connect-policy",
			statements: []fields{allow("iot:Connect", "*").when("ForAllValues:StringNotEquals", attributes, PersistentConnect)},
			checks: []check{
				{connect(c1), true},
				{connect(c1, PersistentConnect), false},
				{connect(c1, LastWill), true},
				{connect(c1, PersistentConnect, LastWill), false},
			},
		},
		"PersistentConnect is denied, whatever else is asked for": {
			page: "connect-policy",
			statements: []fields{
				allow("iot:Connect", "*"),
				deny("iot:Connect", "*").when("ForAnyValue:StringEquals", attributes, PersistentConnect),
			},
			checks: []check{
				{connect(c1), true},
				{connect(c1, LastWill, "Later"), true},
				{connect(c1, LastWill, PersistentConnect), false},
			},
		},
		"both features are allowed, others are not": {
			page:       "connect-policy",
			statements: []fields{allow("iot:Connect", "*").when("ForAllValues:StringEquals", attributes, PersistentConnect, LastWill)},
			checks: []check{
				{connect(c1), true},
				{connect(c1, PersistentConnect, LastWill), true},
				{connect(c1, PersistentConnect, "Later"), false},
			},
		},
		"an empty list of features allows the default connection only": {
			page:       "connect-policy",
			statements: []fields{allow("iot:Connect", "*").when("ForAllValues:StringEquals", attributes)},
			checks: []check{
				{connect(c1), true},
				{connect(c1, LastWill), false},
			},
		},
		"PersistentConnect must be asked for": {
			page:       "connect-policy",
			statements: []fields{allow("iot:Connect", "*").when("ForAnyValue:StringEquals", attributes, PersistentConnect)},
			checks: []check{
				{connect(c1), false},
				{connect(c1, LastWill), false},
				{connect(c1, PersistentConnect, "Later"), true},
			},
		},
		"both features must be asked for": {
			page: "connect-policy",
			statements: []fields{
				allow("iot:Connect", "*").when("ForAllValues:StringEquals", attributes, PersistentConnect, LastWill),
				deny("iot:Connect", "*").when("ForAllValues:StringEquals", attributes, PersistentConnect),
				deny("iot:Connect", "*").when("ForAllValues:StringEquals", attributes, LastWill),
				deny("iot:Connect", "*").when("ForAllValues:StringEquals", attributes),
			},
			checks: []check{
				{connect(c1), false},
				{connect(c1, PersistentConnect), false},
				{connect(c1, LastWill), false},
				{connect(c1, LastWill, PersistentConnect), true},
			},
		},
		"the last will must be on one topic": {
			page: "connect-policy",
			statements: []fields{
				allow("iot:Connect", "*").when("ArnEquals", "iot:LastWillTopic", arnHead+"topic/my/lastwill/topicName"),
				deny("iot:Connect", "*").when("ForAnyValue:StringEquals", attributes, PersistentConnect),
			},
			checks: []check{
				{will("my/lastwill/topicName", LastWill), true},
				{will("my/lastwill/topicName", LastWill, PersistentConnect), false},
				{will("my/lastwill/other", LastWill), false},
				{will(""), false},
			},
		},
		"a thing publishes below its name": {
			page: "pub-sub-policy",
			statements: []fields{
				allow("iot:Connect", "client/"+thing),
				allow("iot:Publish", "topic/"+thing+"/*"),
			},
			checks: []check{
				{request(thing1, "iot:Publish", "topic/thing1/a/b"), true},
				{request(thing1, "iot:Publish", "topic/thing1"), false},
				{request(thing1, "iot:Publish", "topic/thing2/a"), false},
				{request(c1, "iot:Publish", "topic/client1/a"), false},
			},
		},
		"a client publishes below its id": {
			page:       "pub-sub-policy",
			statements: []fields{allow("iot:Publish", "topic/${iot:ClientId}/*")},
			checks: []check{
				{request(c1, "iot:Publish", "topic/client1/a"), true},
				{request(c1, "iot:Publish", "topic/client2/a"), false},
			},
		},
		"a * at the end of a filter stands for any ending": {
			page: "pub-sub-policy",
			statements: []fields{
				allow("iot:Subscribe", "topicfilter/"+thing+"/room*"),
				allow("iot:Receive", "topic/"+thing+"/room*"),
			},
			checks: []check{
				{request(thing1, "iot:Subscribe", "topicfilter/thing1/room1"), true},
				{request(thing1, "iot:Subscribe", "topicfilter/thing1/room/#"), true},
				{request(thing1, "iot:Receive", "topic/thing1/room2/x"), true},
				{request(thing1, "iot:Receive", "topic/thing1/hall"), false},
			},
		},
		"a + in a filter is literal": {
			page:       "pub-sub-policy",
			statements: []fields{allow("iot:Subscribe", "topicfilter/some/+/topic")},
			checks: []check{
				{request(c1, "iot:Subscribe", "topicfilter/some/+/topic"), true},
				{request(c1, "iot:Subscribe", "topicfilter/some/x/topic"), false},
			},
		},
		"a # in a filter is literal": {
			page:       "pub-sub-policy",
			statements: []fields{allow("iot:Subscribe", "topicfilter/a/#")},
			checks: []check{
				{request(c1, "iot:Subscribe", "topicfilter/a/#"), true},
				{request(c1, "iot:Subscribe", "topicfilter/a/b"), false},
			},
		},
		"a * covers MQTT wildcards and levels": {
			page:       "pub-sub-policy",
			statements: []fields{allow("iot:Subscribe", "topicfilter/a/*")},
			checks: []check{
				{request(c1, "iot:Subscribe", "topicfilter/a/#"), true},
				{request(c1, "iot:Subscribe", "topicfilter/a/+"), true},
				{request(c1, "iot:Subscribe", "topicfilter/a/b/c"), true},
				{request(c1, "iot:Subscribe", "topicfilter/a"), false},
			},
		},
		"a denied filter does not stop a wider one, a denied topic stops its messages": {
			page: "pub-sub-policy",
			statements: []fields{
				allow("iot:Subscribe", "topicfilter/a/*"),
				deny("iot:Subscribe", "topicfilter/a/secret/*"),
				allow("iot:Receive", "topic/a/*"),
				deny("iot:Receive", "topic/a/secret/*"),
			},
			checks: []check{
				{request(c1, "iot:Subscribe", "topicfilter/a/#"), true},
				{request(c1, "iot:Subscribe", "topicfilter/a/secret/x"), false},
				{request(c1, "iot:Receive", "topic/a/x"), true},
				{request(c1, "iot:Receive", "topic/a/secret/x"), false},
			},
		},
		"an explicit deny cuts one topic out": {
			page: "pub-sub-policy",
			statements: []fields{
				allow("iot:Publish", "topic/${iot:Thing.ThingName}/*"),
				deny("iot:Publish", "topic/${iot:Thing.ThingName}/bar"),
			},
			checks: []check{
				{request(thing1, "iot:Publish", "topic/thing1/foo"), true},
				{request(thing1, "iot:Publish", "topic/thing1/bar"), false},
			},
		},
		"a client id of + reads other clients' filters": {
			page:       "basic-policy-variables",
			statements: []fields{allow("iot:Subscribe", "topicfilter/my/${iot:ClientId}/topic")},
			checks: []check{
				{request(stranger("+"), "iot:Subscribe", "topicfilter/my/+/topic"), true},
				{request(c1, "iot:Subscribe", "topicfilter/my/+/topic"), false},
			},
		},
		"${iot:ClientId} in a Connect resource lets any id in": {
			page:       "basic-policy-variables",
			statements: []fields{allow("iot:Connect", "client/${iot:ClientId}")},
			checks:     []check{{connect(stranger("anything")), true}},
		},
		"a source address is within a block": {
			page:       "basic-policy-variables",
			statements: []fields{allow("iot:Connect", "*").when("IpAddress", "aws:SourceIp", "123.45.167.0/24")},
			checks: []check{
				{connect(located), true},
				{connect(elsewhere), false},
				{connect(c1), false},
			},
		},
		"a domain name is a condition": {
			page:       "basic-policy-variables",
			statements: []fields{allow("iot:Connect", "*").when("StringEquals", "iot:DomainName", "iot.example.com")},
			checks: []check{
				{connect(&Session{ClientID: "a", DomainName: "iot.example.com"}), true},
				{connect(&Session{ClientID: "a", DomainName: "other.example.com"}), false},
				{connect(c1), false},
			},
		},
		"only a thing attached to the certificate connects": {
			page:       "thing-policy-examples",
			statements: []fields{allow("iot:Connect", "*").when("Bool", "iot:Connection.Thing.IsAttached", "true")},
			checks: []check{
				{connect(thing1), true},
				{connect(detached), false},
				{connect(c1), false},
			},
		},
		"type and attribute of the thing must fit": {
			page: "thing-policy-examples",
			statements: []fields{allow("iot:Publish", "topic/device/stats").with("Condition", fields{
				"StringEquals": fields{
					"iot:Connection.Thing.Attributes[attributeName]": "attributeValue",
					"iot:Connection.Thing.ThingTypeName":             "Thing_Type_Name",
				},
				"Bool": fields{"iot:Connection.Thing.IsAttached": "true"},
			})},
			checks: []check{
				{request(typed, "iot:Publish", "topic/device/stats"), true},
				{request(thing1, "iot:Publish", "topic/device/stats"), false},
				{request(detached, "iot:Publish", "topic/device/stats"), false},
			},
		},
		"an attribute names the topic, and does not resolve for a thing that is not attached": {
			page:       "thing-policy-examples",
			statements: []fields{allow("iot:Publish", "topic/${iot:Connection.Thing.Attributes[building]}/*")},
			checks: []check{
				{request(typed, "iot:Publish", "topic/b1/x"), true},
				{request(typed, "iot:Publish", "topic/b2/x"), false},
				{request(detached, "iot:Publish", "topic/b1/x"), false},
				{request(thing1, "iot:Publish", "topic/b1/x"), false},
			},
		},
		"the claim policy's create/* does not cover create-from-csr": {
			page:       "provision-wo-cert",
			statements: []fields{allow("iot:Publish iot:Receive", "topic/$aws/certificates/create/*")},
			checks: []check{
				{request(c1, "iot:Publish", "topic/$aws/certificates/create/json"), true},
				{request(c1, "iot:Publish", "topic/$aws/certificates/create-from-csr/json"), false},
			},
		},
		"retaining needs an action of its own": {
			page:       "iot-policy-actions",
			statements: []fields{allow("iot:Publish", "topic/a")},
			checks: []check{
				{request(c1, "iot:Publish", "topic/a"), true},
				{request(c1, "iot:RetainPublish", "topic/a"), false},
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Logf("page: %s", test.page)
			runChecks(t, document(t, test.statements...), test.checks...)
		})
	}
}
