package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/internal/osfile"
)

// expirySoon is how long before its end a certificate is worth a warning: at most 30 days, and for
// one of short life a quarter of that, since rotations begin a third before its end.
func expirySoon(c *x509.Certificate) time.Duration {
	return min(30*24*time.Hour, c.NotAfter.Sub(c.NotBefore)/4)
}

// configuration reports the problems of the configuration, those of an endpoint of AWS under its own
// name, and the kind of such an endpoint.
func (r *run) configuration(_ context.Context, name string) {
	problems, _ := errors.AsType[config.Problems](r.Problems)
	if r.Settings == nil {
		r.reportProblems(name, problems)
		if r.Problems == nil {
			r.skip(name, "none was given")
		}
		return
	}
	for _, w := range r.Settings.Warnings {
		r.warn(name, w, "", "")
	}
	endpoint, unusable := awsiot.ParseEndpoint(r.Settings.Server.Endpoint), false
	for _, p := range problems {
		place := name
		if p.Key == "server.endpoint" {
			unusable = true
			if endpoint.AWS() {
				place = "endpoint"
			}
		}
		r.reportProblems(place, config.Problems{p})
	}
	switch {
	case unusable:
	case endpoint.Kind == awsiot.EndpointData:
		r.ok("endpoint", fmt.Sprintf("%s, the %s in %s", endpoint.Host, endpoint.Kind, endpoint.Region))
	case endpoint.AWS():
		r.warn("endpoint", endpoint.Host+" is the "+string(endpoint.Kind), "", askForEndpoint)
	default:
		r.skip("endpoint", endpoint.Host+" is not an AWS endpoint")
	}
	if r.Problems == nil {
		r.ok(name, fmt.Sprintf("serial number %s at %s, port %d", r.Settings.SerialNumber, r.Settings.Server.Endpoint, r.Settings.Server.Port))
	}
}

func (r *run) reportProblems(name string, problems config.Problems) {
	for _, p := range problems {
		found := p.What
		if place := p.Origin.String(); place != "" {
			found = place + ": " + found
		}
		r.fail(name, config.Problems{p}.Class(), found, Cause{Remedy: p.Remedy})
	}
}

// rootBundle reads the certificates that the server's one is verified against.
// https://docs.aws.amazon.com/iot/latest/developerguide/server-authentication.html
func (r *run) rootBundle(_ context.Context, name string) {
	files, _, err := r.Settings.Check(false)
	if problems, _ := errors.AsType[config.Problems](err); len(problems) > 0 {
		r.reportProblems(name, problems)
		return
	}
	r.roots, r.bundle = files.Roots, files.Bundle
	found := fmt.Sprintf("certificates: %d, in %s", len(r.bundle), r.Settings.RootsFrom())
	var others, missing []string
	for _, c := range r.bundle {
		if !slices.ContainsFunc(config.AmazonRoots(), c.Equal) {
			others = append(others, c.Subject.String())
		}
	}
	for _, root := range config.AmazonRoots()[:4] { // AWS does not recommend the fifth, which has signed them
		if !slices.ContainsFunc(r.bundle, root.Equal) {
			missing = append(missing, root.Subject.CommonName)
		}
	}
	expired := slices.IndexFunc(r.bundle, func(c *x509.Certificate) bool { return r.expires(c, 0) })
	switch {
	case expired >= 0:
		r.warn(name, found, fmt.Sprintf("%s expired on %s", r.bundle[expired].Subject, date(r.bundle[expired].NotAfter)), config.UseAmazonRoots)
	case r.onAWS() && len(others) > 0:
		r.warn(name, found, "not Amazon's: "+strings.Join(others, ", ")+"; the holder of the key of one of them can impersonate AWS IoT", config.UseAmazonRoots)
	case r.onAWS() && len(missing) > 0:
		r.warn(name, found, "not among them: "+strings.Join(missing, ", ")+"; AWS recommends all of them", config.UseAmazonRoots)
	default:
		r.ok(name, found)
	}
}

