//go:build !linux

package tpm

import (
	"errors"

	"github.com/google/go-tpm/tpm2/transport"
)

func open(string, bool) (transport.TPMCloser, error) {
	return nil, errors.New("keys in a TPM need Linux")
}
