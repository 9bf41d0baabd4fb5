package config

import (
	"maps"
	"testing"
)

// SetFirmware has the files of the firmware elsewhere during a test.
func SetFirmware(t *testing.T, files map[string]string) {
	former := maps.Clone(firmware)
	maps.Copy(firmware, files)
	t.Cleanup(func() { firmware = former })
}
