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
	if strings.Contains(string(data), "certs") {
		t.Errorf("the configuration has paths of a checkout:\n%s", data)
	}
}
