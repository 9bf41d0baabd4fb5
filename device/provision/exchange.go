package provision

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/session"
)

const (
	inboxSize      = 16               // answers that may wait for their reader; only duplicates can be more, and get lost
	tokenMargin    = 30 * time.Second // how long before its end a token counts as expired, so that a request with it still arrives
	maxLostCreates = 3                // create requests of one run that bring no certificate; each leaves one in AWS IoT for an hour
	minRSABits     = 2048             // the least size of an RSA key; AWS IoT generates as much
)

// An exchange is a connection with the claim certificate or, to rotate, with the device's present
// one. AWS IoT's answers have no field that distinguishes requests, so there is one at a time.
type exchange struct {
	run              *run
	create, register awsiot.Topic
	role             string // whose certificate it is
	cert             *tls.Certificate
	session          *session.Session
	filters          []string // of all answers
	inbox            chan session.Message
	ignored          atomic.Int64 // messages that are no answers, or one too many
}

// exchange connects, obtains a certificate unless one is held, and registers the thing with it.
func (r *run) exchange(ctx context.Context) error {
	x := &exchange{
		run:      r,
		create:   awsiot.Topic{Operation: awsiot.CreateCertificateFromCSR, Format: awsiot.JSON},
		register: awsiot.Topic{Operation: awsiot.RegisterThing, Template: r.Template, Format: awsiot.JSON},
		role:     claimRole,
		inbox:    make(chan session.Message, inboxSize),
	}
	if r.Keys == ServiceKeys {
		x.create.Operation = awsiot.CreateKeysAndCertificate
	}
	x.filters = []string{x.create.Accepted(), x.create.Rejected(), x.register.Accepted(), x.register.Rejected()}
	step, clientID, detail := StepConnectClaim, r.clientID, r.Session.Endpoint
	switch n := len(r.Claims); {
	case r.Rotate:
		step, x.role, clientID, x.cert = StepConnectPresent, deviceRole, r.present.Record.ThingName, r.present.TLS()
	case n == 0:
		return awsiot.WithClass(awsiot.Misconfigured, errors.New("claim certificate is missing, and the device has no identity of its own yet"))
	default:
		x.cert = r.Claims[r.claim]
		if n > 1 {
			detail += fmt.Sprintf(", claim %d of %d", r.claim+1, n)
		}
	}
	err := r.step(step, detail, func() (err error) {
		x.session, err = r.connect(ctx, x.role, clientID, x.cert, x.receive)
		if err == nil {
			r.trips.Claim = x.session.Stats().RoundTrips()
		}
		return r.countSilentCloses(err, x.role, "CONNECT")
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
	eager := r.Eager && !r.careful && needsCertificate
	if !eager { // one packet for all answers, before anything is requested
		err = r.step(StepSubscribe, "", func() error {
			ctx, cancel := answerBy(ctx, "SUBSCRIBE", r.AnswerTimeout)
			defer cancel()
			return x.count(x.session.Subscribe(ctx, x.filters...), "SUBSCRIBE")
		})
	}
	if err == nil && needsCertificate {
		err = x.createCertificate(ctx, eager)
		if _, rejected := errors.AsType[*awsiot.ErrorResponse](err); eager && !rejected && awsiot.ClassOf(err) == awsiot.Temporary {
			r.careful = true
			r.Log.InfoContext(ctx, "continuing without the eager request", "error", err)
		}
	}
	if err != nil {
		return err
	}
	return x.registerThing(ctx)
}

// receive is called by the session. Whatever a server sends, only answers wait to be read.
func (x *exchange) receive(m session.Message) {
	if slices.Contains(x.filters, m.Topic) {
		select {
		case x.inbox <- m:
			return
		default:
		}
	}
	x.ignored.Add(1)
}

// createCertificate obtains a certificate and stores it. Meanwhile the next
// connection is prepared. An eager request leaves in one flight with SUBSCRIBE.
func (x *exchange) createCertificate(ctx context.Context, eager bool) error {
	r := x.run
	if r.Keys == DeviceKeys && r.journal.Stage() == identity.Empty {
		if err := r.step(StepMakeKey, "", r.journal.MakeKey); err != nil {
			return err
		}
	}
	var grant *identity.Grant
	err := r.step(StepCreate, string(x.create.Operation), func() (err error) {
		r.prepare(ctx)
		grant, err = x.requestCertificate(ctx, eager)
		// When the request arrived and no answer comes, a certificate may have been made
		// nevertheless. It expires within the hour, but too many of them must not pile up.
		_, answered := errors.AsType[*awsiot.ErrorResponse](err)
		if err == nil || answered || !eager && session.Unanswered(err) == "PUBLISH" {
			return err
		}
		if r.lostCreates++; r.lostCreates >= maxLostCreates {
			return decided{fmt.Errorf("%w (after %d requests; each may have left a certificate that expires within the hour)", err, r.lostCreates), false}
		}
		return err
	})
	if err != nil {
		return err
	}
	r.unresolved, r.inherited = false, false
	return r.step(StepStore, grant.CertificateID, func() error {
		return r.store(func() error { return r.journal.HoldCertificate(*grant) })
	})
}

func (x *exchange) requestCertificate(ctx context.Context, eager bool) (*identity.Grant, error) {
	r := x.run
	grant := &identity.Grant{TokenExpires: r.Session.Now().Add(awsiot.OwnershipTokenLife)}
	if x.cert.Leaf != nil {
		grant.RequestedBy = awsiot.CertificateID(x.cert.Leaf)
	}
	var request any // CreateKeysAndCertificate has none
	if r.Keys == DeviceKeys {
		// AWS IoT copies the subject of the CSR into the certificate.
		csr := &x509.CertificateRequest{Subject: pkix.Name{CommonName: r.Store.SerialNumber()}}
		der, err := x509.CreateCertificateRequest(rand.Reader, csr, r.journal.Key())
		if err != nil {
			return nil, fmt.Errorf("signing certificate request: %w", err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		request = awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: string(text)}
	}
	var answer awsiot.CreateKeysAndCertificateResponse // the one to a CSR has the same fields, but for the key
	if err := x.ask(ctx, x.create, eager, request, &answer); err != nil {
		return nil, err
	}
	if r.Keys == ServiceKeys {
		key, err := awsiot.PrivateKey([]byte(answer.PrivateKey))
		if rsaKey, ok := key.(*rsa.PrivateKey); ok && rsaKey.N.BitLen() < minRSABits {
			err = fmt.Errorf("an RSA key of %d bits, %d are the least", rsaKey.N.BitLen(), minRSABits)
		}
		if err != nil {
			return nil, &identity.CertificateError{Reason: "its private key: " + err.Error()}
		}
		grant.PrivateKeyPEM = string(answer.PrivateKey)
	}
	grant.CertificateID, grant.CertificatePEM, grant.Token = answer.CertificateID, answer.CertificatePEM, string(answer.CertificateOwnershipToken)
	return grant, nil
}

// registerThing registers the thing with the token and stores its name. From the moment that AWS
// IoT accepts, the certificate is active: whatever is wrong with the answer, it is kept.
func (x *exchange) registerThing(ctx context.Context) error {
	r := x.run
	var answer awsiot.RegisterThingResponse
	err := r.step(StepRegister, r.Template, func() error {
		r.prepare(ctx)
		r.registerSent = time.Now()
		token, _ := r.journal.Token()
		request := awsiot.RegisterThingRequest{CertificateOwnershipToken: awsiot.Secret(token), Parameters: r.Parameters}
		return x.ask(ctx, x.register, false, request, &answer)
	})
	if reply, unreadable := errors.AsType[*replyError](err); unreadable && reply.topic == x.register.Accepted() {
		r.Log.WarnContext(ctx, "the thing is registered, but the answer cannot be read", "error", err)
		err = nil
	}
	if err != nil {
		_, rejected := errors.AsType[*awsiot.ErrorResponse](err)
		r.unresolved = r.unresolved || !rejected
		return err
	}
	r.registered = true
	if !awsiot.ThingNames.Valid(answer.ThingName) {
		r.Log.WarnContext(ctx, "the answer to RegisterThing has no valid thing name", "thingName", answer.ThingName)
		answer.ThingName = r.ExpectedThingName
	}
	return r.storeRegistration(answer.ThingName, answer.DeviceConfiguration)
}

// ask publishes a request and waits for its answer, which may come before the
// request's own PUBACK. An eager one subscribes to all answers in the same flight.
func (x *exchange) ask(ctx context.Context, topic awsiot.Topic, eager bool, request, answer any) (err error) {
	var payload []byte // no request is no bytes
	if request != nil {
		if payload, err = json.Marshal(request); err != nil {
			return err
		}
	}
	timeout := x.run.AnswerTimeout
	if eager {
		timeout /= 3 // the answer may have come before the subscription, and be lost
	}
	ctx, cancel := answerBy(ctx, string(topic.Operation), timeout)
	defer cancel()
	if eager {
		err = x.session.SubscribeAndPublish(ctx, x.filters, topic.String(), payload)
	} else {
		err = x.session.Publish(ctx, topic.String(), payload)
	}
	// An answer that came before the end counts.
	for err == nil || len(x.inbox) > 0 {
		select {
		case m := <-x.inbox:
			if mine, err := read(topic, m, answer); mine {
				return x.count(err, topic.String())
			}
			x.ignored.Add(1)
		case <-x.session.Done():
			err = cmp.Or(x.session.Err(), session.ErrNotConnected)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	return x.count(cmp.Or(context.Cause(ctx), err), topic.String())
}

// count counts the round trips of a wait for the server, and its silent close if it ended so.
func (x *exchange) count(err error, what string) error {
	x.run.trips.Exchange = x.session.Stats().RoundTrips() - x.run.trips.Claim
	return x.run.countSilentCloses(err, x.role, what)
}

// answerBy bounds the wait for one answer.
func answerBy(ctx context.Context, to string, timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, timeout, &TimeoutError{To: to, After: timeout})
}

// A replyError reports an answer that cannot be read. It does not repeat what was
// read: there may be a secret in it.
type replyError struct{ topic, reason string }

func (e *replyError) Error() string       { return "answer on " + e.topic + ": " + e.reason }
func (e *replyError) Class() awsiot.Class { return awsiot.Temporary }

// read reads a message as the answer to a request on topic. mine is false for
// messages of other topics: late, repeated or foreign ones.
func read(topic awsiot.Topic, m session.Message, answer any) (mine bool, err error) {
	unreadable := func(reason string) (bool, error) { return true, &replyError{m.Topic, reason} }
	rejection, rejected := &awsiot.ErrorResponse{Operation: topic.Operation}, m.Topic == topic.Rejected()
	if !rejected && m.Topic != topic.Accepted() {
		return false, nil
	}
	created, creates := answer.(*awsiot.CreateKeysAndCertificateResponse)
	if rejected {
		answer = rejection
	}
	switch {
	case len(m.Payload) > session.MaxPayload:
		return unreadable(fmt.Sprintf("it is %d bytes long", len(m.Payload)))
	case awsiot.DecodeJSON(m.Payload, answer) != nil:
		return unreadable("it is not the JSON that AWS documents")
	case rejected && rejection.StatusCode == 0:
		return unreadable("it is a rejection without a status code")
	case rejected:
		return true, rejection
	case !creates:
		return true, nil
	}
	fields := []struct{ name, value string }{
		{"certificateId", created.CertificateID}, {"certificatePem", created.CertificatePEM},
		{"certificateOwnershipToken", string(created.CertificateOwnershipToken)}, {"privateKey", string(created.PrivateKey)},
	}
	if topic.Operation == awsiot.CreateCertificateFromCSR {
		fields = fields[:3]
	}
	for _, f := range fields {
		if f.value == "" {
			return unreadable(f.name + " is missing")
		}
	}
	return true, nil
}

// claimClientID makes a client id that is unique to the device and the run:
// two sessions with one id would end each other.
func claimClientID(serial string) string {
	const longest = 96
	id := "claim-" + strings.Map(func(c rune) rune {
		if c < 0x80 && awsiot.ThingNames.Valid(string(c)) {
			return c
		}
		return '_'
	}, serial)
	return id[:min(len(id), longest)] + "-" + rand.Text()
}
