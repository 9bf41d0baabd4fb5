package corecli

import (
	"fmt"
	"strings"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/localcore"
	"github.com/spf13/cobra"
)

// newFidelityCmd returns the help topic on undocumented behavior.
func newFidelityCmd(console *cli.Console) *cobra.Command {
	var b strings.Builder
	b.WriteString("Where AWS IoT Core is documented, iot_core_local does the same. These are the\nquestions that AWS's documentation leaves open, and how each is emulated:\n")
	for _, c := range localcore.Ambiguities() {
		fmt.Fprintf(&b, "\n  %-4s %s\n       -> %s\n", c.ID, c.Question, c.Answer)
		if c.Switch != "" {
			fmt.Fprintf(&b, "       Go programs can change it: localcore %s\n", c.Switch)
		}
	}
	return &cobra.Command{
		Use:     "fidelity",
		Short:   "Undocumented AWS behavior and how it is emulated",
		Long:    strings.TrimSuffix(b.String(), "\n"),
		Example: "  $ " + console.Name + " help fidelity",
	}
}
