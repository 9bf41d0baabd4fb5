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

// A role is one of the device's two certificates and what it has to be allowed.
type role struct {
	name        string // "claim" or "device"
	certificate *tls.Certificate
	clientID    func() string
	filters     []string
}

// claimAccess connects with the claim and subscribes to the response topics of the provisioning
// API, as bootstrap would. Of several claims one has to work: what is wrong with those before it is
// a warning then.
func (r *run) claimAccess(ctx context.Context, _ string) {
	create := awsiot.Topic{Operation: awsiot.CreateCertificateFromCSR, Format: awsiot.JSON}
	if r.Settings.Bootstrap.Keys == config.KeysService {
		create.Operation = awsiot.CreateKeysAndCertificate
	}
	register := awsiot.Topic{Operation: awsiot.RegisterThing, Template: r.Settings.Bootstrap.ProvisioningTemplate, Format: awsiot.JSON}
	as := role{
		name:     "claim",
		clientID: func() string { return "claim-doctor-" + strings.ToLower(rand.Text()) },
		filters:  []string{create.Accepted(), create.Rejected(), register.Accepted(), register.Rejected()},
	}
	var checks []Check // of all claims
	works := false
	for i := 0; i < len(r.claims) && !works; i++ {
		claim := r.claims[i]
		one := &run{Config: r.Config, roots: r.roots, port: r.port, trusted: r.trusted, skew: r.skew}
		one.Progress = func(Check) {}
		as.certificate = claim.Certificate
		granted := one.access(ctx, as)
		r.template = granted[register.Accepted()] && granted[register.Rejected()]
		for _, c := range one.report.Checks {
			if len(r.claims) > 1 {
				c.Found = claim.Path + ": " + c.Found
			}
			checks = append(checks, c)
		}
		works = one.report.Result != Fail
	}
	for _, c := range checks {
		if works && c.Result == Fail {
			c.Result, c.Class, c.class = Warn, "", awsiot.Failed
		}
		r.add(c)
	}
	if len(r.claims) == 0 {
		r.access(ctx, as) // which says so
	}
}

// deviceAccess connects as the device and subscribes below its own topic, unless the agent does.
func (r *run) deviceAccess(ctx context.Context, name string) {
	own := role{name: "device"}
	if r.device != nil {
		thing := r.device.Record.ThingName
		if r.Connected != nil {
			switch connected, err := r.Connected(ctx, thing); {
			case err != nil:
				r.failure(name, err)
				return
			case connected:
				r.skip(name, "the agent (iot_device run) has the connection of "+thing)
				return
			}
		}
		own.certificate = r.device.TLS()
		own.clientID = func() string { return thing }
		own.filters = []string{"fleet/" + thing + "/down/#"}
	}
	r.access(ctx, own)
}

// access connects with the role's certificate, and returns which of its topic filters are granted.
func (r *run) access(ctx context.Context, as role) map[string]bool {
	certificateCheck, connectCheck := as.name+"-certificate", as.name+"-connect"
	switch {
	case as.certificate == nil:
		r.skip(connectCheck, "there is no usable "+as.name+" certificate")
		return nil
	case !r.trusted:
		r.skip(connectCheck, "the server is not trusted")
		return nil
	}
	s, err := r.connect(ctx, as)
	switch {
	case err == nil:
		r.ok(certificateCheck, "accepted by the server")
		stats := s.Stats()
		r.ok(connectCheck, fmt.Sprintf("in %d round trips and %v", stats.RoundTrips(), (stats.Dial+stats.Handshake+stats.Connect).Round(time.Millisecond)))
		return r.subscribe(ctx, as, s)
	case isA[tls.AlertError](err) && awsiot.ClassOf(err) == awsiot.Denied:
		r.failure(certificateCheck, err)
		r.skip(connectCheck, "the certificate was rejected")
	case isA[*session.ConnackError](err):
		r.ok(certificateCheck, "accepted by the server")
		r.failure(connectCheck, err)
	case errors.Is(err, session.ErrClosedSilently):
		r.skip(certificateCheck, "the server sent no response")
		r.fail(connectCheck, awsiot.Denied, "the server closed the connection after CONNECT, twice, without a response; AWS IoT does this when a policy denies the request", cause("connect-denied"))
	default:
		r.skip(certificateCheck, "not verified")
		r.failure(connectCheck, err)
	}
	return nil
}

// connect opens a session. A silent end is tried once more: one may be the network's fault.
func (r *run) connect(ctx context.Context, as role) (*session.Session, error) {
	o := r.options(r.port)
	o.Certificate = func(context.Context) (*tls.Certificate, error) { return as.certificate, nil }
	for try := 1; ; try++ {
		o.ClientID = as.clientID()
		s, err := session.Connect(ctx, o)
		if try == 2 || !errors.Is(err, session.ErrClosedSilently) || pause(ctx) != nil {
			return s, err
		}
	}
}

// subscribe tries the filters one by one, each on a new session if the last one ended.
func (r *run) subscribe(ctx context.Context, as role, s *session.Session) map[string]bool {
	granted := map[string]bool{}
	for _, filter := range as.filters {
		var err error
		if s == nil || s.Err() != nil {
			if err = pause(ctx); err == nil {
				s, err = r.connect(ctx, as)
			}
		}
		if err == nil {
			answer, cancel := context.WithTimeout(ctx, r.Timeout)
			err = s.Subscribe(answer, filter)
			cancel()
		}
		granted[filter] = err == nil
		switch name := as.name + "-subscribe"; {
		case err == nil:
			r.ok(name, filter)
		case errors.Is(err, session.ErrClosedSilently):
			c := cause("topic-denied", "topics", filter, "template", r.Settings.Bootstrap.ProvisioningTemplate)
			if as.name == "claim" {
				c.Remedy = "compare bootstrap.provisioningTemplate with the topics of the claim policy; " + readLog
			}
			r.fail(name, awsiot.Denied, filter+": the server closed the connection without a response; AWS IoT does this when a policy denies the request", c)
		default:
			r.failure(name, err)
		}
	}
	if s != nil {
		s.Close(ctx)
	}
	return granted
}

// provisioningTemplate reports what is known of the template without registering a thing.
func (r *run) provisioningTemplate(_ context.Context, name string) {
	parameters := slices.Sorted(maps.Keys(r.Settings.TemplateParameters()))
	found := fmt.Sprintf("%s with %s", r.Settings.Bootstrap.ProvisioningTemplate, strings.Join(parameters, ", "))
	if r.template {
		r.ok(name, found+": the claim policy allows it; existence and parameters can be verified only by registering")
	} else {
		r.skip(name, found+": not verified")
	}
}

// pause keeps two CONNECTs apart: AWS IoT's quota is one per second for a client id.
// https://docs.aws.amazon.com/general/latest/gr/iot-core.html
func pause(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	<-wait.Done()
	return ctx.Err()
}
