// Package provisioning is the fleet provisioning API of the emulator: it issues certificates with
// ownership tokens, and registers things by a template after its pre-provisioning hook has allowed
// it. It takes requests and returns replies; how they travel is not its concern.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/fleet-provision-api.html
package provisioning

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/time/rate"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/localcore/jsontree"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/template"
	"example.com/fleety/hook/payload"
)

// operationRates are requests per second and account.
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
var operationRates = map[awsiot.Operation]int{
	awsiot.CreateKeysAndCertificate: 10,
	awsiot.CreateCertificateFromCSR: 20,
	awsiot.RegisterThing:            10,
}

// A Config says what the service depends on. Every field but Hook and HookARN must be set.
type Config struct {
	Registry  *registry.Registry
	Authority *ca.Authority

	HookARN     string        // of the pre-provisioning hook that runs here; without one, templates with a hook deny everyone
	HookTimeout time.Duration // bounds one invocation
	// Hook, if set, stands in for the function of the hook.
	Hook func(context.Context, payload.Request) (payload.Response, error)
	// Invoke invokes the function of the hook, or of a certificate provider.
	Invoke func(ctx context.Context, functionARN string, event []byte) ([]byte, error)

	ARN          func(resource string) string // returns the full name of a resource such as thing/NAME
	EnforceRates bool                         // turns AWS's quotas per second on

	Record func(event.Event)
	Log    *slog.Logger
	Now    func() time.Time
}

// A Service answers the fleet provisioning API. It is safe for concurrent use.
type Service struct {
	config    Config
	rates     map[awsiot.Operation]*rate.Limiter // never changed
	templates jsontree.Cache[*template.Template]
}

// New returns a service.
func New(c Config) *Service {
	s := &Service{config: c, rates: map[awsiot.Operation]*rate.Limiter{}}
	for operation, limit := range operationRates {
		s.rates[operation] = rate.NewLimiter(rate.Limit(limit), limit)
	}
	return s
}

// A Request is one message to a topic of the API.
type Request struct {
	Topic         awsiot.Topic
	Payload       []byte
	ClientID      string
	CertificateID string                       // of the claim, or of a device
	Event         func(event.Type) event.Event // returns an event about the client
}

// Answer does what a request asks for.
func (s *Service) Answer(ctx context.Context, r Request) awsiot.Message {
	result, err := s.perform(ctx, r)
	if err == nil {
		return awsiot.Message{Topic: r.Topic.Accepted(), Payload: encode(r.Topic.Format, result)}
	}
	e := rejectionOf(err)
	return s.Reject(r, e.ErrorResponse, e.reason)
}

// Reject returns the reply that rejects a request, and records it with a reason
// that the device does not learn.
func (s *Service) Reject(r Request, response awsiot.ErrorResponse, reason string) awsiot.Message {
	e := r.Event(event.Rejected)
	e.Action, e.Operation, e.Topic = event.Provision, string(r.Topic.Operation), r.Topic.String()
	e.Code, e.Reason = response.ErrorCode, reason
	s.config.Record(e)
	return awsiot.Message{Topic: r.Topic.Rejected(), Payload: encode(r.Topic.Format, response)}
}

// record records an event of the operation.
func (s *Service) record(r Request, t event.Type, reason string) {
	e := r.Event(t)
	e.Operation, e.Reason = string(r.Topic.Operation), reason
	s.config.Record(e)
}

func (s *Service) perform(ctx context.Context, r Request) (any, error) {
	operation := r.Topic.Operation
	if s.config.EnforceRates && !s.rates[operation].AllowN(s.config.Now(), 1) {
		return nil, throttled.reject("More than %d %s requests per second.", operationRates[operation], operation)
	}
	switch operation {
	case awsiot.CreateKeysAndCertificate:
		return s.createKeysAndCertificate(r)
	case awsiot.CreateCertificateFromCSR:
		return s.createCertificateFromCSR(ctx, r)
	}
	return s.registerThing(ctx, r)
}

// createKeysAndCertificate ignores the payload: AWS asks for an empty one, and its SDKs send {}.
func (s *Service) createKeysAndCertificate(r Request) (any, error) {
	cert, err := s.IssueKeys()
	if err != nil {
		return nil, err
	}
	token, err := s.createPending(r, cert)
	return awsiot.CreateKeysAndCertificateResponse{
		CertificateID: cert.CertificateID, CertificatePEM: string(cert.CertificatePEM), PrivateKey: awsiot.Secret(cert.PrivateKeyPEM), CertificateOwnershipToken: token,
	}, err
}

func (s *Service) createCertificateFromCSR(ctx context.Context, r Request) (any, error) {
	var request string
	if err := decode(r.Topic.Format, r.Payload, map[string]any{"certificateSigningRequest": &request}); err != nil {
		return nil, badRequest.reject("The payload is not a %s object with certificateSigningRequest.", r.Topic.Format)
	}
	cert, text, err := s.sign(ctx, r, request)
	if err != nil {
		return nil, err
	}
	token, err := s.createPending(r, cert)
	return awsiot.CreateCertificateFromCSRResponse{CertificateID: cert.CertificateID, CertificatePEM: text, CertificateOwnershipToken: token}, err
}

