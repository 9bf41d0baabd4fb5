package corecli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/lambdahost"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type serveOptions struct {
	localcore.Config
	functions map[string]string // paths by name
	json      bool
}

// builtHook is where make local puts the hook.
const builtHook = "dist/hook/bootstrap"

// defaultHook is the hook that was built here or, where none was, that of the program's package.
func defaultHook() string {
	if _, err := os.Stat(builtHook); !errors.Is(err, fs.ErrNotExist) {
		return builtHook
	}
	if program, err := os.Executable(); err == nil {
		installed := filepath.Join(filepath.Dir(program), "..", "lib", "iot_core_local", "hook")
		if _, err := os.Stat(installed); err == nil {
			return installed
		}
	}
	return builtHook
}

func newServeCmd(console *cli.Console) *cobra.Command {
	var o serveOptions
	var flags *pflag.FlagSet
	cmd := cli.Command("serve [flags]", cli.NoArgs, func(ctx context.Context, _ []string) error {
		for flag, value := range map[string]*string{"templates": &o.Templates, "hook": &o.Hook, "account": &o.Account, "region": &o.Region} {
			if o.Assembly != "" && !flags.Changed(flag) {
				*value = "" // the assembly brings it
			}
		}
		if o.Assembly == "" && !flags.Changed("hook") {
			o.Hook = defaultHook()
		}
		return runServe(ctx, console, o)
	})
	flags = cmd.Flags()
	flags.StringVar(&o.Listen, "listen", "127.0.0.1:8883", "listen for devices on `ADDRESS`; port 0 is any free one")
	flags.StringVar(&o.ListenALPN, "listen-alpn", "", "listen on `ADDRESS` too, for devices that use ALPN as on port 443")
	flags.StringVar(&o.API, "api", "127.0.0.1:8480", "serve the control API on `ADDRESS`, or none")
	flags.BoolVar(&o.NoConsole, "no-console", false, "serve no console, the page at the API's address")
	flags.BoolVar(&o.UnsafeAllowAnyAddress, "unsafe-allow-any-address", false, "allow addresses that other machines can reach; the control API does not authenticate callers")
	flags.StringVar(&o.Templates, "templates", localcore.EmbeddedTemplates, "read template and policies from `DIR`, or embedded, or none")
	flags.BoolVar(&o.FastIssuer, "fast-issuer", false, "sign device certificates on the curve P-256, where AWS signs with RSA: a fleet enrolls faster")
	flags.BoolVar(&o.CreateMissing, "create-missing", false, "create the thing types and groups that a provisioning names and that do not exist, instead of rejecting it")
	flags.StringVar(&o.Hook, "hook", builtHook, "run the pre-provisioning hook at `PATH`, or none")
	flags.StringVar(&o.CertificateProvider, "certificate-provider", localcore.NoHook, "have the Lambda function at `PATH` sign the devices' certificates, or none")
	flags.StringToStringVar(&o.functions, "function", nil, "run `NAME=PATH` as a Lambda function for topic rules; may be given several times")
	flags.Lookup("function").DefValue = ""
	flags.StringVar(&o.Assembly, "assembly", "", "emulate the stack that cdk synth wrote into `DIR`, instead of templates and hook")
	flags.StringVar(&o.Stack, "stack", "", "emulate the stack `NAME` (default: the only one in the assembly)")
	flags.StringVar(&o.State, "state", "", "keep things, certificates, authority, sessions and messages in `DIR` across restarts (default: memory only)")
	flags.StringVar(&o.Credentials, "credentials", "certs/local", "write the server's root, the claim and device.yaml into `DIR`")
	flags.StringVar(&o.Account, "account", "123456789012", "AWS account `ID` to emulate")
	flags.StringVar(&o.Region, "region", "us-east-1", "AWS `REGION` to emulate")
	flags.StringVar((*string)(&o.Quotas), "quotas", string(localcore.QuotasOff), "enforce AWS quotas on `RATES`: aws or off")
	flags.BoolVar(&o.json, "json", false, "print the ready line as one JSON object")
	return cmd
}

