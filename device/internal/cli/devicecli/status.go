package devicecli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/internal/doctor"
	"github.com/spf13/cobra"
)

type reportOptions struct {
	config.Sources
	json bool
}

func newReportCmd(console *cli.Console, name, report string, run func(context.Context, *cli.Console, reportOptions) error) *cobra.Command {
	var o reportOptions
	cmd := cli.Command(name+" [flags]", cli.NoArgs, func(ctx context.Context, _ []string) error { return run(ctx, console, o) })
	o.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&o.json, "json", false, "print the "+report+" as one JSON object")
	return cmd
}

func runStatus(ctx context.Context, console *cli.Console, o reportOptions) error {
	c, err := load(ctx, console, o.Sources)
	if err != nil {
		return err
	}
	store, err := newStore(c, console)
	if err != nil {
		return err
	}
	status := store.Status()
	r := newStatusResult(c.SerialNumber, status)
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
	console.Warn(r.Problems...)
	if err := console.Table(r.table(time.Now())); err != nil {
		return err
	}
	switch {
	case status.State == identity.Present && r.Pending != nil && status.Pending.Stage < identity.Committed:
		console.Note(c.Commands("A replacement is pending: " + resumeOrEnd + "."))
	case status.State == identity.Absent:
		console.Note(c.Commands("\"iot_device bootstrap\" provisions the device, or resumes its provisioning."))
	case status.State != identity.Present:
		console.Note(c.Commands("For what to do about it, run: iot_device doctor"))
	}
	return nil
}

// A statusResult is what status prints. Its JSON keys are part of the command's contract.
type statusResult struct {
	State               string         `json:"state"` // of the identity, or "pending" where there is none and a provisioning has begun
	SerialNumber        string         `json:"serialNumber"`
	ThingName           string         `json:"thingName,omitempty"`
	CertificateID       string         `json:"certificateId,omitempty"`
	CertificatePath     string         `json:"certificatePath,omitempty"`
	PrivateKeyPath      string         `json:"privateKeyPath,omitempty"`
	Endpoint            string         `json:"endpoint,omitempty"`
	NotAfter            time.Time      `json:"notAfter,omitzero"`
	Issuers             []issuerResult `json:"issuers,omitempty"`
	DeviceConfiguration map[string]any `json:"deviceConfiguration,omitempty"`
	Author              string         `json:"author,omitempty"`
	RequestedBy         string         `json:"requestedBy,omitempty"` // id of the claim, or of the certificate before
	ClaimPath           string         `json:"claimPath,omitempty"`   // of that claim, if it is here
	ClaimRemovedAt      time.Time      `json:"claimRemovedAt,omitzero"`
	Pending             *pendingResult `json:"pending,omitempty"`
	Problems            []string       `json:"problems"`
}

// An issuerResult is one certificate of the identity's chain.
type issuerResult struct {
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"notAfter"`
}

type pendingResult struct {
	Stage string `json:"stage"`
	*identity.Pending
}

func newStatusResult(serial string, s *identity.Status) statusResult {
	r := statusResult{State: s.State.String(), SerialNumber: serial, Problems: []string{}}
	for _, p := range s.Problems {
		r.Problems = append(r.Problems, p.Error())
	}
	if p := s.Pending; p != nil {
		if s.State == identity.Absent {
			r.State = "pending"
		}
		r.Pending = &pendingResult{p.Stage.String(), p}
	}
	if id := s.Identity; id != nil {
		r.ThingName, r.CertificateID = id.Record.ThingName, id.Record.CertificateID
		r.CertificatePath, r.PrivateKeyPath = id.Files.Certificate, id.Files.PrivateKey
		r.Endpoint, r.Author, r.RequestedBy = id.Record.Endpoint, id.Record.Author, id.Record.RequestedBy
		r.NotAfter, r.ClaimRemovedAt = id.Record.NotAfter.UTC(), id.Record.ClaimRemovedAt.UTC()
		r.DeviceConfiguration = id.Record.DeviceConfiguration
		for _, c := range id.Issuers {
			r.Issuers = append(r.Issuers, issuerResult{c.Subject.String(), c.NotAfter.UTC()})
		}
	}
	return r
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}

// table has rows without a value, which are not shown.
func (r statusResult) table(now time.Time) cli.Table {
	t := cli.Table{
		{"state", r.State}, {"serial number", r.SerialNumber}, {"thing name", r.ThingName}, {"certificate id", r.CertificateID},
		{"certificate", r.CertificatePath}, {"private key", r.PrivateKeyPath}, {"valid until", timeText(r.NotAfter)},
	}
	label := "issued by"
	for _, i := range r.Issuers {
		t = append(t, cli.Row{label, i.Subject + ", valid until " + timeText(i.NotAfter)})
		label = ""
	}
	t = append(t, cli.Row{"endpoint", r.Endpoint}, cli.Row{"author", r.Author}, cli.Row{"claim", r.ClaimPath}, cli.Row{"claim removed", timeText(r.ClaimRemovedAt)})
	t = append(t, mapRows("configuration", r.DeviceConfiguration)...)
	p := r.Pending
	if p == nil {
		return t
	}
	t = append(t, cli.Row{"pending", p.Stage + ", since " + timeText(p.Since)}, cli.Row{"pending certificate", p.CertificateID}, cli.Row{"registered as", p.ThingName})
	switch {
	case p.TokenExpires.IsZero() || p.ThingName != "":
	case now.Before(p.TokenExpires):
		t = append(t, cli.Row{"token expires", timeText(p.TokenExpires)})
	default:
		t = append(t, cli.Row{"token expired", timeText(p.TokenExpires) + "; the next run requests a new certificate"})
	}
	if p.PID != 0 {
		t = append(t, cli.Row{"running", fmt.Sprintf("process %d", p.PID)})
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

func runDoctor(ctx context.Context, console *cli.Console, o reportOptions) error {
	o.Environ = console.Environ
	c, problems := config.Load(ctx, o.Sources)
	checks := doctor.Config{Settings: c, Problems: problems, Log: console.Log}
	if c != nil && c.Agent.Socket != "" {
		client := agent.NewClient(c.Agent.Socket)
		defer client.Close()
		checks.Connected = func(ctx context.Context, thing string) (bool, error) {
			status, err := statusOf(ctx, client)
			switch {
			case errors.Is(err, errHangs):
				return false, err
			case err == nil && status.ThingName == thing:
				return status.Connected, nil
			}
			release, held := lockConnection(c)
			release()
			return held != nil, nil // and perhaps connected
		}
	}
	if !o.json {
		checks.Progress = func(c doctor.Check) { fmt.Fprint(console.Out, c) } // as they are made
	}
	report := doctor.Run(ctx, checks)
	err := ctx.Err()
	if err == nil && o.json {
		err = console.JSON(report)
	} else if err == nil {
		_, err = fmt.Fprintf(console.Out, "\nVerdict: %s.\n", report.Verdict())
	}
	if err != nil {
		return err
	}
	if _, class, failed := report.Worst(); failed {
		return cli.Reported(cli.ExitCode(class))
	}
	return nil
}
