package awsiot

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// CertificateID returns the ID that AWS IoT gives to a certificate: the lower-case hexadecimal
// SHA-256 of its DER form.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_Certificate.html
func CertificateID(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Certificates reads every certificate of a PEM text, in order; blocks of other kinds are passed
// over. The text may be as people have it: with a byte order mark, indented, with carriage returns
// or with "\n" for line ends.
//
// A damaged block is an error, never passed over. Where there is no certificate, the error says
// what the text is instead: DER, UTF-16, a private key and so on.
func Certificates(text []byte) ([]*x509.Certificate, error) {
	blocks, err := pemBlocks(text)
	if err != nil {
		return nil, err
	}
	var list []*x509.Certificate
	for _, b := range blocks {
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d is damaged: %w", len(list)+1, err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no certificate in it, only %s", kinds(blocks))
	}
	return list, nil
}

// CheckKey returns an error for a public key that no certificate in AWS IoT can have: RSA keys have
// 2048 bits or more, the others are on P-256, P-384 or P-521. A key of a kind that crypto/x509 cannot
// verify is left to TLS.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/x509-client-certs.html
func CheckKey(public any) error {
	switch key := public.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 {
			return fmt.Errorf("its RSA key has %d bits; 2048 or more are needed", bits)
		}
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P224() {
			return errors.New("its key is on curve P-224; P-256, P-384 and P-521 are allowed")
		}
	case ed25519.PublicKey:
		return errors.New("its key is neither RSA nor on a NIST curve")
	}
	return nil
}

// PrivateKey reads the first private key of a PEM text (PKCS #8, PKCS #1 or SEC 1), which may be as
// untidy as for [Certificates]. Blocks of other kinds, such as EC PARAMETERS or certificates, are
// passed over. Its errors quote nothing of the text; an encrypted key is named as such.
func PrivateKey(text []byte) (crypto.Signer, error) {
	blocks, err := pemBlocks(text)
	if err != nil {
		return nil, err
	}
	for _, b := range blocks {
		var key any
		var err error
		switch {
		case b.Type == "ENCRYPTED PRIVATE KEY", strings.HasSuffix(b.Type, " PRIVATE KEY") && b.Headers["DEK-Info"] != "":
			return nil, errors.New("the private key is encrypted, which is not supported: decrypt it with openssl pkey")
		case b.Type == "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
		case b.Type == "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
		case b.Type == "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(b.Bytes)
		default:
			continue
		}
		signer, ok := key.(crypto.Signer)
		if err != nil || !ok {
			return nil, errors.New("the private key is damaged, or of a kind that cannot sign")
		}
		return signer, nil
	}
	return nil, fmt.Errorf("no private key in it, only %s", kinds(blocks))
}

// A ValidityError is a certificate that is not valid at the time that this device's clock shows. Its
// class is [Temporary]: a clock is often set a while after boot.
type ValidityError struct {
	What        string // whose certificate it is, for messages
	Certificate *x509.Certificate
	Now         time.Time // the device's clock
	Err         error     // what found it; nil if this program compared the times
}

// NotYetValid reports whether the certificate is not valid yet: the clock is probably behind.
func (e *ValidityError) NotYetValid() bool { return e.Now.Before(e.Certificate.NotBefore) }

func (e *ValidityError) Error() string {
	what, when := "expired on", e.Certificate.NotAfter
	if e.NotYetValid() {
		what, when = "is not valid before", e.Certificate.NotBefore
	}
	return fmt.Sprintf("%s %s %s, and this device's clock says %s", e.What, what, when.UTC().Format(time.RFC3339), e.Now.UTC().Format(time.RFC3339))
}

func (e *ValidityError) Unwrap() error { return e.Err }

// Class returns [Temporary].
func (e *ValidityError) Class() Class { return Temporary }

// Matches reports whether key is the private half of the certificate's key.
func Matches(key crypto.Signer, c *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}

// Chain returns leaf, then the certificate of others that signed it, then the one that signed that,
// as far as others has them. What else others holds, and in which order, does not matter. Validity
// is not checked.
func Chain(leaf *x509.Certificate, others []*x509.Certificate) []*x509.Certificate {
	chain := []*x509.Certificate{leaf}
	for len(chain) <= len(others) {
		last := chain[len(chain)-1]
		i := slices.IndexFunc(others, func(c *x509.Certificate) bool {
			return !slices.ContainsFunc(chain, c.Equal) && last.CheckSignatureFrom(c) == nil
		})
		if i < 0 {
			break
		}
		chain = append(chain, others[i])
	}
	return chain
}

// pemBlocks returns at least one block, or an error that says what the text is.
func pemBlocks(text []byte) ([]*pem.Block, error) {
	if err := notPEM(text); err != nil {
		return nil, err
	}
	blocks, wanted := decodePEM(text)
	if wanted == 0 || len(blocks) != wanted {
		blocks, wanted = decodePEM(tidyPEM(text))
	}
	switch {
	case wanted == 0:
		return nil, errors.New("not in PEM form: it has no line -----BEGIN …-----")
	case len(blocks) != wanted: // the decoder passes over what it cannot read
		return nil, fmt.Errorf("%d of its %d PEM blocks are damaged or incomplete", wanted-len(blocks), wanted)
	}
	return blocks, nil
}

// decodePEM returns the blocks that can be read, and how many begin.
func decodePEM(text []byte) (blocks []*pem.Block, wanted int) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, block)
	}
	return blocks, bytes.Count(text, []byte("-----BEGIN "))
}

// notPEM names the forms that are mistaken for PEM most often.
func notPEM(text []byte) error {
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		return errors.New("it is empty")
	case bytes.HasPrefix(text, []byte{0xff, 0xfe}), bytes.HasPrefix(text, []byte{0xfe, 0xff}),
		bytes.HasPrefix(text, []byte("-\x00-\x00")), bytes.HasPrefix(text, []byte("\x00-\x00-")):
		return errors.New("it is UTF-16 text, not UTF-8: save it as UTF-8 or ASCII")
	case text[0] == 0x30 && len(text) > 1 && !utf8.Valid(text):
		return errors.New("it is binary DER (or PKCS #12), not PEM: convert it with openssl")
	}
	return nil
}

// pemLine is the first or the last line of a block, which pastes may join to others.
var pemLine = regexp.MustCompile(`\s*(-----(?:BEGIN|END) [A-Z0-9 ]+-----)\s*`)

// tidyPEM undoes what editors, shells and YAML do to a PEM text.
func tidyPEM(text []byte) []byte {
	unescaped := strings.NewReplacer(`\r`, "", `\n`, "\n", "\r\n", "\n", "\r", "\n").Replace(string(text)) // as pasted from JSON
	var b bytes.Buffer
	for line := range bytes.Lines(pemLine.ReplaceAll([]byte(unescaped), []byte("\n$1\n"))) {
		// A byte order mark also stands where files were joined.
		b.Write(bytes.Trim(bytes.TrimPrefix(line, []byte("\xef\xbb\xbf")), " \t\r\n\""))
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func kinds(blocks []*pem.Block) string {
	var names []string
	for _, b := range blocks {
		if name := strings.ToLower(b.Type); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}
