package corecli

import (
	"context"
	"errors"
	"fmt"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/localcore"
	"github.com/spf13/cobra"
)

type serveOptions struct {
	localcore.Config
	json bool
}

func newServeCmd(console *cli.Console) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Serve devices until interrupted",
		Long: `Serve starts the broker and the control API, and writes the server's root and
a claim for devices into the credentials directory, as the two scripts do for
AWS. It prints one line when it is ready, and runs until it is interrupted.
Every refusal is logged with its reason.

The hook must be built for this machine; what "make hook" builds is for
linux/arm64, as Lambda wants it.

With --assembly it plays a stack that "cdk synth" wrote: template, policies,
group, type and hook, with what the hook gets from its environment, in the
stack's account and Region. The stack's claim certificates live in a real
account; the claim in the credentials directory stands in for them.`,
		Example: `  # With the hook, built for this machine
  $ (cd hook && go build -o dist/local .)
  $ iot_core_local serve --hook hook/dist/local

  # For scripts: free ports, told in one JSON object
  $ iot_core_local serve --listen 127.0.0.1:0 --api 127.0.0.1:0 --hook none --json

  # What is going to be deployed
  $ (cd infra && npx cdk synth --quiet -c certificateArn=ARN -c hookArchitecture=x86_64)
  $ iot_core_local serve --assembly infra/cdk.out

  # The AWS CLI against it
  $ aws iot list-things --endpoint-url http://127.0.0.1:8480`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.leaveToAssembly(cmd.Flags().Changed)
			return runServe(cmd.Context(), console, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Listen, "listen", "127.0.0.1:8883", "listen for devices on `ADDRESS`; port 0 is any free one")
	flags.StringVar(&o.ListenALPN, "listen-alpn", "", "listen on `ADDRESS` too, for devices that use ALPN as on port 443")
	flags.StringVar(&o.API, "api", "127.0.0.1:8480", "serve the control API on `ADDRESS`, or none")
	flags.BoolVar(&o.UnsafeAllowAnyAddress, "unsafe-allow-any-address", false, "allow addresses that other machines can reach; the control API asks nobody for credentials")
	flags.StringVar(&o.Templates, "templates", "templates", "read template and policies from `DIR`")
	flags.StringVar(&o.Hook, "hook", "hook/dist/bootstrap", "run the pre-provisioning hook at `PATH`, or none")
	flags.StringVar(&o.Assembly, "assembly", "", "play the stack that cdk synth wrote into `DIR`, instead of templates and hook")
	flags.StringVar(&o.Stack, "stack", "", "play the stack of this `NAME` (default: the only one in the assembly)")
	flags.StringVar(&o.State, "state", "", "keep things, certificates, authority, sessions and messages in `DIR` over restarts (default: memory only)")
	flags.StringVar(&o.Credentials, "credentials", "certs/local", "write the server's root and the claim into `DIR`")
	flags.StringVar(&o.Account, "account", "123456789012", "AWS account `ID` to play")
	flags.StringVar(&o.Region, "region", "us-east-1", "AWS `REGION` to play")
	flags.StringVar((*string)(&o.Quotas), "quotas", string(localcore.QuotasOff), "hold to AWS's `RATES`: aws or off")
	flags.BoolVar(&o.json, "json", false, "print the ready line as one JSON object")
	return cmd
}

// leaveToAssembly drops the defaults of what an assembly brings itself.
func (o *serveOptions) leaveToAssembly(given func(flag string) bool) {
	if o.Assembly == "" {
		return
	}
	for flag, value := range map[string]*string{
		"templates": &o.Templates, "hook": &o.Hook, "account": &o.Account, "region": &o.Region,
	} {
		if !given(flag) {
			*value = ""
		}
	}
}

// ready is the line that tells that the server can be used. Its JSON keys are
// part of the command's contract.
type ready struct {
	Endpoint    string `json:"endpoint"`
	Port        int    `json:"port"`
	ALPNPort    int    `json:"alpnPort,omitempty"`
	API         string `json:"api"`
	Credentials string `json:"credentials"`
}

func runServe(ctx context.Context, console *cli.Console, o serveOptions) error {
	o.Log = console.Log
	server, err := localcore.Start(ctx, o.Config)
	if err != nil {
		return err
	}
	if err := printReady(console, o, server); err != nil {
		return errors.Join(err, server.Close())
	}
	<-ctx.Done()
	return server.Close()
}

func printReady(console *cli.Console, o serveOptions, server *localcore.Server) error {
	host, port := server.Endpoint()
	r := ready{Endpoint: host, Port: port, ALPNPort: server.PortALPN(), API: server.APIURL(), Credentials: o.Credentials}
	if o.json {
		return console.JSON(r)
	}
	_, err := fmt.Fprintf(console.Out, "ready: devices at %s:%d, control API at %s, credentials in %s\n", r.Endpoint, r.Port, r.API, r.Credentials)
	return err
}
