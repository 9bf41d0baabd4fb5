// Package doctor finds out why a device does not reach AWS IoT: it runs diagnostic checks, most
// fundamental first, and reports for each what was found, why, and what to do. Its table of causes
// also serves the hints of errors. It goes on after a failure where it can, changes nothing, and
// registers nothing.
//
// It does connect: with the claim, under client ids of its own, and with the device's certificate
// under the device's client id. AWS IoT then ends a session that the device has under that id,
// since it allows one.
package doctor

import (
	"cmp"
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/session"
)

// DefaultTimeout bounds each wait for the network.
const DefaultTimeout = 10 * time.Second

// Config says what to check. Every zero value is usable.
type Config struct {
	// Settings and Problems are what config.Load returned. Settings is nil when nothing could be
	// read; then only the clock is checked.
	Settings *config.Config
	Problems error

	// Resolve looks host names up; nil means the system's resolver. DialContext opens TCP
	// connections; nil means a net.Dialer.
	Resolve     func(ctx context.Context, host string) ([]string, error)
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// FileSystem names the type of the file system of a folder; nil means what statfs(2) says.
	FileSystem func(dir string) string

	// Connected reports whether the agent on this device is, or may be, connected as a thing.
	// Another connection with its client id would end the agent's, and its session. An error is what
	// is wrong with the agent. nil: there is no agent.
	Connected func(ctx context.Context, thing string) (bool, error)

	Now      func() time.Time // nil means time.Now
	Timeout  time.Duration    // 0 means [DefaultTimeout]
	Progress func(Check)      // called after each check; nil for none
	Log      *slog.Logger     // nil discards
}

// A run is the state of one [Run]: what is to be checked, and what is known so far.
type run struct {
	Config
	report Report

	roots  *x509.CertPool
	bundle []*x509.Certificate  // in roots
	claims []config.LoadedClaim // those that can be read
	store  *identity.Store      // nil without settings
	device *identity.Identity   // nil if there is none

	unknown  bool          // the endpoint's name, or the proxy's, cannot be looked up
	port     int           // the one that answers; 0 if none does
	trusted  bool          // the server is the one that was meant
	skew     time.Duration // what to add to a clock that is known to be wrong
	template bool          // the claim may use the topics of the template
}

// Run makes all checks. It never fails; when the context ends, the remaining checks are skipped.
func Run(ctx context.Context, c Config) Report {
	if c.FileSystem == nil {
		c.FileSystem = fileSystem
	}
	if c.Resolve == nil {
		c.Resolve = net.DefaultResolver.LookupHost
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Progress == nil {
		c.Progress = func(Check) {}
	}
	c.Timeout, c.Log = cmp.Or(c.Timeout, DefaultTimeout), cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	r := &run{Config: c}
	for _, step := range []struct {
		name  string
		run   func(ctx context.Context, name string)
		needs string // "configuration", or "endpoint" and with it that
	}{
		{"configuration", r.configuration, ""},
		{"roots", r.rootBundle, "configuration"},
		{"identity-files", r.identityFiles, "configuration"},
		{"claim-files", r.claimFiles, "configuration"},
		{"disk", r.disk, "configuration"},
		{"clock", r.clock, ""},
		{"dns", r.dns, "endpoint"},
		{"tcp", r.tcp, "endpoint"},
		{"server-certificate", r.server, "endpoint"},
		{"claim-connect", r.claimAccess, "endpoint"},
		{"template", r.provisioningTemplate, "configuration"},
		{"device-connect", r.deviceAccess, "endpoint"},
	} {
		switch {
		case ctx.Err() != nil:
			r.skip(step.name, "interrupted")
		case step.needs != "" && r.Settings == nil:
			r.skip(step.name, "there is no configuration")
		case step.needs == "endpoint" && r.Settings.Server.Endpoint == "":
			r.skip(step.name, "there is no endpoint")
		default:
			step.run(ctx, step.name)
		}
	}
	return r.report
}

// options are those of every connection to the endpoint. A clock that is known to be wrong is
// corrected, to see what else there is.
func (r *run) options(port int) session.Options {
	return session.Options{
		Endpoint: r.Settings.Server.Endpoint, Port: port, RootCAs: r.roots, Proxy: r.Settings.Server.Proxy,
		ConnectTimeout: r.Timeout, DialContext: r.DialContext, Now: r.correctTime, Log: r.Log,
	}
}

func (r *run) correctTime() time.Time { return r.Now().Add(r.skew) }

func (r *run) onAWS() bool { return awsiot.ParseEndpoint(r.Settings.Server.Endpoint).AWS() }
