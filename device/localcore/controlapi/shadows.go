package controlapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/registry"
)

// Shadows carries out shadow requests, and publishes what the Device Shadow
// service says of them over MQTT.
type Shadows interface {
	// RequestShadow returns the response document. A rejected request returns a
	// [*awsiot.ShadowError].
	RequestShadow(ctx context.Context, t awsiot.ShadowTopic, payload []byte) (document []byte, err error)
	// NamedShadows returns the names of a thing's named shadows, sorted.
	NamedShadows(thing string) []string
}

// shadowRequest returns what runs one operation of the Device Shadow service.
func (a *api) shadowRequest(o awsiot.ShadowOperation) func(*request) (any, error) {
	return needs("Device Shadow service", a.Shadows != nil, func(q *request) (any, error) {
		t := awsiot.ShadowTopic{Thing: q.path("thingName"), Shadow: q.query("name"), Operation: o}
		switch {
		case !awsiot.ValidThingName(t.Thing):
			return nil, invalid("thing name %q must have %s", clip(t.Thing), awsiot.ThingNameRule)
		case q.params.Has("name") && !awsiot.ValidShadowName(t.Shadow):
			return nil, invalid("shadow name %q must have %s", clip(t.Shadow), awsiot.ShadowNameRule)
		}
		document, err := a.Shadows.RequestShadow(q.Context(), t, q.body)
		if e, ok := errors.AsType[*awsiot.ShadowError](err); ok {
			return nil, shadowException(e)
		}
		return json.RawMessage(document), err
	})
}

// shadowException returns AWS's exception for an error document.
func shadowException(e *awsiot.ShadowError) error {
	code, ok := map[int]string{
		http.StatusNotFound:              registry.CodeNotFound,
		http.StatusConflict:              "ConflictException",
		http.StatusRequestEntityTooLarge: "RequestEntityTooLargeException",
		http.StatusUnsupportedMediaType:  "UnsupportedDocumentEncodingException",
		http.StatusTooManyRequests:       registry.CodeThrottling,
	}[e.Code]
	if !ok {
		code = registry.CodeInvalidRequest
	}
	return &registry.Error{Code: code, Status: e.Code, Message: e.Message}
}

func (a *api) listNamedShadows(q *request) (any, error) {
	out, err := names(q, "results", a.Shadows.NamedShadows(q.path("thingName")))
	if err != nil {
		return nil, err
	}
	return out.(object).optional("timestamp", time.Now().Unix()), nil
}
