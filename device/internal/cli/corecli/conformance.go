package corecli

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/conformance"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/osfile"
	"example.com/fleety/device/internal/term"
	"example.com/fleety/device/localcore"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/spf13/cobra"
)

type conformanceOptions struct {
	conformance.Config
	roots, run        string
	aws               bool
	transcript, junit string
	json              bool
}

func newConformanceCmd(console *cli.Console) *cobra.Command {
	var o conformanceOptions
	var cmd *cobra.Command
	cmd = cli.Command("conformance [flags]", cli.NoArgs, func(ctx context.Context, _ []string) error {
		if err := o.prepare(ctx, cmd, console); err != nil {
			return err
		}
		return runConformance(ctx, console, o)
	})
	flags := cmd.Flags()
	flags.StringVar(&o.Endpoint, "endpoint", "", "check MQTT at `HOST[:PORT]` (default: this emulator)")
	flags.StringVar(&o.API, "api", "", "check the REST API at `URL` (default: that of AWS)")
	flags.StringVar(&o.roots, "root", "", "verify the endpoint with the root certificates in `FILE` (default: those of the system)")
	flags.IntVar(&o.ALPNPort, "alpn-port", 0, "`PORT` that requires ALPN (default: 443 on AWS)")
	flags.StringVar(&o.Region, "region", "", "AWS `REGION` of requests (default: the endpoint's)")
	flags.StringVar(&o.Role, "role", "", "`ARN` of a role for templates and rules; checks that need one are skipped without it")
	flags.BoolVar(&o.aws, "yes-this-is-aws", false, "allow checks of an AWS account, which cost money")
	flags.StringVar(&o.run, "run", "", "run the checks whose sentence, id or file matches `PATTERN`")
	flags.StringVar(&o.transcript, "transcript", "", "write what was sent and received into `FILE`, as JSON without secrets")
	flags.StringVar(&o.junit, "junit", "", "write the results into `FILE`, as JUnit XML")
	flags.BoolVar(&o.json, "json", false, "print the results as one JSON object")
	return cmd
}

// prepare reads what the flags name, and says what a run against AWS costs.
func (o *conformanceOptions) prepare(ctx context.Context, cmd *cobra.Command, console *cli.Console) error {
	all, err := conformance.Checks()
	if err != nil {
		return err
	}
	usage := func(format string, args ...any) error {
		return &cli.UsageError{Err: fmt.Errorf(format, args...), Command: cmd}
	}
	pattern, err := regexp.Compile("(?i)" + o.run)
	if err != nil {
		return usage("--run: %w", err)
	}
	for _, c := range all {
		if pattern.MatchString(c.Open + " " + c.Behavior + " " + c.File) {
			o.Checks = append(o.Checks, c)
		}
	}
	if len(o.Checks) == 0 {
		return usage("no check matches %q", o.run)
	}
	host := o.Endpoint
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	onAWS := awsiot.ParseEndpoint(host).AWS()
	switch {
	case o.transcript != "" && o.junit != "" && osfile.Locate(o.transcript).Same(osfile.Locate(o.junit)):
		return usage("--transcript and --junit name the same file")
	case o.Endpoint == "" && o.API != "":
		return usage("--api needs --endpoint")
	case o.Endpoint != "" && o.API == "" && !onAWS:
		return usage("%s is not an AWS endpoint: name its REST API with --api", host)
	case onAWS && !o.aws:
		return usage("%s is an endpoint of AWS: this would run %s; to do so, add --yes-this-is-aws", host, conformance.Cost(o.Checks))
	}
	if o.roots != "" {
		roots, err := readCertificates(o.roots)
		if err != nil {
			return err
		}
		o.Roots = x509.NewCertPool()
		for _, c := range roots {
			o.Roots.AddCert(c)
		}
	}
	if onAWS {
		console.Note(fmt.Sprintf("Running %s in your AWS account. AWS charges for all of these, for jobs and tunnels one by one. "+
			"Whatever is created has a name that begins with %q and is deleted again.", conformance.Cost(o.Checks), conformance.Prefix))
		loaded, err := config.LoadDefaultConfig(ctx)
		if err != nil {
			return fmt.Errorf("reading AWS credentials: %w", err)
		}
		o.Credentials = loaded.Credentials
	}
	return nil
}

type comparison struct {
	ID         string              `json:"id,omitempty"`
	Behavior   string              `json:"behavior"`
	Verdict    conformance.Verdict `json:"verdict"`
	Documented string              `json:"documented,omitempty"` // empty where AWS's documentation says nothing, or where the endpoint does what it says
	Ours       string              `json:"ours,omitempty"`
	Theirs     string              `json:"theirs,omitempty"`
}

