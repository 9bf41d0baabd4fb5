package provision

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/session"
)

// inboxSize is how many messages may wait for their reader. While an answer is
// awaited the reader is there; only duplicates can be more, and get lost.
const inboxSize = 16

// A claimSession is a connection with the claim certificate. AWS IoT's answers
// carry nothing that tells requests apart, so it asks one at a time.
type claimSession struct {
	*run
	session *session.Session
	inbox   chan session.Message
}

// claim goes through the exchange: create a certificate unless one is held,
// then register the thing with it.
func (r *run) claim(ctx context.Context) error {
	c, err := r.openClaim(ctx)
	if err != nil {
		return err
	}
	defer c.session.Close(context.WithoutCancel(ctx))
	if err := c.step(StepSubscribe, "", func() error { return c.subscribe(ctx) }); err != nil {
		return err
	}
	if r.journal.Stage() < identity.CertificateHeld || r.tokenExpired() {
		if err := c.create(ctx); err != nil {
			return err
		}
	}
	err = c.registerThing(ctx)
	refusal, refused := errors.AsType[*awsiot.ErrorResponse](err)
	if !refused || refusal.Temporary() || deniesDevice(refusal) || !r.inDoubt {
		return err
	}
	_ = c.session.Close(ctx) // it may take a while
	return r.settle(ctx, err)
}

func (r *run) openClaim(ctx context.Context) (*claimSession, error) {
	if r.Claim == nil {
		return nil, &ConfigError{Setting: "claim certificate", Reason: "is missing, and the device has no identity of its own yet"}
	}
	c := &claimSession{run: r, inbox: make(chan session.Message, inboxSize)}
	err := r.step(StepConnectClaim, r.Session.Endpoint, func() (err error) {
		c.session, err = r.connect(ctx, r.clientID, r.Claim, c.receive)
		if err == nil {
			r.trips.Claim = c.session.Stats().RoundTrips()
		}
		return r.heard(err, claimRole, "CONNECT")
	})
	return c, err
}

func (c *claimSession) receive(m session.Message) {
	select {
	case c.inbox <- m:
	default:
		c.Log.Warn("too many messages; one is dropped", "topic", m.Topic)
	}
}

// topics returns those of the two requests of this flow.
func (r *run) topics() (create, register awsiot.Topic) {
	create = awsiot.Topic{Operation: awsiot.CreateCertificateFromCSR, Format: awsiot.JSON}
	if r.Keys == ServiceKeys {
		create.Operation = awsiot.CreateKeysAndCertificate
	}
	return create, awsiot.Topic{Operation: awsiot.RegisterThing, Template: r.Template, Format: awsiot.JSON}
}

// subscribe asks for all answers in one packet, before anything is requested.
func (c *claimSession) subscribe(ctx context.Context) error {
	create, register := c.topics()
	ctx, cancel := c.answerBy(ctx, "SUBSCRIBE")
	defer cancel()
	err := c.session.Subscribe(ctx, create.Accepted(), create.Rejected(), register.Accepted(), register.Rejected())
	c.measure()
	return c.heard(err, claimRole, "SUBSCRIBE")
}

// create obtains a certificate and stores it. Meanwhile the next connection
// is prepared.
func (c *claimSession) create(ctx context.Context) error {
	if c.Keys == DeviceKeys && c.journal.Stage() == identity.Empty {
		if err := c.step(StepMakeKey, "", c.journal.MakeKey); err != nil {
			return err
		}
	}
	topic, _ := c.topics()
	var grant identity.Grant
	err := c.step(StepCreate, string(topic.Operation), func() (err error) {
		grant, err = c.askForCertificate(ctx, topic)
		return err
	})
	if err != nil {
		return err
	}
	if c.Claim.Leaf != nil {
		grant.RequestedBy = awsiot.CertificateID(c.Claim.Leaf)
	}
	grant.TokenExpires = c.Session.Now().Add(awsiot.OwnershipTokenLife)
	c.inDoubt = false
	return c.step(StepStore, grant.CertificateID, func() error {
		return c.store(func() error { return c.journal.HoldCertificate(grant) })
	})
}

func (c *claimSession) askForCertificate(ctx context.Context, topic awsiot.Topic) (identity.Grant, error) {
	if c.Keys == ServiceKeys {
		var answer awsiot.CreateKeysAndCertificateResponse
		err := c.askOnce(ctx, topic, nil, &answer)
		return identity.Grant{
			CertificateID:  answer.CertificateID,
			CertificatePEM: answer.CertificatePEM,
			PrivateKeyPEM:  string(answer.PrivateKey),
			Token:          string(answer.CertificateOwnershipToken),
		}, err
	}
	csr, err := c.signingRequest()
	if err != nil {
		return identity.Grant{}, err
	}
	var answer awsiot.CreateCertificateFromCSRResponse
	err = c.askOnce(ctx, topic, awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: csr}, &answer)
	return identity.Grant{
		CertificateID:  answer.CertificateID,
		CertificatePEM: answer.CertificatePEM,
		Token:          string(answer.CertificateOwnershipToken),
	}, err
}

