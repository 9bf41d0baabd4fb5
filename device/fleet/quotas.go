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
	// ListThingPrincipals is what the hook asks the registry with each
	// registration. The fleet does not send it, and cannot pace it.
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
	for _, r := range []float64{q.Connect, q.Subscribe, q.Publish, q.CreateFromCSR, q.CreateWithKeys, q.RegisterThing, q.ListThingPrincipals} {
		if !(r >= 0) || math.IsInf(r, 0) {
			return &ValueError{"quota", fmt.Sprint(r), "a rate per second of 0 or more; 0 is none"}
		}
	}
	return nil
}

// headroom is the part of a quota that is used: clocks and networks are not
// exact, and AWS counts as it likes.
const headroom = 0.95

// A pacer spreads what happens over time, first come first served, and slows
// down when it is told that it was too fast nevertheless. A nil one never
// waits.
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
	calm          = 2 * time.Second // without throttling, before the rate grows
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
	if limit := p.limiter.Limit(); limit < p.most && now.Sub(p.slowed) > calm {
		p.limiter.SetLimit(min(limit*recovery, p.most))
	}
}

// A named rate is how many devices a second a quota lets through.
type named struct {
	name    string
	quota   float64 // as AWS counts it
	devices float64 // a second
}

// devices returns how many devices a second each quota lets through, in the
// order in which a device meets them. Quotas that are off are left out.
func (q *Quotas) devices(keys provision.Keys) []named {
	create := operationOf(keys)
	all := []named{
		{"CONNECT", q.Connect, q.Connect / connectsPerDevice},
		{"SUBSCRIBE", q.Subscribe, q.Subscribe},
		{"PUBLISH, inbound", q.Publish, q.Publish / publishsPerDevice},
		{create, q.create(keys), q.create(keys)},
		{"RegisterThing", q.RegisterThing, q.RegisterThing},
		{"ListThingPrincipals, by the hook", q.ListThingPrincipals, q.ListThingPrincipals},
	}
	return slices.DeleteFunc(all, func(n named) bool { return n.quota == 0 })
}

// binding returns the quota that lets the fewest devices through, and how many
// a second; 0 if all are off.
func (q *Quotas) binding(keys provision.Keys) (name string, perSecond float64) {
	for _, n := range q.devices(keys) {
		if perSecond == 0 || n.devices < perSecond {
			name, perSecond = n.name, n.devices
		}
	}
	return name, perSecond
}

func (q *Quotas) create(keys provision.Keys) float64 {
	if keys == provision.ServiceKeys {
		return q.CreateWithKeys
	}
	return q.CreateFromCSR
}

// operationOf names the create operation of a flow.
func operationOf(keys provision.Keys) string {
	if keys == provision.ServiceKeys {
		return "CreateKeysAndCertificate"
	}
	return "CreateCertificateFromCsr"
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
