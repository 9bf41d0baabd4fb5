package provision

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"time"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/session"
)

// A birth is the message by which a device shows that its identity works.
type birth struct {
	ThingName     string    `json:"thingName"`
	SerialNumber  string    `json:"serialNumber"`
	CertificateID string    `json:"certificateId"`
	Author        string    `json:"author"`
	Time          time.Time `json:"time"`
}

// birthTopic is where the device policy lets a thing publish.
func birthTopic(thing string) string { return "fleet/" + thing }

// prove connects as the thing and publishes a birth message. An identity
// counts only once that was acknowledged.
func (r *run) prove(ctx context.Context, record identity.Record, cert *tls.Certificate) error {
	var s *session.Session
	err := r.step(StepConnectDevice, record.ThingName, func() (err error) {
		s, err = r.connectDevice(ctx, record.ThingName, cert)
		return r.heard(err, deviceRole, "CONNECT")
	})
	if err != nil {
		return err
	}
	defer s.Close(context.WithoutCancel(ctx))
	topic := birthTopic(record.ThingName)
	return r.step(StepPublishBirth, topic, func() error {
		payload, err := json.Marshal(birth{
			ThingName:     record.ThingName,
			SerialNumber:  record.SerialNumber,
			CertificateID: record.CertificateID,
			Author:        record.Author,
			Time:          r.Session.Now().UTC(),
		})
		if err != nil {
			return err
		}
		ctx, cancel := r.answerBy(ctx, "PUBLISH")
		defer cancel()
		return r.heard(s.Publish(ctx, topic, payload), deviceRole, topic)
	})
}

// connectDevice takes the prepared connection if there is one that works.
func (r *run) connectDevice(ctx context.Context, thing string, cert *tls.Certificate) (*session.Session, error) {
	if s := r.connectPrepared(ctx, thing); s != nil {
		return s, nil
	}
	s, err := r.connect(ctx, thing, cert, nil)
	if err == nil {
		r.trips.Device = s.Stats().RoundTrips()
	}
	return s, err
}

// A preparation is a connection whose handshake waits for the certificate, so
// that it costs no round trips of its own. It is a shortcut and nothing more:
// whatever goes wrong with it, a plain connection follows.
type preparation struct {
	cancel context.CancelFunc
	done   chan struct{}
	held   *session.Prepared // nil if err
	err    error
}

// prepare begins a preparation, unless there is one.
func (r *run) prepare(ctx context.Context) {
	if r.prepared != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &preparation{cancel: cancel, done: make(chan struct{})}
	o := r.options("", nil, nil)
	o.Certificate = func(context.Context) (*tls.Certificate, error) { return r.journal.TLS(), nil }
	go func() {
		defer close(p.done)
		p.held, p.err = session.Prepare(ctx, o)
	}()
	r.prepared = p
}

func (r *run) connectPrepared(ctx context.Context, thing string) *session.Session {
	p := r.prepared
	if p == nil {
		return nil
	}
	defer r.dropPrepared()
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil
	}
	s, err := r.connectHeld(ctx, p, thing)
	if err != nil {
		r.Log.InfoContext(ctx, "prepared connection failed; connecting anew", "error", err)
		return nil
	}
	// Of TCP and TLS only the server's last word in TLS 1.2 was still to come.
	r.trips.Device = s.Stats().MQTT
	if s.TLS().Version < tls.VersionTLS13 {
		r.trips.Device++
	}
	return s
}

func (r *run) connectHeld(ctx context.Context, p *preparation, thing string) (*session.Session, error) {
	if p.err != nil {
		return nil, p.err
	}
	if err := r.awaitTurn(ctx, thing); err != nil {
		return nil, err
	}
	p.held.ClientID = thing
	return p.held.Connect(ctx)
}

// dropPrepared ends a preparation. It does nothing to a connection that has
// become a session.
func (r *run) dropPrepared() {
	p := r.prepared
	if p == nil {
		return
	}
	r.prepared = nil
	p.cancel()
	<-p.done
	if p.held != nil {
		p.held.Close()
	}
}
