package registry

import "time"

// Expire deletes what has expired at now: pending certificates whose ownership
// token has expired, and provisioning claims. A certificate that was taken out
// of PENDING_ACTIVATION and attached to a policy or thing by then loses only
// its token. It returns the ids of the deleted certificates.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/fleet-provision-api.html
func (r *Registry) Expire(now time.Time) (deleted []string, err error) {
	return mutate(r, func(tx *transaction) (deleted []string, err error) {
		for _, hash := range tx.ownerships.keys() {
			o, _ := tx.ownerships.get(hash)
			if now.Before(o.Expires) {
				continue
			}
			c, ok := tx.certificates.get(o.CertificateID)
			if ok && c.Status != PendingActivation && tx.attached(c.ID) {
				tx.useToken(c)
				continue
			}
			tx.deleteCertificate(c)
			deleted = append(deleted, c.ID)
		}
		for _, id := range tx.claims.keys() {
			if c, _ := tx.claims.get(id); now.Before(c.Expires) {
				continue
			}
			c, _ := tx.certificates.get(id)
			tx.deleteCertificate(c)
			deleted = append(deleted, id)
		}
		return deleted, nil
	})
}

// attached reports whether the certificate has a policy or a thing.
func (s *state) attached(certificateID string) bool {
	return len(s.thingCerts.leftsOf(certificateID)) > 0 ||
		len(s.policyTargets.leftsOf(string(CertificateTarget(certificateID)))) > 0
}

// useToken makes a certificate's ownership token worthless.
func (tx *transaction) useToken(c Certificate) Certificate {
	if c.TokenHash != "" {
		tx.ownerships.remove(c.TokenHash)
		c.TokenHash = ""
		tx.certificates.put(c.ID, c)
	}
	return c
}
