package doctor_test

import (
	"os"
	"testing"

	"example.com/fleety/device/internal/doctor"
)

// Of several claims one has to work; those before it are warnings.
func TestWithdrawnClaimIsAWarningIfAnotherWorks(t *testing.T) {
	p := newPatient(t)
	claim := otherEmulator(t).Claim()
	for name, data := range map[string][]byte{"leaked.pem": claim.CertificatePEM, "leaked.key": claim.PrivateKeyPEM} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const leaked = `{"certificatepath":"leaked.pem","privatekeypath":"leaked.key"}`
	const ours = `{"certificatepath":"certs/fleet-provisioning.certificate.pem","privatekeypath":"certs/fleet-provisioning.private.key"}`
	for claims, want := range map[string]map[string]doctor.Result{
		"[" + leaked + "," + ours + "]": {"claim-files": doctor.OK, "claim-certificate": doctor.Warn, "claim-subscribe": doctor.OK, "template": doctor.OK},
		"[" + leaked + "]":              {"claim-files": doctor.OK, "claim-certificate": doctor.Fail, "template": doctor.Skipped},
	} {
		p.settings["bootstrap.claims"] = claims
		got := results(p.examine(t))
		for name, result := range want {
			if got[name] != result {
				t.Errorf("%s: %s is %s, want %s", claims, name, got[name], result)
			}
		}
	}
}
