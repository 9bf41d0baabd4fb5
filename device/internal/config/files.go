package config

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/osfile"
)

// amazonRoots are Amazon Root CA 1 to 4 and the Starfield root that signed them.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/server-authentication.html
//
//go:embed amazon-roots.pem
var amazonRoots []byte

// AmazonRoots returns the root certificates of AWS IoT's endpoints, which are part of the program.
var AmazonRoots = sync.OnceValue(func() []*x509.Certificate {
	roots, err := awsiot.Certificates(amazonRoots)
	if err != nil {
		panic(err) // a test reads them
	}
	return roots
})

// Files are the files of the bootstrap section, read and checked.
type Files struct {
	Roots  *x509.CertPool
	Bundle []*x509.Certificate // in Roots
	Claims []LoadedClaim       // the claims that can be used, in order; none when they were not asked for
}

// A LoadedClaim is a claim certificate with its key.
type LoadedClaim struct {
	Path        string // of the certificate
	Certificate *tls.Certificate
}

const (
	// UseAmazonRoots is the remedy for a bundle of roots that is wrong for AWS.
	UseAmazonRoots = "to use the Amazon roots of this program, rename the file, and remove bootstrap.cacertificatepath where it is set"
	remedyForRoots = "copy the root certificates there; " + UseAmazonRoots
	remedyForClaim = "copy the claim there, or correct the paths in the bootstrap section"
)

// Check reads the files that the settings name and returns them ready for use, with warnings about
// them. claim says whether a claim is still needed: a device with an identity may have lost it. A
// claim that cannot be read is a warning if another one can. Whether they are valid now is
// [Files.ClaimTime]'s matter. The error is of type [Problems].
func (c *Config) Check(claim bool) (*Files, []string, error) {
	f, found := &Files{Roots: x509.NewCertPool()}, Problems(nil)
	if from := c.RootsFrom(); from == amazonRootsName {
		f.Bundle = AmazonRoots()
	} else {
		f.Bundle, found = readPEM(c, rootsKey, from, remedyForRoots, awsiot.Certificates)
	}
	for _, root := range f.Bundle {
		f.Roots.AddCert(root)
	}
	if !claim {
		return f, nil, found.err()
	}
	var warnings []string
	var broken Problems
	for i, paths := range c.AllClaims() {
		certificateKey, privateKey := claimCertificateKey, claimPrivateKey
		if further := len(c.AllClaims()) - len(c.Bootstrap.Claims); i >= further {
			certificateKey, privateKey = claimsKey, claimsKey
		}
		certificate, problems := c.readClaim(paths, certificateKey, privateKey)
		if broken = append(broken, problems...); problems == nil {
			warnings = append(warnings, ReadableByOthers(paths.PrivateKeyPath)...)
			f.Claims = append(f.Claims, LoadedClaim{paths.CertificatePath, certificate})
		}
	}
	if len(f.Claims) == 0 {
		return f, warnings, append(found, broken...).err()
	}
	for _, problem := range broken {
		warnings = append(warnings, problem.Error()+"; another claim is used")
	}
	return f, warnings, found.err()
}

// amazonRootsName is what [Config.RootsFrom] says of [AmazonRoots].
const amazonRootsName = "this program (the Amazon roots)"

// RootsFrom returns the path of the bundle of roots, or a name for [AmazonRoots]: they are used
// without a bundle, but one that is named must be there.
func (c *Config) RootsFrom() string {
	_, configured := c.origins[rootsKey]
	if _, err := os.Stat(c.Bootstrap.CACertificatePath); errors.Is(err, fs.ErrNotExist) && !configured {
		return amazonRootsName
	}
	return c.Bootstrap.CACertificatePath
}

// readClaim reads a claim certificate and its key, which may be in one file. The keys are those of
// the configuration that name them.
func (c *Config) readClaim(paths Paths, certificateKey, privateKey string) (*tls.Certificate, Problems) {
	chain, found := readPEM(c, certificateKey, paths.CertificatePath, remedyForClaim, awsiot.Certificates)
	signer, foundInKey := readPEM(c, privateKey, paths.PrivateKeyPath, remedyForClaim, awsiot.PrivateKey)
	if found = append(found, foundInKey...); found != nil {
		return nil, found
	}
	leaf := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return awsiot.Matches(signer, c) })
	if leaf < 0 {
		return nil, Problems{c.problem(privateKey, fmt.Sprintf("the key %s does not belong to the certificate %s", paths.PrivateKeyPath, paths.CertificatePath),
			"use the two files that were made together")}
	}
	claim := &tls.Certificate{PrivateKey: signer, Leaf: chain[leaf]}
	for _, certificate := range slices.Insert(slices.Delete(chain, leaf, leaf+1), 0, claim.Leaf) {
		claim.Certificate = append(claim.Certificate, certificate.Raw)
	}
	return claim, nil
}

// readPEM reads what a setting names.
func readPEM[T any](c *Config, key, path, remedy string, parse func([]byte) (T, error)) (value T, found Problems) {
	data, err := osfile.Read(path, maxPEMSize)
	if err == nil {
		if value, err = parse(data); err == nil {
			return value, nil
		}
	}
	p := c.problem(key, fmt.Sprintf("%s: %s", path, cause(err)), remedy)
	if p.Machine = isMachine(err); p.Machine {
		p.Remedy = remedyForFile(err)
	}
	return value, Problems{p}
}

// ClaimTime puts the claims that are valid at that time before the others. If none is, it returns an
// *[awsiot.ValidityError] for the first one.
func (f *Files) ClaimTime(now time.Time) error {
	rank := func(c LoadedClaim) int {
		if leaf := c.Certificate.Leaf; now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(f.Claims, func(a, b LoadedClaim) int { return cmp.Compare(rank(a), rank(b)) })
	if len(f.Claims) == 0 || rank(f.Claims[0]) == 0 {
		return nil
	}
	return &awsiot.ValidityError{What: "the claim " + f.Claims[0].Path, Certificate: f.Claims[0].Certificate.Leaf, Now: now}
}

// ReadableByOthers returns a warning if others may read the file of a private key.
func ReadableByOthers(path string) []string {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return []string{fmt.Sprintf("the private key %s is readable by others (mode %04o); run \"chmod 600 %s\"", path, info.Mode().Perm(), osfile.Quote(path))}
}

func (c *Config) problem(key, what, remedy string) Problem {
	return Problem{Origin: c.origins[key], Key: key, What: what, Remedy: remedy}
}
