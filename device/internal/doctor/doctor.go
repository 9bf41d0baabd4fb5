// Package doctor finds out why a device does not reach AWS IoT. It makes the
// checks that a support engineer would make, in the order of their causes,
// and tells for each what was found, why, and what to do. It stops at nothing
// that it can go past, changes nothing, and registers nothing.
//
// It does connect: with the claim, under client ids of its own, and with the
// device's certificate under the device's client id. AWS IoT then drops a
// session that the device has under that id, since it allows one.
package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/session"
)

// DefaultTimeout bounds each thing that is waited for on the network.
const DefaultTimeout = 10 * time.Second

// Config says what to examine. Every zero value is usable.
type Config struct {
	// Settings and Problems are what config.Load returned. Settings is nil when
	// nothing could be read; then only clock and disk are examined.
	Settings *config.Config
	Problems error

	// SerialPrefix is what serial numbers begin with where our own
	// pre-provisioning hook decides. Empty leaves it unchecked.
	SerialPrefix string

	// Resolve looks host names up; nil means the system's resolver.
	// DialContext opens TCP connections; nil means a net.Dialer.
	Resolve     func(ctx context.Context, host string) ([]string, error)
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	Now      func() time.Time // nil means time.Now
	Timeout  time.Duration    // 0 means [DefaultTimeout]
	Progress func(Check)      // called after each check; nil means nobody
	Log      *slog.Logger     // nil discards
}

// An examination is one run: what is to be examined, and what is known so far.
type examination struct {
	Config
	report Report

	roots     *x509.CertPool
	bundle    []*x509.Certificate // in roots
	rootsFrom string              // where they were read from
	claim     *tls.Certificate    // nil if it cannot be used
	device    *identity.Identity  // nil if there is none

	unknown  bool          // the endpoint's name, or the proxy's, cannot be looked up
	port     int           // the one that answers; 0 if none does
	trusted  bool          // the server is the one that was meant
	skew     time.Duration // what to add to a clock that is known to be wrong
	template bool          // the claim may use the topics of the template
}

// A need is what a step cannot do without.
type need int

const (
	nothing need = iota
	settings
	endpoint // and with it settings
)

// Run makes all checks. It never fails; when the context ends, the checks
// that are left are skipped.
func Run(ctx context.Context, c Config) Report {
	e := &examination{Config: c.withDefaults()}
	for _, step := range []struct {
		name string
		run  func(context.Context)
		need need
	}{
		{"configuration", e.configuration, nothing},
		{"roots", e.rootBundle, settings},
		{"claim-files", e.claimFiles, settings},
		{"identity-files", e.identityFiles, settings},
		{"clock", e.clock, nothing},
		{"dns", e.dns, endpoint},
		{"tcp", e.tcp, endpoint},
		{"server-certificate", e.server, endpoint},
		{"claim-connect", e.claimAccess, endpoint},
		{"template", e.provisioningTemplate, settings},
		{"device-connect", e.deviceAccess, endpoint},
		{"disk", e.disk, nothing},
	} {
		switch {
		case ctx.Err() != nil:
			e.skip(step.name, "interrupted")
		case step.need >= settings && e.Settings == nil:
			e.skip(step.name, "there is no configuration")
		case step.need == endpoint && e.Settings.Server.Endpoint == "":
			e.skip(step.name, "there is no endpoint")
		default:
			step.run(ctx)
		}
	}
	return e.report
}

func (c Config) withDefaults() Config {
	if c.Resolve == nil {
		c.Resolve = net.DefaultResolver.LookupHost
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Progress == nil {
		c.Progress = func(Check) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// options are those of every connection to the endpoint. A clock that is
// known to be wrong is put right, to see what else there is.
func (e *examination) options() session.Options {
	return session.Options{
		Endpoint:       e.Settings.Server.Endpoint,
		Port:           e.Settings.Server.Port,
		RootCAs:        e.roots,
		Proxy:          e.Settings.Server.Proxy,
		ConnectTimeout: e.Timeout,
		DialContext:    e.DialContext,
		Now:            e.rightTime,
		Log:            e.Log,
	}
}

func (e *examination) rightTime() time.Time { return e.Now().Add(e.skew) }

func (e *examination) onAWS() bool { return awsiot.ParseEndpoint(e.Settings.Server.Endpoint).AWS() }

// directory is where the identity's files are.
func (e *examination) directory() string {
	switch {
	case e.Settings == nil:
		return identity.DefaultDir
	case e.Settings.Primary.CertificatePath != "":
		return filepath.Dir(e.Settings.Primary.CertificatePath)
	}
	return e.Settings.StateDir
}
