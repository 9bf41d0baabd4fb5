package fleet

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"example.com/fleety/device/provision"
)

// Quotas are the rates that AWS IoT Core grants an account in one Region, per
// second. A rate of zero is no limit.
//
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
type Quotas struct {
	Connect        float64 `json:"connect"`
	Subscribe      float64 `json:"subscribe"`
	Publish        float64 `json:"publish"`        // inbound
	CreateFromCSR  float64 `json:"createFromCsr"`  // CreateCertificateFromCsr
	CreateWithKeys float64 `json:"createWithKeys"` // CreateKeysAndCertificate
	RegisterThing  float64 `json:"registerThing"`
	// ListThingPrincipals is called by the hook for each registration. The fleet
	// does not send it, and cannot pace it.
	ListThingPrincipals float64 `json:"listThingPrincipals"`
}

// LargeRegionQuotas are the defaults in the Regions that AWS lists with the
// higher ones, OtherRegionQuotas those elsewhere.
func LargeRegionQuotas() Quotas {
	q := OtherRegionQuotas()
	q.Connect, q.Subscribe, q.Publish = 3000, 3000, 20_000
	return q
}

// OtherRegionQuotas are the defaults in most Regions.
func OtherRegionQuotas() Quotas {
	return Quotas{Connect: 100, Subscribe: 200, Publish: 2000, CreateFromCSR: 20, CreateWithKeys: 10, RegisterThing: 10, ListThingPrincipals: 20}
}

func (q *Quotas) check() error {
	if q == nil {
		return nil
	}
	for _, r := range [...]float64{q.Connect, q.Subscribe, q.Publish, q.CreateFromCSR, q.CreateWithKeys, q.RegisterThing, q.ListThingPrincipals} {
		if !(r >= 0) || math.IsInf(r, 0) {
			return &ValueError{"quota", fmt.Sprint(r), "a rate per second of 0 or more; 0 is none"}
		}
	}
	return nil
}

// headroom is the part of a quota that is used: clocks and networks are not
// exact.
const headroom = 0.95

// A pacer spreads events over time, first come, first served, and slows down
// when AWS throttles nevertheless. A nil one never waits.
type pacer struct {
	limiter *rate.Limiter
	most    rate.Limit

	mu     sync.Mutex
	slowed time.Time // when the rate was last lowered, under mu
}

// newPacer returns a pacer for a share of a quota, nil for none.
func newPacer(perSecond float64, share int) *pacer {
	if perSecond == 0 {
		return nil
	}
	most := rate.Limit(perSecond * headroom / float64(share))
	return &pacer{limiter: rate.NewLimiter(most, 1), most: most}
}

func (p *pacer) wait(ctx context.Context) error {
	if p == nil {
		return nil
	}
	p.recover(time.Now())
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
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.slowed) < time.Second {
		return
	}
	p.slowed = now
	p.limiter.SetLimit(max(p.limiter.Limit()*slowDown, p.most*slowestFactor))
}

func (p *pacer) recover(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if limit := p.limiter.Limit(); limit < p.most && now.Sub(p.slowed) > quietFor {
		p.limiter.SetLimit(min(limit*recovery, p.most))
	}
}

// devices returns how many devices per second each quota allows, in the order
// in which a device meets them. Quotas that are off are left out.
func (q *Quotas) devices(keys provision.Keys) []Limit {
	name, create := "CreateCertificateFromCsr", q.CreateFromCSR
	if keys == provision.ServiceKeys {
		name, create = "CreateKeysAndCertificate", q.CreateWithKeys
	}
	all := []Limit{
		{Quota: "CONNECT", PerSecond: q.Connect, DevicesPerSecond: q.Connect / connectsPerDevice},
		{Quota: "SUBSCRIBE", PerSecond: q.Subscribe, DevicesPerSecond: q.Subscribe},
		{Quota: "PUBLISH, inbound", PerSecond: q.Publish, DevicesPerSecond: q.Publish / publishesPerDevice},
		{Quota: name, PerSecond: create, DevicesPerSecond: create},
		{Quota: "RegisterThing", PerSecond: q.RegisterThing, DevicesPerSecond: q.RegisterThing},
		{Quota: "ListThingPrincipals, by the hook", PerSecond: q.ListThingPrincipals, DevicesPerSecond: q.ListThingPrincipals},
	}
	return slices.DeleteFunc(all, func(l Limit) bool { return l.PerSecond == 0 })
}

// How often one enrollment uses quotas that are not of its own operations.
const (
	connectsPerDevice  = 2
	publishesPerDevice = 3 // create, register, birth
)

// paces are the pacers of a launch, nil where there is no quota. begin admits
// devices no faster than the tightest quota allows, so that they wait there and
// not with an open connection and a token that expires.
type paces struct {
	begin, connect, subscribe, publish, create, register *pacer
}

// paces returns pacers for a process that is one of share.
func (q *Quotas) paces(keys provision.Keys, share int) paces {
	if q == nil {
		return paces{}
	}
	tightest, create := 0.0, q.CreateFromCSR
	if keys == provision.ServiceKeys {
		create = q.CreateWithKeys
	}
	for _, l := range q.devices(keys) {
		if tightest == 0 || l.DevicesPerSecond < tightest {
			tightest = l.DevicesPerSecond
		}
	}
	return paces{
		begin:     newPacer(tightest, share),
		connect:   newPacer(q.Connect, share),
		subscribe: newPacer(q.Subscribe, share),
		publish:   newPacer(q.Publish, share),
		create:    newPacer(create, share),
		register:  newPacer(q.RegisterThing, share),
	}
}

// of returns the pacers of the quotas that a step uses.
func (p paces) of(s provision.Step) []*pacer {
	switch s {
	case provision.StepConnectClaim, provision.StepConnectDevice, provision.StepProbe:
		return []*pacer{p.connect}
	case provision.StepSubscribe:
		return []*pacer{p.subscribe}
	case provision.StepCreate:
		return []*pacer{p.publish, p.create}
	case provision.StepRegister:
		return []*pacer{p.publish, p.register}
	case provision.StepPublishBirth:
		return []*pacer{p.publish}
	}
	return nil
}

// Set changes one quota: "RegisterThing=50".
func (q *Quotas) Set(text string) error {
	name, value, _ := strings.Cut(text, "=")
	fields := map[string]*float64{
		"connect": &q.Connect, "subscribe": &q.Subscribe, "publish": &q.Publish,
		"createcertificatefromcsr": &q.CreateFromCSR, "createkeysandcertificate": &q.CreateWithKeys,
		"registerthing": &q.RegisterThing, "listthingprincipals": &q.ListThingPrincipals,
	}
	field := fields[strings.ToLower(name)]
	perSecond, err := strconv.ParseFloat(value, 64)
	if field == nil || err != nil || !(perSecond >= 0) || math.IsInf(perSecond, 0) {
		return &ValueError{"quota", strconv.Quote(text), "NAME=PER_SECOND with one of connect, subscribe, publish, CreateCertificateFromCsr, CreateKeysAndCertificate, RegisterThing, ListThingPrincipals"}
	}
	*field = perSecond
	return nil
}
