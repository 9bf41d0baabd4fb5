//go:build cgo && pkcs11

package pkcs11

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/ThalesGroup/crypto11"
	cryptoki "github.com/miekg/pkcs11"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/osfile"
)

// ErrNoKey is wrapped by the error for a key that is not in the token: another token, or one that
// was initialized anew.
var ErrNoKey = errors.New("the token does not hold the key")

// Keys is an identity.KeyStore of one token. It is safe for concurrent use. A key whose file was
// never written, since the device lost its power in between, stays in the token, unused.
type Keys struct {
	uri  URI
	note string // file of the origin of the PIN that the token has rejected

	mu    sync.Mutex
	token *crypto11.Context
}

// NewKeys returns the store of the token that a URI names. It does not open the token yet. A PIN
// that the token has rejected is noted in dir and not tried again until its file changes.
func NewKeys(u URI, dir string) *Keys {
	u.Object, u.ID = cmp.Or(u.Object, "iot_device"), nil
	return &Keys{uri: u, note: filepath.Join(dir, ".pkcs11-pin-rejected")}
}

// Close ends the sessions with the token. Keys that were opened cannot be used afterwards.
func (k *Keys) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.token == nil {
		return nil
	}
	token := k.token
	k.token = nil
	return token.Close()
}

func (k *Keys) open() (*crypto11.Context, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.token != nil {
		return k.token, nil
	}
	pin, origin, err := k.uri.pin()
	if err == nil && k.isRejected(origin) {
		err = fmt.Errorf("the token has rejected the PIN of %s, and tokens lock after a few wrong ones: it is tried again once that file changes or, after a variable was corrected, once %s is removed", cmp.Or(k.uri.PINSource, PINVariable), k.note)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", identity.ErrUnavailable, err)
	}
	config := &crypto11.Config{Path: k.uri.ModulePath, TokenLabel: k.uri.Token, Pin: pin}
	if k.uri.Serial != "" {
		config.TokenLabel, config.TokenSerial = "", k.uri.Serial
	}
	token, err := crypto11.Configure(config)
	if code, ok := errors.AsType[cryptoki.Error](err); ok && code == cryptoki.CKR_PIN_INCORRECT {
		k.reject(origin)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: opening the PKCS #11 token: %w", identity.ErrUnavailable, err)
	}
	k.token = token
	return token, nil
}

// New makes a P-256 key in the token and returns it with the text of its file.
func (k *Keys) New() (crypto.Signer, []byte, error) {
	token, err := k.open()
	if err != nil {
		return nil, nil, err
	}
	id := make([]byte, 16)
	rand.Read(id)
	key, err := token.GenerateECDSAKeyPairWithLabel(id, []byte(k.uri.Object), elliptic.P256())
	if err != nil {
		return nil, nil, fmt.Errorf("making a key in the PKCS #11 token: %w", err)
	}
	named := k.uri
	named.ID = id
	return &signer{key, k, true}, pem.EncodeToMemory(&pem.Block{Type: FileType, Bytes: []byte(named.String())}), nil
}

// Open finds a key by its file. It returns an error that wraps [ErrNoKey] when the token does not
// hold it.
func (k *Keys) Open(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != FileType {
		return nil, errors.New("reading the file of a key in a PKCS #11 token: it holds no URI")
	}
	named, err := ParseURI(string(block.Bytes))
	if err == nil && len(named.ID) == 0 {
		err = errors.New("the URI has no id")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the file of a key in a PKCS #11 token: %w", err)
	}
	for attempt := 0; ; attempt++ {
		token, err := k.open()
		if err != nil {
			return nil, err
		}
		found, err := token.FindKeyPairs(named.ID, nil)
		switch {
		case len(found) > 0:
			return &signer{found[0], k, named.Object == k.uri.Object}, nil
		case err != nil && attempt == 2:
			return nil, fmt.Errorf("%w: finding the key in the PKCS #11 token: %w", identity.ErrUnavailable, err)
		case err != nil: // a token that was removed, or whose daemon was restarted, has ended the sessions
			_ = k.Close()
		case attempt > 0:
			return nil, fmt.Errorf("%w: %s", ErrNoKey, named.String())
		default: // the login, without which a token does not show the key, may have ended with them; other keys stay in use
			login := &Keys{uri: k.uri, note: k.note}
			if _, err := login.open(); err != nil {
				return nil, err
			}
			defer login.Close()
		}
	}
}

// A signer names the token in its errors.
type signer struct {
	crypto11.Signer
	keys *Keys
	own  bool // it has the label of keys that this store makes
}

// Remove removes the key from the token, unless its label is another one than that of keys that the
// store makes.
func (s *signer) Remove() error {
	if !s.own {
		return nil
	}
	if err := s.Delete(); err != nil {
		return fmt.Errorf("removing a key from the PKCS #11 token: %w", err)
	}
	return nil
}

// Sign signs a digest in the token.
func (s *signer) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := s.Signer.Sign(random, digest, opts)
	if err != nil {
		_ = s.keys.Close() // its sessions may have ended: the next Open begins new ones
		return nil, fmt.Errorf("signing in the PKCS #11 token: %w", err)
	}
	return signature, nil
}

// rejectedPINs are the origins that could not be noted, as on a disk that cannot be written.
var rejectedPINs sync.Map

func (k *Keys) isRejected(origin string) bool {
	noted, _ := osfile.ReadAll(k.note)
	_, known := rejectedPINs.Load(origin)
	return known || string(noted) == origin
}

func (k *Keys) reject(origin string) {
	err := os.MkdirAll(filepath.Dir(k.note), 0o700)
	if err == nil {
		err = osfile.Replace(k.note, []byte(origin), 0o644)
	}
	if err != nil {
		rejectedPINs.Store(origin, true)
	}
}

// pin returns the token's PIN from the URI's file or the environment, and where it came from, which
// differs once the file has changed. An empty PIN is an error: it would be a failed login.
func (u URI) pin() (pin, origin string, err error) {
	pin, origin = os.Getenv(PINVariable), fmt.Sprintf("%q %q %s", u.Token, u.Serial, PINVariable)
	if u.PINSource != "" {
		path := strings.TrimPrefix(strings.TrimPrefix(u.PINSource, "file://"), "file:")
		info, err := os.Stat(path)
		var text []byte
		if err == nil {
			text, err = osfile.ReadAll(path)
		}
		if err != nil {
			return "", "", fmt.Errorf("reading the token's PIN: %w", err)
		}
		pin, origin = string(bytes.TrimSpace(text)), fmt.Sprintf("%q %q %s %v", u.Token, u.Serial, path, info.ModTime().UTC())
	}
	if pin == "" {
		err = fmt.Errorf("there is no PIN for the token: set pin-source=file:PATH in the URI, or the variable %s", PINVariable)
	}
	return pin, origin, err
}
