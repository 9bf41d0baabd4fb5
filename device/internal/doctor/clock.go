package doctor

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"example.com/fleety/device/awsiot"
)

// No device has run this program before earliest, and the roots of AWS IoT have
// expired by latest. A clock without a battery begins at 1970 or 2000; one with
// a broken battery may show anything.
var (
	earliest = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
)

// plausible reports whether the clock may be right.
func (r *run) plausible() bool {
	now := r.Now()
	return !now.Before(earliest) && now.Before(latest)
}

// clock compares the clock with itself and with what is on disk.
func (r *run) clock(context.Context) {
	now := r.Now()
	if !r.plausible() {
		r.skew = earliest.Sub(now)
		r.fail("clock", awsiot.Temporary, fmt.Sprintf("the clock is %d: it shows %s", now.UTC().Year(), date(now)), cause("clock"))
	}
	for _, claim := range r.claims {
		leaf := claim.Certificate.Leaf
		r.noEarlierThan(leaf, fmt.Sprintf("the claim certificate %q", leaf.Subject))
	}
	if r.device != nil {
		r.noEarlierThan(r.device.Certificate, "the device's certificate")
	}
	if r.skew == 0 {
		r.ok("clock", date(now))
	}
}

// noEarlierThan finds a clock that is behind a certificate, and corrects it. A
// wrong clock is reported once.
func (r *run) noEarlierThan(c *x509.Certificate, what string) {
	if !r.correctTime().Before(c.NotBefore) {
		return
	}
	if r.skew == 0 {
		r.fail("clock", awsiot.Temporary, fmt.Sprintf("the clock shows %s, and %s was made after that, on %s: the clock is behind", date(r.Now()), what, date(c.NotBefore)), cause("clock"))
	}
	r.skew = c.NotBefore.Add(time.Minute).Sub(r.Now())
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
