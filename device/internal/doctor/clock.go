package doctor

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"example.com/fleety/device/session"
)

// No device has run this program before earliest, and AWS IoT's certificates
// and roots are over by latest. A clock without a battery begins at 1970 or
// 2000; one with a broken battery may show anything.
var (
	earliest = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
)

const setClock = "set the clock: start an NTP client, or wait for the one that is there (timedatectl tells)"

// plausible reports whether the clock may be right.
func (e *examination) plausible() bool {
	now := e.Now()
	return !now.Before(earliest) && now.Before(latest)
}

// clock judges the clock by itself and by what is on disk.
func (e *examination) clock(context.Context) {
	const name = "clock"
	now := e.Now()
	if !e.plausible() {
		e.skew = earliest.Sub(now)
		e.fail(name, session.ClassTemporary, fmt.Sprintf("the clock is %d: it says %s", now.UTC().Year(), date(now)),
			"it has not been set since the device started, or its battery is empty", setClock)
	}
	for _, c := range e.ownCertificates() {
		e.noEarlierThan(c, fmt.Sprintf("certificate %q", c.Subject))
	}
	if e.skew == 0 {
		e.ok(name, date(now))
	}
}

// noEarlierThan finds a clock that is behind a certificate, and puts it right.
// A wrong clock is told once.
func (e *examination) noEarlierThan(c *x509.Certificate, what string) {
	if !e.rightTime().Before(c.NotBefore) {
		return
	}
	if e.skew == 0 {
		e.fail("clock", session.ClassTemporary, "the clock says "+date(e.Now()),
			what+" was made after that, on "+date(c.NotBefore)+": the clock is behind", setClock)
	}
	e.skew = c.NotBefore.Add(time.Minute).Sub(e.Now())
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
