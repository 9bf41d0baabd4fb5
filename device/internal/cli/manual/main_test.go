package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The configuration of a package is made from the example in the repository, whose paths are those
// of a checkout: none of them may be left, in comments either.
func TestPackagedConfigurationHasPathsOfThePackage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := write("iot_device", dir); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for _, want := range []string{
		"\nserialNumber: \"\"\n", "\ndeviceLocation: \"\"\n", "\nstateDir: /var/lib/iot_device\n", "\n  endpoint: \"\"\n",
		"\n  # cacertificatepath: /etc/iot_device/root.ca.bundle.pem\n", "\n  privatekeypath: /var/lib/iot_device/claim/fleet-provisioning.private.key\n",
		"\n  certificatepath: /var/lib/iot_device/claim/fleet-provisioning.certificate.pem\n", "\nagent:\n",
	} {
		if strings.Count(text, want) != 1 {
			t.Errorf("the configuration does not have %q once", want)
		}
	}
	if strings.Contains(text, "certs") || strings.Contains(text, "primary:") {
		t.Errorf("the configuration has paths of a checkout:\n%s", data)
	}
}
