package admit

import (
	"slices"
	"time"

	"example.com/fleety/hook/payload"
)

// A Status is the state of a certificate, in AWS IoT's words.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_CertificateDescription.html
type Status string

// The states that the rules distinguish. A certificate in any other state can neither connect nor
// has it been revoked.
const (
	Active  Status = "ACTIVE"
	Revoked Status = "REVOKED"
	// PendingActivation is a new certificate that RegisterThing has not activated.
	PendingActivation Status = "PENDING_ACTIVATION"
	// Deleted is a certificate that AWS IoT does not have any more.
	Deleted Status = ""
)

// A Certificate is one that a thing has.
type Certificate struct {
	ID     string
	Status Status
}

// Facts are what AWS knows of the thing and the serial number of a request.
type Facts struct {
	Certificates []Certificate // those of the thing
	Caller       []string      // the things of the certificate that the request came from: none for a claim certificate
	Mark         *Mark         // the serial number's entry in the registry; nil without a registry
	Now          time.Time     // the time of the request
}

// Evaluate decides on a request that [Rules.EvaluateRequest] admits.
//
// A certificate that is attached to a thing registers that thing's own serial number and no other:
// it rotates. It proves possession of the thing's present key, so no other active certificate of
// the thing stands in its way.
//
// A claim proves nothing but that it is a claim: anyone who has it can name any serial number. So a
// thing in use is given to no other certificate until an operator has deactivated the one that it
// has, and a thing with a revoked certificate is given to none until the operator deletes that
// certificate.
func (r Rules) Evaluate(request payload.Request, f Facts) Verdict {
	serial, _, _ := request.Parameters.String(payload.SerialNumber)
	if len(f.Caller) > 0 {
		return r.evaluateRotation(request, r.ThingName(serial), f)
	}
	for _, c := range f.Certificates {
		if c.Status == Revoked {
			return Verdict{Reason: ThingRevoked, HeldBy: c.ID}
		}
	}
	for _, c := range f.Certificates {
		if c.Status == Active && c.ID != request.CertificateID && !r.TakeExisting {
			return Verdict{Reason: ThingTaken, HeldBy: c.ID}
		}
	}
	if f.Mark != nil {
		return f.Mark.evaluate(request.CertificateID, r.ListedOnly, f.Now)
	}
	return Verdict{Admitted: true, Reason: Admitted}
}

func (r Rules) evaluateRotation(request payload.Request, thing string, f Facts) Verdict {
	has := func(id string, status Status) bool { return slices.Contains(f.Certificates, Certificate{id, status}) }
	switch {
	case r.NoRotation:
		return denied(RotationOff)
	case !slices.Contains(f.Caller, thing):
		return denied(OtherThing)
	case !has(request.ClaimCertificateID, Active):
		return denied(RotationNotActive)
	case has(request.CertificateID, Revoked):
		return Verdict{Reason: ThingRevoked, HeldBy: request.CertificateID}
	}
	return Verdict{Admitted: true, Reason: Rotated}
}

// Lease is how long a certificate that has not been activated yet keeps a serial number from
// others. AWS IoT activates a certificate within seconds of the hook's answer, or not at all; every
// further attempt renews the lease.
const Lease = time.Minute

// A Mark is the entry of a serial number in the registry, which is admitted once. It is a lease:
// the certificate that holds it keeps it while it is active or was revoked, and for [Lease] while
// it may still become active. So a registration that failed uses up no serial number.
type Mark struct {
	Listed bool   // whether the registry has the serial number
	HeldBy string // the certificate that it was admitted with last; empty if none was
	Since  string // when that was, as the registry has it: in RFC 3339, or in any form that a person wrote
	Holder Status // the present state of HeldBy
}

// evaluate decides whether a certificate may take the mark. The holder may, unless it was revoked:
// a device whose answer was lost asks again.
func (m *Mark) evaluate(certificate string, listedOnly bool, now time.Time) Verdict {
	since, _ := time.Parse(time.RFC3339, m.Since) // of another form it is long ago, and no lease
	switch {
	case listedOnly && !m.Listed:
		return denied(SerialUnlisted)
	case m.HeldBy == "":
	case m.Holder == Revoked:
		return Verdict{Reason: SerialRevoked, HeldBy: m.HeldBy}
	case m.HeldBy == certificate:
	case m.Holder == Active:
		return Verdict{Reason: SerialUsed, HeldBy: m.HeldBy}
	case (m.Holder == PendingActivation || m.Holder == Deleted) && now.Sub(since).Abs() < Lease:
		return Verdict{Reason: SerialPending, HeldBy: m.HeldBy}
	}
	return Verdict{Admitted: true, Reason: Admitted}
}
