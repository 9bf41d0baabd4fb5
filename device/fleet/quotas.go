package fleet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"example.com/fleety/device/provision"
)

// Quotas are the rates that AWS IoT Core grants an account in one Region, per second. A rate of
// zero is no limit.
//
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
type Quotas struct {
	Connect        float64 `json:"connect"`
	Subscribe      float64 `json:"subscribe"`
	Publish        float64 `json:"publish"`        // inbound
	CreateFromCSR  float64 `json:"createFromCsr"`  // CreateCertificateFromCsr
	CreateWithKeys float64 `json:"createWithKeys"` // CreateKeysAndCertificate
	RegisterThing  float64 `json:"registerThing"`
	// ListThingPrincipals is called by the hook for each registration. The fleet does not send it,
	// and cannot pace it.
	ListThingPrincipals float64 `json:"listThingPrincipals"`
}

// LargeRegionQuotas are the defaults in the Regions that AWS lists with the higher ones,
// OtherRegionQuotas those elsewhere.
func LargeRegionQuotas() Quotas {
	q := OtherRegionQuotas()
	q.Connect, q.Subscribe, q.Publish = 3000, 3000, 20_000
	return q
}

// OtherRegionQuotas are the defaults in most Regions.
func OtherRegionQuotas() Quotas {
	return Quotas{Connect: 100, Subscribe: 200, Publish: 2000, CreateFromCSR: 20, CreateWithKeys: 10, RegisterThing: 10, ListThingPrincipals: 20}
}

// A quota is one of [Quotas] as one enrollment uses it.
type quota struct {
	name  string
	rate  func(*Quotas) *float64
	uses  float64          // per device
	steps []provision.Step // that use it; none are the hook's
	keys  provision.Keys   // of the flow that uses it; empty for both
}

// quotas in the order in which a device meets them.
var quotas = [...]quota{
	{"CONNECT", func(q *Quotas) *float64 { return &q.Connect }, 2, []provision.Step{provision.StepConnectClaim, provision.StepConnectDevice, provision.StepProbe}, ""},
	{"SUBSCRIBE", func(q *Quotas) *float64 { return &q.Subscribe }, 1, []provision.Step{provision.StepSubscribe}, ""},
	{"PUBLISH", func(q *Quotas) *float64 { return &q.Publish }, 3, []provision.Step{provision.StepCreate, provision.StepRegister, provision.StepPublishBirth}, ""},
	{"CreateCertificateFromCsr", func(q *Quotas) *float64 { return &q.CreateFromCSR }, 1, []provision.Step{provision.StepCreate}, provision.DeviceKeys},
	{"CreateKeysAndCertificate", func(q *Quotas) *float64 { return &q.CreateWithKeys }, 1, []provision.Step{provision.StepCreate}, provision.ServiceKeys},
	{"RegisterThing", func(q *Quotas) *float64 { return &q.RegisterThing }, 1, []provision.Step{provision.StepRegister}, ""},
	{"ListThingPrincipals", func(q *Quotas) *float64 { return &q.ListThingPrincipals }, 1, nil, ""},
}

// of returns the quotas that an enrollment uses, without those that are off.
func (q *Quotas) of(keys provision.Keys) (list []quota) {
	keys = cmp.Or(keys, provision.DeviceKeys)
	for _, x := range quotas {
		if (x.keys == "" || x.keys == keys) && *x.rate(q) > 0 {
			list = append(list, x)
		}
	}
	return list
}

func (q *Quotas) check() error {
	if q == nil {
		return nil
	}
	for _, x := range quotas {
		if r := *x.rate(q); r != 0 && !(r >= minQuota && r <= MaxRate) {
			return &ValueError{"quota " + x.name, fmt.Sprint(r), fmt.Sprintf("a rate per second from %g to %d, or 0 for none", minQuota, MaxRate)}
		}
	}
	return nil
}

// Set changes one quota: "RegisterThing=50".
func (q *Quotas) Set(text string) error {
	name, value, _ := strings.Cut(text, "=")
	perSecond, err := strconv.ParseFloat(value, 64)
	names := make([]string, len(quotas))
	for i, x := range quotas {
		names[i] = x.name
		if changed := *q; err == nil && strings.EqualFold(name, x.name) {
			*x.rate(&changed) = perSecond
			if changed.check() == nil {
				*q = changed
				return nil
			}
		}
	}
	return &ValueError{"quota", strconv.Quote(text), "NAME=PER_SECOND with one of " + strings.Join(names, ", ")}
}

