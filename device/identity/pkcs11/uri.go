// Package pkcs11 keeps private keys in a hardware token through its PKCS #11 module: a smart card,
// an HSM, a secure element. A key is made in the token and cannot leave it; its file names it by a
// PKCS #11 URI (RFC 7512).
//
// Keys needs cgo and the build tag pkcs11, as make device-pkcs11 sets it; elsewhere [NewKeys] returns
// nil. [ParseURI] works in every build, so that a configuration can be checked.
package pkcs11

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// A URI names a token, and in a key's file a key in it (RFC 7512).
type URI struct {
	Token, Serial string // the token, by label or serial number; one of them at least
	Object        string // label of keys; "iot_device" for new keys unless given
	ID            []byte // of a key, empty in a configuration
	ModulePath    string // the PKCS #11 module, an absolute path
	PINSource     string // a file that holds the PIN, as file:PATH or PATH
}

// FileType is the type of the PEM block in a key's file, which holds its URI.
const FileType = "PKCS11 KEY URI"

// PINVariable is the environment variable with the PIN, read when the URI has no pin-source.
const PINVariable = "IOT_DEVICE_PKCS11_PIN"

// ParseURI reads a PKCS #11 URI: pkcs11:token=LABEL?module-path=PATH&pin-source=file:PATH. It
// returns an error for an attribute that has no meaning here, and for a pin-value, which has no
// place in a configuration.
func ParseURI(text string) (URI, error) {
	rest, ok := strings.CutPrefix(text, "pkcs11:")
	if !ok {
		return URI{}, errors.New("a PKCS #11 URI begins with the scheme pkcs11")
	}
	var u URI
	var id, kind string
	fields := map[string]*string{
		"token": &u.Token, "serial": &u.Serial, "object": &u.Object, "id": &id, "type": &kind,
		"module-path": &u.ModulePath, "pin-source": &u.PINSource,
	}
	path, query, _ := strings.Cut(rest, "?")
	for _, a := range append(strings.Split(path, ";"), strings.Split(query, "&")...) {
		if a == "" {
			continue
		}
		name, escaped, ok := strings.Cut(a, "=")
		value, err := url.PathUnescape(escaped)
		switch {
		case !ok || err != nil:
			return URI{}, fmt.Errorf("PKCS #11 URI: attribute %s has no readable value", name)
		case name == "pin-value":
			return URI{}, errors.New("PKCS #11 URI: pin-value would store the PIN with the configuration: use pin-source=file:PATH, or the variable " + PINVariable)
		case fields[name] == nil:
			return URI{}, fmt.Errorf("PKCS #11 URI: attribute %s is not supported", name)
		}
		*fields[name] = value
	}
	if id != "" {
		u.ID = []byte(id)
	}
	switch {
	case kind != "" && kind != "private":
		return URI{}, fmt.Errorf("PKCS #11 URI: type %s is not a private key's", kind)
	case u.Token == "" && u.Serial == "":
		return URI{}, errors.New("PKCS #11 URI: neither token nor serial says which token it is")
	case u.ModulePath == "":
		return URI{}, errors.New("PKCS #11 URI: module-path is missing: the path of the token's PKCS #11 module")
	}
	return u, nil
}

// String returns the URI in its one form: [ParseURI] reads it back.
func (u URI) String() string {
	list := func(separator string, namesAndValues ...string) string {
		var attributes []string
		for i := 0; i < len(namesAndValues); i += 2 {
			if value := namesAndValues[i+1]; value != "" {
				// A subset of what RFC 7512 leaves as it is: of url's modes, the one for queries leaves the
				// fewest.
				escaped := strings.NewReplacer("+", "%20", "%2F", "/", "%3A", ":").Replace(url.QueryEscape(value))
				attributes = append(attributes, namesAndValues[i]+"="+escaped)
			}
		}
		return strings.Join(attributes, separator)
	}
	text := "pkcs11:" + list(";", "token", u.Token, "serial", u.Serial, "object", u.Object, "id", string(u.ID))
	if query := list("&", "module-path", u.ModulePath, "pin-source", u.PINSource); query != "" {
		text += "?" + query
	}
	return text
}
