package fleet

import (
	"cmp"
	"slices"
	"time"

	"example.com/fleety/device/provision"
)

// A Forecast tells from the quotas how a launch will go.
type Forecast struct {
	Devices int `json:"devices"`
	// Duration of the launch if all devices are always ready and no quota has
	// other users.
	Duration time.Duration `json:"-"`
	Seconds  float64       `json:"seconds"`
	// Rate of devices a second, which Binding allows.
	Rate    float64 `json:"devicesPerSecond"`
	Binding string  `json:"binding"`
	Limits  []Limit `json:"limits"` // the tightest first
	Costs   []Cost  `json:"costs"`
	USD     float64 `json:"usd"`
}

// A Limit is a quota as it bears on a launch.
type Limit struct {
	Quota            string  `json:"quota"`
	PerSecond        float64 `json:"perSecond"`
	DevicesPerSecond float64 `json:"devicesPerSecond"`
	Seconds          float64 `json:"seconds"` // the launch takes for this quota alone
	// Worth is the rate that this quota would have to grow to until the next
	// one binds, and SecondsAfter how long the launch would take then. Both
	// are zero but for the quota that binds.
	Worth        float64 `json:"worth,omitempty"`
	SecondsAfter float64 `json:"secondsAfter,omitempty"`
}

// PlanLaunch forecasts a launch of that many devices. As [Enrol] does, it
// leaves a little of each quota unused.
func PlanLaunch(devices int, q Quotas, keys provision.Keys) Forecast {
	f := Forecast{Devices: devices, Limits: []Limit{}}
	for _, n := range q.devices(keys) {
		perSecond := n.devices * headroom
		f.Limits = append(f.Limits, Limit{
			Quota: n.name, PerSecond: n.quota, DevicesPerSecond: perSecond, Seconds: float64(devices) / perSecond,
		})
	}
	slices.SortStableFunc(f.Limits, func(a, b Limit) int { return cmp.Compare(a.DevicesPerSecond, b.DevicesPerSecond) })
	f.Costs, f.USD = costs(devices)
	if len(f.Limits) == 0 {
		return f
	}
	first := &f.Limits[0]
	f.Binding, f.Rate, f.Seconds = first.Quota, first.DevicesPerSecond, first.Seconds
	f.Duration = time.Duration(f.Seconds * float64(time.Second))
	if len(f.Limits) > 1 {
		next := f.Limits[1]
		first.Worth = first.PerSecond * next.DevicesPerSecond / first.DevicesPerSecond
		first.SecondsAfter = next.Seconds
	}
	return f
}

// What one device's enrolment is metered as, and the list prices in us-east-1
// in US dollars per million, without free tier and taxes, as of 2025. Other
// Regions differ.
// https://aws.amazon.com/iot-core/pricing/ and
// https://aws.amazon.com/iot-core/pricing/additional-details/
const (
	// messagesPerDevice: two CONNECT, one SUBSCRIBE, three PUBLISH in, two
	// answers out and their PUBACKs. Each is smaller than the 5 kB that count as
	// one.
	messagesPerDevice = 10
	// minutesPerDevice: two connections, each metered as one minute begun.
	minutesPerDevice = 2
	// registryPerDevice: what RegisterThing does (CreateThing,
	// AttachThingPrincipal, AddThingToThingGroup) and what the hook asks.
	registryPerDevice = 4
	// hookPerDevice: one call of the hook.
	hookPerDevice = 1

	usdPerMessage  = 1.00 / 1e6
	usdPerMinute   = 0.08 / 1e6
	usdPerRegistry = 1.25 / 1e6
	usdPerHook     = 0.20 / 1e6
)

// A Cost is one line of AWS's bill.
type Cost struct {
	What  string  `json:"what"`
	Units float64 `json:"units"`
	USD   float64 `json:"usd"`
}

func costs(devices int) (list []Cost, total float64) {
	n := float64(devices)
	list = []Cost{
		{"messages", n * messagesPerDevice, n * messagesPerDevice * usdPerMessage},
		{"minutes of connection", n * minutesPerDevice, n * minutesPerDevice * usdPerMinute},
		{"registry operations", n * registryPerDevice, n * registryPerDevice * usdPerRegistry},
		{"calls of the hook", n * hookPerDevice, n * hookPerDevice * usdPerHook},
	}
	for _, c := range list {
		total += c.USD
	}
	return list, total
}
