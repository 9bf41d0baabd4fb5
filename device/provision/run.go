package provision

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/session"
)

// A run is the state of one [Run]. What must outlive it is in the journal.
type run struct {
	Config
	timing   timing
	journal  *identity.Journal
	clientID string             // of the claim's sessions
	proved   bool               // the device has an identity, which was proved before
	present  *identity.Identity // that identity, when this run is to replace it

	claim       int          // the one in use
	claimSilent bool         // it met maxSilentCloses more
	deniedClaim map[int]bool // those that AWS IoT denied

	trips     RoundTrips                        // of the current attempt
	prepared  func() (*session.Prepared, error) // waits for it, where a connection is prepared; see prepare
	unprepare context.CancelFunc
	installed *identity.Identity

	// unresolved: a RegisterThing for the certificate that is held may have been
	// sent, and its answer lost.
	unresolved   bool
	inherited    bool      // it was so when the run began
	repeated     bool      // an attempt to send it again, for the device configuration, failed
	registerSent time.Time // when this run last sent RegisterThing
	registered   bool      // this run sent RegisterThing, and AWS IoT accepted it
	renewed      bool      // this run has discarded a certificate once
	careful      bool      // Eager failed in this run
	lostCreates  int
	unstored     func() error            // saves an answer that could not be saved
	rejections   int                     // that were retried although they deny
	connected    map[string]time.Time    // when last, by client id
	silentCloses map[string]silentCloses // in a row, by certificate and packet
}

