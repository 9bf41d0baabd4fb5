//go:build !cgo || !pkcs11

package config

import (
	"errors"
	"fmt"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/identity/pkcs11"
)

func newTokenKeys(pkcs11.URI, string) (identity.KeyStore, error) {
	return nil, fmt.Errorf("%w: %w", identity.ErrUnavailable, errNoPKCS11)
}

var errNoPKCS11 = errors.New("this program is built without PKCS #11, which needs cgo: use one from make device-pkcs11")
