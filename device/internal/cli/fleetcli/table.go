package fleetcli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
)

// printReport prints a report for a person.
func printReport(console *cli.Console, r *fleet.Report) error {
	if err := console.Table(summary(r)); err != nil {
		return err
	}
	var b strings.Builder
	if len(r.Stages) > 0 {
		stageTable(&b, r.Stages)
	}
	failureTable(&b, "failed devices", r.Failures)
	failureTable(&b, "failed attempts", r.Retries)
	if _, err := io.WriteString(console.Out, b.String()); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

func summary(r *fleet.Report) cli.Table {
	c := r.Counts
	t := cli.Table{
		{"result", r.Headline()},
		{"endpoint", r.Endpoint},
		{"enrolled", fmt.Sprintf("%d of %d devices in %s, %.1f per second", c.Enrolled, c.Devices, fleet.FormatSeconds(r.ElapsedSeconds), r.DevicesPerSecond)},
		{"already enrolled", count(c.Already)},
		{"failed", fmt.Sprint(c.Failed)},
		{"interrupted", count(c.Interrupted)},
		{"not started", count(c.NotStarted)},
		{"per device", fmt.Sprintf("%.1f ms of CPU time here, %.1f kB of network traffic", 1000*r.Resources.CPUSecondsPerDevice, r.Resources.BytesPerDevice/1000)},
	}
	h := r.Hold
	if h == nil {
		return t
	}
	t = append(t, cli.Table{
		{"held", fmt.Sprintf("%d of %d devices for %s, connected within %s; %d connected at the end", h.Most, h.Devices, fleet.FormatSeconds(h.HeldSeconds), fleet.FormatSeconds(h.ConnectSeconds), h.Connected)},
		{"while held", fmt.Sprintf("%d connections lost, %d messages acknowledged, %d not; %.0f %% of a core here", h.Lost, h.Published, h.PublishFailures, h.CPUPercent)},
		{"per held device", fmt.Sprintf("%.1f kB of memory here", float64(h.BytesPerDevice)/1000)},
		{"not connected", h.NotConnectedWhy},
	}...)
	if s := h.Reconnect; s != nil {
		jitter := "without jitter"
		if s.WindowSeconds > 0 {
			jitter = "full jitter over " + fleet.FormatSeconds(s.WindowSeconds)
		}
		attempts := 0
		for _, n := range s.Attempts {
			attempts += n
		}
		t = append(t, cli.Table{
			{"reconnected", fmt.Sprintf("%d of %d devices within %s, %d attempts, %s", s.Returned, s.Devices, fleet.FormatSeconds(s.ReturnSeconds), attempts, jitter)},
			{"rejected", count(s.Rejected)},
			{"peak", fmt.Sprintf("%d connections per second; ideal, spread evenly: %.1f", s.PeakConnects, s.IdealConnects)},
		}...)
	}
	return t
}

// count leaves zeros out of a table.
func count(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func stageTable(w io.Writer, stages []fleet.Latency) {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "stage\tcount\tp50 ms\tp90 ms\tp99 ms\tmax ms\t")
	for _, s := range stages {
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t\n", s.Stage, s.Count, s.P50, s.P90, s.P99, s.Max)
	}
	t.Flush() // into memory
}

func failureTable(w io.Writer, title string, failures []fleet.Failure) {
	if len(failures) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, x := range failures {
		fmt.Fprintf(t, "  %d\t%s\t%s\n", x.Count, x.Stage, term.Clean(x.Cause))
	}
	t.Flush()
}
