package localcore

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/template"
	"example.com/fleety/hook/payload"
)

// maxQueued is how many provisioning requests may wait on one connection: no
// more than AWS lets be unacknowledged.
const maxQueued = maxUnacknowledged

// Requests per second and account.
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
var operationRates = map[awsiot.Operation]int{
	awsiot.CreateKeysAndCertificate: 10,
	awsiot.CreateCertificateFromCSR: 20,
	awsiot.RegisterThing:            10,
}

// A provisioner answers the fleet provisioning API. Requests of one connection
// are answered in their order, those of several at the same time.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/fleet-provision-api.html
type provisioner struct {
	config    *Config
	registry  *registry.Registry
	authority *ca.Authority
	keys      *ca.Pool
	hook      hookFunc // nil without one
	templates template.Cache
	faults    *Faults
	journal   *journal
	broker    *broker

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	counts map[awsiot.Operation]int   // under mu
	rates  map[awsiot.Operation]*rate // never changed
}

// An exchange is one request and where its answer goes.
type exchange struct {
	topic   awsiot.Topic
	payload []byte
}

func newProvisioner(c *Config, r *registry.Registry, a *ca.Authority, keys *ca.Pool, hook hookFunc, f *Faults, j *journal) *provisioner {
	p := &provisioner{
		config: c, registry: r, authority: a, keys: keys, hook: hook, faults: f, journal: j,
		counts: map[awsiot.Operation]int{}, rates: map[awsiot.Operation]*rate{},
	}
	for operation := range operationRates {
		p.rates[operation] = new(rate)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// close abandons what is under way and returns when it has ended. No
// connection may be left.
func (p *provisioner) close() {
	p.cancel()
	p.wg.Wait()
	p.keys.Close()
}

// enqueue takes a request over from the connection's reader.
func (p *provisioner) enqueue(c *connection, topic awsiot.Topic, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.requests) == maxQueued {
		p.config.Log.Warn("dropped a provisioning request: too many are waiting", "client", c.session.ClientID)
		return
	}
	c.requests = append(c.requests, exchange{topic, payload})
	if !c.working {
		c.working = true
		p.wg.Go(func() { p.work(c) })
	}
}

// work answers the connection's requests until none is left.
func (p *provisioner) work(c *connection) {
	for {
		c.mu.Lock()
		if len(c.requests) == 0 {
			c.working = false
			c.mu.Unlock()
			return
		}
		x := c.requests[0]
		c.requests = c.requests[1:]
		c.mu.Unlock()
		p.serve(c, x)
	}
}

// serve does one request, spoilt as the faults say.
func (p *provisioner) serve(c *connection, x exchange) {
	fault := p.faults.of(p.describe(c, x.topic))
	if fault.CloseBefore {
		c.end(reasonServerInitiated, packets.ErrServerShuttingDown)
		return
	}
	topic, answer := p.answer(c, x, fault)
	if answer == nil {
		return
	}
	if fault.CloseAfter {
		c.end(reasonServerInitiated, packets.ErrServerShuttingDown)
		return
	}
	if fault.DropReply || !p.pause(fault.DelayReply) {
		return
	}
	p.reply(c, x.topic, topic, answer)
	if fault.DuplicateReply {
		p.reply(c, x.topic, topic, answer)
	}
}

// describe counts the request and returns what faults can ask about it.
func (p *provisioner) describe(c *connection, t awsiot.Topic) Exchange {
	p.mu.Lock()
	p.counts[t.Operation]++
	number := p.counts[t.Operation]
	p.mu.Unlock()
	return Exchange{
		Operation: t.Operation, Template: t.Template,
		ClientID: c.session.ClientID, CertificateID: c.certificateID, Number: number,
	}
}

// pause waits, and reports false when the server closes meanwhile.
func (p *provisioner) pause(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// answer does the work and returns the topic and payload of the answer. There
// is no payload when AWS would stay silent.
func (p *provisioner) answer(c *connection, x exchange, fault Fault) (topic string, payload []byte) {
	result, err := p.perform(c, x, fault)
	topic = x.topic.Accepted()
	if err != nil {
		r := rejectionOf(err)
		p.refuse(c, x.topic, r)
		if r.StatusCode == throttled.status && p.config.Choices.DropThrottled {
			return "", nil
		}
		topic, result = x.topic.Rejected(), r.ErrorResponse
	}
	payload, err = encode(x.topic.Format, result)
	if err != nil {
		p.config.Log.Error("encoding an answer", "topic", topic, "error", err)
		return "", nil
	}
	return topic, payload
}

func (p *provisioner) refuse(c *connection, t awsiot.Topic, r *rejection) {
	e := c.event(Refused)
	e.Action, e.Operation, e.Topic = ActionProvision, string(t.Operation), t.String()
	e.Code, e.Reason = r.ErrorCode, r.reason
	p.journal.record(e)
}

// reply sends an answer to the connection that asked, whether it subscribed or
// not, and to nobody else.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/reserved-topics.html
func (p *provisioner) reply(c *connection, t awsiot.Topic, topic string, answer []byte) {
	if p.config.Choices.CheckReceiveOnReplies && !p.broker.mayReceive(c, topic) {
		return
	}
	m := packets.Packet{TopicName: topic, Payload: answer}
	m.FixedHeader.Qos = byte(max(c.grantedQoS(topic), 0)) // U4: QoS 1 if subscribed at 1, else 0
	if err := p.broker.deliver(c, m); err != nil {
		p.config.Log.Info("lost an answer: the client has gone", "client", c.session.ClientID, "topic", topic)
		return
	}
	e := c.event(Replied)
	e.Operation, e.Topic = string(t.Operation), topic
	p.journal.record(e)
}

// perform does what the request asks for.
func (p *provisioner) perform(c *connection, x exchange, fault Fault) (any, error) {
	if fault.Reject != nil {
		return nil, &rejection{*fault.Reject, "a fault was set"}
	}
	operation := x.topic.Operation
	if limit := operationRates[operation]; p.config.Quotas == QuotasAWS && !p.rates[operation].allow(p.config.Now(), limit) {
		return nil, throttled.reject("More than %d %s requests in a second.", limit, operation)
	}
	switch operation {
	case awsiot.CreateKeysAndCertificate:
		return p.createKeysAndCertificate(c)
	case awsiot.CreateCertificateFromCSR:
		return p.createCertificateFromCSR(c, x)
	default:
		return p.registerThing(c, x)
	}
}

// createKeysAndCertificate ignores the payload: AWS asks for an empty one, and
// its SDKs send {}.
func (p *provisioner) createKeysAndCertificate(c *connection) (any, error) {
	key, err := p.keys.Take(p.ctx)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	cert, err := p.authority.IssueForKey(key, p.config.Now())
	if err != nil {
		return nil, err
	}
	token, err := p.admitPending(c, cert)
	if err != nil {
		return nil, err
	}
	return awsiot.CreateKeysAndCertificateResponse{
		CertificateID:             cert.ID,
		CertificatePEM:            string(cert.PEM),
		PrivateKey:                awsiot.Secret(cert.PrivateKeyPEM),
		CertificateOwnershipToken: token,
	}, nil
}

func (p *provisioner) createCertificateFromCSR(c *connection, x exchange) (any, error) {
	var request awsiot.CreateCertificateFromCSRRequest
	if err := decode(x.topic.Format, x.payload, &request); err != nil {
		return nil, badRequest.reject("The payload is not a %s object with certificateSigningRequest.", x.topic.Format)
	}
	cert, err := p.authority.IssueForCSR(request.CertificateSigningRequest, p.config.Now())
	if err != nil {
		return nil, err
	}
	token, err := p.admitPending(c, cert)
	if err != nil {
		return nil, err
	}
	return awsiot.CreateCertificateFromCSRResponse{
		CertificateOwnershipToken: token,
		CertificateID:             cert.ID,
		CertificatePEM:            string(cert.PEM),
	}, nil
}

// admitPending registers a new certificate as PENDING_ACTIVATION and returns
// its ownership token.
func (p *provisioner) admitPending(c *connection, cert *ca.Certificate) (awsiot.Secret, error) {
	var random [48]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", fmt.Errorf("making an ownership token: %w", err)
	}
	token := base64.RawURLEncoding.EncodeToString(random[:])
	if _, err := p.registry.CreatePendingCertificate(string(cert.PEM), token, c.certificateID, awsiot.OwnershipTokenLife); err != nil {
		return "", err
	}
	e := c.event(Issued)
	e.Reason = "certificate " + cert.ID + " is PENDING_ACTIVATION"
	p.journal.record(e)
	return awsiot.Secret(token), nil
}

// registerThing checks the token, asks the hook, resolves the template and
// carries it out, all or nothing (U10, U11).
func (p *provisioner) registerThing(c *connection, x exchange) (any, error) {
	token, parameters, err := decodeRegister(x.topic.Format, x.payload)
	if err != nil {
		return nil, err
	}
	pending, err := p.registry.CertificateByToken(string(token), c.certificateID)
	if err != nil {
		return nil, err
	}
	stored, err := p.templateFor(c, x.topic.Template)
	if err != nil {
		return nil, err
	}
	if stored.Hook != nil {
		if parameters, err = p.consult(c, stored, pending, parameters); err != nil {
			return nil, err
		}
	}
	plan, err := p.resolve(stored.Body(), template.Input{Parameters: parameters, CertificateID: pending.ID})
	if err != nil {
		return nil, err
	}
	if len(plan.Undeclared) > 0 {
		p.config.Log.Warn("parameters that the template does not declare were given",
			slog.String("template", stored.Name), slog.Any("parameters", plan.Undeclared))
	}
	request := provisioningOf(plan)
	request.Token, request.Principal = string(token), c.certificateID
	done, err := p.registry.Provision(request)
	if err != nil {
		return nil, err
	}
	response := awsiot.RegisterThingResponse{DeviceConfiguration: plan.DeviceConfiguration}
	e := c.event(Registered)
	e.Reason = fmt.Sprintf("certificate %s is %s", done.Certificate.ID, done.Certificate.Status)
	if done.Thing != nil {
		response.ThingName, e.ThingName = done.Thing.Name, done.Thing.Name
	}
	p.journal.record(e)
	return response, nil
}

// templateFor returns a template that the claim may use.
func (p *provisioner) templateFor(c *connection, name string) (registry.ProvisioningTemplate, error) {
	stored, err := p.registry.DescribeProvisioningTemplate(name)
	if err != nil {
		return stored, templateNotFound.reject("Provisioning template %s cannot be found.", name)
	}
	if !stored.Enabled {
		return stored, templateDisabled.reject("Provisioning template %s is not enabled.", name)
	}
	if bound, ok := p.registry.ClaimTemplate(c.certificateID); ok && bound != name {
		return stored, deniedToClaim.because("Access denied", "the provisioning claim is for template "+bound+" only")
	}
	return stored, nil
}

// consult asks the template's hook and returns the parameters to go on with.
func (p *provisioner) consult(c *connection, stored registry.ProvisioningTemplate, pending registry.Certificate, parameters map[string]string) (map[string]string, error) {
	if p.hook == nil || stored.Hook.TargetARN != p.config.hookARN() {
		return nil, deniedByHook.because("Access denied", "the template's hook "+stored.Hook.TargetARN+" does not run here; this one does: "+p.config.hookARN())
	}
	return p.askHook(p.ctx, payload.Request{
		ClaimCertificateID: c.certificateID,
		CertificateID:      pending.ID,
		CertificatePEM:     pending.PEM,
		TemplateARN:        p.config.arn("provisioningtemplate/" + stored.Name),
		ClientID:           c.session.ClientID,
		Parameters:         payload.ParametersOf(parameters),
	}, parameters)
}

func (p *provisioner) resolve(body string, in template.Input) (*template.Plan, error) {
	t, err := p.templates.Parse(body)
	if err != nil {
		return nil, fmt.Errorf("reading the template: %w", err)
	}
	return t.Resolve(in)
}

// provisioningOf tells the registry what a resolved template wants.
func provisioningOf(plan *template.Plan) registry.Provisioning {
	var r registry.Provisioning
	if t := plan.Thing; t != nil {
		r.Thing = &registry.ProvisionedThing{
			Name: t.Name, Type: t.Type, BillingGroup: t.BillingGroup, Groups: t.Groups, Attributes: t.Attributes,
			OverrideType:       registry.Override(t.Override.ThingTypeName),
			OverrideGroups:     registry.Override(t.Override.ThingGroups),
			OverrideAttributes: registry.Override(t.Override.AttributePayload),
		}
	}
	if c := plan.Certificate; c != nil {
		r.Certificate = &registry.ProvisionedCertificate{
			Status:         registry.CertificateStatus(c.Status),
			Type:           registry.NonExclusive,
			OverrideStatus: registry.Override(c.StatusOverride),
		}
		if c.Exclusive {
			r.Certificate.Type = registry.Exclusive
		}
	}
	for _, policy := range plan.Policies {
		r.Policies = append(r.Policies, registry.ProvisionedPolicy{Name: policy.Name, Document: string(policy.Document)})
	}
	return r
}
