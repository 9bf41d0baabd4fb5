package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/session"
)

// expirySoon is when a certificate's end is worth a warning.
const expirySoon = 30 * 24 * time.Hour

const rootsKey = "bootstrap.cacertificatepath"

func (e *examination) configuration(context.Context) {
	const name = "configuration"
	problems, ok := errors.AsType[config.Problems](e.Problems)
	if e.Problems != nil && !ok {
		e.fail(name, session.ClassConfig, "it cannot be read", e.Problems.Error(), "")
	}
	if e.Settings != nil && e.Settings.Server.Endpoint != "" {
		e.endpoint(problems)
	}
	e.reportProblems(name, slices.DeleteFunc(slices.Clone(problems), func(p config.Problem) bool { return p.Key == "server.endpoint" && e.reported("endpoint") }))
	switch {
	case e.Problems != nil:
	case e.Settings == nil:
		e.skip(name, "none was given")
	default:
		e.ok(name, fmt.Sprintf("serial number %s at %s, port %d", e.Settings.SerialNumber, e.Settings.Server.Endpoint, e.Settings.Server.Port))
	}
}

// endpoint names the kind of an endpoint of AWS.
func (e *examination) endpoint(problems config.Problems) {
	const name = "endpoint"
	const remedy = `set it to the output of "aws iot describe-endpoint --endpoint-type iot:Data-ATS"`
	endpoint := awsiot.ParseEndpoint(e.Settings.Server.Endpoint)
	problem := slices.IndexFunc(problems, func(p config.Problem) bool { return p.Key == "server.endpoint" })
	switch {
	case !endpoint.AWS() && problem < 0:
		e.skip(name, endpoint.Host+" is not an AWS endpoint")
	case !endpoint.AWS(): // reported with the configuration
	case problem >= 0:
		e.reportProblems(name, problems[problem:problem+1])
	case endpoint.Kind == awsiot.EndpointLegacyData:
		e.warn(name, endpoint.Host+" is the "+endpoint.Kind.String(), "its certificate is issued by a root that is no longer trusted", remedy)
	case !endpoint.Kind.MQTT():
		e.warn(name, endpoint.Host+" is the "+endpoint.Kind.String(), "it is not the account's endpoint for devices", remedy)
	default:
		e.ok(name, fmt.Sprintf("%s, the %s in %s", endpoint.Host, endpoint.Kind, endpoint.Region))
	}
}

func (e *examination) reported(name string) bool {
	return slices.ContainsFunc(e.report.Checks, func(c Check) bool { return c.Name == name && c.Result == Fail })
}

// rootBundle reads the certificates that the server's one is verified against.
func (e *examination) rootBundle(context.Context) {
	const name = "roots"
	files, _, err := e.Settings.Check(false)
	if problems, _ := errors.AsType[config.Problems](err); len(problems) > 0 {
		e.reportProblems(name, problems)
		return
	}
	e.roots, e.bundle, e.rootsFrom = files.Roots, files.Bundle, files.RootsFrom
	found := fmt.Sprintf("%d certificates in %s", len(e.bundle), files.RootsFrom)
	expired := slices.DeleteFunc(slices.Clone(e.bundle), func(c *x509.Certificate) bool { return !e.expires(c, 0) })
	missing := missingRoots(e.bundle)
	switch {
	case len(expired) > 0:
		e.warn(name, found, fmt.Sprintf("%s expired on %s", expired[0].Subject, date(expired[0].NotAfter)), removeBundle)
	case e.onAWS() && len(strangers(e.bundle)) > 0:
		e.warn(name, found, "not Amazon's: "+strings.Join(strangers(e.bundle), ", ")+"; whoever has the key of one of them can pose as AWS IoT", removeBundle)
	case e.onAWS() && len(missing) > 0:
		e.warn(name, found, "not among them: "+strings.Join(missing, ", ")+"; AWS recommends all of them", removeBundle)
	default:
		e.ok(name, found)
	}
}

func (e *examination) reportProblems(name string, problems config.Problems) {
	for _, p := range problems {
		found := p.What
		if place := p.Origin.String(); place != "" {
			found = place + ": " + found
		}
		e.fail(name, session.ClassConfig, found, "", p.Remedy)
	}
}

