package cli_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func claim(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(writeClaim(ts.MkAbs("certs"), args[0]))
}

// writeClaim writes a claim of its own making into dir, and itself as the root:
//
//	valid       for an hour from now on
//	expired     since yesterday
//	future      from tomorrow on
//	mismatched  the key belongs to another certificate
func writeClaim(dir, kind string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	from := time.Now().Add(-48 * time.Hour)
	until := time.Now().Add(time.Hour)
	switch kind {
	case "expired":
		until = time.Now().Add(-24 * time.Hour)
	case "future":
		from = time.Now().Add(24 * time.Hour)
		until = time.Now().Add(48 * time.Hour)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "claim"}, NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	if kind == "mismatched" {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"root.ca.bundle.pem":                 certificate,
		"fleet-provisioning.certificate.pem": certificate,
		"fleet-provisioning.private.key":     pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
