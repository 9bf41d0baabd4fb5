package fleetcli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/osfile"
)

func newReportCmd(console *cli.Console) *cobra.Command {
	var o output
	cmd := cli.Command("report FILE.json... [flags]", cobra.MinimumNArgs(1), func(_ context.Context, paths []string) (err error) {
		if err := o.check(); err != nil {
			return err
		}
		reports := make([]*fleet.Report, len(paths))
		for i, path := range paths {
			if reports[i], err = readFile(path, fleet.ReadReport); err != nil {
				return err
			}
		}
		merged, err := fleet.Merge(reports...)
		if err != nil {
			return err
		}
		return o.write(console, merged)
	})
	o.addFlags(cmd.Flags())
	return cmd
}

// output are the flags of the report's destinations.
type output struct {
	json   bool
	report string
	html   string
}

func (o *output) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&o.json, "json", false, "print the report as one JSON object")
	flags.StringVar(&o.report, "report", "", "write the report as JSON to `FILE`")
	flags.StringVar(&o.html, "html", "", "write the report as an HTML page to `FILE`")
}

// fileError returns that a file named on the command line cannot be read or written.
func fileError(path string, err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err // the file is named already
	}
	return &cli.UsageError{Err: fmt.Errorf("file %s: %w", path, err)}
}

// check checks before a long run that its report can be written, under names as long as those of
// [osfile.Replace].
func (o *output) check() error {
	if o.report != "" && o.html != "" && osfile.Locate(o.report).Same(osfile.Locate(o.html)) {
		return &fleet.ValueError{Name: "html", Value: o.html, Want: "another file than that of --report"}
	}
	for _, path := range []string{o.report, o.html} {
		if path == "" {
			continue
		}
		probe, err := os.OpenFile(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fileError(path, err)
		}
		probe.Close()
		os.Remove(probe.Name())
		if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
			return fileError(path, osfile.ErrNotRegular) // as /dev/null, which the report would replace
		}
	}
	return nil
}

// keepEarlier renames the report of an earlier run that is in the place of this one: without it
// cleanup does not find what that run made. Where that fails, this one gets another name.
func (o *output) keepEarlier(console *cli.Console, r *fleet.Report) error {
	if o.report == "" {
		return nil
	}
	earlier, err := readFile(o.report, fleet.ReadReport)
	if err != nil || earlier.Started.Equal(r.Started) {
		return nil // there is none
	}
	extension := filepath.Ext(o.report)
	kept := strings.TrimSuffix(o.report, extension) + earlier.Started.UTC().Format("-20060102T150405.000Z") + extension
	err = os.Rename(o.report, kept)
	if err == nil {
		console.Note("the report of an earlier run is now " + kept)
		return nil
	}
	err = fmt.Errorf("keeping the report of an earlier run: %w", err)
	f, createErr := os.CreateTemp(filepath.Dir(o.report), "report-*.json")
	if createErr != nil {
		o.report = ""
		return errors.Join(err, createErr)
	}
	o.report = f.Name()
	return errors.Join(fmt.Errorf("%w; that of this run is %s", err, o.report), f.Close())
}

// write writes the report to its destinations, to all that can be written.
func (o *output) write(console *cli.Console, r *fleet.Report) (err error) {
	for path, write := range map[string]func(io.Writer) error{o.report: r.Write, o.html: r.HTML} {
		if path == "" {
			continue
		}
		var b bytes.Buffer
		failed := write(&b)
		if failed == nil {
			failed = osfile.Replace(path, b.Bytes(), 0o644)
		}
		if failed != nil { // a full disk, after a check that it can be written
			err = errors.Join(err, fmt.Errorf("writing the report: %v", fileError(path, failed)))
		}
	}
	if o.json {
		return errors.Join(err, console.JSON(r))
	}
	return errors.Join(err, cmp.Or(console.Table(summary(r)), console.Table(stageTable(r.Stages)),
		console.Table(failureTable("failed devices", r.Failures)), console.Table(failureTable("failed attempts", r.Retries))))
}

// readFile reads a file that the command line names.
func readFile[T any](path string, read func(io.Reader) (T, error)) (v T, err error) {
	data, err := osfile.ReadAll(path)
	if err == nil {
		v, err = read(bytes.NewReader(data))
	}
	if err != nil {
		return v, fileError(path, err)
	}
	return v, nil
}

func summary(r *fleet.Report) cli.Table {
	c, shards := r.Counts, ""
	if n := len(r.Plan.Shards); n > 0 && n < r.Plan.Shards[0].Of {
		shards = fmt.Sprintf("%d of %d; the devices of the others are not counted", n, r.Plan.Shards[0].Of)
	}
	t := cli.Table{
		{"result", r.Headline()},
		{"endpoint", r.Endpoint},
		{"shards", shards},
		{"enrolled", fmt.Sprintf("%d of %s in %s, %.1f per second", c.Enrolled+c.Already, fleet.FormatCount(c.Devices, "device", "devices"), fleet.FormatSeconds(r.ElapsedSeconds), r.DevicesPerSecond)},
		{"enrolled before", count(c.Already)},
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
		{"held", fmt.Sprintf("%d of %s for %s, connected within %s; %d connected at the end", h.Most, fleet.FormatCount(h.Devices, "device", "devices"), fleet.FormatSeconds(h.HeldSeconds), fleet.FormatSeconds(h.ConnectSeconds), h.Connected)},
		{"while held", fmt.Sprintf("%s lost, %s acknowledged, %d not; %.0f %% of a core here", fleet.FormatCount(h.Lost, "connection", "connections"), fleet.FormatCount(h.Published, "message", "messages"), h.PublishFailures, h.CPUPercent)},
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
			{"reconnected", fmt.Sprintf("%d of %s within %s, %s, %s", s.Returned, fleet.FormatCount(s.Devices, "device", "devices"), fleet.FormatSeconds(s.ReturnSeconds), fleet.FormatCount(attempts, "attempt", "attempts"), jitter)},
			{"rejected", count(s.Rejected)},
			{"peak", fmt.Sprintf("%s per second; ideal, spread evenly: %.1f", fleet.FormatCount(s.PeakConnects, "connection", "connections"), s.IdealConnects)},
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

func stageTable(stages []fleet.Latency) (t cli.Table) {
	if len(stages) > 0 {
		t = cli.Table{{}, {"stage", "   count", "  p50 ms", "  p90 ms", "  p99 ms", "  max ms"}}
	}
	ms := func(ms float64) string { return fmt.Sprintf("%8.1f", ms) }
	for _, s := range stages {
		t = append(t, cli.Row{string(s.Stage), fmt.Sprintf("%8d", s.Count), ms(s.P50), ms(s.P90), ms(s.P99), ms(s.Max)})
	}
	return t
}

func failureTable(title string, failures []fleet.Failure) (t cli.Table) {
	if len(failures) > 0 {
		t = cli.Table{{}, {title}}
	}
	for _, f := range failures {
		t = append(t, cli.Row{fmt.Sprintf("  %d", f.Count), string(f.Stage), f.Cause})
	}
	return t
}