func runServe(ctx context.Context, console *cli.Console, o serveOptions) error {
	o.Log = console.Log
	if console.Live() {
		o.Log = slog.New(&terminalHandler{Handler: console.Log.Handler(), out: console.Err, color: console.Color})
	}
	o.Functions = map[string]lambdahost.Config{}
	for name, path := range o.functions {
		o.Functions[name] = lambdahost.Config{Path: path}
	}
	// A ballast, which takes no memory as long as nothing touches it: the heap may double together
	// with it, so that a small one is not collected ten times per second while devices enroll.
	defer runtime.KeepAlive(make([]byte, 16<<20))
	server, err := localcore.Start(ctx, o.Config)
	if err != nil {
		return err
	}
	devices := filepath.Join(o.Credentials, "devices") // in which * and [ are no pattern
	if earlier, _ := fs.Glob(os.DirFS(devices), "*.certificate.pem"); o.State == "" && o.Credentials != "" && len(earlier) > 0 {
		console.Warn("the identities in " + devices + " are of an earlier run, and this one rejects them: move them away, or keep both with --state DIR")
	}
	if err := printReady(console, o, server); err != nil {
		return errors.Join(err, server.Close())
	}
	<-ctx.Done()
	return server.Close()
}

// printReady prints the line that says that the server can be used. Its JSON keys are part of the
// command's contract.
func printReady(console *cli.Console, o serveOptions, server *localcore.Server) error {
	host, port := server.Endpoint()
	if o.json {
		return console.JSON(struct {
			Endpoint    string `json:"endpoint"`
			Port        int    `json:"port"`
			ALPNPort    int    `json:"alpnPort,omitempty"`
			API         string `json:"api"`
			Credentials string `json:"credentials"`
		}{host, port, server.PortALPN(), server.APIURL(), o.Credentials})
	}
	line := fmt.Sprintf("ready: devices at %s:%d", host, port)
	for _, part := range []struct{ what, where string }{{"console and control API at", server.APIURL()}, {"credentials in", o.Credentials}} {
		if o.NoConsole {
			part.what = strings.TrimPrefix(part.what, "console and ")
		}
		if part.where != "" {
			line += ", " + part.what + " " + part.where
		}
	}
	_, err := fmt.Fprintln(console.Out, line)
	return err
}

// A terminalHandler writes logs and events for people who watch a terminal: a line for each record,
// in color, with short certificate ids. It stands over the handler that knows the level.
type terminalHandler struct {
	slog.Handler
	out   io.Writer // safe for concurrent use
	color bool
	attrs []slog.Attr
}

func (h *terminalHandler) Handle(_ context.Context, r slog.Record) error {
	message, at := fmt.Sprintf("%-12s", term.Clean(r.Message)), r.Time.Local().Format("15:04:05.000")
	if h.color {
		at = term.Dim + at + term.Reset
		switch {
		case r.Level >= slog.LevelWarn:
			message = term.Red + message + term.Reset
		case r.Message == string(localcore.Provisioned), r.Message == string(localcore.Connected):
			message = term.Green + message + term.Reset
		}
	}
	var b strings.Builder
	write := func(a slog.Attr) bool {
		value := a.Value.Resolve().String()
		if a.Key == "certificate" && len(value) > 8 {
			value = value[:8] + "…"
		} else if value == "" || strings.ContainsAny(value, " \"=") {
			value = strconv.Quote(value)
		}
		fmt.Fprintf(&b, " %s=%s", a.Key, term.Clean(value))
		return true
	}
	for _, a := range h.attrs {
		write(a)
	}
	r.Attrs(write)
	_, err := io.WriteString(h.out, at+" "+message+b.String()+"\n")
	return err
}

// WithAttrs implements [slog.Handler].
func (h *terminalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = slices.Concat(h.attrs, attrs)
	return &with
}

// WithGroup implements [slog.Handler]: the emulator has no groups.
func (h *terminalHandler) WithGroup(string) slog.Handler { return h }
