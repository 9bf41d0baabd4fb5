package doctor

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/fleety/device/internal/config"
)

func TestRootsOfABundleAreComparedWithAmazons(t *testing.T) {
	for name, tc := range map[string]struct {
		held  int
		want  Result
		cause []string // names in it
	}{
		"all but the Starfield root": {4, OK, nil},
		"one":                        {1, Warn, []string{"Amazon Root CA 2", "Amazon Root CA 3", "Amazon Root CA 4"}},
	} {
		t.Run(name, func(t *testing.T) {
			var bundle bytes.Buffer
			for _, root := range config.AmazonRoots()[:tc.held] {
				pem.Encode(&bundle, &pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
			}
			path := filepath.Join(t.TempDir(), "roots.pem")
			if err := os.WriteFile(path, bundle.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			settings := &config.Config{Server: config.Server{Endpoint: "abc-ats.iot.eu-central-1.amazonaws.com"}, Bootstrap: config.Bootstrap{CACertificatePath: path}}
			report := Run(t.Context(), Config{Settings: settings, Resolve: func(context.Context, string) ([]string, error) { return nil, errors.ErrUnsupported }})
			c := report.Checks[slices.IndexFunc(report.Checks, func(c Check) bool { return c.Name == "roots" })]
			if c.Result != tc.want {
				t.Errorf("%s, want %s", c, tc.want)
			}
			for _, name := range tc.cause {
				if !strings.Contains(c.Cause, name) {
					t.Errorf("%q does not name %s", c.Cause, name)
				}
			}
		})
	}
}
