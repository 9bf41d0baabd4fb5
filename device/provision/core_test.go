package provision_test

import (
	"testing"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// activeCertificates returns the ids of the thing's active certificates.
func activeCertificates(t *testing.T, core *localcore.Server) []string {
	t.Helper()
	attachments, err := core.Registry().ListThingPrincipals(thing)
	if err != nil {
		t.Fatal(err)
	}
	var active []string
	for _, a := range attachments {
		if c, ok := core.Registry().CertificateByID(a.CertificateID); ok && c.Status == registry.Active {
			active = append(active, a.CertificateID)
		}
	}
	return active
}
