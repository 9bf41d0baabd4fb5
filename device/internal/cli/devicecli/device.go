package devicecli

import (
	"context"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
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
	config *config.Config
	files  *config.Files
	store  *identity.Store
	// identity is the present one, nil if there is none that works.
	identity *identity.Identity
}

// open reads the configuration and the files that it names, and opens the identity store. All
// problems come at once; those of the claim do not count where it is no longer needed.
func open(ctx context.Context, console *cli.Console, s config.Sources, reprovision, rotate bool) (*device, error) {
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
	if store != nil {
		status := store.Status()
		claim = !rotate && needsClaim(status, reprovision)
		if id = status.Identity; id != nil {
			console.Warn(config.ReadableByOthers(id.Files.PrivateKey)...)
		}
	}
	files, warnings, missing := c.Check(claim)
	console.Warn(warnings...)
	if err := config.Join(problems, missing); err != nil {
		return nil, err
	}
	return &device{config: c, files: files, store: store, identity: id}, nil
}

// needsClaim reports whether this run needs the claim: not to verify an identity, nor once a thing
// is registered for the one that is wanted.
func needsClaim(s *identity.Status, reprovision bool) bool {
	switch {
	case s.State != identity.Absent && !reprovision:
		return false
	case s.Pending != nil:
		return s.Pending.Stage < identity.Registered
	}
	return true
}

func newStore(c *config.Config, console *cli.Console) (*identity.Store, error) {
	own := c.Identity()
	own.Log = console.Log
	return identity.NewStore(own)
}