// claimFiles checks the claim as bootstrap does. A wrong clock has a check of its own.
func (r *run) claimFiles(_ context.Context, name string) {
	isHere := func(c config.Paths) bool {
		_, err := os.Stat(c.PrivateKeyPath)
		return !errors.Is(err, fs.ErrNotExist)
	}
	if r.device != nil && !slices.ContainsFunc(r.Settings.AllClaims(), isHere) {
		r.skip(name, "the claim's key is not here; a device with an identity does not need it")
		return
	}
	files, warnings, err := r.Settings.Check(true)
	for _, w := range warnings {
		r.warn(name, w, "", "")
	}
	all, _ := errors.AsType[config.Problems](err)
	problems := slices.DeleteFunc(slices.Clone(all), func(p config.Problem) bool { return p.Key == "bootstrap.cacertificatepath" })
	if len(problems) > 0 {
		r.reportProblems(name, problems)
		return
	}
	r.claims = files.Claims
	for _, claim := range r.claims {
		leaf := claim.Certificate.Leaf
		found := fmt.Sprintf("%s, certificate %s, valid until %s", claim.Path, awsiot.CertificateID(leaf), date(leaf.NotAfter))
		if r.device != nil && r.device.Record.RequestedBy == awsiot.CertificateID(leaf) {
			found += "; the identity was requested with it"
		}
		switch {
		case r.expires(leaf, 0) && len(r.claims) > 1:
			r.warn(name, found, "the claim has expired, or the clock is ahead", "remove the claim, unless the clock is wrong")
		case r.expires(leaf, 0):
			r.fail(name, awsiot.Temporary, found, cause("clock"))
		case r.expires(leaf, expirySoon(leaf)):
			r.warn(name, found, "the claim expires soon", "have the fleet's operator make a new claim")
		default:
			r.ok(name, found)
		}
	}
}

// identityFiles checks the device's own certificate, key and record.
func (r *run) identityFiles(_ context.Context, name string) {
	own := r.Settings.Identity()
	own.Now, own.Log = r.Now, r.Log
	store, err := identity.NewStore(own)
	if err != nil {
		r.skip(name, err.Error())
		return
	}
	r.store = store
	status := store.Status()
	for _, err := range status.Problems {
		r.failure(name, err)
	}
	r.device = status.Identity
	switch p := status.Pending; {
	case p == nil:
	case p.Stage == identity.Committed:
		r.warn(name, "the identity is verified, and its files are not written yet", "the run that verified it was interrupted, or the disk was full", `run "iot_device bootstrap", which writes them`)
	case r.device == nil:
		r.ok(name, fmt.Sprintf("a provisioning is pending since %s: %s", date(p.Since), p.Stage))
	default:
		r.warn(name, fmt.Sprintf("a replacement of the identity is pending since %s: %s", date(p.Since), p.Stage), "the replacement did not complete; the identity stays in use",
			`"iot_device bootstrap --reprovision" or "iot_device rotate" resumes it, "iot_device bootstrap --discard-pending" ends it`)
	}
	if status.State == identity.Absent { // as bootstrap would; nothing is left of the key, in hardware neither
		key, _, err := own.Keys.New()
		if made, ok := key.(interface{ Remove() error }); ok {
			err = made.Remove()
		}
		if err != nil {
			r.failure("key", err)
		}
	}
	switch {
	case r.device != nil:
		r.identityOnDisk(name)
	case status.Pending == nil && len(status.Problems) == 0:
		r.ok(name, `no identity yet; "iot_device bootstrap" provisions the device`)
	}
	// What others put into a folder that they may write, the device would read as its own.
	if info, err := os.Stat(own.Folder()); err == nil && info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		r.warn(name, fmt.Sprintf("the folder %s is writable by others (mode %04o)", own.Folder(), info.Mode().Perm()),
			"others can replace the device's files", "run \"chmod go-w "+osfile.Quote(own.Folder())+"\"")
	}
}

