package config

import (
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"example.com/fleety/device/awsiot"
)

// amazonRoots are Amazon Root CA 1 to 4 and the Starfield root that signed them.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/server-authentication.html
//
//go:embed amazon-roots.pem
var amazonRoots []byte

// AmazonRoots returns the root certificates of AWS IoT's endpoints, which are
// part of the program.
var AmazonRoots = sync.OnceValue(func() []*x509.Certificate {
	roots, err := awsiot.Certificates(amazonRoots)
	if err != nil {
		panic(err) // a test reads them
	}
	return roots
})

// Files are the files of the bootstrap section, read and checked.
type Files struct {
	Roots     *x509.CertPool
	Bundle    []*x509.Certificate // in Roots
	RootsFrom string              // the path of the bundle, or a name for [AmazonRoots]
	// Claim is the claim certificate with its key; nil when it was not asked for.
	Claim *tls.Certificate

	claimPath string
}

const (
	remedyForRoots = "copy the root certificates there, or remove bootstrap.cacertificatepath to use the Amazon roots of this program"
	remedyForClaim = "copy the claim there, or correct the paths in the bootstrap section"
)

// Check reads the files that the settings name and returns them ready for use,
// with warnings about them. claim says whether the claim is still needed: a
// device with an identity may have lost it. Whether the claim is valid now is
// [Files.ClaimTime]'s matter. The error is of type [Problems].
func (c *Config) Check(claim bool) (*Files, []string, error) {
	f := &Files{claimPath: c.Bootstrap.CertificatePath}
	found := c.readRoots(f)
	if !claim {
		return f, nil, found.err()
	}
	return f, ReadableByOthers(c.Bootstrap.PrivateKeyPath), append(found, c.readClaim(f)...).err()
}

// readRoots reads the bundle. Without one the Amazon roots are used; one that is
// named must be there.
func (c *Config) readRoots(f *Files) Problems {
	const key = "bootstrap.cacertificatepath"
	f.RootsFrom = c.Bootstrap.CACertificatePath
	data, problem := c.read(key, f.RootsFrom, remedyForRoots)
	_, configured := c.origins[key]
	switch {
	case problem == nil:
		var err error
		if f.Bundle, err = awsiot.Certificates(data); err != nil {
			return Problems{c.problem(key, fmt.Sprintf("%s: %v", f.RootsFrom, err), remedyForRoots)}
		}
	case problem.missing && !configured:
		f.RootsFrom, f.Bundle = "this program (the Amazon roots)", AmazonRoots()
	default:
		return Problems{problem.Problem}
	}
	f.Roots = x509.NewCertPool()
	for _, root := range f.Bundle {
		f.Roots.AddCert(root)
	}
	return nil
}

// readClaim reads the claim certificate and its key, which may be in one file.
func (c *Config) readClaim(f *Files) (found Problems) {
	const certificateKey, privateKey = "bootstrap.certificatepath", "bootstrap.privatekeypath"
	b := c.Bootstrap
	claim := &tls.Certificate{}
	data, problem := c.read(certificateKey, b.CertificatePath, remedyForClaim)
	var chain []*x509.Certificate
	if problem != nil {
		found = append(found, problem.Problem)
	} else if list, err := awsiot.Certificates(data); err != nil {
		found = append(found, c.problem(certificateKey, fmt.Sprintf("%s: %v", b.CertificatePath, err), remedyForClaim))
	} else {
		chain = list
	}
	data, problem = c.read(privateKey, b.PrivateKeyPath, remedyForClaim)
	if problem != nil {
		return append(found, problem.Problem)
	}
	signer, err := awsiot.PrivateKey(data)
	if err != nil {
		return append(found, c.problem(privateKey, fmt.Sprintf("%s: %v", b.PrivateKeyPath, err), remedyForClaim))
	}
	claim.PrivateKey = signer
	for _, certificate := range chain {
		if claim.Leaf == nil && awsiot.Matches(signer, certificate) {
			claim.Leaf = certificate
			claim.Certificate = append([][]byte{certificate.Raw}, claim.Certificate...) // the leaf goes first
		} else {
			claim.Certificate = append(claim.Certificate, certificate.Raw)
		}
	}
	if claim.Leaf != nil {
		f.Claim = claim
	} else if len(chain) > 0 {
		found = append(found, c.problem(privateKey,
			fmt.Sprintf("the key %s does not belong to the certificate %s", b.PrivateKeyPath, b.CertificatePath), "use the two files that were made together"))
	}
	return found
}

// A ClaimTimeError is a claim that is not valid at the time that the device's
// clock shows. It is temporary: a clock is often set a while after boot.
type ClaimTimeError struct {
	Path        string
	Certificate *x509.Certificate
	Now         time.Time
}

// Early reports whether the claim is not valid yet.
func (e *ClaimTimeError) Early() bool { return e.Now.Before(e.Certificate.NotBefore) }

// Error implements error.
func (e *ClaimTimeError) Error() string {
	what, when := "expired on", e.Certificate.NotAfter
	if e.Early() {
		what, when = "is not valid before", e.Certificate.NotBefore
	}
	return fmt.Sprintf("the claim %s %s %s, and this device's clock says %s", e.Path, what, when.UTC().Format(time.RFC3339), e.Now.UTC().Format(time.RFC3339))
}

// Class returns [awsiot.Temporary].
func (e *ClaimTimeError) Class() awsiot.Class { return awsiot.Temporary }

// ClaimTime returns a *[ClaimTimeError] if there is a claim that is not valid at
// that time.
func (f *Files) ClaimTime(now time.Time) error {
	if f.Claim == nil || !now.Before(f.Claim.Leaf.NotBefore) && !now.After(f.Claim.Leaf.NotAfter) {
		return nil
	}
	return &ClaimTimeError{Path: f.claimPath, Certificate: f.Claim.Leaf, Now: now}
}

// ReadableByOthers returns a warning if others may read a private key.
func ReadableByOthers(path string) []string {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return []string{fmt.Sprintf("the private key %s is readable by others (mode %04o); run: chmod 600 %[1]s", path, info.Mode().Perm())}
}

// A fileProblem is a file that cannot be read.
type fileProblem struct {
	Problem
	missing bool
}

func (c *Config) read(key, path, remedy string) ([]byte, *fileProblem) {
	data, err := readFile(path, maxPEMSize)
	if err == nil {
		return data, nil
	}
	p := &fileProblem{c.problem(key, fmt.Sprintf("%s: %s", path, cause(err)), remedy), errors.Is(err, fs.ErrNotExist)}
	if p.Machine = isMachine(err); p.Machine {
		p.Remedy = remedyForFile(err)
	}
	return nil, p
}

func (c *Config) problem(key, what, remedy string) Problem {
	return Problem{Origin: c.origins[key], Key: key, What: what, Remedy: remedy}
}
