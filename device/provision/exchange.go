package provision

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/session"
)

const (
	// inboxSize is how many answers may wait for their reader. While one is
	// awaited the reader is there; only duplicates can be more, and get lost.
	inboxSize = 16
	// tokenMargin is how long before its end a token counts as expired, so
	// that a request with it still arrives in time.
	tokenMargin = 30 * time.Second
	// maxLostCreates bounds the create requests that one run sends without
	// hearing of a certificate. Each leaves one behind in AWS IoT for an hour.
	maxLostCreates = 3
	// minRSABits is the least size of an RSA key. AWS IoT generates 2048 bits.
	minRSABits = 2048
)

// An exchange is a connection with the claim certificate or, to rotate, with the
// device's present one. AWS IoT's answers have no field
// that distinguishes requests, so there is one at a time.
type exchange struct {
	run              *run
	create, register awsiot.Topic
	role             string // whose certificate it is
	cert             *tls.Certificate
	filters          []string // of all answers
	session          *session.Session
	inbox            chan session.Message
	ignored          atomic.Int64 // messages that are no answers, or one too many
}

// exchange connects with the claim certificate, or the present one, creates a certificate unless one
// is held, and registers the thing with it.
func (r *run) exchange(ctx context.Context) error {
	step, role, clientID, detail := StepConnectClaim, claimRole, r.clientID, r.Session.Endpoint
	var cert *tls.Certificate
	switch {
	case r.Rotate:
		step, role, clientID, cert = StepConnectPresent, deviceRole, r.present.Record.ThingName, r.present.TLS()
	case len(r.claims) > 0:
		cert = r.claims[r.claim]
		if n := len(r.claims); n > 1 {
			detail += fmt.Sprintf(", claim %d of %d", r.claim+1, n)
		}
	default:
		return &ConfigError{Setting: "claim certificate", Reason: "is missing, and the device has no identity of its own yet"}
	}
	x := &exchange{
		run:      r,
		create:   awsiot.Topic{Operation: awsiot.CreateCertificateFromCSR, Format: awsiot.JSON},
		register: awsiot.Topic{Operation: awsiot.RegisterThing, Template: r.Template, Format: awsiot.JSON},
		inbox:    make(chan session.Message, inboxSize),
	}
	if r.Keys == ServiceKeys {
		x.create.Operation = awsiot.CreateKeysAndCertificate
	}
	x.filters = []string{x.create.Accepted(), x.create.Rejected(), x.register.Accepted(), x.register.Rejected()}
	x.role, x.cert = role, cert
	err := r.step(step, detail, func() (err error) {
		x.session, err = r.connect(ctx, role, clientID, cert, x.receive)
		if err == nil {
			r.trips.Claim = x.session.Stats().RoundTrips()
		}
		return r.countSilentCloses(err, role, "CONNECT")
	})
	if err != nil {
		return err
	}
	defer func() {
		_ = x.session.Close(context.WithoutCancel(ctx))
		if n := x.ignored.Load(); n > 0 {
			r.Log.WarnContext(ctx, "messages ignored that answer no open request", "count", n)
		}
	}()

	needsCertificate := r.journal.Stage() < identity.CertificateHeld || r.tokenExpired()
	var filters []string // still to subscribe to
	if r.Eager && !r.careful && needsCertificate {
		filters = x.filters
	} else if err := x.subscribe(ctx); err != nil {
		return err
	}
	if needsCertificate {
		err := x.createCertificate(ctx, filters)
		if err != nil && filters != nil && awsiot.ClassOf(err) == awsiot.Temporary {
			if _, rejected := errors.AsType[*awsiot.ErrorResponse](err); !rejected {
				r.careful = true
				r.Log.InfoContext(ctx, "continuing without the eager request", "error", err)
			}
		}
		if err != nil {
			return err
		}
	}
	return x.registerThing(ctx)
}

// receive is called by the session. Whatever a server sends, only answers wait
// to be read.
func (x *exchange) receive(m session.Message) {
	for _, filter := range x.filters {
		if m.Topic == filter {
			select {
			case x.inbox <- m:
				return
			default:
			}
		}
	}
	x.ignored.Add(1)
}