// createPending registers a new certificate as PENDING_ACTIVATION and returns its ownership token.
func (s *Service) createPending(r Request, cert ca.Credential) (awsiot.Secret, error) {
	var random [48]byte
	rand.Read(random[:]) // never fails
	token := base64.RawURLEncoding.EncodeToString(random[:])
	if _, err := s.config.Registry.CreatePendingCertificate(string(cert.CertificatePEM), token, r.CertificateID, awsiot.OwnershipTokenLife); err != nil {
		return "", err
	}
	s.record(r, event.Issued, cert.String()+" is PENDING_ACTIVATION")
	return awsiot.Secret(token), nil
}

// registerThing checks the token, invokes the hook, resolves the template and
// carries it out, all or nothing (U10, U11).
func (s *Service) registerThing(ctx context.Context, r Request) (any, error) {
	token, parameters, err := decodeRegister(r.Topic.Format, r.Payload)
	if err != nil {
		return nil, err
	}
	pending, err := s.config.Registry.CertificateByToken(string(token), r.CertificateID)
	if err != nil {
		return nil, err
	}
	stored, err := s.templateFor(r)
	if err != nil {
		return nil, err
	}
	if stored.Hook != nil {
		if parameters, err = s.invokeHook(ctx, r, stored, pending, parameters); err != nil {
			return nil, err
		}
	}
	t, err := s.templates.Parse(stored.Default().Body, template.Parse)
	if err != nil {
		return nil, fmt.Errorf("reading the template: %w", err)
	}
	plan, err := t.Resolve(template.Input{Parameters: parameters, CertificateID: pending.ID})
	if err != nil {
		return nil, err
	}
	if len(plan.Undeclared) > 0 {
		s.config.Log.Warn("the device or the hook gave parameters that the template does not declare",
			slog.String("template", stored.Name), slog.Any("parameters", plan.Undeclared))
	}
	done, err := s.config.Registry.Provision(registry.Provisioning{Plan: plan, Token: string(token), Principal: r.CertificateID})
	if err != nil {
		return nil, err
	}
	response := awsiot.RegisterThingResponse{DeviceConfiguration: map[string]any{}}
	for name, value := range plan.DeviceConfiguration {
		response.DeviceConfiguration[name] = value
	}
	e := r.Event(event.Provisioned)
	e.Operation = string(r.Topic.Operation)
	e.Reason = fmt.Sprintf("certificate %s is %s", done.Certificate.ID, done.Certificate.Status)
	if done.Thing != nil {
		response.ThingName, e.ThingName = done.Thing.Name, done.Thing.Name
	}
	s.config.Record(e)
	return response, nil
}

// templateFor returns the template of a request, if its client may use it.
func (s *Service) templateFor(r Request) (registry.ProvisioningTemplate, error) {
	name := r.Topic.Template
	stored, err := s.config.Registry.DescribeProvisioningTemplate(name)
	if err != nil {
		return stored, templateNotFound.reject("Provisioning template %s cannot be found.", name)
	}
	if !stored.Enabled {
		return stored, templateDisabled.reject("Provisioning template %s is not enabled.", name)
	}
	if c, _ := s.config.Registry.CertificateByID(r.CertificateID); c.ClaimTemplate != "" && c.ClaimTemplate != name {
		return stored, denied.because("Access denied", "the provisioning claim is for template "+c.ClaimTemplate+" only")
	}
	return stored, nil
}

// encode writes a document of the provisioning API, whose values are texts and numbers. Both
// formats take the field names from the JSON tags.
func encode(f awsiot.Format, v any) []byte {
	if f == awsiot.JSON {
		return awsiot.EncodeJSON(v)
	}
	data, err := cbor.Marshal(v)
	if err != nil {
		panic(err) // a defect of this program
	}
	return data
}

// decode reads the members of an object by their names, letter for letter, where encoding/json and
// cbor take other letter case for the same.
func decode(f awsiot.Format, data []byte, members map[string]any) error {
	switch {
	case f == awsiot.CBOR:
		return decodeMembers[cbor.RawMessage](cbor.Unmarshal, data, members)
	case !utf8.Valid(data): // RFC 8259, 8.1; encoding/json would replace what is not
		return errors.New("not UTF-8")
	}
	return decodeMembers[json.RawMessage](json.Unmarshal, data, members)
}

func decodeMembers[Raw ~[]byte](unmarshal func([]byte, any) error, data []byte, members map[string]any) error {
	var object map[string]Raw
	err := unmarshal(data, &object)
	for name, into := range members {
		if value, given := object[name]; given && err == nil {
			err = unmarshal(value, into)
		}
	}
	return err
}

// decodeRegister reads a RegisterThing request.
func decodeRegister(f awsiot.Format, data []byte) (token awsiot.Secret, parameters map[string]string, err error) {
	var given map[string]any // before they are known to be strings
	if err := decode(f, data, map[string]any{"certificateOwnershipToken": &token, "parameters": &given}); err != nil {
		// What the decoder says may quote the payload, and with it the token.
		return "", nil, badRequest.reject("The payload is not a %s object with certificateOwnershipToken and parameters.", f)
	}
	if parameters, err = texts(given); err != nil {
		return "", nil, badParameters.reject("The %v.", err)
	}
	return token, parameters, nil
}

// texts returns parameters, which must be strings: encoding/json takes null for an empty one.
func texts(given map[string]any) (map[string]string, error) {
	parameters := make(map[string]string, len(given))
	for _, name := range slices.Sorted(maps.Keys(given)) {
		s, ok := given[name].(string)
		if !ok {
			return nil, fmt.Errorf("value of parameter %s is not a string", name)
		}
		parameters[name] = s
	}
	return parameters, nil
}
