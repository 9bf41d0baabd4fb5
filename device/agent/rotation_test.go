package agent

import (
	"crypto/x509"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/session"
)

// A connection ends for a rotation at two thirds of the certificate's lifetime, and up to a tenth
// of that later.
func TestShortLivedCertificateIsRotatedAtTwoThirdsOfItsLife(t *testing.T) {
	const hour = time.Hour
	for name, test := range map[string]struct {
		life, rotateAfter time.Duration
		jitter            float64
		want              time.Duration
	}{
		"a week":                    {7 * 24 * hour, 0, 0, 112 * hour},
		"a week, with jitter":       {7 * 24 * hour, 0, 0.5, 112*hour + 112*hour/20},
		"three hours":               {3 * hour, 0, 0, 2 * hour},
		"earlier by configuration":  {7 * 24 * hour, 24 * hour, 0.5, 24*hour + 24*hour/20},
		"no later by configuration": {3 * hour, 24 * hour, 0, 2 * hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				a := &agent{Config: Config{RotateAfter: test.rotateAfter}, jitter: test.jitter, now: time.Now}
				id := &identity.Identity{Certificate: &x509.Certificate{NotBefore: began, NotAfter: began.Add(test.life)}}
				err := a.awaitEnd(t.Context(), t.Context(), new(session.Session), id)
				if d := time.Since(began); !errors.Is(err, errRotate) || d != test.want {
					t.Errorf("ended after %v with %v, want %v", d, err, test.want)
				}
			})
		})
	}
}

// A rotation that failed is tried again while the certificate still lives.
func TestFailedRotationIsRetriedWithinTheCertificatesLife(t *testing.T) {
	t.Parallel()
	for left, most := range map[time.Duration]time.Duration{
		10 * 365 * 24 * time.Hour: 90 * time.Minute,
		24 * time.Hour:            90 * time.Minute,
		40 * time.Minute:          15 * time.Minute,
		time.Second:               90 * time.Second,
		-time.Hour:                90 * time.Second,
	} {
		for range 100 {
			if d := retryRotation(left); d < most/3 || d > most {
				t.Errorf("%v left: retried after %v", left, d)
			}
		}
	}
}
