package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

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
