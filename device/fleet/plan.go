package fleet

import (
	"cmp"
	"slices"
	"time"

	"example.com/fleety/device/provision"
)

// A Forecast is the course of a launch as AWS's quotas allow it.
type Forecast struct {
	Devices int `json:"devices"`
	// Duration of the launch if all devices are always ready and nothing else
	// uses the quotas.
	Duration time.Duration `json:"-"`
	Seconds  float64       `json:"seconds"`
	// Rate in devices per second that the quota Binding allows.
	Rate    float64 `json:"devicesPerSecond"`
	Binding string  `json:"binding"`
	Limits  []Limit `json:"limits"` // the tightest first
}

// A Limit is the effect of one quota on a launch.
type Limit struct {
	Quota            string  `json:"quota"`
	PerSecond        float64 `json:"perSecond"`
	DevicesPerSecond float64 `json:"devicesPerSecond"`
	Seconds          float64 `json:"seconds"` // of the launch at this quota alone
	// QuotaIncreaseTarget is the rate up to which an increase of this quota
	// shortens the launch, because the next quota binds then, and SecondsAfter
	// the duration of the launch with it. Both are zero but for the quota that
	// binds.
	QuotaIncreaseTarget float64 `json:"quotaIncreaseTarget,omitempty"`
	SecondsAfter        float64 `json:"secondsAfter,omitempty"`
}

// PlanLaunch forecasts a launch of that many devices. As [Enroll] does, it
// leaves a little of each quota unused.
func PlanLaunch(devices int, q Quotas, keys provision.Keys) Forecast {
	f := Forecast{Devices: devices, Limits: []Limit{}}
	for _, x := range q.of(keys) {
		perSecond := *x.rate(&q)
		rate := headroom * perSecond / x.uses
		f.Limits = append(f.Limits, Limit{Quota: x.name, PerSecond: perSecond, DevicesPerSecond: rate, Seconds: float64(devices) / rate})
	}
	if len(f.Limits) == 0 {
		return f
	}
	slices.SortStableFunc(f.Limits, func(a, b Limit) int { return cmp.Compare(a.DevicesPerSecond, b.DevicesPerSecond) })
	first := &f.Limits[0]
	f.Binding, f.Rate, f.Seconds = first.Quota, first.DevicesPerSecond, first.Seconds
	f.Duration = time.Duration(f.Seconds * float64(time.Second))
	if len(f.Limits) > 1 {
		next := f.Limits[1]
		first.QuotaIncreaseTarget = first.PerSecond * next.DevicesPerSecond / first.DevicesPerSecond
		first.SecondsAfter = next.Seconds
	}
	return f
}
