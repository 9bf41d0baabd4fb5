package config

import (
	"crypto"
	"encoding/pem"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/identity/pkcs11"
	"example.com/fleety/device/identity/tpm"
	"example.com/fleety/device/internal/osfile"
)

// parseTPM reads "tpm", "tpm:PATH" or either with "?pcrs=0,7": the TPM's device, by default
// [tpm.DefaultDevice], and the registers that new keys are bound to.
func parseTPM(keys Keys) (*tpm.Keys, error) {
	rest := strings.TrimPrefix(strings.TrimPrefix(string(keys), "tpm"), ":")
	path, query, _ := strings.Cut(rest, "?")
	k := &tpm.Keys{Device: path}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	for name, list := range values {
		if name != "pcrs" || len(list) != 1 {
			return nil, fmt.Errorf("%q is not an option of a TPM: pcrs is", name)
		}
		for text := range strings.SplitSeq(list[0], ",") {
			n, err := strconv.ParseUint(text, 10, 8)
			if err != nil || n > 23 {
				return nil, fmt.Errorf("%q is not a platform configuration register: they have the numbers 0 to 23", text)
			}
			k.PCRs = append(k.PCRs, uint(n))
		}
	}
	return k, nil
}

// hardware returns the kind of hardware that keys are made in, "" for none.
func (k Keys) hardware() string {
	if i := strings.IndexAny(string(k)+":", ":?"); k[:i] == "tpm" || k[:i] == "pkcs11" {
		return string(k[:i])
	}
	return ""
}

// store makes keys as the setting says, and opens those of every kind: an identity may be older
// than the setting. A PIN that a token rejects is noted in dir. The error is what is wrong with a
// setting of hardware keys.
func (k Keys) store(dir string) (identity.KeyStore, error) {
	s := keyStore{KeyStore: identity.SoftwareKeys{}, tpm: &tpm.Keys{}, dir: dir}
	switch k.hardware() {
	case "tpm":
		t, err := parseTPM(k)
		if err != nil {
			return s, err
		}
		s.KeyStore, s.tpm = t, t
	case "pkcs11":
		t, err := openToken(string(k), dir)
		if err != nil {
			return s, err
		}
		s.KeyStore, s.token = t, t
	}
	return s, nil
}

func openToken(text, dir string) (identity.KeyStore, error) {
	uri, err := pkcs11.ParseURI(text)
	if err != nil {
		return nil, err
	}
	keys := pkcs11.NewKeys(uri, dir)
	if keys == nil {
		return nil, fmt.Errorf("%w: this program is built without PKCS #11, which needs cgo: use one from make device-pkcs11", identity.ErrUnavailable)
	}
	return keys, nil
}

type keyStore struct {
	identity.KeyStore // makes keys
	tpm               identity.KeyStore
	token             identity.KeyStore // nil unless the setting has one
	dir               string
}

// Open opens a key where its file says that it is.
func (s keyStore) Open(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	switch {
	case block == nil:
	case block.Type == tpm.FileType:
		return s.tpm.Open(text)
	case block.Type == pkcs11.FileType && s.token != nil:
		return s.token.Open(text)
	case block.Type == pkcs11.FileType:
		token, err := openToken(string(block.Bytes), s.dir)
		if err != nil {
			return nil, err
		}
		return token.Open(text)
	}
	return identity.SoftwareKeys{}.Open(text)
}

// HardwareOf returns the kind of hardware that holds the private key of a file, "tpm" or "pkcs11",
// empty for a key in the file itself. uri is that of a key in a PKCS #11 token.
func HardwareOf(path string) (kind, uri string, err error) {
	text, err := osfile.Read(path, maxPEMSize)
	if err != nil {
		return "", "", err
	}
	switch block, _ := pem.Decode(text); {
	case block != nil && block.Type == tpm.FileType:
		return "tpm", "", nil
	case block != nil && block.Type == pkcs11.FileType:
		return "pkcs11", string(block.Bytes), nil
	}
	return "", "", nil
}
