package admit

import "example.com/fleety/hook/payload"

// A Listing is what the list of serial numbers says of one of them.
type Listing struct {
	Listed bool
	// UsedBy is the certificate that came in with it, empty if none did.
	UsedBy string
}

// JudgeListing decides whether the device of a request may come in by the list,
// on which its serial number is marked as used before. The same certificate may
// come again: a device whose answer was lost asks again.
func JudgeListing(request payload.Request, l Listing) Verdict {
	switch {
	case !l.Listed:
		return refused(SerialUnlisted)
	case l.UsedBy != request.CertificateID:
		return Verdict{Reason: SerialUsed, HeldBy: l.UsedBy}
	}
	return Verdict{Admitted: true, Reason: Admitted}
}