func (r *run) identityOnDisk(name string) {
	record := r.device.Record
	for _, w := range config.ReadableByOthers(r.device.Files.PrivateKey) {
		r.warn(name, w, "", "")
	}
	if !strings.EqualFold(record.Endpoint, r.Settings.Server.Endpoint) {
		r.warn(name, "the identity was made at "+record.Endpoint, "server.endpoint names another: "+r.Settings.Server.Endpoint, "correct server.endpoint, unless the endpoint has a new name")
	}
	// A hook may give the thing the name of another serial number: only a name that the
	// configuration demands is compared.
	if want := r.Settings.ThingName; want != "" && want != record.ThingName {
		r.fail(name, awsiot.Misconfigured, "the identity is that of "+record.ThingName+", the configuration demands "+want, cause("thing-name", "got", record.ThingName))
	}
	found := fmt.Sprintf("%s, certificate %s, valid until %s", record.ThingName, record.CertificateID, date(r.device.Certificate.NotAfter))
	if n := len(r.device.Issuers); n > 0 {
		found += fmt.Sprintf(", issued by %q, with a chain of %d", r.device.Certificate.Issuer, n+1)
	}
	const remedy = `have an operator allow the device to provision again, then run "iot_device bootstrap --reprovision"`
	switch {
	case r.expires(r.device.Certificate, 0):
		r.fail(name, awsiot.Failed, found, Cause{Why: "the certificate has expired, or the clock is ahead", Remedy: "check the clock; " + remedy})
	case r.expires(r.device.Certificate, expirySoon(r.device.Certificate)):
		r.warn(name, found, "the certificate expires soon, and was not rotated", `run "iot_device rotate" before; after, `+remedy)
	default:
		r.ok(name, found)
	}
}

// expires reports whether a certificate ends within a time, as far as the clock is plausible.
func (r *run) expires(c *x509.Certificate, within time.Duration) bool {
	return r.plausible() && r.Now().Add(within).After(c.NotAfter)
}

// disk tries what bootstrap does where the identity is or would be. A device that has its identity
// can do without.
func (r *run) disk(_ context.Context, name string) {
	if r.store == nil {
		r.skip(name, "without a serial number its place is unknown")
		return
	}
	own := r.Settings.Identity()
	dir := own.Folder()
	for _, err := os.Stat(dir); err != nil && filepath.Dir(dir) != dir; _, err = os.Stat(dir) {
		dir = filepath.Dir(dir) // the nearest that exists
	}
	began := time.Now()
	err := r.store.CheckDisk()
	free, known := freeSpace(dir)
	switch {
	case err != nil && r.device != nil:
		c, _ := CauseOf(err, r.Settings)
		r.warn(name, err.Error(), c.Why+"; the identity can be used and verified, but not replaced", c.Remedy)
	case err != nil:
		r.failure(name, err)
	case known && free < 1<<20: // more than identity, journal and their replacements ever need
		r.warn(name, fmt.Sprintf("%s can be written and synced, and has %d kB left", dir, free>>10), "", "free space there if it becomes less")
	case slices.Contains([]string{"tmpfs", "ramfs"}, r.FileSystem(dir)):
		r.warn(name, fmt.Sprintf("%s is in memory (%s)", dir, r.FileSystem(dir)), "the identity is gone when the device restarts, and it has to be provisioned again", "set stateDir, or primary.certificatepath where that is set, to a place on a disk")
	default:
		r.ok(name, fmt.Sprintf("%s can be written and synced, in %v", dir, time.Since(began).Round(time.Millisecond)))
	}
}

// No device has run this program before earliest, and the roots of AWS IoT have expired by latest.
// A clock without a battery begins at 1970 or 2000; one with a broken battery may show anything.
var (
	earliest = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
)

func (r *run) plausible() bool {
	now := r.Now()
	return !now.Before(earliest) && now.Before(latest)
}

// clock compares the clock with itself and with what is on disk.
func (r *run) clock(_ context.Context, name string) {
	now := r.Now()
	if !r.plausible() {
		r.skew = earliest.Sub(now)
		r.fail(name, awsiot.Temporary, fmt.Sprintf("the clock is %d: it shows %s", now.UTC().Year(), date(now)), cause("clock"))
	}
	for _, claim := range r.claims {
		leaf := claim.Certificate.Leaf
		r.noEarlierThan(leaf, fmt.Sprintf("the claim certificate %q", leaf.Subject))
	}
	if r.device != nil {
		r.noEarlierThan(r.device.Certificate, "the device's certificate")
	}
	if r.skew == 0 {
		r.ok(name, date(now))
	}
}

// noEarlierThan finds a clock that is behind a certificate, and corrects it. A wrong clock is
// reported once.
func (r *run) noEarlierThan(c *x509.Certificate, what string) {
	if !r.correctTime().Before(c.NotBefore) {
		return
	}
	if r.skew == 0 {
		r.fail("clock", awsiot.Temporary, fmt.Sprintf("the clock shows %s, and %s was made after that, on %s: the clock is behind", date(r.Now()), what, date(c.NotBefore)), cause("clock"))
	}
	r.skew = c.NotBefore.Add(time.Minute).Sub(r.Now())
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
