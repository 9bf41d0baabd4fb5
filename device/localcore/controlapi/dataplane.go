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
	"strings"
	"time"

	"example.com/fleety/device/localcore/broker"
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
	m, err := q.message(q.path("topic"))
	if err == nil {
		a.Publish(m)
	}
	return nil, err
}

// message returns the message that a request publishes.
func (q *request) message(topic string) (m *broker.Message, err error) {
	m = &broker.Message{
		Topic: topic, Payload: q.body, QoS: byte(q.number("qos")), Retain: q.flag("retain"),
		ContentType: q.query("contentType"), ResponseTopic: q.query("responseTopic"),
		Expiry: time.Duration(q.number("messageExpiry")) * time.Second,
	}
	switch format := q.Header.Get(formatHeader); format {
	case "", "UNSPECIFIED_BYTES":
	case "UTF8_DATA":
		m.UTF8 = true
	default:
		return m, invalid("payload format indicator %q must be UNSPECIFIED_BYTES or UTF8_DATA", clip(format))
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
	var objects []map[string]string
	data, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(data, &objects)
	}
	if err != nil {
		return nil, invalid("the user properties must be Base64 of a JSON list of objects with one string each")
	}
	var out []broker.UserProperty
	for _, o := range objects {
		if len(o) != 1 {
			return nil, invalid("a user property has %d members, it must have one", len(o))
		}
		for key, value := range o {
			out = append(out, broker.UserProperty{Key: key, Value: value})
		}
	}
	return out, nil
}

func (a *api) retainedMessage(q *request) (any, error) {
	topic := q.path("topic")
	m, ok := a.Broker.Retained(topic)
	if !ok {
		return nil, registry.Reject(registry.CodeNotFound, "There is no retained message on topic %q.", clip(topic))
	}
	out := object{"topic": m.Topic, "payload": m.Payload, "qos": m.QoS, "lastModifiedTime": m.Time.UnixMilli()}
	if m.Payload == nil {
		out["payload"] = []byte{}
	}
	if len(m.UserProperties) > 0 {
		properties, err := json.Marshal(convert(m.UserProperties, func(p broker.UserProperty) map[string]string {
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
	return list(q, "retainedTopics", a.Broker.AllRetained(), func(m *broker.Message) string { return m.Topic },
		func(m *broker.Message) object {
			return object{"topic": m.Topic, "payloadSize": len(m.Payload), "qos": m.QoS, "lastModifiedTime": m.Time.UnixMilli()}
		})
}

// clientID returns the client id in the path.
func (q *request) clientID() (string, error) {
	id := q.path("clientId")
	if strings.HasPrefix(id, "$") || len(id) > maxClientID {
		return "", invalid("client id %q begins with a $ or has more than %d bytes", clip(id), maxClientID)
	}
	return id, nil
}

const maxClientID = 128

func noConnection(id string) error {
	return registry.Reject(registry.CodeNotFound, "There is no connection of client id %q.", clip(id))
}

func (a *api) deleteConnection(q *request) (any, error) {
	id, err := q.clientID()
	if err == nil && !a.Broker.Disconnect(id, q.flag("cleanSession"), q.flag("preventWillMessage")) {
		err = noConnection(id)
	}
	return nil, err
}

func (a *api) getConnection(q *request) (any, error) {
	id, err := q.clientID()
	if err != nil {
		return nil, err
	}
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
	if q.flag("includeSocketInformation") && c.Source.IsValid() {
		out["sourceIp"], out["sourcePort"] = c.Source.Addr(), c.Source.Port()
		out["targetIp"], out["targetPort"] = c.Target.Addr(), c.Target.Port()
	}
	return out, nil
}

func (a *api) listSubscriptions(q *request) (any, error) {
	id, err := q.clientID()
	if err != nil {
		return nil, err
	}
	if n := q.number("maxResults"); n > maxSubscriptionPage {
		return nil, invalid("maxResults is %d, it must be a number from 1 to %d", n, maxSubscriptionPage)
	}
	qos, found := a.Broker.Subscriptions(id)
	if !found {
		return nil, noConnection(id)
	}
	return list(q, "subscriptions", slices.Collect(maps.Keys(qos)), self, func(filter string) object {
		return object{"topicFilter": filter, "qos": qos[filter]}
	})
}

const (
	maxPayload     = 128 << 10
	confirmTimeout = 5 // seconds, where the request does not say
)

func payloadTooLarge(most int) error {
	return &registry.Error{
		Code: "RequestEntityTooLargeException", Status: http.StatusRequestEntityTooLarge,
		Message: fmt.Sprintf("The payload exceeds the maximum size allowed, %d bytes.", most),
	}
}

func (a *api) sendDirectMessage(q *request) (any, error) {
	id, err := q.clientID()
	if err != nil {
		return nil, err
	}
	if len(q.body) > maxPayload {
		return nil, payloadTooLarge(maxPayload)
	}
	m, err := q.message(q.query("topic"))
	if err != nil {
		return nil, err
	}
	timeout := time.Duration(cmp.Or(q.number("timeout"), confirmTimeout)) * time.Second
	ctx, cancel := context.WithTimeout(q.Context(), timeout)
	defer cancel()
	switch err := a.Broker.SendDirect(ctx, id, m, q.flag("confirmation")); {
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
