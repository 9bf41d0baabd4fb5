package localcore

import (
	_ "embed"
	"encoding/json"
	"time"
)

// AmbiguousBehavior switches what AWS does not document. The zero value is what
// `iot_core_local help fidelity` describes.
type AmbiguousBehavior struct {
	// CheckReceiveOnReplies requires iot:Receive for the direct replies of the
	// provisioning API (U3).
	CheckReceiveOnReplies bool
	// ConnackOnDeny answers a rejected CONNECT of MQTT 3.1.1 with this return
	// code, 5 or 7, before closing. Zero closes without an answer (U12).
	ConnackOnDeny byte
	// KeepOpenOnDeny leaves an MQTT 5 connection open after a negative PUBACK or SUBACK (U13).
	KeepOpenOnDeny  bool
	AllowMissingSNI bool // admits clients that name no server (U19)
	// DisconnectDelay is the time between a certificate's leaving ACTIVE and
	// the end of its connections (U22).
	DisconnectDelay time.Duration
	// DropThrottled leaves a throttled provisioning request without a reply,
	// where else it is rejected (U23).
	DropThrottled bool
}

// An Ambiguity is a question that AWS's documentation leaves open.
type Ambiguity struct {
	// ID is its number, such as U4: U of provisioning and connections, B of the
	// broker, A of the control API, P of policies, T of templates, R of shadows,
	// jobs and rules, C of the credentials provider.
	ID       string `json:"id"`
	Question string `json:"question"`         // what AWS leaves open
	Answer   string `json:"answer"`           // what the emulator does
	Switch   string `json:"switch,omitempty"` // names what changes the answer, if anything does
}

//go:embed ambiguities.json
var ambiguitiesJSON []byte

// Ambiguities returns the questions that AWS leaves open and how the emulator
// answers each. Everything else follows AWS's documentation.
func Ambiguities() []Ambiguity {
	var all []Ambiguity
	if err := json.Unmarshal(ambiguitiesJSON, &all); err != nil {
		panic(err) // a defect of the file
	}
	return all
}
