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

const exitCodes = `Scripts and service managers can rely on the exit codes:

    0  done
    1  failed: a defect, or the local machine (disk, permission)
    2  wrong usage or configuration: correct it first
    3  denied by AWS IoT: retrying will not help
    4  temporary: network, name resolution, clock not set yet, throttling,
       time-out, or a server that has not proved its identity; retry
  130  interrupted (Ctrl-C, or a request to terminate)

A service manager should retry after every code but 0, with growing delays: what
causes a 1, 2 or 3 can be corrected elsewhere while nobody is at the device.`

// newExitCodesCmd returns the help topic on exit codes.
func newExitCodesCmd(c *Console) *cobra.Command {
	return &cobra.Command{
		Use:     "exit-codes",
		Short:   "What the exit codes mean",
		Long:    exitCodes,
		Example: "  $ " + c.Name + " help exit-codes",
	}
}

// newCompletionCmd returns the command that prints a shell's completion script.
func newCompletionCmd(c *Console) *cobra.Command {
	return &cobra.Command{
		Use:   "completion {bash | zsh | fish | powershell}",
		Short: "Print a completion script for a shell",
		Long:  "Completion prints a script that completes commands and flags in the named shell.",
		Example: fmt.Sprintf(`  # bash, for this session
  $ source <(%[1]s completion bash)

  # zsh, for all sessions
  $ %[1]s completion zsh > "${fpath[1]}/_%[1]s"`, c.Name),
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
