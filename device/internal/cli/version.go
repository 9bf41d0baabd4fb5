package cli

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Set when the program is linked (-X …/internal/cli.version=v1.2.3).
var version, commit string

// A build is where a program comes from. Its JSON keys are part of the contract
// of the version command.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"` // absent when built outside a checkout
	Go       string `json:"go"`
	Platform string `json:"platform"` // GOOS/GOARCH
}

// thisBuild has what was set at link time, else what the go command recorded.
func thisBuild() build {
	b := build{Version: version, Commit: commit, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		b.Version = cmp.Or(b.Version, info.Main.Version)
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				b.Commit = cmp.Or(b.Commit, setting.Value)
			}
		}
	}
	b.Version = cmp.Or(b.Version, "unknown")
	return b
}

// Version returns the version with the compiler and the platform.
func Version() string {
	b := thisBuild()
	return fmt.Sprintf("%s (%s %s)", b.Version, b.Go, b.Platform)
}

// newVersionCmd returns the version command.
func newVersionCmd(c *Console) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version [flags]",
		Short: "Print the version",
		Long: `Version prints the program's version, the Go version that built it, and the
platform; as JSON also the commit.`,
		Example: "  $ " + c.Name + " version\n  $ " + c.Name + " version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return c.JSON(thisBuild())
			}
			_, err := fmt.Fprintf(c.Out, "%s version %s\n", c.Name, Version())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the version as one JSON object")
	return cmd
}
