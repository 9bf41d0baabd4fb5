package devicecli

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"github.com/spf13/cobra"
)

type statusOptions struct {
	config.Sources
	json bool
}

func newStatusCmd(console *cli.Console) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status [flags]",
		Short: "Show the identity and any pending provisioning",
		Long: `Status shows, without a network, whether the device has an identity, how far an
interrupted provisioning has come, and what is damaged. It changes nothing.`,
		Example: `  $ iot_device status

  # For scripts: none, pending, provisioned, damaged or unreadable
  $ iot_device status --json | jq -r .state`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runStatus(cmd.Context(), console, o) },
	}
	o.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&o.json, "json", false, "print the status as one JSON object")
	return cmd
}

func runStatus(ctx context.Context, console *cli.Console, o statusOptions) error {
	c, err := load(ctx, console, o.Sources)
	if err != nil {
		return err
	}
	store, err := newStore(c, console)
	if err != nil {
		return err
	}
	r := newStatusResult(c.SerialNumber, store.Status())
	if files, _, _ := c.Check(true); files != nil { // what is wrong with them is doctor's matter
		for _, claim := range files.Claims {
			if awsiot.CertificateID(claim.Certificate.Leaf) == r.RequestedBy {
				r.ClaimPath = claim.Path
			}
		}
	}
	if o.json {
		return console.JSON(r)
	}
	for _, problem := range r.Problems {
		console.Warn(problem)
	}
	if err := console.Table(r.table(time.Now())); err != nil {
		return err
	}
	switch {
	case r.State == stateProvisioned && r.Pending != nil:
		console.Note("\"iot_device bootstrap --reprovision\" or \"iot_device rotate\" resumes the replacement, \"iot_device bootstrap --discard-pending\" ends it.")
	case r.State == stateNone || r.State == statePending:
		console.Note("\"iot_device bootstrap\" provisions the device, or resumes its provisioning.")
	case r.State == stateDamaged || r.State == stateUnreadable:
		console.Note("For what to do about it, run: iot_device doctor")
	}
	return nil
}

// The states of a device. That of an identity comes before that of a
// provisioning: a replacement may be pending.
const (
	stateNone        = "none"        // nothing is on disk
	statePending     = "pending"     // a provisioning has begun
	stateProvisioned = "provisioned" // an identity is there
	stateDamaged     = "damaged"     // files are there that do not make an identity
	stateUnreadable  = "unreadable"  // files are there that this user may not read
)

// A statusResult is what status prints. Its JSON keys are part of the
// command's contract.
type statusResult struct {
	State               string         `json:"state"`
	SerialNumber        string         `json:"serialNumber"`
	ThingName           string         `json:"thingName,omitempty"`
	CertificateID       string         `json:"certificateId,omitempty"`
	CertificatePath     string         `json:"certificatePath,omitempty"`
	PrivateKeyPath      string         `json:"privateKeyPath,omitempty"`
	Endpoint            string         `json:"endpoint,omitempty"`
	NotAfter            *time.Time     `json:"notAfter,omitempty"`
	Issuers             []issuerResult `json:"issuers,omitempty"`
	DeviceConfiguration map[string]any `json:"deviceConfiguration,omitempty"`
	Author              string         `json:"author,omitempty"`
	RequestedBy         string         `json:"requestedBy,omitempty"` // id of the claim, or of the certificate before
	ClaimPath           string         `json:"claimPath,omitempty"`   // of that claim, if it is here
	ClaimRemovedAt      *time.Time     `json:"claimRemovedAt,omitempty"`
	Pending             *pendingResult `json:"pending,omitempty"`
	Problems            []string       `json:"problems"`
}

