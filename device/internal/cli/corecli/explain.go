package corecli

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/policy"
	"github.com/spf13/cobra"
)

type explainOptions struct {
	localcore.Config // for placeholders and ARNs

	policies         []string
	thing            string
	thingType        string
	attributes       []string
	detached         bool
	clientID         string
	sourceIP         string
	certificate      string // path
	action, resource string
	json             bool
}

func newExplainCmd(console *cli.Console) *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:  "explain --policy FILE... --action ACTION --resource RESOURCE [flags]",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(o.policies) == 0 || o.action == "" || o.resource == "" {
				return &cli.UsageError{Err: errors.New("\"--policy\", \"--action\" and \"--resource\" must be given"), Command: cmd}
			}
			return runExplain(console, o)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&o.policies, "policy", nil, "evaluate the policy in `FILE`; several hold together")
	flags.StringVar(&o.action, "action", "", "evaluate `ACTION`, such as iot:Publish")
	flags.StringVar(&o.resource, "resource", "", "evaluate it on `RESOURCE`, such as topic/a/b")
	flags.StringVar(&o.thing, "as-thing", "", "evaluate for the thing `NAME`, attached to the certificate")
	flags.StringVar(&o.thingType, "type", "", "type `NAME` of the thing")
	flags.StringArrayVar(&o.attributes, "attribute", nil, "attribute `NAME=VALUE` of the thing; may be repeated")
	flags.BoolVar(&o.detached, "detached", false, "the thing is not attached to the certificate")
	flags.StringVar(&o.clientID, "client-id", "", "connect as client `ID` (default: the thing's name)")
	flags.StringVar(&o.certificate, "certificate", "", "connect with the certificate in `FILE`, for policy variables of it such as iot:Certificate.Subject.CommonName")
	flags.StringVar(&o.sourceIP, "source-ip", "", "connect from `ADDRESS`")
	flags.StringVar(&o.Account, "account", "123456789012", "AWS account `ID` of ARNs and placeholders")
	flags.StringVar(&o.Region, "region", "us-east-1", "AWS `REGION` of ARNs and placeholders")
	flags.BoolVar(&o.json, "json", false, "print the answer as one JSON object")
	return cmd
}

// A decision is what explain prints.
type decision struct {
	Allowed  bool   `json:"allowed"`
	Action   string `json:"action"`
	Resource string `json:"resource"`
	// Policy and Statement decided; empty when none allows.
	Policy      string `json:"policy,omitempty"`
	Statement   string `json:"statement,omitempty"`
	Explanation string `json:"explanation"`
}

func runExplain(console *cli.Console, o explainOptions) error {
	request, err := o.request()
	if err != nil {
		return &cli.UsageError{Err: err}
	}
	if o.certificate != "" {
		certificates, err := readCertificates(o.certificate)
		if err != nil {
			return err
		}
		request.Session.Certificate = certificates[0]
	}
	policies, err := o.read()
	if err != nil {
		return err
	}
	d := policy.Evaluate(policies, request)
	v := decision{
		Allowed: d.Allowed, Action: request.Action, Resource: request.Resource,
		Policy: d.Policy, Explanation: d.Explain(),
	}
	if s := d.Statement; s != nil {
		v.Statement = cmp.Or(s.Sid, s.String())
	}
	word := "denied"
	if v.Allowed {
		word = "allowed"
	}
	if o.json {
		err = console.JSON(v)
	} else {
		_, err = fmt.Fprintf(console.Out, "%s: %s\n", word, v.Explanation)
	}
	if err == nil && !v.Allowed {
		err = cli.Reported(cli.ExitDenied)
	}
	return err
}

// readCertificates reads the certificates of a file, at least one.
func readCertificates(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	certificates, err := awsiot.Certificates(text)
	if err != nil {
		return nil, fmt.Errorf("reading certificates %s: %w", path, err)
	}
	return certificates, nil
}

// read reads all policies, and reports all that is wrong with them at once.
func (o explainOptions) read() (policies []policy.Policy, err error) {
	for _, path := range o.policies {
		document, fault := o.ReadPolicy(path)
		err = errors.Join(err, fault)
		policies = append(policies, policy.Policy{Name: path, Document: document})
	}
	return policies, err
}

func (o explainOptions) request() (*policy.Request, error) {
	session, err := o.session()
	if err != nil {
		return nil, err
	}
	if service, name, _ := strings.Cut(o.action, ":"); service == "" || name == "" {
		return nil, fmt.Errorf("invalid argument %q for \"--action\" flag: want SERVICE:ACTION, such as iot:Publish", o.action)
	}
	resource, err := o.arn()
	if err != nil {
		return nil, err
	}
	return &policy.Request{Action: o.action, Resource: resource, Session: session}, nil
}

// arn returns the resource in full.
func (o explainOptions) arn() (string, error) {
	if strings.HasPrefix(o.resource, "arn:") {
		return o.resource, nil
	}
	kind, name, _ := strings.Cut(o.resource, "/")
	want := policy.ResourceType(o.action)
	switch {
	case kind == "" || name == "":
		return "", fmt.Errorf("invalid argument %q for \"--resource\" flag: want an ARN or KIND/NAME, such as topic/a/b", o.resource)
	case want != "" && kind != want:
		return "", fmt.Errorf("invalid argument %q for \"--resource\" flag: %s is about %s/NAME", o.resource, o.action, want)
	}
	return o.Expand("arn:${AWS::Partition}:iot:${AWS::Region}:${AWS::AccountId}:") + o.resource, nil
}

// session returns the client that the policies are evaluated for.
func (o explainOptions) session() (*policy.Session, error) {
	s := &policy.Session{ClientID: cmp.Or(o.clientID, o.thing)}
	if o.sourceIP != "" {
		address, err := netip.ParseAddr(o.sourceIP)
		if err != nil {
			return nil, fmt.Errorf("invalid argument %q for \"--source-ip\" flag: want an IP address", o.sourceIP)
		}
		s.SourceIP = address
	}
	if o.thing == "" {
		if o.thingType != "" || len(o.attributes) > 0 || o.detached {
			return nil, errors.New("\"--type\", \"--attribute\" and \"--detached\" describe a thing: name it with \"--as-thing\"")
		}
		return s, nil
	}
	s.Thing = &policy.Thing{Name: o.thing, Type: o.thingType, Attributes: map[string]string{}, Attached: !o.detached}
	for _, pair := range o.attributes {
		name, value, found := strings.Cut(pair, "=")
		if !found || name == "" {
			return nil, fmt.Errorf("invalid argument %q for \"--attribute\" flag: want NAME=VALUE", pair)
		}
		s.Thing.Attributes[name] = value
	}
	return s, nil
}
