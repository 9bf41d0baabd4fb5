package identity_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
)

// A provisioning stores each step before the next one begins, so that the next run
// can continue after a crash. Here AWS IoT's answers are made by hand; package
// provision obtains them.
func Example() {
	store, err := identity.NewMemoryStore(identity.Config{SerialNumber: "2974685"})
	if err != nil {
		panic(err)
	}
	journal, err := store.Begin()
	if err != nil {
		panic(err)
	}
	defer journal.Close()

	steps := []func() error{
		journal.MakeKey,
		func() error { return journal.HoldCertificate(grant(journal)) },
		func() error {
			return journal.Register(identity.Registration{ThingName: "fleety_2974685", Endpoint: "xxxx-ats.iot.eu-west-1.amazonaws.com"})
		},
		// Here the device connects with journal.TLS(), which proves the certificate.
		journal.Commit,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			panic(err)
		}
		fmt.Println(journal.Stage())
	}
	id, err := journal.Install()
	if err != nil {
		panic(err)
	}
	fmt.Println(id.Record.ThingName, id.Files.Certificate)
	// Output:
	// key made
	// certificate held
	// registered
	// committed
	// fleety_2974685 certs/fleety_2974685.certificate.pem
}

// grant returns what AWS IoT answers to a certificate signing request.
func grant(j *identity.Journal) identity.Grant {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "2974685"}, NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, j.Key().Public(), j.Key())
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return identity.Grant{
		CertificateID:  awsiot.CertificateID(cert),
		CertificatePEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Token:          "certificate ownership token",
		TokenExpires:   time.Now().Add(awsiot.OwnershipTokenLife),
	}
}
