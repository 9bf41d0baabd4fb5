package pkcs11_test

import (
	"strings"
	"testing"

	"example.com/fleety/device/identity/pkcs11"
)

func TestURIIsReadAndWritten(t *testing.T) {
	t.Parallel()
	const text = "pkcs11:token=My%20token;object=device;id=%00%FF?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin"
	u, err := pkcs11.ParseURI(text)
	if err != nil {
		t.Fatal(err)
	}
	if u.Token != "My token" || u.Object != "device" || string(u.ID) != "\x00\xff" || u.PINSource != "file:/run/pin" || u.ModulePath != "/usr/lib/softhsm/libsofthsm2.so" {
		t.Errorf("read %+v", u)
	}
	if u.String() != text {
		t.Errorf("written as %s", u)
	}
}

func TestURIWithoutUseIsRejected(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"no scheme":         "token=a?module-path=/m",
		"no token":          "pkcs11:object=a?module-path=/m",
		"no module":         "pkcs11:token=a",
		"PIN in it":         "pkcs11:token=a?module-path=/m&pin-value=1234",
		"unknown attribute": "pkcs11:token=a;slot-id=0?module-path=/m",
		"public key":        "pkcs11:token=a;type=public?module-path=/m",
		"bad escape":        "pkcs11:token=%zz?module-path=/m",
		"no value":          "pkcs11:token?module-path=/m",
	} {
		_, err := pkcs11.ParseURI(text)
		if err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), "1234") {
			t.Errorf("%s: the error shows the PIN: %v", name, err)
		}
	}
}

func FuzzURI(f *testing.F) {
	f.Add("pkcs11:token=a;id=%00?module-path=/m&pin-source=/p")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := pkcs11.ParseURI(text)
		if err != nil {
			return
		}
		again, err := pkcs11.ParseURI(u.String())
		if err != nil || again.String() != u.String() {
			t.Errorf("%q: %s, read again: %s, %v", text, u, again, err)
		}
	})
}
