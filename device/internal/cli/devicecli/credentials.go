package devicecli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"

	"github.com/spf13/cobra"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/agent/credentials"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/session"
)

func newCredentialsCmd(console *cli.Console) *cobra.Command {
	var s config.Sources
	var roleAlias string
	cmd := &cobra.Command{
		Use:  "credentials --role-alias NAME [flags]",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if roleAlias == "" {
				return &cli.UsageError{Err: errors.New("--role-alias is missing"), Command: cmd}
			}
			return printCredentials(cmd.Context(), console, s, roleAlias)
		},
	}
	s.AddFlags(cmd.Flags())
	cmd.Flags().StringVar(&roleAlias, "role-alias", "", "get the credentials of role alias `NAME`")
	return cmd
}

func printCredentials(ctx context.Context, console *cli.Console, s config.Sources, roleAlias string) error {
	s.Environ = console.Environ
	c, err := config.Load(ctx, s) // its warnings are those of open
	if err != nil {
		return err
	}
	output, err := agent.NewClient(c.Agent.Socket).Credentials(ctx, roleAlias)
	e, answered := errors.AsType[*agent.Error](err)
	switch {
	case err == nil:
		return console.JSON(output)
	case answered && e.StatusCode != http.StatusNotFound:
		return err
	case !answered && !errors.Is(err, agent.ErrNotRunning) && !errors.Is(err, fs.ErrPermission):
		return err
	}
	d, err := openProvisioned(ctx, console, s)
	if err != nil {
		return err
	}
	done, err := d.credentials(console).Get(ctx, roleAlias)
	if err != nil {
		return &deviceError{err, d.config, true}
	}
	return console.JSON(done)
}

// openProvisioned opens a device that must have an identity.
func openProvisioned(ctx context.Context, console *cli.Console, s config.Sources) (*device, error) {
	d, err := open(ctx, console, s, false, true)
	if err != nil {
		return nil, err
	}
	d.identity, err = d.store.Load()
	if errors.Is(err, identity.ErrNone) {
		return nil, &cli.UsageError{Err: fmt.Errorf("%w; run: iot_device bootstrap", err)}
	}
	if err != nil {
		return nil, &deviceError{error: err, config: d.config}
	}
	return d, nil
}

// credentials returns a provider that, without an endpoint, answers how to set one.
func (d *device) credentials(console *cli.Console) *credentials.Provider {
	load := d.store.Load
	host, port, err := d.config.CredentialsProvider()
	if err != nil {
		load = func() (*identity.Identity, error) { return nil, err }
	}
	return &credentials.Provider{
		Session:  session.Options{Endpoint: host, Port: port, RootCAs: d.files.Roots, Proxy: d.config.Server.Proxy, Log: console.Log},
		Identity: load,
		Dir:      filepath.Join(agentDir(d.config), "credentials"),
	}
}

// agentDir is the folder of what the agent keeps.
func agentDir(c *config.Config) string {
	return filepath.Join(c.StateDir, "."+url.QueryEscape(c.SerialNumber)+".agent")
}
