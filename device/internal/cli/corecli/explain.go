package corecli

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/osfile"
	"example.com/fleety/device/internal/term"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/policy"
	"github.com/spf13/cobra"
)

type explainOptions struct {
	localcore.Config // for placeholders and ARNs

	policies       []string
	request        policy.Request
	session        policy.Session
	thing          policy.Thing
	detached, json bool
	certificate    string // path
}

func newExplainCmd(console *cli.Console) *cobra.Command {
	o := explainOptions{thing: policy.Thing{Attributes: map[string]string{}}}
	cmd := cli.Command("explain --policy FILE... --action ACTION --resource RESOURCE", cli.NoArgs, func(context.Context, []string) error {
		if err := o.complete(); err != nil {
			return &cli.UsageError{Err: err}
		}
		return runExplain(console, &o)
	})
	cmd.DisableFlagsInUseLine = true
	flags := cmd.Flags()
	flags.StringArrayVar(&o.policies, "policy", nil, "evaluate the policy in `FILE`; several hold together")
	flags.StringVar(&o.request.Action, "action", "", "evaluate `ACTION`, such as iot:Publish")
	flags.StringVar(&o.request.Resource, "resource", "", "evaluate it on `RESOURCE`, such as topic/a/b")
	flags.StringVar(&o.thing.Name, "as-thing", "", "evaluate for the thing `NAME`, attached to the certificate")
	flags.StringVar(&o.thing.Type, "type", "", "type `NAME` of the thing")
	flags.Func("attribute", "attribute `NAME=VALUE` of the thing; may be repeated", func(pair string) error {
		name, value, found := strings.Cut(pair, "=")
		if !found || name == "" {
			return errors.New("want NAME=VALUE")
		}
		o.thing.Attributes[name] = value
		return nil
	})
	flags.BoolVar(&o.detached, "detached", false, "the thing is not attached to the certificate")
	flags.StringVar(&o.session.ClientID, "client-id", "", "connect as client `ID` (default: the thing's name)")
	flags.StringVar(&o.certificate, "certificate", "", "connect with the certificate in `FILE`, for policy variables of it such as iot:Certificate.Subject.CommonName")
	flags.Func("source-ip", "connect from `ADDRESS`", func(text string) (err error) {
		if o.session.SourceIP, err = netip.ParseAddr(text); err != nil {
			err = errors.New("want an IP address")
		}
		return err
	})
	flags.StringVar(&o.Account, "account", "123456789012", "AWS account `ID` of ARNs and placeholders")
	flags.StringVar(&o.Region, "region", "us-east-1", "AWS `REGION` of ARNs and placeholders")
	flags.BoolVar(&o.json, "json", false, "print the answer as one JSON object")
	for _, name := range []string{"policy", "action", "resource"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}

// complete makes the request of what the flags gave.
func (o *explainOptions) complete() error {
	action, resource := o.request.Action, o.request.Resource
	service, operation, _ := strings.Cut(action, ":")
	arn, faulty := awsiot.ParseARN(resource)
	kind, name, _ := strings.Cut(cmp.Or(arn.Resource, resource), "/")
	want := policy.ResourceType(action)
	switch {
	case o.thing.Name == "" && (o.thing.Type != "" || len(o.thing.Attributes) > 0 || o.detached):
		return errors.New("\"--type\", \"--attribute\" and \"--detached\" describe a thing: name it with \"--as-thing\"")
	case service == "" || operation == "" || strings.ContainsAny(action, "*?"):
		return fmt.Errorf("invalid argument %q for \"--action\" flag: want SERVICE:ACTION, such as iot:Publish", action)
	case kind == "" || faulty != nil && (name == "" || strings.HasPrefix(kind, "arn:")):
		return fmt.Errorf("invalid argument %q for \"--resource\" flag: want an ARN or KIND/NAME, such as topic/a/b", resource)
	case want != "" && kind != want:
		return fmt.Errorf("invalid argument %q for \"--resource\" flag: %s is about %s/NAME", resource, action, want)
	case faulty != nil:
		o.request.Resource = o.Expand("arn:${AWS::Partition}:iot:${AWS::Region}:${AWS::AccountId}:") + resource
	}
	o.session.ClientID = cmp.Or(o.session.ClientID, o.thing.Name)
	if o.thing.Name != "" {
		o.session.Thing, o.thing.Attached = &o.thing, !o.detached
	}
	o.request.Session = &o.session
	return nil
}

type decision struct {
	Allowed     bool   `json:"allowed"`
	Action      string `json:"action"`
	Resource    string `json:"resource"`
	Policy      string `json:"policy,omitempty"`    // that decided; empty when none allows
	Statement   string `json:"statement,omitempty"` // likewise
	Explanation string `json:"explanation"`
}

func runExplain(console *cli.Console, o *explainOptions) error {
	if o.certificate != "" {
		certificates, err := readCertificates(o.certificate)
		if err != nil {
			return err
		}
		o.request.Session.Certificate = certificates[0]
	}
	var policies []policy.Policy
	var err error // all that is wrong with the policies
	for _, path := range o.policies {
		source, fault := osfile.ReadAll(path)
		if fault != nil {
			err = errors.Join(err, fmt.Errorf("reading a policy: %w", fault))
			continue
		}
		document, fault := o.ParsePolicy(path, source)
		err = errors.Join(err, fault)
		policies = append(policies, policy.Policy{Name: path, Document: document})
	}
	if err != nil {
		return err
	}
	d := policy.Evaluate(policies, &o.request)
	v := decision{Allowed: d.Allowed, Action: o.request.Action, Resource: o.request.Resource, Policy: d.Policy, Explanation: d.Explain()}
	if s := d.Statement; s != nil {
		v.Statement = cmp.Or(s.Sid, s.String())
	}
	if o.json {
		err = console.JSON(v)
	} else {
		_, err = fmt.Fprintf(console.Out, "%s: %s\n", map[bool]string{true: "allowed", false: "denied"}[v.Allowed], term.Clean(v.Explanation))
	}
	if err == nil && !v.Allowed {
		err = cli.Reported(cli.ExitDenied)
	}
	return err
}

// readCertificates reads the certificates of a file, at least one.
func readCertificates(path string) ([]*x509.Certificate, error) {
	text, err := osfile.ReadAll(path)
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	certificates, err := awsiot.Certificates(text)
	if err != nil {
		return nil, fmt.Errorf("reading certificates %s: %w", path, err)
	}
	return certificates, nil
}
