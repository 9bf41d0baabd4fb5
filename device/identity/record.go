package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"example.com/fleety/device/awsiot"
)

// RecordVersion is the format version of the records that this package writes.
const RecordVersion = 1

// A Record describes an identity. It is stored as JSON beside the certificate
// and names that certificate, so that the three files are valid only together.
type Record struct {
	// FormatVersion is [RecordVersion] in every record that is written.
	FormatVersion int    `json:"formatVersion"`
	ThingName     string `json:"thingName"`
	SerialNumber  string `json:"serialNumber"`
	// CertificateID is as [awsiot.CertificateID] returns it.
	CertificateID string    `json:"certificateId"`
	Endpoint      string    `json:"endpoint"`
	NotAfter      time.Time `json:"notAfter"`
	// DeviceConfiguration is what RegisterThing returned. It is nil when the
	// thing was registered but the answer was lost.
	DeviceConfiguration map[string]any `json:"deviceConfiguration"`
	Author              string         `json:"author"`
	// Times of the steps by the device's own clock, in UTC.
	IssuedAt     time.Time `json:"issuedAt"`
	RegisteredAt time.Time `json:"registeredAt"`
	ProvedAt     time.Time `json:"provedAt"`
	// RequestedBy is as in [Grant]; empty in records of earlier versions.
	RequestedBy string `json:"requestedBy,omitempty"`
	// Replaces is the certificate id of the identity before this one. A
	// provisioning does not deactivate that certificate in AWS IoT.
	Replaces string `json:"replaces,omitempty"`
	// ClaimRemovedAt is when [Store.RemoveClaim] removed the claim's key.
	ClaimRemovedAt time.Time `json:"claimRemovedAt,omitzero"`
}

// ParseRecord reads a record and checks its format version and its fields.
// Numbers of the device configuration are [json.Number].
func ParseRecord(data []byte) (*Record, error) {
	var r Record
	err := awsiot.DecodeJSON(data, &r)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading identity record: %w", err)
	case r.FormatVersion != RecordVersion:
		return nil, fmt.Errorf("identity record has format version %d, this program reads version %d", r.FormatVersion, RecordVersion)
	case !awsiot.ValidThingName(r.ThingName):
		return nil, fmt.Errorf("identity record has no valid thing name: %q", r.ThingName)
	case r.SerialNumber == "" || r.CertificateID == "":
		return nil, errors.New("identity record lacks its serial number or certificate id")
	}
	return &r, nil
}

func (r *Record) encode() []byte {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		// A record holds strings and times that were valid before.
		panic(err)
	}
	return append(data, '\n')
}
