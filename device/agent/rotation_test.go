package agent

import (
	"crypto/x509"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"example.com/fleety/device/awsiot"
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
		ahead, setBack    time.Duration // the clock when the certificate was issued, and since
		want              time.Duration
	}{
		"a week":                    {7 * 24 * hour, 0, 0, 0, 0, 112 * hour},
		"a week, with jitter":       {7 * 24 * hour, 0, 0.5, 0, 0, 112*hour + 112*hour/20},
		"three hours":               {3 * hour, 0, 0, 0, 0, 2 * hour},
		"earlier by configuration":  {7 * 24 * hour, 24 * hour, 0.5, 0, 0, 24*hour + 24*hour/20},
		"no later by configuration": {3 * hour, 24 * hour, 0, 0, 0, 2 * hour},
		"a clock that is ahead":     {7 * 24 * hour, 24 * hour, 0, 48 * hour, 0, 24 * hour},
		"ahead of the short life":   {3 * hour, 0, 0, 48 * hour, 0, 2 * hour},
		"a clock that was ahead":    {7 * 24 * hour, 24 * hour, 0, 48 * hour, 48 * hour, 24 * hour},
		"a backdated certificate":   {3 * hour, 0, 0, hour / 2, 0, hour + hour/2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				a := &agent{Config: Config{RotateAfter: test.rotateAfter}, jitter: test.jitter, now: time.Now}
				issued := began.Add(test.setBack)
				from := issued.Add(-test.ahead)
				id := &identity.Identity{Record: identity.Record{IssuedAt: issued}, Certificate: &x509.Certificate{NotBefore: from, NotAfter: from.Add(test.life)}}
				err := a.awaitEnd(t.Context(), t.Context(), new(session.Session), id)
				if d := time.Since(began); !errors.Is(err, errRotate) || d != test.want {
					t.Errorf("ended after %v with %v, want %v", d, err, test.want)
				}
			})
		})
	}
}

// A rotation that failed is tried again while the certificate still lives, one that was denied not
// each hour: the device is offline meanwhile.
func TestFailedRotationIsRetriedWithinTheCertificatesLife(t *testing.T) {
	t.Parallel()
	lost, denied := awsiot.WithClass(awsiot.Temporary, errors.New("lost")), awsiot.WithClass(awsiot.Denied, errors.New("denied"))
	for _, test := range []struct {
		err        error
		left, most time.Duration
	}{
		{lost, 10 * 365 * 24 * time.Hour, 90 * time.Minute},
		{lost, 24 * time.Hour, 90 * time.Minute},
		{denied, 10 * 365 * 24 * time.Hour, 36 * time.Hour},
		{denied, 24 * time.Hour, 9 * time.Hour},
		{denied, 40 * time.Minute, 15 * time.Minute},
		{lost, time.Second, 90 * time.Second},
		{denied, -time.Hour, 90 * time.Second},
	} {
		for range 100 {
			if d := retryRotation(test.err, test.left); d < test.most/3 || d > test.most {
				t.Errorf("%v, %v left: retried after %v", test.err, test.left, d)
			}
		}
	}
}
