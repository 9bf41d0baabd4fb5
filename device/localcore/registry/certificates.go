package registry

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
)

// A CertificateStatus is the place of a certificate in its life.
type CertificateStatus string

// String returns AWS's name of the status.
func (s CertificateStatus) String() string { return string(s) }

// The statuses that this registry uses. Only Active authenticates.
const (
	Active            CertificateStatus = "ACTIVE"
	Inactive          CertificateStatus = "INACTIVE"
	Revoked           CertificateStatus = "REVOKED"
	PendingActivation CertificateStatus = "PENDING_ACTIVATION"
)

// A CertificateMode says how a certificate was registered.
type CertificateMode string

// String returns AWS's name of the mode.
func (m CertificateMode) String() string { return string(m) }

// The modes of AWS IoT. SNIOnly certificates were registered without a CA.
const (
	DefaultMode CertificateMode = "DEFAULT"
	SNIOnly     CertificateMode = "SNI_ONLY"
)

// A Certificate is a device certificate, known by its fingerprint.
type Certificate struct {
	ID     string // the lower-case hex SHA-256 of the certificate's DER
	PEM    string
	Status CertificateStatus
	Mode   CertificateMode

	NotBefore, NotAfter time.Time // the certificate's own validity
	Created, Modified   time.Time // of the registration, and of the last change of status
	Version             int64     // begins at 1 and grows with each change of status
	GenerationID        string    // a random UUID, new for each registration; empty in records of earlier versions
	CAID                string    // of the registered CA certificate by which it was registered, or empty
	TokenHash           string    // the hex SHA-256 of the ownership token; empty without one, or once it was used

	// ClaimTemplate is the template that a provisioning claim may use, until ClaimExpires. It is empty
	// for every other certificate.
	ClaimTemplate string    `json:",omitempty"`
	ClaimExpires  time.Time `json:",omitzero"`
}

// An ownership is what is known of an ownership token, but for the token.
type ownership struct {
	CertificateID, Principal string
	Expires                  time.Time
}

// CreateCertificate registers a certificate: the store's part of CreateKeysAndCertificate,
// CreateCertificateFromCsr and the RegisterCertificate operations. Of c count the PEM, which is one
// certificate and kept in the standard form, the Status (Inactive where it is empty) and the Mode
// (DefaultMode). A certificate that is there already is rejected.
func (r *Registry) CreateCertificate(c Certificate) (Certificate, error) {
	return mutate(r, func(tx *transaction) (Certificate, error) {
		c.Status = cmp.Or(c.Status, Inactive)
		if err := checkStatus(c.Status, CodeCertificateState); err != nil {
			return c, err
		}
		return tx.createCertificate(c)
	})
}

// checkStatus checks a status that is to be set from outside; code is that of its rejection.
func checkStatus(status CertificateStatus, code string) error {
	if status != Active && status != Inactive && status != Revoked {
		return Reject(code, "certificate status %q cannot be set; ACTIVE, INACTIVE and REVOKED can", awsiot.Clip(string(status)))
	}
	return nil
}

// CreatePendingCertificate registers a certificate that waits for RegisterThing
// with its ownership token. Only a hash of the token is kept. The token works
// once, for the claim certificate principal alone, and until life is over;
// then [Registry.Expire] deletes the certificate unless it is in use.
func (r *Registry) CreatePendingCertificate(pemText, token, principal string, life time.Duration) (Certificate, error) {
	return mutate(r, func(tx *transaction) (Certificate, error) {
		c, err := tx.createCertificate(Certificate{PEM: pemText, Status: PendingActivation, TokenHash: hashToken(token)})
		tx.ownerships.put(c.TokenHash, ownership{c.ID, principal, tx.now.Add(life)})
		return c, err
	})
}

// CreateClaimCertificate registers a provisioning claim for one template, as
// CreateProvisioningClaim makes it: active, not among the listed certificates,
// and deleted by [Registry.Expire] when life is over.
func (r *Registry) CreateClaimCertificate(pemText, template string, life time.Duration) (Certificate, error) {
	return mutate(r, func(tx *transaction) (Certificate, error) {
		c, err := tx.createCertificate(Certificate{PEM: pemText, Status: Active, ClaimTemplate: template, ClaimExpires: tx.now.Add(life)})
		return c, cmp.Or(tx.templates.check(template), err)
	})
}

// CertificateByID returns the certificate, whatever its status. It is cheap
// enough for every packet.
func (r *Registry) CertificateByID(id string) (Certificate, bool) {
	return r.state().certificates.get(id)
}

// CertificateByToken returns the pending certificate that an ownership token
// stands for, without using the token up. A token that is empty, unknown, used,
// expired or of another claim principal gives [CodeInvalidToken].
func (r *Registry) CertificateByToken(token, principal string) (Certificate, error) {
	return r.state().owned(token, principal, r.options.Now())
}

// DescribeCertificate returns the certificate.
func (r *Registry) DescribeCertificate(id string) (Certificate, error) {
	return r.state().certificates.find(id)
}

// ListCertificates returns the certificates in the order of their creation,
// provisioning claims left out.
func (r *Registry) ListCertificates() []Certificate {
	all := r.state().certificates.where(func(c Certificate) bool { return c.ClaimTemplate == "" })
	slices.SortStableFunc(all, func(a, b Certificate) int { return a.Created.Compare(b.Created) })
	return all
}

// UpdateCertificate sets the status: Active, Inactive or Revoked. Whether AWS lets a revoked
// certificate become active again is not documented; here it does (open point U21).
func (r *Registry) UpdateCertificate(id string, status CertificateStatus) error {
	return r.update(func(tx *transaction) error {
		c, err := tx.certificates.find(id)
		if err = cmp.Or(checkStatus(status, CodeInvalidRequest), err); err == nil {
			tx.setStatus(c, status)
		}
		return err
	})
}