// subscribe subscribes to all answers in one packet, before anything is requested.
func (x *exchange) subscribe(ctx context.Context) error {
	return x.run.step(StepSubscribe, "", func() error {
		ctx, cancel := answerBy(ctx, "SUBSCRIBE", x.run.AnswerTimeout)
		defer cancel()
		err := x.session.Subscribe(ctx, x.filters...)
		x.countRoundTrips()
		return x.run.countSilentCloses(err, x.role, "SUBSCRIBE")
	})
}

// createCertificate obtains a certificate and stores it. Meanwhile the next
// connection is prepared. With filters it subscribes to them in the same flight.
func (x *exchange) createCertificate(ctx context.Context, filters []string) error {
	r := x.run
	if r.Keys == DeviceKeys && r.journal.Stage() == identity.Empty {
		if err := r.step(StepMakeKey, "", r.journal.MakeKey); err != nil {
			return err
		}
	}
	var grant identity.Grant
	err := r.step(StepCreate, string(x.create.Operation), func() (err error) {
		r.prepare(ctx)
		grant, err = x.requestCertificate(ctx, filters)
		// When the request arrived and no answer comes, a certificate may have been
		// made nevertheless. It expires within the hour, but too many of them must
		// not pile up.
		_, answered := errors.AsType[*awsiot.ErrorResponse](err)
		if err == nil || answered || filters == nil && unansweredPacket(err) == "PUBLISH" {
			return err
		}
		if r.lostCreates++; r.lostCreates >= maxLostCreates {
			return doNotRetry{fmt.Errorf("%w (after %d requests; each may have left a certificate that expires within the hour)", err, r.lostCreates)}
		}
		return err
	})
	if err != nil {
		return err
	}
	r.unresolved, r.inherited = false, false
	return r.step(StepStore, grant.CertificateID, func() error {
		return r.store(func() error { return r.journal.HoldCertificate(grant) })
	})
}

func (x *exchange) requestCertificate(ctx context.Context, filters []string) (identity.Grant, error) {
	r := x.run
	grant := identity.Grant{TokenExpires: r.Session.Now().Add(awsiot.OwnershipTokenLife)}
	if x.cert.Leaf != nil {
		grant.RequestedBy = awsiot.CertificateID(x.cert.Leaf)
	}
	if r.Keys == ServiceKeys {
		var answer awsiot.CreateKeysAndCertificateResponse
		if err := x.ask(ctx, x.create, filters, nil, &answer); err != nil {
			return grant, err
		}
		key, err := awsiot.PrivateKey([]byte(answer.PrivateKey))
		if rsaKey, ok := key.(*rsa.PrivateKey); ok && rsaKey.N.BitLen() < minRSABits {
			err = fmt.Errorf("an RSA key of %d bits, %d are the least", rsaKey.N.BitLen(), minRSABits)
		}
		if err != nil {
			return grant, &identity.CertificateError{Reason: "its private key: " + err.Error()}
		}
		grant.PrivateKeyPEM, grant.Token = string(answer.PrivateKey), string(answer.CertificateOwnershipToken)
		return grant, setCertificate(&grant, answer.CertificateID, answer.CertificatePEM)
	}
	// AWS IoT copies the subject of the CSR into the certificate.
	request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: r.Store.SerialNumber()}}
	der, err := x509.CreateCertificateRequest(rand.Reader, request, r.journal.Key())
	if err != nil {
		return grant, fmt.Errorf("signing certificate request: %w", err)
	}
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	var answer awsiot.CreateCertificateFromCSRResponse
	err = x.ask(ctx, x.create, filters, awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: string(csr)}, &answer)
	if err != nil {
		return grant, err
	}
	grant.Token = string(answer.CertificateOwnershipToken)
	return grant, setCertificate(&grant, answer.CertificateID, answer.CertificatePEM)
}