func runWith(ctx context.Context, c Config, t timing) (_ *Result, err error) {
	if c, err = c.withDefaults(); err != nil {
		return nil, err
	}
	r := &run{
		Config:       c,
		timing:       t,
		clientID:     claimClientID(c.Store.SerialNumber()),
		connected:    map[string]time.Time{},
		silentCloses: map[string]silentCloses{},
		deniedClaim:  map[int]bool{},
	}
	id, loadErr := c.Store.Load()
	r.proved = loadErr == nil
	r.journal, err = c.Store.Begin()
	if _, locked := errors.AsType[*identity.LockedError](err); err != nil && !locked && r.proved && !c.Reprovision {
		// A read-only disk or a damaged journal: proving needs neither.
		c.Log.WarnContext(ctx, "the provisioning journal cannot be used", "error", err)
		return r.proveExisting(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	result, err := r.run(ctx)
	if closeErr := r.journal.Close(); closeErr != nil { // what is left of it is a file for the next lock
		c.Log.WarnContext(ctx, "the provisioning journal cannot be closed", "error", closeErr)
	}
	return result, err
}

// run proves the identity that is there, or provisions one.
func (r *run) run(ctx context.Context) (*Result, error) {
	id, err := r.Store.Load()
	if err != nil && r.Rotate {
		return nil, fmt.Errorf("rotating: %w", err)
	}
	registered := r.journal.Stage() == identity.Registered // a certificate that is active
	replaceable := errors.Is(err, identity.ErrNone) || errors.Is(err, identity.ErrBroken) && (r.Reprovision || registered)
	if err != nil && !replaceable {
		return nil, err
	}
	// What this run was asked to replace may have been replaced a moment ago,
	// when the journal was opened.
	finished := r.journal.Finished()
	if id != nil && (!r.Reprovision || finished != nil) {
		result, err := r.proveExisting(ctx, id)
		// An operator who finds two active certificates may have deactivated the older.
		if err != nil && !(registered && awsiot.ClassOf(err) == awsiot.Denied) {
			return nil, err
		}
		if err == nil {
			if finished != nil {
				result.Retired = finished.Record.Replaces
			}
			if r.journal.Stage() != identity.Empty {
				result.Pending = r.Store.Status().Pending
			}
			return result, nil
		}
		r.Log.WarnContext(ctx, "the identity is denied; trying its replacement, which is registered", "error", err)
		r.proved = false
	}
	r.present = id
	r.unresolved = r.journal.Stage() == identity.CertificateHeld
	r.inherited = r.unresolved
	if r.unresolved { // its token is of no use to another claim
		r.claim = max(0, slices.IndexFunc(r.Claims, func(c *tls.Certificate) bool {
			return c.Leaf != nil && awsiot.CertificateID(c.Leaf) == r.journal.RequestedBy()
		}))
	}
	if err := r.retry(ctx, r.attempt); err != nil {
		return nil, err
	}
	return &Result{Identity: r.installed, Provisioned: r.registered, Retired: r.installed.Record.Replaces, RoundTrips: r.trips.sum()}, nil
}

func (r *run) proveExisting(ctx context.Context, id *identity.Identity) (*Result, error) {
	if err := r.checkThingName(id.Record.ThingName, id.Record.CertificateID); err != nil {
		return nil, err
	}
	if err := r.retry(ctx, func(ctx context.Context) error { return r.prove(ctx, id.Record, id.TLS(), nil) }); err != nil {
		return nil, err
	}
	return &Result{Identity: id, RoundTrips: r.trips.sum()}, nil
}

// attempt continues from the journal's stage to the end, or to the first error.
func (r *run) attempt(ctx context.Context) error {
	r.trips = RoundTrips{}
	defer r.dropPrepared()
	if r.installed != nil { // and its birth message was not acknowledged
		return r.prove(ctx, r.installed.Record, r.installed.TLS(), nil)
	}
	if r.unstored != nil {
		if err := r.step(StepStore, "", func() error { return r.store(r.unstored) }); err != nil {
			return err
		}
	}
	if r.unresolved && (r.repeated || r.tokenExpired()) {
		if err := r.probe(ctx); err != nil && !notAccepted(err) {
			return err
		}
	}
	if r.journal.Stage() < identity.Registered {
		wasUnresolved := r.unresolved
		err := r.exchange(ctx)
		rejection, rejected := errors.AsType[*awsiot.ErrorResponse](err)
		expired := rejected && strings.HasPrefix(rejection.ErrorCode, "InvalidCertificateOwnershipToken") // as while RegisterThing was retried
		if err != nil && (wasUnresolved || expired) && r.journal.Stage() == identity.CertificateHeld {
			r.repeated = true
			if class := awsiot.ClassOf(err); class == awsiot.Denied || class == awsiot.Misconfigured {
				err = r.resolve(ctx, err)
			}
		}
		if err != nil {
			return r.otherClaim(ctx, err)
		}
	}
	if r.journal.Stage() == identity.Registered {
		if err := r.proveNew(ctx); err != nil || r.installed != nil {
			return err
		}
	}
	if err := r.install(); err != nil || r.present == nil {
		return err
	}
	// The disk was full when the replacement was to be installed, before its birth message.
	return r.prove(ctx, r.installed.Record, r.installed.TLS(), nil)
}

// otherClaim selects the next claim after an exchange that failed because AWS IoT
// denied the present one, if there is one that it has not denied.
func (r *run) otherClaim(ctx context.Context, err error) error {
	_, rejected := errors.AsType[*awsiot.ErrorResponse](err)
	denied := awsiot.ClassOf(err) == awsiot.Denied && !rejected
	silent := r.claimSilent
	r.claimSilent = false
	if r.Rotate || !denied && !silent {
		return err
	}
	r.deniedClaim[r.claim] = denied
	for i := range r.Claims {
		next := (r.claim + 1 + i) % len(r.Claims)
		if next == r.claim || r.deniedClaim[next] {
			continue
		}
		r.Log.WarnContext(ctx, "AWS IoT denies the claim; trying the next one", "claim", r.claim+1, "next", next+1, "error", err)
		r.claim = next
		if denied {
			return decided{err, true}
		}
		break
	}
	return err
}

// proveNew proves the certificate that was registered. One that an earlier run
// registered and AWS IoT denies now is discarded if a new one is wanted.
func (r *run) proveNew(ctx context.Context) error {
	id := awsiot.CertificateID(r.journal.TLS().Leaf)
	thing := r.journal.ThingName()
	if thing == "" { // AWS IoT registered the certificate and named no thing
		if thing = r.ThingName; thing == "" {
			err := &ThingNameError{CertificateID: id}
			if r.Reprovision && !r.registered {
				return r.renew(err)
			}
			return err
		}
		if err := r.journal.NameThing(thing); err != nil {
			return err
		}
	}
	if err := r.checkThingName(thing, id); err != nil {
		return err
	}
	// A birth message with the new certificate has the old one retired. So where
	// there is an old one, the new identity is installed before.
	var connected func() error
	if r.present != nil {
		connected = func() error {
			if err := r.journal.Commit(); err != nil {
				return err
			}
			return r.install()
		}
	}
	record := identity.Record{ThingName: thing, SerialNumber: r.Store.SerialNumber(), CertificateID: id, Author: r.Author}
	err := r.prove(ctx, record, r.journal.TLS(), connected)
	switch {
	case r.installed != nil:
		return err
	case err == nil:
		return r.journal.Commit()
	case r.Reprovision && !r.registered && awsiot.ClassOf(err) == awsiot.Denied:
		return r.renew(err)
	}
	return err
}

func (r *run) install() error {
	return r.step(StepCommit, "", func() (err error) {
		r.installed, err = r.journal.Install()
		return err
	})
}

func (r *run) checkThingName(got, certificateID string) error {
	if r.ThingName != "" && got != r.ThingName {
		return &ThingNameError{r.ThingName, got, certificateID}
	}
	return nil
}

// A birth is the message by which a device shows that its identity works.
type birth struct {
	ThingName     string    `json:"thingName"`
	SerialNumber  string    `json:"serialNumber"`
	CertificateID string    `json:"certificateId"`
	Replaces      string    `json:"replaces,omitempty"` // the certificate before this one, which the stack then retires
	Author        string    `json:"author"`
	Time          time.Time `json:"time"`
}

// prove connects as the thing, calls connected unless it is nil, and publishes a
// birth message, which must be acknowledged.
func (r *run) prove(ctx context.Context, record identity.Record, cert *tls.Certificate, connected func() error) error {
	var s *session.Session
	err := r.step(StepConnectDevice, record.ThingName, func() (err error) {
		if s, err = r.connectPrepared(ctx, record.ThingName); s != nil || err != nil {
			return err
		}
		s, err = r.connect(ctx, deviceRole, record.ThingName, cert, nil)
		if err == nil {
			r.trips.Device = s.Stats().RoundTrips()
		}
		return r.countSilentCloses(err, deviceRole, "CONNECT")
	})
	if err != nil {
		return err
	}
	defer s.Close(context.WithoutCancel(ctx))
	if connected != nil {
		if err := connected(); err != nil {
			return err
		}
		record = r.installed.Record // with the certificate that it replaces
	}
	topic := "fleet/" + record.ThingName
	return r.step(StepPublishBirth, topic, func() error {
		payload, err := json.Marshal(birth{record.ThingName, record.SerialNumber, record.CertificateID, record.Replaces, record.Author, r.Session.Now().UTC()})
		if err != nil {
			return err
		}
		ctx, cancel := answerBy(ctx, "PUBLISH", r.AnswerTimeout)
		defer cancel()
		return r.countSilentCloses(s.Publish(ctx, topic, payload), deviceRole, topic)
	})
}

// probe finds out whether a registration whose answer was lost has happened: a
// certificate that is not registered cannot connect.
func (r *run) probe(ctx context.Context) error {
	name := r.ExpectedThingName
	if name == "" {
		return nil
	}
	return r.step(StepProbe, name, func() error {
		s, err := r.connect(ctx, deviceRole, name, r.journal.TLS(), nil)
		if err != nil {
			return err
		}
		_ = s.Close(ctx)
		r.Log.WarnContext(ctx, "the thing is registered, but AWS IoT's answer was lost, and with it the device configuration; only provisioning the device again brings another",
			"thing", name)
		r.registered = !r.inherited
		return r.storeRegistration(name, nil)
	})
}

// notAccepted reports whether the server accepted the connection but not the
// certificate or the client id.
func notAccepted(err error) bool {
	e, ok := errors.AsType[*session.Error](err)
	return ok && e.Authenticated && (e.Class() == awsiot.Denied || session.Unanswered(err) == "CONNECT")
}

// resolve finds out what an earlier RegisterThing has done, after a repeated one ended with err.
// AWS IoT may still be working on the earlier one. If it did nothing, and the repeated one was
// rejected for its token or parameters, the certificate is discarded for a new one, once in a run.
func (r *run) resolve(ctx context.Context, err error) error {
	began := r.registerSent
	rejection, rejected := errors.AsType[*awsiot.ErrorResponse](err)
	for {
		probeErr := r.probe(ctx)
		switch {
		case r.journal.Stage() == identity.Registered, probeErr != nil && !notAccepted(probeErr):
			return probeErr
		case !rejected || deniesDevice(rejection):
			return err
		case r.ExpectedThingName == "" || !r.unresolved || time.Since(began) > r.timing.resolve:
			return r.renew(err)
		}
	}
}

// deniesDevice reports whether a rejection is for want of permission: the hook
// denied the device, or failed, which AWS IoT answers alike.
func deniesDevice(e *awsiot.ErrorResponse) bool { return e.StatusCode == 401 || e.StatusCode == 403 }

// renew discards a certificate that AWS IoT rejected, so that the next attempt
// requests a new one for the same key. Once a run is enough.
func (r *run) renew(err error) error {
	if r.renewed {
		return err
	}
	r.renewed, r.unresolved, r.repeated = true, false, false
	if err := r.journal.DiscardCertificate(); err != nil {
		return err
	}
	return decided{err, true}
}

// storeRegistration stores what AWS IoT has done.
func (r *run) storeRegistration(thing string, configuration map[string]any) error {
	r.unresolved = false
	registration := identity.Registration{ThingName: thing, DeviceConfiguration: configuration, Endpoint: r.Session.Endpoint, Author: r.Author}
	return r.store(func() error { return r.journal.Register(registration) })
}

// store saves an answer of AWS IoT. Where the disk is full, the next attempt saves
// it again, rather than request another.
func (r *run) store(save func() error) error {
	r.unstored = save
	err := save()
	if err == nil {
		r.unstored = nil
	}
	return err
}

// tokenExpired compares with a clock that may have been set since: one that was
// set back says nothing.
func (r *run) tokenExpired() bool {
	_, expires := r.journal.Token()
	return !r.Session.Now().Before(expires.Add(-tokenMargin))
}

// connect opens a session, not too soon after the last one with that client id.
func (r *run) connect(ctx context.Context, role, clientID string, cert *tls.Certificate, receive func(session.Message)) (*session.Session, error) {
	if err := r.awaitConnectInterval(ctx, clientID); err != nil {
		return nil, err
	}
	o := r.Session
	o.ClientID, o.OnMessage = clientID, receive
	o.Certificate = func(context.Context) (*tls.Certificate, error) { return cert, nil }
	s, err := session.Connect(ctx, o)
	if err == nil && r.Session.CurvePreferences == nil && s.TLS().CurveID != tls.X25519MLKEM768 {
		r.Session.CurvePreferences = session.ClassicCurves // the server or the network does not use ML-KEM
	}
	if now := r.Session.Now(); awsiot.ClassOf(err) == awsiot.Denied && cert.Leaf != nil && now.Before(cert.Leaf.NotBefore) {
		return nil, fmt.Errorf("%w (%w)", &awsiot.ValidityError{What: "the " + role + " certificate", Certificate: cert.Leaf, Now: now}, err)
	}
	return s, err
}

// prepare begins to prepare a connection, unless there is one: its handshake waits for the
// certificate, so that it costs no round trips of its own. It is a shortcut and nothing more: whatever
// fails with it, a plain connection follows.
func (r *run) prepare(ctx context.Context) {
	if r.prepared != nil {
		return
	}
	ctx, r.unprepare = context.WithCancel(ctx)
	o := r.Session
	o.ClientID, o.OnMessage = "", nil
	o.Certificate = func(context.Context) (*tls.Certificate, error) { return r.journal.TLS(), nil }
	r.prepared = sync.OnceValues(func() (*session.Prepared, error) { return session.Prepare(ctx, o) })
	go r.prepared()
}

// connectPrepared returns the prepared connection as a session, nil if there is
// none that works. The error is that of ctx.
func (r *run) connectPrepared(ctx context.Context, thing string) (*session.Session, error) {
	if r.prepared == nil {
		return nil, nil
	}
	defer r.dropPrepared()
	prepared, err := r.prepared()
	var s *session.Session
	if err == nil {
		if err := r.awaitConnectInterval(ctx, thing); err != nil {
			return nil, err
		}
		prepared.ClientID = thing
		s, err = prepared.Connect(ctx)
	}
	if err != nil {
		r.Log.InfoContext(ctx, "prepared connection failed; connecting anew", "error", err)
		return nil, nil
	}
	// Of TCP and TLS only the server's last message in TLS 1.2 was still to come.
	r.trips.Device = s.Stats().MQTT
	if s.TLS().Version < tls.VersionTLS13 {
		r.trips.Device++
	}
	return s, nil
}

// dropPrepared ends a preparation. It does nothing to a connection that has become a session.
func (r *run) dropPrepared() {
	if r.prepared == nil {
		return
	}
	r.unprepare()
	if prepared, err := r.prepared(); err == nil {
		prepared.Close()
	}
	r.prepared = nil
}
