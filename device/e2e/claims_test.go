package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"example.com/fleety/device/localcore/registry"
)

// A claim that leaked is withdrawn: devices with several claims provision with the
// next one, and remove them all.
func TestDeviceProvisionsWithTheNextClaimAfterAWithdrawal(t *testing.T) {
	t.Parallel()
	s := newSite(t, shipped)
	d := s.device(t, "device")
	leaked := s.cloud.Claim()
	next, err := s.cloud.NewClaim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"leaked.pem": leaked.CertificatePEM, "leaked.key": leaked.PrivateKeyPEM, "next.pem": next.CertificatePEM, "next.key": next.PrivateKeyPEM,
	} {
		writeFile(t, filepath.Join(d.dir, name), string(data), 0o600)
	}
	d.flags = []string{
		"--set", "bootstrap.certificatepath=leaked.pem", "--set", "bootstrap.privatekeypath=leaked.key",
		"--set", `bootstrap.claims=[{"certificatepath":"gone.pem","privatekeypath":"gone.key"},{"certificatepath":"next.pem","privatekeypath":"next.key"}]`,
	}
	if err := s.cloud.Registry().UpdateCertificate(leaked.CertificateID, registry.Inactive); err != nil {
		t.Fatal(err)
	}
	d.mustRun(t)
	if got := d.load(t).Record.RequestedBy; got != next.CertificateID {
		t.Errorf("requested by %s, want %s", got, next.CertificateID)
	}
	d.flags = append(d.flags, "--forget-claim")
	d.mustRun(t)
	for _, name := range []string{"leaked.key", "next.key"} {
		if _, err := os.Stat(filepath.Join(d.dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	if d.load(t).Record.ClaimRemovedAt.IsZero() {
		t.Error("the record does not say that the claims are gone")
	}
}
