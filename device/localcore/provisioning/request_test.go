package provisioning

import (
	"strings"
	"testing"

	"example.com/fleety/device/awsiot"
)

func TestFirstOfSeveralFaultsIsReported(t *testing.T) {
	for range 30 {
		_, _, err := decodeRegister(awsiot.JSON, []byte(`{"parameters":{"d":1,"b":1,"a":1,"c":1}}`))
		if err == nil || !strings.Contains(err.Error(), "parameter a ") {
			t.Fatalf("rejected with %v", err)
		}
	}
}

func FuzzDecodeRegister(f *testing.F) {
	for _, seed := range []string{
		`{"certificateOwnershipToken":"t0ken-t0ken","parameters":{"serialNumber":"1"}}`, `{"parameters":{"a":1}}`, `null`, `[]`, ``,
		"\xa1\x69parameters\xa0", "\xa2\x78\x19certificateOwnershipToken\x61t\x6aparameters\xa1\x61a\x61b", "\x9f", "\xbf\xff",
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, inCBOR bool) {
		format := awsiot.JSON
		if inCBOR {
			format = awsiot.CBOR
		}
		token, parameters, err := decodeRegister(format, data)
		if err == nil {
			if parameters == nil {
				t.Error("no parameters and no error")
			}
			return
		}
		if parameters != nil || token != "" {
			t.Error("a result with an error")
		}
		if r := rejectionOf(err); r.StatusCode != 400 || r.ErrorMessage == "" {
			t.Errorf("rejected with %+v", r.ErrorResponse)
		}
		if strings.Contains(err.Error(), "t0ken") {
			t.Error("the error shows the token")
		}
	})
}
