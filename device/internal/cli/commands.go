package cli

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Set when the program is linked (-X …/internal/cli.version=v1.2.3).
var version, commit string

// help is what the commands of every program say about themselves.
//
//go:embed help.txt
var help string

// A build is where a program comes from. Its JSON keys are part of the contract of the version
// command.
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

func newVersionCmd(c *Console) *cobra.Command {
	var asJSON bool
	cmd := Command("version [flags]", cobra.NoArgs, func(context.Context, []string) error {
		if asJSON {
			return c.JSON(thisBuild())
		}
		_, err := fmt.Fprintf(c.Out, "%s version %s\n", c.Name, Version())
		return err
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the version as one JSON object")
	return cmd
}

func newCompletionCmd(c *Console) *cobra.Command {
	return &cobra.Command{
		Use:                   "completion {bash | zsh | fish | powershell}",
		Args:                  cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs:             []string{"bash", "zsh", "fish", "powershell"},
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(c.Out, true)
			case "zsh":
				return root.GenZshCompletion(c.Out)
			case "fish":
				return root.GenFishCompletion(c.Out, true)
			default:
				return root.GenPowerShellCompletionWithDesc(c.Out)
			}
		},
	}
}
