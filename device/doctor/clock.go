package doctor

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"example.com/fleety/device/session"
)

// earliest is before any device can have run this program. A clock without a
// battery begins at 1970 or 2000.
var earliest = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

const setClock = "set the clock: start an NTP client, or wait for the one that is there (timedatectl tells)"

// clock judges the clock by what is on disk.
func (e *examination) clock(context.Context) {
	const name = "clock"
	now := e.Now()
	if now.Before(earliest) {
		e.behind(earliest)
		e.fail(name, session.ClassTemporary, fmt.Sprintf("the clock is %d: it says %s", now.UTC().Year(), date(now)),
			"it was never set since the device started", setClock)
	}
	for _, c := range e.ownCertificates() {
		if now.Before(c.NotBefore) {
			e.behind(c.NotBefore)
			if !now.Before(earliest) {
				e.fail(name, session.ClassTemporary, "the clock says "+date(now),
					fmt.Sprintf("certificate %q was made after that, on %s: the clock is behind", c.Subject, date(c.NotBefore)), setClock)
			}
		}
	}
	if e.skew == 0 {
		e.ok(name, date(now))
	}
}

func (e *examination) ownCertificates() []*x509.Certificate {
	var own []*x509.Certificate
	if e.claim != nil {
		if c, err := x509.ParseCertificate(e.claim.Certificate[0]); err == nil {
			own = append(own, c)
		}
	}
	if e.device != nil {
		own = append(own, e.device.Certificate)
	}
	return own
}

// behind notes that it is later than t, whatever the clock says.
func (e *examination) behind(t time.Time) {
	e.skew = max(e.skew, t.Add(time.Minute).Sub(e.Now()))
}
