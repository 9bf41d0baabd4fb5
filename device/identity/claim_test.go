package identity

import (
	"errors"
	"testing"
)

const claimKey = "claim/claim.private.key"

// claimKeys are those of two claims.
var claimKeys = []string{claimKey, "claim/other.private.key"}

// claims returns which of the claims' keys are on a disk.
func (d *memDisk) claims() (there []string) {
	for _, path := range claimKeys {
		if _, err := d.ReadFile(path); err == nil {
			there = append(there, path)
		}
	}
	return there
}

// withClaim puts the claims' keys on a disk.
func withClaim(t *testing.T, d *memDisk) {
	t.Helper()
	must(t, d.Mkdir("claim", 0o700))
	must(t, d.SyncDir("."))
	for _, path := range claimKeys {
		must(t, replaceFile(d, path, []byte("claim"), 0o600))
	}
}

// After any crash the identity is whole, the next call completes the removal, and a record that
// says so is right even after a power cut.
func TestCrashWhileTheClaimIsRemovedLosesNothingElse(t *testing.T) {
	d, _ := provisioned(t)
	withClaim(t, d)
	before := d.calls
	must(t, storeOn(t, d).RemoveClaim(claimKeys...))
	calls := d.calls - before
	for _, how := range cuts {
		t.Run(string(how), func(t *testing.T) {
			for call := 1; call <= calls; call++ {
				d, c := provisioned(t)
				withClaim(t, d)
				d.fault = crashAt(d.calls + call)
				_ = storeOn(t, d).RemoveClaim(claimKeys...)
				d = d.reboot(how)
				id, err := storeOn(t, d).Load()
				if err != nil {
					t.Fatalf("crash at call %d: %v", call, err)
				}
				if there := d.claims(); there != nil && !id.Record.ClaimRemovedAt.IsZero() {
					t.Fatalf("crash at call %d: the record says that the claims are gone, and these are not: %v", call, there)
				}
				if err := storeOn(t, d).RemoveClaim(claimKeys...); err != nil {
					t.Fatalf("crash at call %d: next call: %v", call, err)
				}
				d = d.reboot(power)
				if there := d.claims(); there != nil {
					t.Fatalf("crash at call %d: a power cut brings the claims back: %v", call, there)
				}
				if id, err := storeOn(t, d).Load(); err != nil || id.Record.ClaimRemovedAt.IsZero() {
					t.Fatalf("crash at call %d: record %+v, %v", call, id, err)
				}
				checkEnd(t, d, c)
			}
		})
	}
}

// The agent may rotate at any time, also in the moment before the removal takes the lock.
func TestRemovalOfTheClaimKeepsAnIdentityThatIsReplacedMeanwhile(t *testing.T) {
	for _, r := range replacements {
		d, c := provisioned(t)
		old := c.active[0]
		withClaim(t, d)
		d.fault = func(int, string, string) error {
			d.fault = nil
			return provision(t, storeOn(t, d), c, r)
		}
		must(t, storeOn(t, d).RemoveClaim(claimKeys...))
		checkEnd(t, d, c, old)
		if id, err := storeOn(t, d).Load(); err != nil || id.Record.CertificateID == old || id.Record.ClaimRemovedAt.IsZero() {
			t.Errorf("record %+v, %v", id, err)
		}
	}
}

func TestClaimStaysWithoutAnIdentity(t *testing.T) {
	d := newMemDisk()
	withClaim(t, d)
	if err := storeOn(t, d).RemoveClaim(claimKey); !errors.Is(err, ErrNone) {
		t.Errorf("got %v", err)
	}
	if _, err := d.ReadFile(claimKey); err != nil {
		t.Error(err)
	}
}

func TestDevicesOwnKeyIsNoClaim(t *testing.T) {
	d, _ := provisioned(t)
	id, err := storeOn(t, d).Load()
	must(t, err)
	if err := storeOn(t, d).RemoveClaim("certs/../" + id.Files.PrivateKey); !errors.Is(err, ErrConflict) {
		t.Error("the device's own key may be removed")
	}
	if _, err := storeOn(t, d).Load(); err != nil {
		t.Error(err)
	}
}