func runConformance(ctx context.Context, console *cli.Console, o conformanceOptions) error {
	for _, path := range []string{o.transcript, o.junit} { // before a run of minutes, which may cost money
		if path == "" {
			continue
		}
		_, missing := os.Lstat(path)
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|syscall.O_NONBLOCK, 0o666) // what is in it stays until there is a result; a FIFO is not waited for
		if err != nil {
			return err
		}
		if f.Close(); missing != nil {
			os.Remove(path)
		}
	}
	ours, err := checkEmulator(ctx, console, o)
	if err != nil {
		return err
	}
	theirs := ours
	if o.Endpoint != "" {
		err := console.Step("check the endpoint", "check "+o.Endpoint, func() (err error) {
			if theirs, err = conformance.Run(ctx, o.Config); theirs != nil {
				return nil // what was checked before an interrupt is shown
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for path, write := range map[string]func(io.Writer) error{o.transcript: theirs.WriteTranscript, o.junit: theirs.WriteJUnit} {
		if path == "" {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NONBLOCK, 0o666)
		if err != nil {
			return err
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			return err
		}
	}
	for _, what := range theirs.LeftOver {
		console.Warn("could not delete " + what)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := printComparison(console, o, ours, theirs); err != nil {
		return err
	}
	if theirs.Count(conformance.Differs)+theirs.Count(conformance.Failed) > 0 {
		return cli.Reported(cli.ExitFailed)
	}
	return nil
}

func checkEmulator(ctx context.Context, console *cli.Console, o conformanceOptions) (report *conformance.Report, err error) {
	err = console.Step("check the emulator", fmt.Sprintf("run checks on the emulator (%d)", len(o.Checks)), func() error {
		server, err := localcore.Start(ctx, localcore.Config{ListenALPN: "127.0.0.1:0"})
		if err != nil {
			return err
		}
		host, port := server.Endpoint()
		report, err = conformance.Run(ctx, conformance.Config{
			Endpoint: net.JoinHostPort(host, strconv.Itoa(port)), API: server.APIURL(), ALPNPort: server.PortALPN(), Roots: server.RootCAs(),
			Role: "arn:aws:iam::123456789012:role/any", Checks: o.Checks,
		})
		return errors.Join(err, server.Close())
	})
	return report, err
}

// printComparison prints what differs and what was recorded.
func printComparison(console *cli.Console, o conformanceOptions, ours, theirs *conformance.Report) error {
	var rows []comparison
	for i, r := range theirs.Results {
		row := comparison{ID: r.Open, Behavior: r.Behavior, Verdict: r.Verdict, Documented: r.Want, Ours: cmp.Or(ours.Results[i].Got, string(ours.Results[i].Verdict))}
		if o.Endpoint != "" {
			row.Theirs = cmp.Or(r.Got, string(r.Verdict))
		}
		rows = append(rows, row)
	}
	if o.json {
		return console.JSON(map[string]any{
			"endpoint": cmp.Or(o.Endpoint, "this emulator"), "checks": len(rows), "seconds": theirs.Seconds, "results": rows,
			"same": theirs.Count(conformance.Same), "differs": theirs.Count(conformance.Differs), "recorded": theirs.Count(conformance.Recorded),
			"skipped": theirs.Count(conformance.Skipped), "failed": theirs.Count(conformance.Failed),
		})
	}
	var b strings.Builder
	for _, row := range slices.DeleteFunc(rows, func(row comparison) bool { return row.Verdict == conformance.Same }) {
		fmt.Fprintf(&b, "%-9s %s\n", row.Verdict, strings.TrimSpace(row.ID+" "+row.Behavior))
		for _, part := range []struct{ name, text string }{{"documented", row.Documented}, {"ours", row.Ours}, {"theirs", row.Theirs}} {
			if part.text != "" {
				fmt.Fprintf(&b, "  %-11s %s\n", part.name, term.Clean(part.text))
			}
		}
	}
	fmt.Fprintf(&b, "%d in total, in %.1f s: %d the same as documented, %d differ, %d recorded where nothing is documented, %d skipped, %d failed\n",
		len(theirs.Results), theirs.Seconds, theirs.Count(conformance.Same), theirs.Count(conformance.Differs), theirs.Count(conformance.Recorded),
		theirs.Count(conformance.Skipped), theirs.Count(conformance.Failed))
	_, err := io.WriteString(console.Out, b.String())
	return err
}
