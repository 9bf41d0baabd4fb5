package fleet

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"example.com/fleety/device/provision"
)

func TestForecastNamesBindingQuota(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(*Quotas)
		keys    provision.Keys
		binding string
		seconds float64 // with all of the quota used
		target  float64
	}{
		"defaults":                   {func(*Quotas) {}, provision.DeviceKeys, "RegisterThing", 100, 20},
		"keys of the service":        {func(*Quotas) {}, provision.ServiceKeys, "CreateKeysAndCertificate", 100, 10},
		"a higher RegisterThing":     {func(q *Quotas) { q.RegisterThing = 15 }, provision.DeviceKeys, "RegisterThing", 1000.0 / 15, 20},
		"two CONNECTs per device":    {func(q *Quotas) { q.Connect = 12 }, provision.DeviceKeys, "CONNECT", 1000.0 / 6, 20},
		"three PUBLISHes per device": {func(q *Quotas) { q.Publish = 15 }, provision.DeviceKeys, "PUBLISH", 200, 30},
		"the hook binds": {func(q *Quotas) { q.RegisterThing, q.CreateFromCSR = 100, 100 }, provision.DeviceKeys,
			"ListThingPrincipals", 50, 50},
	} {
		t.Run(name, func(t *testing.T) {
			q := OtherRegionQuotas()
			test.change(&q)
			f := PlanLaunch(1000, q, test.keys)
			if f.Binding != test.binding || math.Abs(f.Seconds*headroom-test.seconds) > 0.01 || math.Abs(f.Limits[0].QuotaIncreaseTarget-test.target) > 0.01 {
				t.Errorf("forecast %+v", f)
			}
		})
	}
}

func TestForecastWithoutQuotasHasNoDuration(t *testing.T) {
	if f := PlanLaunch(1000, Quotas{}, provision.DeviceKeys); f.Seconds != 0 || f.Binding != "" {
		t.Errorf("forecast %+v", f)
	}
}

func TestQuotasHaveARange(t *testing.T) {
	for _, text := range []string{"connect=-1", "connect=NaN", "connect=inf", "connect=1e-9", "connect=1e300"} {
		q := OtherRegionQuotas()
		if err := q.Set(text); err == nil || q != OtherRegionQuotas() {
			t.Errorf("%s: %v, %+v", text, err, q)
		}
	}
	// The longest launch has a duration that can be written.
	q := Quotas{Publish: minQuota}
	if text := FormatSeconds(PlanLaunch(MaxDevices, q, provision.DeviceKeys).Seconds); text != "36549 days 16 h" {
		t.Errorf("it takes %s", text)
	}
}

// TestStepWithoutATurnIsNotTaken has a device whose turn would come after its time.
func TestStepWithoutATurnIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := Quotas{RegisterThing: minQuota}
		l := &launch{paces: q.paces(provision.DeviceKeys, 1)}
		var stage Stage
		for _, want := range []time.Duration{0, DefaultDeviceTimeout} {
			ctx, cancel := context.WithTimeout(t.Context(), DefaultDeviceTimeout/2)
			began := time.Now()
			l.step(ctx, provision.Event{Step: provision.StepRegister}, "", &stage)
			if waited := time.Since(began); waited != want/2 {
				t.Errorf("waited %s, want %s", waited, want/2)
			}
			cancel()
		}
	})
}

func FuzzQuotasSet(f *testing.F) {
	for _, seed := range []string{"RegisterThing=50", "connect=0.5", "publish=-1", "x=1", "connect=NaN", "connect=1e400", "connect=1e-9", "connect=1e300", "="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		q := OtherRegionQuotas()
		if err := q.Set(text); err == nil && q.check() != nil {
			t.Errorf("%q was accepted, and gives %+v", text, q)
		}
	})
}
