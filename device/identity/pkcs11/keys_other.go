//go:build !cgo || !pkcs11

package pkcs11

import "example.com/fleety/device/identity"

// Keys is the store of a token in builds with cgo and the tag pkcs11.
type Keys struct{ identity.KeyStore }

// NewKeys returns nil: this program is built without PKCS #11.
func NewKeys(URI, string) *Keys { return nil }
