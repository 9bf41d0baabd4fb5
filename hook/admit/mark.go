package admit

import "time"

// Lease is how long a certificate that has not been activated yet keeps a serial
// number from others. AWS IoT activates a certificate within seconds of the
// hook's answer, or not at all; every further attempt renews the lease.
const Lease = time.Minute

// A Mark is the entry of a serial number in the registry, which is admitted
// once. It is a lease: the certificate that holds it keeps it while it is active
// or was revoked, and for [Lease] while it may still become active. So a
// registration that failed uses up no serial number.
type Mark struct {
	// Listed says whether the registry has the serial number.
	Listed bool
	// HeldBy is the certificate that it was admitted with last; empty if none was.
	HeldBy string
	// Since is when that was.
	Since time.Time
	// Holder is the present state of HeldBy.
	Holder Status
}

// evaluate decides whether a certificate may take the mark. The holder may,
// unless it was revoked: a device whose answer was lost asks again.
func (m *Mark) evaluate(certificate string, listedOnly bool, now time.Time) Verdict {
	switch {
	case listedOnly && !m.Listed:
		return denied(SerialUnlisted)
	case m.HeldBy == "":
	case m.Holder == Revoked:
		return Verdict{Reason: SerialRevoked, HeldBy: m.HeldBy}
	case m.HeldBy == certificate:
	case m.Holder == Active:
		return Verdict{Reason: SerialUsed, HeldBy: m.HeldBy}
	case (m.Holder == PendingActivation || m.Holder == Deleted) && now.Sub(m.Since) < Lease:
		return Verdict{Reason: SerialPending, HeldBy: m.HeldBy}
	}
	return Verdict{Admitted: true, Reason: Admitted}
}