// headroom is the part of a quota that is used: clocks and networks are not exact.
const headroom = 0.95

// A pacer spreads events over time, first come, first served, and slows down when AWS throttles
// nevertheless.
type pacer struct {
	limiter *rate.Limiter
	most    rate.Limit

	mu     sync.Mutex
	slowed time.Time // when the rate was last lowered, under mu
}

// newPacer returns a pacer for a share of a quota.
func newPacer(perSecond float64, share int) *pacer {
	most := rate.Limit(perSecond * headroom / float64(share))
	return &pacer{limiter: rate.NewLimiter(most, 1), most: most}
}

func (p *pacer) wait(ctx context.Context) error {
	p.mu.Lock()
	if limit := p.limiter.Limit(); limit < p.most && time.Since(p.slowed) > quietFor {
		p.limiter.SetLimit(min(limit*recovery, p.most))
	}
	p.mu.Unlock()
	return p.limiter.Wait(ctx)
}

const (
	slowDown      = 0.7             // factor, at most once a second
	recovery      = 1.02            // factor, with each that passes
	slowestFactor = 0.1             // of the full rate
	quietFor      = 2 * time.Second // without throttling, before the rate grows
)

// throttled lowers the rate, once for all answers that come together.
func (p *pacer) throttled() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.slowed) < time.Second {
		return
	}
	p.slowed = now
	p.limiter.SetLimit(max(p.limiter.Limit()*slowDown, p.most*slowestFactor))
}

// paces are the pacers of a launch by the step that they delay. Those of stepBegin admit devices no
// faster than the tightest quota allows, so that they wait there and not with an open connection
// and a token that expires.
type paces map[provision.Step][]*pacer

const stepBegin provision.Step = "begin" // before all others

// paces returns pacers for a process that is one of share.
func (q *Quotas) paces(keys provision.Keys, share int) paces {
	p := paces{}
	if q == nil {
		return p
	}
	if tightest := PlanLaunch(1, *q, keys).Rate; tightest > 0 {
		p[stepBegin] = []*pacer{newPacer(tightest/headroom, share)}
	}
	for _, x := range q.of(keys) {
		pacer := newPacer(*x.rate(q), share)
		for _, step := range x.steps {
			p[step] = append(p[step], pacer)
		}
	}
	return p
}

// wait waits until a step may begin, or for the end of ctx.
func (p paces) wait(ctx context.Context, step provision.Step) error {
	for _, pacer := range p[step] {
		if err := pacer.wait(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// throttled slows down a step, and the beginning of devices.
func (p paces) throttled(step provision.Step) {
	for _, pacer := range slices.Concat(p[stepBegin], p[step]) {
		pacer.throttled()
	}
}

// A Forecast is the course of a launch as AWS's quotas allow it.
type Forecast struct {
	Devices int     `json:"devices"`
	Seconds float64 `json:"seconds"`          // of the launch if all devices are always ready and nothing else uses the quotas
	Rate    float64 `json:"devicesPerSecond"` // that the quota Binding allows
	Binding string  `json:"binding"`
	Limits  []Limit `json:"limits"` // the tightest first
}

// A Limit is the effect of one quota on a launch.
type Limit struct {
	Quota            string  `json:"quota"`
	PerSecond        float64 `json:"perSecond"`
	DevicesPerSecond float64 `json:"devicesPerSecond"`
	Seconds          float64 `json:"seconds"` // of the launch at this quota alone
	// QuotaIncreaseTarget is the rate up to which an increase of this quota shortens the launch,
	// because the next quota binds then, and SecondsAfter the duration of the launch with it. Both
	// are zero but for the quota that binds.
	QuotaIncreaseTarget float64 `json:"quotaIncreaseTarget,omitempty"`
	SecondsAfter        float64 `json:"secondsAfter,omitempty"`
}

// PlanLaunch forecasts a launch of that many devices. As [Enroll] does, it leaves a little of each
// quota unused.
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
	if len(f.Limits) > 1 {
		next := f.Limits[1]
		first.QuotaIncreaseTarget = first.PerSecond * next.DevicesPerSecond / first.DevicesPerSecond
		first.SecondsAfter = next.Seconds
	}
	return f
}