// askOnce sends a create request. When it arrived and no answer comes, a
// certificate may have been made nevertheless; it lapses within the hour, but
// too many of them must not pile up.
func (c *claimSession) askOnce(ctx context.Context, topic awsiot.Topic, request, answer any) error {
	c.prepare(ctx)
	c.lostCreates++
	err := c.ask(ctx, topic, request, answer)
	_, answered := errors.AsType[*awsiot.ErrorResponse](err)
	if err == nil || answered || unanswered(err) == "PUBLISH" {
		c.lostCreates--
	} else if c.lostCreates >= maxLostCreates {
		return enough{fmt.Errorf("%w (after %d requests; each may have left a certificate that lapses within the hour)", err, c.lostCreates)}
	}
	return err
}

// signingRequest makes a CSR whose subject is the device's: AWS IoT puts it
// into the certificate.
func (c *claimSession) signingRequest() (string, error) {
	request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: c.Store.SerialNumber()}}
	der, err := x509.CreateCertificateRequest(rand.Reader, request, c.journal.Key())
	if err != nil {
		return "", fmt.Errorf("signing certificate request: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// registerThing trades the token for a registered thing and stores its name.
func (c *claimSession) registerThing(ctx context.Context) error {
	token, _ := c.journal.Token()
	_, topic := c.topics()
	var answer awsiot.RegisterThingResponse
	err := c.step(StepRegister, c.Template, func() error {
		c.prepare(ctx)
		c.asked = time.Now()
		return c.ask(ctx, topic, awsiot.RegisterThingRequest{
			CertificateOwnershipToken: awsiot.Secret(token),
			Parameters:                c.Parameters,
		}, &answer)
	})
	if _, refused := errors.AsType[*awsiot.ErrorResponse](err); err != nil {
		c.inDoubt = c.inDoubt || !refused
		return err
	}
	c.registered = true
	// A template without a thing is answered without a name.
	if answer.ThingName == "" {
		answer.ThingName = c.ExpectedThingName
	}
	if !awsiot.ValidThingName(answer.ThingName) {
		return enough{&ReplyError{Topic: topic.Accepted(), Reason: fmt.Sprintf("it names no valid thing: %q", answer.ThingName)}}
	}
	return c.register(answer.ThingName, answer.DeviceConfiguration)
}

// ask publishes a request and waits for its answer. The answer may come before
// the request's own PUBACK.
func (c *claimSession) ask(ctx context.Context, topic awsiot.Topic, request, answer any) error {
	payload, err := encode(request)
	if err != nil {
		return err
	}
	ctx, cancel := c.answerBy(ctx, string(topic.Operation))
	published := make(chan error, 1)
	var publishing sync.WaitGroup
	publishing.Go(func() { published <- c.session.Publish(ctx, topic.String(), payload) })
	err = c.await(ctx, topic, published, answer)
	cancel()
	publishing.Wait()
	c.measure()
	return c.heard(err, claimRole, topic.String())
}

func (c *claimSession) await(ctx context.Context, topic awsiot.Topic, published <-chan error, answer any) error {
	for {
		var ended error
		select {
		case m := <-c.inbox:
			if mine, err := c.take(ctx, topic, m, answer); mine {
				return err
			}
		case ended = <-published:
			published = nil
		case <-c.session.Done():
			// What became of the request tells more than that the session ended.
			if published != nil {
				ended = <-published
			}
			ended = cmp.Or(ended, c.session.Err(), session.ErrNotConnected)
		case <-ctx.Done():
			ended = context.Cause(ctx)
		}
		if ended != nil {
			return c.lastWord(ctx, topic, answer, ended)
		}
	}
}

// lastWord looks for an answer that arrived before the end.
func (c *claimSession) lastWord(ctx context.Context, topic awsiot.Topic, answer any, ended error) error {
	for {
		select {
		case m := <-c.inbox:
			if mine, err := c.take(ctx, topic, m, answer); mine {
				return err
			}
		default:
			return ended
		}
	}
}

func (c *claimSession) take(ctx context.Context, topic awsiot.Topic, m session.Message, answer any) (mine bool, err error) {
	mine, err = read(topic, m, answer)
	if !mine {
		c.Log.InfoContext(ctx, "message ignored: it answers no open request", "topic", m.Topic)
	}
	return mine, err
}

func (c *claimSession) measure() {
	c.trips.Exchange = c.session.Stats().RoundTrips() - c.trips.Claim
}

// answerBy bounds the wait for one answer.
func (r *run) answerBy(ctx context.Context, to string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, r.AnswerTimeout, &TimeoutError{To: to, After: r.AnswerTimeout})
}

// connect opens a session, not too soon after the last one with that client id.
func (r *run) connect(ctx context.Context, clientID string, cert *tls.Certificate, receive func(session.Message)) (*session.Session, error) {
	if err := r.awaitTurn(ctx, clientID); err != nil {
		return nil, err
	}
	return session.Connect(ctx, r.options(clientID, cert, receive))
}

func (r *run) options(clientID string, cert *tls.Certificate, receive func(session.Message)) session.Options {
	o := r.Session
	o.ClientID = clientID
	o.Certificate = func(context.Context) (*tls.Certificate, error) { return cert, nil }
	o.OnMessage = receive
	return o
}
