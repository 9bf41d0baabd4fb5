package doctor

import (
	"crypto/x509"
	"slices"

	"example.com/fleety/device/internal/config"
)

// missingRoots returns the names of the Amazon roots that a bundle lacks. The
// Starfield root is not among those that AWS recommends: the others are also
// signed by it.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/server-authentication.html
func missingRoots(bundle []*x509.Certificate) (missing []string) {
	for _, root := range config.AmazonRoots()[:4] {
		if !slices.ContainsFunc(bundle, root.Equal) {
			missing = append(missing, root.Subject.CommonName)
		}
	}
	return missing
}

// otherRoots returns the names of the roots in a bundle that are not Amazon's.
func otherRoots(bundle []*x509.Certificate) (names []string) {
	for _, c := range bundle {
		if !slices.ContainsFunc(config.AmazonRoots(), c.Equal) {
			names = append(names, c.Subject.String())
		}
	}
	return names
}

// isAWSRoot reports whether a certificate's issuer has the name of an Amazon root.
func isAWSRoot(commonName string) bool {
	return slices.ContainsFunc(config.AmazonRoots(), func(c *x509.Certificate) bool { return c.Subject.CommonName == commonName })
}
