package admit

import "example.com/fleety/hook/payload"

// A Certificate is one that a thing has.
type Certificate struct {
	ID string
	// Active tells whether a device can connect with it.
	Active bool
}

// JudgeThing decides whether the certificate of a request may become the
// thing's, which has these already. Whoever holds a claim certificate can name
// any serial number; a thing in use is therefore given to no other certificate
// until an operator has deactivated the one that it has. The certificate of
// the request may be among them: a device whose answer was lost asks again.
func JudgeThing(request payload.Request, has []Certificate) Verdict {
	for _, c := range has {
		if c.Active && c.ID != request.CertificateID {
			return Verdict{Reason: ThingTaken, HeldBy: c.ID}
		}
	}
	return Verdict{Admitted: true, Reason: Admitted}
}