// DeleteCertificate deletes a certificate that is not active and has nothing
// attached. force spares detaching its policies, not its things.
func (r *Registry) DeleteCertificate(id string, force bool) error {
	return r.update(func(tx *transaction) error {
		c, err := tx.certificates.find(id)
		things, policies := tx.thingCerts.leftsOf(id), tx.policyTargets.leftsOf(string(CertificateTarget(id)))
		switch {
		case err != nil:
			return err
		case c.Status == Active:
			return Reject(CodeCertificateState, "Certificate must be deactivated (not ACTIVE) before deletion.")
		case len(things) > 0:
			return Reject(CodeDeleteConflict, "Things must be detached before deletion (%s).", awsiot.Clip(strings.Join(things, ", ")))
		case len(policies) > 0 && !force:
			return Reject(CodeDeleteConflict, "Certificate policies must be detached before deletion (%s).", awsiot.Clip(strings.Join(policies, ", ")))
		}
		tx.deleteCertificate(c)
		return nil
	})
}

// owned returns the certificate that a token stands for.
func (s *state) owned(token, principal string, now time.Time) (Certificate, error) {
	o, ok := s.ownerships.get(hashToken(token))
	reason := ""
	switch {
	case token == "":
		reason = "cannot be empty."
	case !ok:
		reason = "is unknown or was used already."
	case o.Principal != principal:
		reason = "was given to another principal."
	case !now.Before(o.Expires):
		reason = "has expired."
	default:
		return s.certificates.find(o.CertificateID)
	}
	return Certificate{}, Reject(CodeInvalidToken, "Certificate ownership token %s", reason)
}

func (tx *transaction) createCertificate(c Certificate) (Certificate, error) {
	parsed, err := parseCertificate(c.PEM)
	if err != nil {
		return c, err
	}
	return tx.register(parsed, c)
}

func (tx *transaction) register(parsed *x509.Certificate, c Certificate) (Certificate, error) {
	c = tx.newCertificate(parsed, c)
	if tx.certificates.has(c.ID) {
		return c, rejectFor("cert/"+c.ID, CodeAlreadyExists, "The certificate is already provisioned or registered.")
	}
	tx.certificates.put(c.ID, c)
	if err := awsiot.CheckKey(parsed.PublicKey); err != nil {
		return c, Reject(CodeCertificateInvalid, "The key in the certificate is not valid: %v.", err)
	}
	return c, nil
}

// newCertificate fills the record of a new certificate, which has its status, mode, CA and owner.
func (tx *transaction) newCertificate(parsed *x509.Certificate, c Certificate) Certificate {
	c.ID, c.PEM = awsiot.CertificateID(parsed), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: parsed.Raw}))
	c.Status, c.Mode = cmp.Or(c.Status, Inactive), cmp.Or(c.Mode, DefaultMode)
	c.Version, c.GenerationID = 1, awsiot.NewUUID()
	c.NotBefore, c.NotAfter, c.Created, c.Modified = parsed.NotBefore, parsed.NotAfter, tx.now, tx.now
	return c
}

func (tx *transaction) setStatus(c Certificate, status CertificateStatus) {
	if c.Status == status {
		return
	}
	c.Status, c.Modified = status, tx.now
	c.Version++
	tx.certificates.put(c.ID, c)
	tx.changes = append(tx.changes, Change{c.ID, status})
}

// deleteCertificate removes a certificate and all that hangs on it.
func (tx *transaction) deleteCertificate(c Certificate) {
	tx.policyTargets.removeLefts(string(CertificateTarget(c.ID)))
	tx.thingCerts.removeLefts(c.ID)
	if c.TokenHash != "" {
		tx.ownerships.remove(c.TokenHash)
	}
	tx.certificates.remove(c.ID)
	tx.changes = append(tx.changes, Change{CertificateID: c.ID})
}

func parseCertificate(text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
		return nil, Reject(CodeCertificateInvalid, "The certificate is not one PEM block of type CERTIFICATE.")
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, Reject(CodeCertificateInvalid, "The certificate cannot be read: %v", err)
	}
	return parsed, nil
}

func hashToken(token string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(token))) }

// Expire deletes what has expired at now: pending certificates whose ownership token has expired,
// and provisioning claims. A certificate that was taken out of PENDING_ACTIVATION and attached to a
// policy or thing by then loses only its token. It returns the ids of the deleted certificates.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/fleet-provision-api.html
func (r *Registry) Expire(now time.Time) (deleted []string, err error) {
	return mutate(r, func(tx *transaction) (deleted []string, err error) {
		for _, hash := range tx.ownerships.keys() {
			o, _ := tx.ownerships.get(hash)
			if now.Before(o.Expires) {
				continue
			}
			c, _ := tx.certificates.get(o.CertificateID)
			attached := len(tx.thingCerts.leftsOf(c.ID)) > 0 || len(tx.policyTargets.leftsOf(string(CertificateTarget(c.ID)))) > 0
			if c.Status != PendingActivation && attached {
				tx.useToken(c)
				continue
			}
			tx.deleteCertificate(c)
			deleted = append(deleted, c.ID)
		}
		for _, c := range tx.certificates.where(func(c Certificate) bool { return c.ClaimTemplate != "" && !now.Before(c.ClaimExpires) }) {
			tx.deleteCertificate(c)
			deleted = append(deleted, c.ID)
		}
		return deleted, nil
	})
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
