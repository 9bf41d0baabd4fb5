package controlapi

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"example.com/fleety/device/localcore/registry"
)

// Headers of Publish. The correlation data and the user properties are in
// Base64, the latter a list of JSON objects with one member each.
const (
	formatHeader         = "X-Amz-Mqtt5-Payload-Format-Indicator"
	correlationHeader    = "X-Amz-Mqtt5-Correlation-Data"
	userPropertiesHeader = "X-Amz-Mqtt5-User-Properties"
)

func (a *api) publish(q *request) (any, error) {
	m := Message{
		Topic: q.path("topic"), Payload: q.body, QoS: byte(q.number("qos")), Retain: q.flag("retain"),
		ContentType: q.query("contentType"), ResponseTopic: q.query("responseTopic"),
		Expiry: time.Duration(q.number("messageExpiry")) * time.Second,
	}
	if m.Topic == "" || strings.ContainsAny(m.Topic, "+#\x00") {
		return nil, invalid("topic %q must not be empty nor hold +, # or a zero byte", clip(m.Topic))
	}
	switch format := q.Header.Get(formatHeader); format {
	case "", "UNSPECIFIED_BYTES":
	case "UTF8_DATA":
		m.UTF8 = true
	default:
		return nil, invalid("payload format indicator %q must be UNSPECIFIED_BYTES or UTF8_DATA", clip(format))
	}
	var err error
	if m.CorrelationData, err = base64.StdEncoding.DecodeString(q.Header.Get(correlationHeader)); err != nil {
		return nil, invalid("the correlation data must be Base64")
	}
	if m.UserProperties, err = userProperties(q.Header); err != nil {
		return nil, err
	}
	return nil, a.Publisher.Publish(q.Context(), m)
}

func userProperties(h http.Header) ([]UserProperty, error) {
	text := h.Get(userPropertiesHeader)
	if text == "" {
		return nil, nil
	}
	var objects []map[string]string
	data, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(data, &objects)
	}
	if err != nil {
		return nil, invalid("the user properties must be Base64 of a JSON list of objects with one string each")
	}
	var out []UserProperty
	for _, o := range objects {
		if len(o) != 1 {
			return nil, invalid("a user property has %d members, it must have one", len(o))
		}
		for key, value := range o {
			out = append(out, UserProperty{key, value})
		}
	}
	return out, nil
}

func (a *api) retainedMessage(q *request) (any, error) {
	topic := q.path("topic")
	m, ok := a.Retained.RetainedMessage(topic)
	if !ok {
		return nil, registry.Reject(registry.CodeNotFound, "There is no retained message on topic %q.", clip(topic))
	}
	out := object{"topic": m.Topic, "payload": m.Payload, "qos": m.QoS, "lastModifiedTime": m.Modified.UnixMilli()}
	if m.Payload == nil {
		out["payload"] = []byte{}
	}
	if len(m.UserProperties) > 0 {
		properties, err := json.Marshal(convert(m.UserProperties, func(p UserProperty) map[string]string {
			return map[string]string{p.Key: p.Value}
		}))
		if err != nil {
			return nil, err
		}
		out["userProperties"] = properties
	}
	return out, nil
}

func (a *api) listRetainedMessages(q *request) (any, error) {
	return list(q, "retainedTopics", a.Retained.RetainedMessages(), func(m RetainedMessage) string { return m.Topic },
		func(m RetainedMessage) object {
			return object{"topic": m.Topic, "payloadSize": len(m.Payload), "qos": m.QoS, "lastModifiedTime": m.Modified.UnixMilli()}
		})
}

func (a *api) deleteConnection(q *request) (any, error) {
	id := q.path("clientId")
	if strings.HasPrefix(id, "$") {
		return nil, invalid("client id %q begins with a $", clip(id))
	}
	if !a.Disconnecter.Disconnect(q.Context(), id, q.flag("cleanSession"), q.flag("preventWillMessage")) {
		return nil, registry.Reject(registry.CodeNotFound, "There is no connection of client id %q.", clip(id))
	}
	return nil, nil
}
