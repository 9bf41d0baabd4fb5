package devicecli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/agent/credentials"
	"example.com/fleety/device/agent/shadow"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/session"
	"github.com/spf13/cobra"
)

// load reads the configuration and shows its warnings. Like config.Load it returns what it could
// read when there are problems, nil if that is nothing.
func load(ctx context.Context, console *cli.Console, s config.Sources) (*config.Config, error) {
	s.Environ = console.Environ
	c, err := config.Load(ctx, s)
	if c != nil {
		console.Warn(c.Warnings...)
	}
	return c, err
}

// A device is all that is known of this device before it connects.
type device struct {
	config   *config.Config
	files    *config.Files
	store    *identity.Store
	identity *identity.Identity        // the present one, nil if there is none that works
	shadows  map[string]*shadow.Shadow // that the agent keeps, by name, once it is to run
}

// open reads the configuration and the files that it names, and opens the identity store. All
// problems come at once; those of the claim do not count where it is no longer needed. Where provisioned
// is set, the device must have an identity.
func open(ctx context.Context, console *cli.Console, s config.Sources, reprovision, provisioned bool) (*device, error) {
	c, problems := load(ctx, console, s)
	if c == nil {
		return nil, problems
	}
	store, err := newStore(c, console)
	if err != nil && problems == nil {
		return nil, err
	}
	claim := true
	var id *identity.Identity
	var unreadable error
	if store != nil {
		status := store.Status()
		if status.State == identity.Unreadable && !reprovision { // it may be readable, or seen to be none, in a moment
			unreadable = status.Problems[0]
		}
		// It is not needed to verify an identity, nor once a thing is registered for the one that
		// is wanted.
		verify, registered := status.State != identity.Absent && !reprovision, status.Pending != nil && status.Pending.Stage >= identity.Registered
		claim = !provisioned && !verify && !registered
		if id = status.Identity; id != nil {
			console.Warn(config.ReadableByOthers(id.Files.PrivateKey)...)
		}
	}
	files, warnings, missing := c.Check(claim)
	console.Warn(warnings...)
	if err := config.Join(problems, missing); err != nil {
		return nil, err
	}
	if unreadable != nil {
		return nil, &deviceError{error: unreadable, config: c}
	}
	if provisioned {
		if id, err = store.Load(); errors.Is(err, identity.ErrNone) {
			return nil, &cli.UsageError{Err: fmt.Errorf("%w; %s", err, c.Commands("run: iot_device bootstrap"))}
		} else if err != nil {
			return nil, &deviceError{error: err, config: c}
		}
	}
	return &device{config: c, files: files, store: store, identity: id}, nil
}

func newStore(c *config.Config, console *cli.Console) (*identity.Store, error) {
	own := c.Identity()
	own.Log = console.Log
	return identity.NewStore(own)
}

func newCredentialsCmd(console *cli.Console) *cobra.Command {
	var s config.Sources
	var roleAlias string
	cmd := cli.Command("credentials --role-alias NAME [flags]", cli.NoArgs, func(ctx context.Context, _ []string) error {
		return printCredentials(ctx, console, s, roleAlias)
	})
	s.AddFlags(cmd.Flags())
	cmd.Flags().StringVar(&roleAlias, "role-alias", "", "get the credentials of role alias `NAME`")
	_ = cmd.MarkFlagRequired("role-alias")
	return cmd
}

func printCredentials(ctx context.Context, console *cli.Console, s config.Sources, roleAlias string) error {
	s.Environ = console.Environ
	c, err := config.Load(ctx, s) // its warnings are those of open
	if err != nil {
		return err
	}
	var output json.RawMessage
	err = whileItResponds(ctx, c, func(ctx context.Context, client *agent.Client) (err error) {
		output, err = client.Credentials(ctx, roleAlias)
		return err
	})
	e, answered := errors.AsType[*agent.Error](err)
	switch {
	case err == nil:
		return console.JSON(output)
	case answered && e != errHangs && e.StatusCode != http.StatusNotFound:
		return err
	}
	d, err := open(ctx, console, s, false, true)
	if err != nil {
		return err
	}
	done, err := d.credentials(console).Get(ctx, roleAlias)
	if err != nil {
		return &deviceError{err, d.config, true}
	}
	return console.JSON(done)
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
