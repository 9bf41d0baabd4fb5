package doctor

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/session"
)

// connectInterval is AWS IoT's limit on CONNECT per client id.
// https://docs.aws.amazon.com/general/latest/gr/iot-core.html
const connectInterval = time.Second

// A role is one of the device's two certificates and what it has to be allowed.
type role struct {
	name        string // "claim" or "device"
	certificate *tls.Certificate
	clientID    func() string
	filters     []string
	inactive    string // what to do when AWS IoT does not take the certificate
	policy      string // what to do when its policy denies
}

// claimAccess connects with the claim and subscribes to the answers of the
// provisioning API, as bootstrap would.
func (e *examination) claimAccess(ctx context.Context) {
	create := awsiot.Topic{Operation: awsiot.CreateCertificateFromCSR, Format: awsiot.JSON}
	if e.Settings.Bootstrap.Keys == config.KeysService {
		create.Operation = awsiot.CreateKeysAndCertificate
	}
	register := e.registerTopic()
	granted := e.access(ctx, role{
		name:        "claim",
		certificate: e.claim,
		clientID:    func() string { return "claim-doctor-" + strings.ToLower(rand.Text()) },
		filters:     []string{create.Accepted(), create.Rejected(), register.Accepted(), register.Rejected()},
		inactive:    "activate the claim certificate in this account and Region, or make a new one with scripts/create-keys-and-cert.sh, and deploy its ARN",
		policy:      "attach the claim policy to this certificate (cdk deploy -c certificateArn=…), and compare its topics with bootstrap.provisioningTemplate",
	})
	e.template = granted[register.Accepted()] && granted[register.Rejected()]
}

func (e *examination) registerTopic() awsiot.Topic {
	return awsiot.Topic{
		Operation: awsiot.RegisterThing,
		Template:  e.Settings.Bootstrap.ProvisioningTemplate,
		Format:    awsiot.JSON,
	}
}

// deviceAccess connects as the device and subscribes below its own topic.
func (e *examination) deviceAccess(ctx context.Context) {
	r := role{name: "device"}
	if e.device != nil {
		thing := e.device.Record.ThingName
		r.certificate = e.device.TLS()
		r.clientID = func() string { return thing }
		r.filters = []string{"fleet/" + thing + "/#"}
		r.inactive = `activate the certificate in this account and Region, or run "iot_device bootstrap --reprovision"`
		r.policy = "attach the device policy to this certificate, and the certificate to the thing"
	}
	e.access(ctx, r)
}

// access connects with the role's certificate and tries its topic filters. It
// returns the filters that were granted.
func (e *examination) access(ctx context.Context, r role) map[string]bool {
	certificateCheck, connectCheck := r.name+"-certificate", r.name+"-connect"
	switch {
	case r.certificate == nil:
		e.skip(connectCheck, "there is no usable "+r.name+" certificate")
		return nil
	case !e.trusted:
		e.skip(connectCheck, "nothing is said to a server that cannot be trusted")
		return nil
	}
	s, err := e.connect(ctx, r)
	if err != nil {
		e.noSession(r, certificateCheck, connectCheck, err)
		return nil
	}
	e.ok(certificateCheck, "accepted by the server")
	stats := s.Stats()
	e.ok(connectCheck, fmt.Sprintf("in %d round trips and %v", stats.RoundTrips(), (stats.Dial+stats.Handshake+stats.Connect).Round(time.Millisecond)))
	return e.subscribe(ctx, r, s)
}

// connect opens a session. A silent end is tried once more: it may be the
// network's doing, and twice in a row it is AWS IoT's way to deny.
func (e *examination) connect(ctx context.Context, r role) (*session.Session, error) {
	s, err := e.connectOnce(ctx, r)
	if errors.Is(err, session.ErrClosedSilently) && sleep(ctx, connectInterval) == nil {
		return e.connectOnce(ctx, r)
	}
	return s, err
}

func (e *examination) connectOnce(ctx context.Context, r role) (*session.Session, error) {
	o := e.options()
	o.Port = e.port
	o.ClientID = r.clientID()
	o.Certificate = func(context.Context) (*tls.Certificate, error) { return r.certificate, nil }
	return session.Connect(ctx, o)
}