// setCertificate encodes the certificate and its chain anew: whatever else stands in
// the text is not stored. A certificate provider may give them in any order.
func setCertificate(g *identity.Grant, id, text string) error {
	certificates, err := awsiot.Certificates([]byte(text))
	if err != nil {
		return &identity.CertificateError{Reason: err.Error()}
	}
	g.CertificateID = id
	own := max(0, slices.IndexFunc(certificates, func(c *x509.Certificate) bool { return awsiot.CertificateID(c) == id }))
	for _, c := range awsiot.Chain(certificates[own], certificates) {
		g.CertificatePEM += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return nil
}

// registerThing registers the thing with the token and stores its name. From
// the moment that AWS IoT accepts, the certificate is active: whatever is wrong
// with the answer, it is kept.
func (x *exchange) registerThing(ctx context.Context) error {
	r := x.run
	token, _ := r.journal.Token()
	var answer awsiot.RegisterThingResponse
	err := r.step(StepRegister, r.Template, func() error {
		r.prepare(ctx)
		r.registerSent = time.Now()
		return x.ask(ctx, x.register, nil, awsiot.RegisterThingRequest{
			CertificateOwnershipToken: awsiot.Secret(token),
			Parameters:                r.Parameters,
		}, &answer)
	})
	reply, unreadable := errors.AsType[*ReplyError](err)
	if unreadable && reply.Topic == x.register.Accepted() {
		r.Log.WarnContext(ctx, "the thing is registered, but the answer cannot be read", "error", err)
		err = nil
	}
	if err != nil {
		_, rejected := errors.AsType[*awsiot.ErrorResponse](err)
		r.unresolved = r.unresolved || !rejected
		return err
	}
	r.registered = true
	if !awsiot.ValidThingName(answer.ThingName) {
		r.Log.WarnContext(ctx, "the answer to RegisterThing has no valid thing name", "thingName", answer.ThingName)
		answer.ThingName = r.ExpectedThingName
	}
	return r.register(answer.ThingName, answer.DeviceConfiguration)
}

// ask publishes a request and waits for its answer, which may come before the
// request's own PUBACK. With filters it subscribes to them in the same flight.
func (x *exchange) ask(ctx context.Context, topic awsiot.Topic, filters []string, request, answer any) error {
	payload, err := encode(request)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	var sending sync.WaitGroup
	defer sending.Wait()
	timeout := x.run.AnswerTimeout
	if filters != nil {
		timeout /= 3 // the answer may have come before the subscription, and be lost
	}
	ctx, cancel := answerBy(ctx, string(topic.Operation), timeout)
	defer cancel()
	sending.Go(func() {
		if filters != nil {
			sent <- x.session.SubscribeAndPublish(ctx, filters, topic.String(), payload)
		} else {
			sent <- x.session.Publish(ctx, topic.String(), payload)
		}
	})
	err = x.awaitAnswer(ctx, topic, sent, answer)
	x.countRoundTrips()
	return x.run.countSilentCloses(err, x.role, topic.String())
}

func (x *exchange) awaitAnswer(ctx context.Context, topic awsiot.Topic, sent <-chan error, answer any) error {
	var done <-chan struct{}
	for {
		var ended error
		select {
		case m := <-x.inbox:
			if mine, err := read(topic, m, answer); mine {
				return err
			}
			x.ignored.Add(1)
		case ended = <-sent:
			sent, done = nil, x.session.Done()
		case <-done:
			ended = cmp.Or(x.session.Err(), session.ErrNotConnected)
		case <-ctx.Done():
			ended = context.Cause(ctx)
		}
		for ended != nil { // an answer that came before counts
			select {
			case m := <-x.inbox:
				if mine, err := read(topic, m, answer); mine {
					return err
				}
			default:
				return ended
			}
		}
	}
}

func (x *exchange) countRoundTrips() {
	x.run.trips.Exchange = x.session.Stats().RoundTrips() - x.run.trips.Claim
}

// answerBy bounds the wait for one answer.
func answerBy(ctx context.Context, to string, timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, timeout, &TimeoutError{To: to, After: timeout})
}

// claimClientID makes a client id that is unique to the device and the run:
// two sessions with one id would end each other.
func claimClientID(serial string) string {
	const longest = 96
	id := "claim-" + strings.Map(func(c rune) rune {
		if c < 0x80 && awsiot.ValidThingName(string(c)) {
			return c
		}
		return '_'
	}, serial)
	return id[:min(len(id), longest)] + "-" + rand.Text()
}
