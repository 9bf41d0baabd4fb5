package config

import "fmt"

const (
	claimsKey           = "bootstrap.claims"
	claimCertificateKey = "bootstrap.certificatepath"
	claimPrivateKey     = "bootstrap.privatekeypath"

	claimForm = `{"certificatepath": PATH, "privatekeypath": PATH}`
)

// A Claim names the files of a claim certificate and its private key, which may be
// one file.
type Claim struct {
	CertificatePath string `json:"certificatepath"`
	PrivateKeyPath  string `json:"privatekeypath"`
}

func (c *Claim) fields() map[string]*string {
	return map[string]*string{"certificatepath": &c.CertificatePath, "privatekeypath": &c.PrivateKeyPath}
}

// AllClaims are the claims in the order in which they are tried: that of
// CertificatePath and PrivateKeyPath, then Claims. The default paths count only
// where Claims is empty.
func (c *Config) AllClaims() []Claim {
	first := Claim{c.Bootstrap.CertificatePath, c.Bootstrap.PrivateKeyPath}
	_, certificate := c.origins[claimCertificateKey]
	_, key := c.origins[claimPrivateKey]
	if len(c.Bootstrap.Claims) > 0 && !certificate && !key {
		return c.Bootstrap.Claims
	}
	return append([]Claim{first}, c.Bootstrap.Claims...)
}

func setClaims(c *Config, value string) (err error) {
	c.Bootstrap.Claims, err = parseRecords[Claim](value, claimForm)
	return err
}

func (v *validation) claims() {
	for i, claim := range v.c.Bootstrap.Claims {
		if claim.CertificatePath == "" || claim.PrivateKeyPath == "" {
			v.bad(claimsKey, fmt.Sprintf("claim %d of %s lacks a path", i+1, claimsKey), "write it as "+claimForm)
		}
	}
}