// claimFiles checks the claim as bootstrap does. A wrong clock has a check of
// its own.
func (e *examination) claimFiles(context.Context) {
	const name = "claim-files"
	files, warnings, err := e.Settings.Check(true)
	for _, w := range warnings {
		e.warn(name, w, "", "")
	}
	all, _ := errors.AsType[config.Problems](err)
	problems := slices.DeleteFunc(slices.Clone(all), func(p config.Problem) bool { return p.Key == rootsKey })
	if len(problems) > 0 {
		e.reportProblems(name, problems)
		return
	}
	e.claim = files.Claim
	leaf := files.Claim.Leaf
	found := fmt.Sprintf("%s, certificate %s, valid until %s", e.Settings.Bootstrap.CertificatePath, awsiot.CertificateID(leaf), date(leaf.NotAfter))
	const remedy = "get a new claim from whoever operates the fleet"
	switch {
	case e.expires(leaf, 0):
		e.fail(name, session.ClassTemporary, found, "the claim has expired, or the clock is ahead", "check the clock; "+remedy)
	case e.expires(leaf, expirySoon):
		e.warn(name, found, "the claim expires soon", remedy)
	default:
		e.ok(name, found)
	}
}

// identityFiles checks the device's own certificate, key and record.
func (e *examination) identityFiles(context.Context) {
	const name = "identity-files"
	own := e.Settings.Identity()
	own.Now, own.Log = e.Now, e.Log
	store, err := identity.NewStore(own)
	if err != nil {
		e.skip(name, err.Error())
		return
	}
	status := store.Status()
	for _, p := range status.Problems {
		e.fail(name, session.ClassFailed, p.Error(), "", `restore the file, or run "iot_device bootstrap --reprovision" for a new identity`)
	}
	if p := status.Pending; p != nil {
		e.ok(name, fmt.Sprintf("a provisioning is under way since %s: %s", date(p.Since), p.Stage))
	}
	e.device = status.Identity
	switch {
	case e.device != nil:
		e.identityOnDisk(name)
	case status.Pending == nil && len(status.Problems) == 0:
		e.ok(name, `the device has no identity yet; "iot_device bootstrap" gets one`)
	}
}

func (e *examination) identityOnDisk(name string) {
	r, path := e.device.Record, e.device.Files.PrivateKey
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		e.warn(name, fmt.Sprintf("%s can be read by others (mode %04o)", path, info.Mode().Perm()), "", "run: chmod 600 "+path)
	}
	if r.Endpoint != e.Settings.Server.Endpoint {
		e.warn(name, "the identity was made at "+r.Endpoint, "server.endpoint names another: "+e.Settings.Server.Endpoint,
			"set server.endpoint back, or run \"iot_device bootstrap --reprovision\"")
	}
	if want := e.Settings.ExpectedThingName(); want != "" && want != r.ThingName {
		e.fail(name, session.ClassConfig, "the identity is that of "+r.ThingName, "the configuration expects "+want, "correct serialNumber or thingname")
	}
	found := fmt.Sprintf("%s, certificate %s, valid until %s", r.ThingName, r.CertificateID, date(e.device.Certificate.NotAfter))
	const remedy = `run "iot_device bootstrap --reprovision"`
	switch {
	case e.expires(e.device.Certificate, 0):
		e.fail(name, session.ClassFailed, found, "the certificate has expired", remedy)
	case e.expires(e.device.Certificate, expirySoon):
		e.warn(name, found, "the certificate expires soon", remedy)
	default:
		e.ok(name, found)
	}
}

// expires reports whether a certificate ends before the given time is over,
// as far as the clock can be believed.
func (e *examination) expires(c *x509.Certificate, within time.Duration) bool {
	return e.plausible() && e.Now().Add(within).After(c.NotAfter)
}

// minSpace is what an identity with its journal needs, with room to spare.
const minSpace = 1 << 20

// disk writes and syncs a file where the identity goes, or would go.
func (e *examination) disk(context.Context) {
	const name = "disk"
	dir := existing(e.directory())
	if free, ok := freeSpace(dir); ok && free < minSpace {
		e.fail(name, session.ClassFailed, fmt.Sprintf("%s has %d bytes left", dir, free), "the disk is full", "make room: an identity needs 1 MB at most")
		return
	}
	began := time.Now()
	if err := writeAndSync(dir); err != nil {
		e.fail(name, session.ClassFailed, dir+" cannot be written", err.Error(), "check owner, mode and mount options of the directory, and that the disk is neither full nor read-only")
		return
	}
	e.ok(name, fmt.Sprintf("%s can be written and synced, in %v", dir, time.Since(began).Round(time.Millisecond)))
}

// existing returns the nearest path upwards that is there.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return dir
		}
		dir = parent
	}
}

func writeAndSync(dir string) (err error) {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if _, err := f.Write(make([]byte, 16<<10)); err != nil {
		return err
	}
	return f.Sync()
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
