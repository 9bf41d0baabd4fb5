package controlapi

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/jsontree"
	"example.com/fleety/device/localcore/registry"
)

// Headers of Publish. The correlation data and the user properties are in
// Base64, the latter a list of JSON objects with one member each.
const (
	formatHeader         = "X-Amz-Mqtt5-Payload-Format-Indicator"
	correlationHeader    = "X-Amz-Mqtt5-Correlation-Data"
	userPropertiesHeader = "X-Amz-Mqtt5-User-Properties"
)

// message returns the message that a request publishes.
func (q *request) message() (m *broker.Message, err error) {
	m = &broker.Message{
		Topic: value[string](q, "topic"), Payload: q.body, QoS: value[byte](q, "qos"), Retain: value[bool](q, "retain"),
		ContentType: value[string](q, "contentType"), ResponseTopic: value[string](q, "responseTopic"),
		Expiry: value[time.Duration](q, "messageExpiry") * time.Second,
	}
	switch format := q.Header.Get(formatHeader); format {
	case "", "UNSPECIFIED_BYTES":
	case "UTF8_DATA":
		m.UTF8 = true
	default:
		return m, invalid("payload format indicator %q must be UNSPECIFIED_BYTES or UTF8_DATA", awsiot.Clip(format))
	}
	if m.CorrelationData, err = base64.StdEncoding.DecodeString(q.Header.Get(correlationHeader)); err != nil {
		return m, invalid("the correlation data must be Base64")
	}
	if m.UserProperties, err = userProperties(q.Header); err != nil {
		return m, err
	}
	if err := broker.CheckMessage(m); err != nil {
		return m, invalid("%v.", err)
	}
	return m, nil
}

func userProperties(h http.Header) ([]broker.UserProperty, error) {
	text := h.Get(userPropertiesHeader)
	if text == "" {
		return nil, nil
	}
	data, err := base64.StdEncoding.DecodeString(text)
	root, faults := jsontree.Parse(data, maxNesting)
	malformed := invalid("the user properties must be Base64 of a JSON list of objects with one string each")
	if err != nil || len(faults) > 0 || root.Kind != jsontree.Array {
		return nil, malformed
	}
	var out []broker.UserProperty
	for _, o := range root.Items {
		if o.Kind == jsontree.Object && len(o.Items) != 1 {
			return nil, invalid("a user property has %d members, it must have one", len(o.Items))
		} else if o.Kind != jsontree.Object || o.Items[0].Kind != jsontree.String {
			return nil, malformed
		}
		out = append(out, broker.UserProperty{Key: o.Items[0].Key, Val: o.Items[0].Text})
	}
	return out, nil
}

func (a *api) retainedMessage(topic string) (object, error) {
	m, ok := a.Broker.Retained(topic)
	if !ok {
		return nil, registry.Reject(registry.CodeNotFound, "There is no retained message on topic %q.", awsiot.Clip(topic))
	}
	out := object{"topic": m.Topic, "payload": slices.Concat([]byte{}, m.Payload), "qos": m.QoS, "lastModifiedTime": m.Time.UnixMilli()}
	if len(m.UserProperties) == 0 {
		return out, nil
	}
	properties, err := json.Marshal(convert(m.UserProperties, func(p broker.UserProperty) map[string]string {
		return map[string]string{p.Key: p.Val}
	}))
	return out.with(object{"userProperties": properties}), err
}

func noConnection(id string) error {
	return registry.Reject(registry.CodeNotFound, "There is no connection of client id %q.", awsiot.Clip(id))
}

func (a *api) deleteConnection(id string, cleanSession, preventWill bool) error {
	if !a.Broker.Disconnect(id, cleanSession, preventWill) {
		return noConnection(id)
	}
	return nil
}

func (a *api) connection(id string, socket bool) (object, error) {
	c, found := a.Broker.ConnectionState(id)
	if !found {
		return nil, noConnection(id)
	}
	out := object{
		"clientId": id, "connected": c.Connected, "cleanSession": c.CleanSession,
		"keepAliveDuration": int(c.KeepAlive.Seconds()), "sessionExpiry": int(c.SessionExpiry.Seconds()),
	}.optional("thingName", c.ThingName).optional("disconnectReason", c.DisconnectReason)
	switch {
	case c.Connected:
		out["connectedSince"] = c.Since.UnixMilli()
	case !c.Since.IsZero():
		out["disconnectedSince"] = c.Since.UnixMilli()
	}
	if socket && c.Source.IsValid() {
		out["sourceIp"], out["sourcePort"] = c.Source.Addr(), c.Source.Port()
		out["targetIp"], out["targetPort"] = c.Target.Addr(), c.Target.Port()
	}
	return out, nil
}

func (a *api) listSubscriptions(q *request, id string) (object, error) {
	qos, found := a.Broker.Subscriptions(id)
	if !found {
		return nil, noConnection(id)
	}
	show := func(filter string) object { return object{"topicFilter": filter, "qos": qos[filter]} }
	return page("subscriptions", self, show)(q, slices.Collect(maps.Keys(qos)))
}

const confirmTimeout = 5 // seconds, where the request does not say

func payloadTooLarge(most int) error {
	return &registry.Error{
		Code: "RequestEntityTooLargeException", Status: http.StatusRequestEntityTooLarge,
		Message: fmt.Sprintf("The payload exceeds the maximum size allowed, %d bytes.", most),
	}
}

func (a *api) sendDirectMessage(q *request) (object, error) {
	id := value[string](q, "clientId")
	if len(q.body) > broker.MaxPayload {
		return nil, payloadTooLarge(broker.MaxPayload)
	}
	m, err := q.message()
	if err != nil {
		return nil, err
	}
	timeout := cmp.Or(value[time.Duration](q, "timeout"), confirmTimeout) * time.Second
	ctx, cancel := context.WithTimeout(q.Context(), timeout)
	defer cancel()
	switch err := a.Broker.SendDirect(ctx, id, m, value[bool](q, "confirmation")); {
	case err == nil:
		return object{"message": "OK", "traceId": rand.Text()}, nil
	case errors.Is(err, broker.ErrNotConnected):
		return nil, noConnection(id)
	case errors.Is(err, broker.ErrReceiveDenied):
		return nil, &registry.Error{Code: "ForbiddenException", Status: http.StatusForbidden, Message: err.Error()}
	case errors.Is(err, broker.ErrNotAcknowledged):
		return nil, &registry.Error{Code: "GatewayTimeoutException", Status: http.StatusGatewayTimeout, Message: err.Error()}
	default:
		return nil, registry.Reject(registry.CodeThrottling, "%v", err)
	}
}

// shadowRequest returns what runs one operation of the Device Shadow service: an update or deletion
// is published over MQTT too, an error is not.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-data-flow.html
func (a *api) shadowRequest(o awsiot.ShadowOperation) any {
	return func(q *request, thing, shadow string) (json.RawMessage, error) {
		messages, err := a.Shadows.Request(awsiot.ShadowTopic{Thing: thing, Shadow: shadow, Operation: o}, q.body, 0)
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			if o != awsiot.GetShadow {
				_ = a.Publish(&broker.Message{Topic: m.Topic, Payload: m.Payload, QoS: 1})
			}
		}
		return messages[0].Payload, nil
	}
}
