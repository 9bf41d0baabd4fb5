package doctor

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
)

// A root is one of those that AWS IoT's endpoints lead to, by the SHA-256 of
// its DER. The Amazon roots are also signed by the Starfield one.
// https://docs.aws.amazon.com/iot/latest/developerguide/server-authentication.html
type root struct {
	name     string
	sha256   string
	required bool
}

var awsRoots = []root{
	{"Amazon Root CA 1", "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e", true},
	{"Amazon Root CA 2", "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4", true},
	{"Amazon Root CA 3", "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4", true},
	{"Amazon Root CA 4", "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092", true},
	{"Starfield Services Root Certificate Authority - G2", "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5", false},
}

// missingRoots returns the names of the roots that AWS asks devices to have
// and the bundle does not hold.
func missingRoots(bundle []*x509.Certificate) []string {
	held := map[string]bool{}
	for _, c := range bundle {
		sum := sha256.Sum256(c.Raw)
		held[hex.EncodeToString(sum[:])] = true
	}
	var missing []string
	for _, r := range awsRoots {
		if r.required && !held[r.sha256] {
			missing = append(missing, r.name)
		}
	}
	return missing
}

// isAWSRoot reports whether a certificate's issuer carries the name of a root
// of AWS's.
func isAWSRoot(commonName string) bool {
	for _, r := range awsRoots {
		if r.name == commonName {
			return true
		}
	}
	return false
}