// noSession tells a certificate that was not taken from a CONNECT that was
// not, as far as the server lets us.
func (e *examination) noSession(r role, certificateCheck, connectCheck string, err error) {
	class := classOf(err)
	alert, isAlert := errors.AsType[tls.AlertError](err)
	_, isConnack := errors.AsType[*session.ConnackError](err)
	switch {
	case isAlert && class == session.ClassRefused:
		e.fail(certificateCheck, class, "refused by the server: "+alert.Error(), "it is probably not registered, or not active, in this account and Region", r.inactive)
		e.skip(connectCheck, "the certificate was refused")
	case isConnack:
		e.ok(certificateCheck, "accepted by the server")
		e.fail(connectCheck, class, err.Error(), "the policy does not allow this client id, or the certificate is not active", r.policy)
	case errors.Is(err, session.ErrClosedSilently):
		e.skip(certificateCheck, "the server said nothing about it")
		e.fail(connectCheck, session.ClassRefused, "the server closed the connection after CONNECT, twice, without a word, which is how AWS IoT denies",
			"the certificate is not active in this account and Region, or no policy allows this client id", r.inactive+"; "+r.policy)
	default:
		e.skip(certificateCheck, "it could not be shown")
		e.fail(connectCheck, class, err.Error(), "", "check the network between here and the endpoint")
	}
}

// subscribe tries all filters at once, and one by one when that is denied.
func (e *examination) subscribe(ctx context.Context, r role, s *session.Session) map[string]bool {
	granted := map[string]bool{}
	err := e.trySubscribe(ctx, s, r.filters...)
	alone := err == nil || len(r.filters) == 1
	for _, filter := range r.filters {
		if !alone {
			s, err = e.subscribeAlone(ctx, r, s, filter)
		}
		granted[filter] = err == nil
		e.reportFilter(r, filter, err)
	}
	if s != nil {
		s.Close(ctx)
	}
	return granted
}

// subscribeAlone tries one filter, on a new session if the last one ended.
func (e *examination) subscribeAlone(ctx context.Context, r role, s *session.Session, filter string) (*session.Session, error) {
	if s == nil || ended(s) {
		if err := sleep(ctx, connectInterval); err != nil {
			return nil, err
		}
		var err error
		if s, err = e.connect(ctx, r); err != nil {
			return nil, err
		}
	}
	return s, e.trySubscribe(ctx, s, filter)
}

func (e *examination) trySubscribe(ctx context.Context, s *session.Session, filters ...string) error {
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	return s.Subscribe(ctx, filters...)
}

func (e *examination) reportFilter(r role, filter string, err error) {
	name := r.name + "-subscribe"
	switch {
	case err == nil:
		e.ok(name, filter)
	case errors.Is(err, session.ErrClosedSilently):
		e.fail(name, session.ClassRefused, filter+": the server closed the connection without a word, which is how AWS IoT denies",
			"the "+r.name+" certificate's policy does not allow it", r.policy)
	default:
		e.fail(name, classOf(err), err.Error(), "", r.policy)
	}
}

// provisioningTemplate tells what can be known of the template without
// registering a thing.
func (e *examination) provisioningTemplate(context.Context) {
	const name = "template"
	b := e.Settings.Bootstrap
	if prefix := e.SerialPrefix; prefix != "" && b.ProvisioningTemplate == config.DefaultTemplate && !strings.HasPrefix(e.Settings.SerialNumber, prefix) {
		e.warn(name, "serial number "+e.Settings.SerialNumber, "the pre-provisioning hook admits serial numbers that begin with "+prefix, "correct serialNumber, or have the hook admit it")
	}
	parameters := slices.Sorted(maps.Keys(e.Settings.TemplateParameters()))
	found := fmt.Sprintf("%s with %s", b.ProvisioningTemplate, strings.Join(parameters, ", "))
	if !e.template {
		e.skip(name, found+": the claim could not be seen to use it")
		return
	}
	e.ok(name, found+": the claim may use it; whether it exists and takes these shows only when a thing is registered")
}

func ended(s *session.Session) bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
