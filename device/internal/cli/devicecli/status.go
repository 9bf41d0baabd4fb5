package devicecli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

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
		Short: "Tell what identity or half-done provisioning is on disk",
		Long: `Status tells, without a network, whether the device has an identity, how far
an interrupted provisioning has come, and what is damaged. It changes nothing.`,
		Example: `  $ iot_device status

  # For scripts: state is none, pending or provisioned
  $ iot_device status --json | jq -r .state`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runStatus(console, o) },
	}
	o.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&o.json, "json", false, "print the status as one JSON object")
	return cmd
}

func runStatus(console *cli.Console, o statusOptions) error {
	c, err := load(console, o.Sources)
	if err != nil {
		return err
	}
	store, err := newStore(c, console)
	if err != nil {
		return err
	}
	r := newStatusResult(c.SerialNumber, store.Status())
	if o.json {
		return console.JSON(r)
	}
	for _, problem := range r.Problems {
		console.Warn(problem)
	}
	if err := console.Table(r.table(time.Now())); err != nil {
		return err
	}
	if r.State != stateProvisioned || r.Pending != nil {
		console.Note("\"iot_device bootstrap\" provisions the device, or goes on where it stopped.")
	}
	return nil
}

// The states of a device.
const (
	stateNone        = "none"        // nothing is on disk
	statePending     = "pending"     // a provisioning has begun
	stateProvisioned = "provisioned" // an identity is there
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
	DeviceConfiguration map[string]any `json:"deviceConfiguration,omitempty"`
	Author              string         `json:"author,omitempty"`
	Pending             *pendingResult `json:"pending,omitempty"`
	Problems            []string       `json:"problems"`
}

type pendingResult struct {
	Stage         string     `json:"stage"`
	Since         time.Time  `json:"since"`
	Updated       time.Time  `json:"updated"`
	CertificateID string     `json:"certificateId,omitempty"`
	ThingName     string     `json:"thingName,omitempty"`
	TokenExpires  *time.Time `json:"tokenExpires,omitempty"`
	Running       int        `json:"running,omitempty"` // process id of the run that is at it
}

func newStatusResult(serial string, s *identity.Status) statusResult {
	r := statusResult{State: stateNone, SerialNumber: serial, Problems: []string{}}
	for _, p := range s.Problems {
		r.Problems = append(r.Problems, p.Error())
	}
	if p := s.Pending; p != nil {
		r.State = statePending
		r.Pending = &pendingResult{
			Stage: p.Stage.String(), Since: p.Since.UTC(), Updated: p.Updated.UTC(),
			CertificateID: p.CertificateID, ThingName: p.ThingName,
			TokenExpires: utc(p.TokenExpires), Running: p.PID,
		}
	}
	if id := s.Identity; id != nil {
		r.State = stateProvisioned
		r.ThingName, r.CertificateID = id.Record.ThingName, id.Record.CertificateID
		r.CertificatePath, r.PrivateKeyPath = id.Files.Certificate, id.Files.PrivateKey
		r.Endpoint, r.Author = id.Record.Endpoint, id.Record.Author
		r.NotAfter, r.DeviceConfiguration = utc(id.Record.NotAfter), id.Record.DeviceConfiguration
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

func (r statusResult) table(now time.Time) cli.Table {
	t := cli.Table{{"state", r.State}, {"serial number", r.SerialNumber}}
	if r.State == stateProvisioned {
		t = append(t, cli.Table{
			{"thing name", r.ThingName},
			{"certificate id", r.CertificateID},
			{"certificate", r.CertificatePath},
			{"private key", r.PrivateKeyPath},
			{"valid until", r.NotAfter.Format(time.RFC3339)},
			{"endpoint", r.Endpoint},
			{"author", r.Author},
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
		{"provisioning", p.Stage + ", since " + p.Since.Format(time.RFC3339)},
		{"pending certificate", p.CertificateID},
		{"registered as", p.ThingName},
	}
	switch expires := p.TokenExpires; {
	case expires == nil || p.ThingName != "":
	case now.Before(*expires):
		t = append(t, cli.Row{"can register until", expires.Format(time.RFC3339)})
	default:
		t = append(t, cli.Row{"ownership token", "expired at " + expires.Format(time.RFC3339) + "; the next run asks for a new certificate"})
	}
	if p.Running != 0 {
		t = append(t, cli.Row{"running", fmt.Sprintf("process %d is at it", p.Running)})
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