// An issuerResult is one certificate of the identity's chain.
type issuerResult struct {
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"notAfter"`
}

type pendingResult struct {
	Stage         string     `json:"stage"`
	Since         time.Time  `json:"since"`
	Updated       time.Time  `json:"updated"`
	CertificateID string     `json:"certificateId,omitempty"`
	ThingName     string     `json:"thingName,omitempty"`
	TokenExpires  *time.Time `json:"tokenExpires,omitempty"`
	Running       int        `json:"running,omitempty"` // process id of the run that works on it
}

func newStatusResult(serial string, s *identity.Status) statusResult {
	r := statusResult{SerialNumber: serial, Problems: []string{}}
	switch s.State {
	case identity.Present:
		r.State = stateProvisioned
	case identity.Damaged:
		r.State = stateDamaged
	case identity.Unreadable:
		r.State = stateUnreadable
	default:
		r.State = stateNone
		if s.Pending != nil {
			r.State = statePending
		}
	}
	for _, p := range s.Problems {
		r.Problems = append(r.Problems, p.Error())
	}
	if p := s.Pending; p != nil {
		r.Pending = &pendingResult{
			Stage: p.Stage.String(), Since: p.Since.UTC(), Updated: p.Updated.UTC(),
			CertificateID: p.CertificateID, ThingName: p.ThingName,
			TokenExpires: utc(p.TokenExpires), Running: p.PID,
		}
	}
	if id := s.Identity; id != nil {
		r.ThingName, r.CertificateID = id.Record.ThingName, id.Record.CertificateID
		r.CertificatePath, r.PrivateKeyPath = id.Files.Certificate, id.Files.PrivateKey
		r.Endpoint, r.Author = id.Record.Endpoint, id.Record.Author
		r.NotAfter, r.DeviceConfiguration = utc(id.Record.NotAfter), id.Record.DeviceConfiguration
		r.RequestedBy = id.Record.RequestedBy
		r.ClaimRemovedAt = utc(id.Record.ClaimRemovedAt)
		for _, c := range id.Issuers {
			r.Issuers = append(r.Issuers, issuerResult{c.Subject.String(), c.NotAfter.UTC()})
		}
	}
	return r
}

func utc(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func timeText(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format(time.RFC3339)
}

func (r statusResult) table(now time.Time) cli.Table {
	t := cli.Table{{"state", r.State}, {"serial number", r.SerialNumber}}
	if r.State == stateProvisioned {
		t = append(t, cli.Table{
			{"thing name", r.ThingName},
			{"certificate id", r.CertificateID},
			{"certificate", r.CertificatePath},
			{"private key", r.PrivateKeyPath},
			{"valid until", r.NotAfter.Format(time.RFC3339)},
		}...)
		label := "issued by"
		for _, i := range r.Issuers {
			t = append(t, cli.Row{label, i.Subject + ", valid until " + i.NotAfter.Format(time.RFC3339)})
			label = ""
		}
		t = append(t, cli.Table{
			{"endpoint", r.Endpoint},
			{"author", r.Author},
			{"claim", r.ClaimPath},
			{"claim removed", timeText(r.ClaimRemovedAt)},
		}...)
		t = append(t, mapRows("configuration", r.DeviceConfiguration)...)
	}
	if r.Pending != nil {
		t = append(t, r.Pending.table(now)...)
	}
	return t
}

func (p *pendingResult) table(now time.Time) cli.Table {
	t := cli.Table{
		{"pending", p.Stage + ", since " + p.Since.Format(time.RFC3339)},
		{"pending certificate", p.CertificateID},
		{"registered as", p.ThingName},
	}
	switch expires := p.TokenExpires; {
	case expires == nil || p.ThingName != "":
	case now.Before(*expires):
		t = append(t, cli.Row{"token expires", expires.Format(time.RFC3339)})
	default:
		t = append(t, cli.Row{"token expired", expires.Format(time.RFC3339) + "; the next run requests a new certificate"})
	}
	if p.Running != 0 {
		t = append(t, cli.Row{"running", fmt.Sprintf("process %d", p.Running)})
	}
	return t
}

// mapRows lists a map in the order of its keys, under one label.
func mapRows(label string, m map[string]any) (t cli.Table) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		text, ok := m[name].(string)
		if !ok {
			data, _ := json.Marshal(m[name]) // it came as JSON
			text = string(data)
		}
		t = append(t, cli.Row{label, name + " = " + text})
		label = ""
	}
	return t
}
