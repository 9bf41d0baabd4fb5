package localcore

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/provisioning"
)

// An Exchange is one provisioning request that a fault may alter.
type Exchange struct {
	Operation     awsiot.Operation
	Template      string // that of RegisterThing
	ClientID      string
	CertificateID string
	Number        int // counts the requests of this operation from 1
}

// A Fault says what goes wrong with one exchange. The zero Fault is none.
type Fault struct {
	// Reject rejects the request, without doing it, with this status and code.
	Reject         *awsiot.ErrorResponse `json:"reject,omitempty"`
	DropReply      bool                  `json:"dropReply,omitempty"`      // does the work and keeps the answer
	DuplicateReply bool                  `json:"duplicateReply,omitempty"` // sends the answer twice
	// DelayReply does the work and waits before it answers. The answer is lost when the client has
	// gone by then.
	DelayReply  time.Duration `json:"-"`
	CloseBefore bool          `json:"closeBefore,omitempty"` // closes the connection instead of doing the work
	CloseAfter  bool          `json:"closeAfter,omitempty"`  // closes the connection when the work is done, instead of answering
}

// Faults inject faults into exchanges, to test how a device reacts. The zero value injects none. It
// is safe for concurrent use.
type Faults struct {
	mu     sync.Mutex
	choose func(Exchange) Fault     // under mu
	rules  []FaultRule              // that choose carries out, if SetRules gave them; under mu
	counts map[awsiot.Operation]int // under mu
	delay  atomic.Int64             // of SUBACKs, a [time.Duration]
}

// Set makes choose decide on every exchange from now on; nil ends all faults, those of
// [Faults.LoseEarlyReplies] too. It is called from several goroutines.
func (f *Faults) Set(choose func(Exchange) Fault) { f.set(choose, nil, 0) }

func (f *Faults) set(choose func(Exchange) Fault, rules []FaultRule, delay time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.choose, f.rules = choose, rules
	f.delay.Store(int64(delay))
}

// LoseEarlyReplies sends every SUBACK so much later from now on, and loses the reply to each
// provisioning request that is received before: to a client that does not wait for the SUBACK. Zero
// ends that.
func (f *Faults) LoseEarlyReplies(delay time.Duration) { f.delay.Store(int64(delay)) }

func (f *Faults) subackDelay() time.Duration { return time.Duration(f.delay.Load()) }

// of counts a request and returns its fault.
func (f *Faults) of(r provisioning.Request) Fault {
	f.mu.Lock()
	if f.counts == nil {
		f.counts = map[awsiot.Operation]int{}
	}
	f.counts[r.Topic.Operation]++
	number, choose := f.counts[r.Topic.Operation], f.choose
	f.mu.Unlock()
	if choose == nil {
		return Fault{}
	}
	return choose(Exchange{r.Topic.Operation, r.Topic.Template, r.ClientID, r.CertificateID, number})
}

// A FaultRule is a fault as the control API takes it: which exchanges it alters, and how. Of
// several rules the first that applies counts.
type FaultRule struct {
	Operation awsiot.Operation `json:"operation,omitempty"` // Operation and ClientID select exchanges; empty selects all
	ClientID  string           `json:"clientId,omitempty"`
	Times     int              `json:"times,omitempty"` // how many exchanges the rule alters; zero means every one

	Fault
	DelayReply string `json:"delayReply,omitempty"` // a duration such as 2s, in place of that of Fault
	// LoseEarlyReplies is a duration such as 1s, for [Faults.LoseEarlyReplies]. The other members
	// of such a rule are not used.
	LoseEarlyReplies string `json:"loseEarlyReplies,omitempty"`
}

// SetRules makes the rules decide on every exchange from now on.
func (f *Faults) SetRules(rules []FaultRule) error {
	faults := slices.Clone(rules)
	var early time.Duration
	operations := []awsiot.Operation{"", awsiot.CreateKeysAndCertificate, awsiot.CreateCertificateFromCSR, awsiot.RegisterThing}
	for i, r := range rules {
		if !slices.Contains(operations, r.Operation) {
			return fmt.Errorf("fault %d: operation %q is not one of %q", i+1, r.Operation, operations[1:])
		}
		if r.Times < 0 {
			return fmt.Errorf("fault %d: times %d is negative", i+1, r.Times)
		}
		for _, member := range []struct {
			name, text string
			value      *time.Duration
		}{{"delayReply", r.DelayReply, &faults[i].Fault.DelayReply}, {"loseEarlyReplies", r.LoseEarlyReplies, &early}} {
			if member.text == "" {
				continue
			}
			d, err := time.ParseDuration(member.text)
			if err != nil || d < 0 {
				return fmt.Errorf("fault %d: %s %q is not a duration such as 2s", i+1, member.name, member.text)
			}
			*member.value = d
		}
	}
	var mu sync.Mutex
	used := make([]int, len(rules))
	f.set(func(e Exchange) Fault {
		mu.Lock()
		defer mu.Unlock()
		for i, r := range faults {
			if r.LoseEarlyReplies == "" && (r.Operation == "" || r.Operation == e.Operation) && (r.ClientID == "" || r.ClientID == e.ClientID) &&
				(r.Times == 0 || used[i] < r.Times) {
				used[i]++
				return r.Fault
			}
		}
		return Fault{}
	}, slices.Clone(rules), early)
	return nil
}

// Rules returns those that [Faults.SetRules] set, used up or not.
func (f *Faults) Rules() []FaultRule {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.rules)
}
