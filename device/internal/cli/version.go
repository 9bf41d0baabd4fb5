package cli

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set when the program is linked (-X …/internal/cli.version=v1.2.3).
var version string

// Version returns the version that was set at link time, else the one that the
// go command recorded, with the compiler and the platform.
func Version() string {
	recorded := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		recorded = info.Main.Version
	}
	return fmt.Sprintf("%s (%s %s/%s)", cmp.Or(version, recorded, "unknown"), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// newVersionCmd returns the version command.
func newVersionCmd(c *Console) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "Version prints the program's version, the Go version that built it, and the platform.",
		Example: "  $ " + c.Name + " version",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(c.Out, "%s version %s\n", c.Name, Version())
			return err
		},
	}
}
