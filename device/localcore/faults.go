package localcore

import (
	"sync"
	"time"

	"example.com/fleety/device/fleetapi"
)

// An Exchange is one provisioning request that a fault may spoil.
type Exchange struct {
	Operation fleetapi.Operation
	// Template is that of RegisterThing.
	Template      string
	ClientID      string
	CertificateID string
	// Number counts the requests of this operation from 1.
	Number int
}

// A Fault says what goes wrong with one exchange. The zero Fault is none.
type Fault struct {
	// Reject refuses the request, without doing it, with this error.
	Reject *fleetapi.ErrorResponse
	// DropReply does the work and keeps the answer.
	DropReply bool
	// DuplicateReply sends the answer twice.
	DuplicateReply bool
	// DelayReply does the work and waits before it answers. The answer is
	// lost when the client has gone by then.
	DelayReply time.Duration
	// CloseBefore closes the connection instead of doing the work.
	CloseBefore bool
	// CloseAfter closes the connection when the work is done, instead of
	// answering.
	CloseAfter bool
}

// Faults spoil exchanges on purpose, to show what a device makes of it. The
// zero value spoils nothing. It is safe for concurrent use.
type Faults struct {
	mu     sync.Mutex
	choose func(Exchange) Fault
}

// Set makes choose decide on every exchange from now on; nil ends all faults.
// It is called from several goroutines.
func (f *Faults) Set(choose func(Exchange) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.choose = choose
}

func (f *Faults) of(e Exchange) Fault {
	f.mu.Lock()
	choose := f.choose
	f.mu.Unlock()
	if choose == nil {
		return Fault{}
	}
	return choose(e)
}
