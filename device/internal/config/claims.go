package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

const (
	claimsKey           = "bootstrap.claims"
	claimCertificateKey = "bootstrap.certificatepath"
	claimPrivateKey     = "bootstrap.privatekeypath"
)

// A Claim names the files of a claim certificate and its private key, which may be
// one file.
type Claim struct {
	CertificatePath string `json:"certificatepath"`
	PrivateKeyPath  string `json:"privatekeypath"`
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

// setClaims reads a JSON array of objects, the form of the environment and of
// flags, and of what claims makes of the file.
func setClaims(c *Config, value string) error {
	if notUTF8(value) {
		return errNotUTF8
	}
	d := json.NewDecoder(bytes.NewReader([]byte(value)))
	d.DisallowUnknownFields()
	var claims []Claim
	if err := d.Decode(&claims); err != nil || d.More() {
		return fmt.Errorf(`%q is not a JSON array of objects with certificatepath and privatekeypath`, value)
	}
	for i, claim := range claims {
		if claim.CertificatePath == "" || claim.PrivateKeyPath == "" {
			return fmt.Errorf("claim %d lacks its certificatepath or its privatekeypath", i+1)
		}
	}
	c.Bootstrap.Claims = claims
	return nil
}

// claims reads a list of mappings of the file.
func (f *file) claims(k key, n ast.Node) {
	if _, null := n.(*ast.NullNode); null {
		return
	}
	sequence, ok := n.(*ast.SequenceNode)
	if !ok {
		f.report(n, k.name, fmt.Sprintf("%s must be %s, not %s", k.name, k.kind, describe(n)), "write it as - {certificatepath: PATH, privatekeypath: PATH}")
		return
	}
	before := len(f.found)
	var claims []Claim
	for _, item := range sequence.Values {
		entries, ok := mappingOf(item)
		if !ok {
			f.report(item, k.name, fmt.Sprintf("a claim must be a mapping, not %s", describe(item)), "write it as {certificatepath: PATH, privatekeypath: PATH}")
			continue
		}
		var claim Claim
		paths := map[string]*string{"certificatepath": &claim.CertificatePath, "privatekeypath": &claim.PrivateKeyPath}
		for _, e := range entries {
			name, _ := keyOf(e)
			value, isText := scalarOf(e.Value, path)
			stored := paths[strings.ToLower(name)]
			switch {
			case stored == nil:
				f.found = append(f.found, unknownKey(f.at(e.Key.GetToken()), "bootstrap."+name))
			case *stored != "":
				f.report(e.Key, k.name, fmt.Sprintf("key %q is there twice", name), "keep one")
			case !isText:
				f.report(e.Value, k.name, fmt.Sprintf("%s must be %s, not %s", name, path, describe(e.Value)), "correct its value")
			default:
				*stored = key{kind: path}.in(f.dir, value)
			}
		}
		claims = append(claims, claim)
	}
	text, err := json.Marshal(claims)
	if err == nil && len(f.found) == before {
		err = k.set(f.config, string(text))
	}
	if err != nil {
		f.report(n, k.name, fmt.Sprintf("%s: %v", k.name, err), "give both paths of each claim")
	}
}
