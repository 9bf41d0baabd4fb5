package provision

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/session"
)

const (
	// tokenMargin is how long before its end a token counts as expired, so
	// that a request with it still arrives in time.
	tokenMargin = 30 * time.Second
	// maxLostCreates bounds the create requests that one run sends without
	// hearing of a certificate. Each leaves one behind in AWS IoT for an hour.
	maxLostCreates = 3
)

// A run is the state of one [Run]. What must outlive it is in the journal.
type run struct {
	Config
	timing   timing
	journal  *identity.Journal
	clientID string // of the claim's sessions

	trips     RoundTrips // of the current attempt
	prepared  *preparation
	committed *identity.Identity

	// inDoubt tells that a RegisterThing for the certificate that is held may
	// have been sent, and its answer lost.
	inDoubt     bool
	unstored    func() error         // saves an answer that could not be saved
	connected   map[string]time.Time // when last, by client id
	silence     map[string]int       // silent ends in a row, by the packet they followed
	asked       time.Time            // when this run last sent RegisterThing
	registered  bool                 // this run sent RegisterThing, and it happened
	renewed     bool                 // this run has given up a certificate once
	lostCreates int
}

// attempt goes from the journal's stage to the end, or as far as it comes.
func (r *run) attempt(ctx context.Context) error {
	r.trips = RoundTrips{}
	defer r.dropPrepared()
	if r.unstored != nil {
		if err := r.step(StepStore, "", func() error { return r.store(r.unstored) }); err != nil {
			return err
		}
	}
	if r.inDoubt {
		if err := r.probe(ctx); err != nil && !notAccepted(err) {
			return err
		}
	}
	if r.journal.Stage() < identity.Registered {
		if err := r.claim(ctx); err != nil {
			return err
		}
	}
	if r.journal.Stage() == identity.Registered {
		if err := r.proveNew(ctx); err != nil {
			return err
		}
	}
	return r.step(StepCommit, "", func() (err error) {
		r.committed, err = r.journal.Install()
		return err
	})
}

// proveNew proves the certificate that was registered. One that an earlier run
// registered and AWS IoT refuses now is given up if a new one is wanted.
func (r *run) proveNew(ctx context.Context) error {
	thing := r.journal.ThingName()
	if err := r.checkThingName(thing); err != nil {
		return err
	}
	record := identity.Record{
		ThingName:     thing,
		SerialNumber:  r.Store.SerialNumber(),
		CertificateID: awsiot.CertificateID(r.journal.Certificate()),
		Author:        r.Author,
	}
	err := r.prove(ctx, record, r.journal.TLS())
	if err != nil && r.Reprovision && !r.registered && ClassOf(err) == Refused {
		return r.renew(err)
	}
	if err != nil {
		return err
	}
	return r.journal.Commit()
}

func (r *run) checkThingName(got string) error {
	if r.ThingName != "" && got != r.ThingName {
		return &ThingNameError{Want: r.ThingName, Got: got}
	}
	return nil
}

// probe finds out whether a registration whose answer was lost has happened: a
// certificate that is not registered cannot connect.
func (r *run) probe(ctx context.Context) error {
	name := r.ExpectedThingName
	if name == "" {
		return nil
	}
	return r.step(StepProbe, name, func() error {
		s, err := r.connect(ctx, name, r.journal.TLS(), nil)
		if err != nil {
			return err
		}
		_ = s.Close(ctx)
		r.Log.WarnContext(ctx, "the thing is registered, the answer was lost, and with it the device configuration", "thing", name)
		r.registered = !r.asked.IsZero()
		return r.register(name, nil)
	})
}

// notAccepted reports whether the server took the connection but not the
// certificate or the client id.
func notAccepted(err error) bool {
	e, ok := errors.AsType[*session.Error](err)
	if !ok || e.Stage != session.StageTLS && e.Stage != session.StageConnect {
		return false
	}
	return e.Class() == awsiot.Denied || errors.Is(err, session.ErrClosedSilently)
}

// deniesDevice reports whether a refusal is for want of permission. Any other
// may be about the token: not taken, because an earlier request with it was.
func deniesDevice(refusal *awsiot.ErrorResponse) bool {
	return refusal.StatusCode == 401 || refusal.StatusCode == 403
}

// settle waits until it is clear what an earlier RegisterThing has done. If
// nothing, the certificate is given up for a new one, once a run.
func (r *run) settle(ctx context.Context, refusal error) error {
	begun := r.asked
	for {
		err := r.probe(ctx)
		if r.journal.Stage() == identity.Registered {
			return err
		}
		if err != nil && !notAccepted(err) {
			return err
		}
		if r.ExpectedThingName == "" || time.Since(begun) > r.timing.settle {
			return r.renew(refusal)
		}
	}
}

// renew drops a certificate that AWS IoT refused, so that the next attempt
// asks for a new one for the same key. Once a run is enough.
func (r *run) renew(refusal error) error {
	if r.renewed {
		return refusal
	}
	r.renewed = true
	r.inDoubt = false
	if err := r.journal.DiscardCertificate(); err != nil {
		return err
	}
	return again{refusal}
}

// register stores what AWS IoT has done.
func (r *run) register(thing string, configuration map[string]string) error {
	r.inDoubt = false
	return r.store(func() error {
		return r.journal.Register(identity.Registration{
			ThingName:           thing,
			DeviceConfiguration: configuration,
			Endpoint:            r.Session.Endpoint,
			Author:              r.Author,
		})
	})
}

// store saves an answer of AWS IoT. Where the disk is full, the next attempt tries to
// save it again, rather than to ask again.
func (r *run) store(save func() error) error {
	r.unstored = save
	err := save()
	if err == nil {
		r.unstored = nil
	}
	return err
}

// tokenExpired judges by a clock that may have been set since: one that has
// gone back says nothing.
func (r *run) tokenExpired() bool {
	_, expires := r.journal.Token()
	return !r.Session.Now().Before(expires.Add(-tokenMargin))
}

// claimClientID makes a client id that is unique to the device and the run:
// two sessions with one id would end each other.
func claimClientID(serial string) string {
	const longest = 96
	id := "claim-" + strings.Map(plain, serial)
	return id[:min(len(id), longest)] + "-" + rand.Text()
}

func plain(c rune) rune {
	if c < 0x80 && awsiot.ValidThingName(string(c)) {
		return c
	}
	return '_'
}
