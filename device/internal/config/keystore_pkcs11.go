//go:build cgo && pkcs11

package config

import (
	"example.com/fleety/device/identity"
	"example.com/fleety/device/identity/pkcs11"
)

func newTokenKeys(u pkcs11.URI, dir string) (identity.KeyStore, error) {
	return pkcs11.NewKeys(u, dir), nil
}
