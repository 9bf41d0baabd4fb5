package config

import (
	"maps"
	"testing"
)

// Origin returns where the setting of that key (as "server.endpoint") came from.
func (c *Config) Origin(key string) Origin { return c.origins[key] }

// SetFirmware has the files of the firmware elsewhere during a test.
func SetFirmware(t *testing.T, files map[string]string) {
	former := maps.Clone(firmware)
	maps.Copy(firmware, files)
	t.Cleanup(func() { firmware = former })
}

// SetSystemPath has the configuration of the system elsewhere during a test.
func SetSystemPath(t *testing.T, path string) {
	systemPath = path
	t.Cleanup(func() { systemPath = SystemPath })
}
