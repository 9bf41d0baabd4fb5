package provisioning

import (
	"encoding/json"

	"github.com/fxamacker/cbor/v2"

	"example.com/fleety/device/awsiot"
)

// encode writes a document of the provisioning API. Both formats take the
// field names from the JSON tags.
func encode(f awsiot.Format, v any) ([]byte, error) {
	if f == awsiot.CBOR {
		return cbor.Marshal(v)
	}
	return json.Marshal(v)
}

func decode(f awsiot.Format, data []byte, v any) error {
	if f == awsiot.CBOR {
		return cbor.Unmarshal(data, v)
	}
	return json.Unmarshal(data, v)
}

// decodeRegister reads a RegisterThing request.
func decodeRegister(f awsiot.Format, data []byte) (token awsiot.Secret, parameters map[string]string, err error) {
	var r struct {
		CertificateOwnershipToken awsiot.Secret  `json:"certificateOwnershipToken"`
		Parameters                map[string]any `json:"parameters"` // before they are known to be strings
	}
	if err := decode(f, data, &r); err != nil {
		// What the decoder says may quote the payload, and with it the token.
		return "", nil, badRequest.reject("The payload is not a %s object with certificateOwnershipToken and parameters.", f)
	}
	parameters = make(map[string]string, len(r.Parameters))
	for name, value := range r.Parameters {
		s, ok := value.(string)
		if !ok {
			return "", nil, badParameters.reject("The value of parameter %s is not a string.", name)
		}
		parameters[name] = s
	}
	return r.CertificateOwnershipToken, parameters, nil
}
