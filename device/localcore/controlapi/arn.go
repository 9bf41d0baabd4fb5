package controlapi

import (
	"regexp"
	"strings"

	"example.com/fleety/device/localcore/registry"
)

// naming makes and reads the ARNs of one account in one Region.
type naming struct{ partition, region, account string }

func (n naming) arn(resource string) string {
	return "arn:" + n.partition + ":iot:" + n.region + ":" + n.account + ":" + resource
}

func (n naming) thing(name string) string        { return n.arn("thing/" + name) }
func (n naming) thingType(name string) string    { return n.arn("thingtype/" + name) }
func (n naming) thingGroup(name string) string   { return n.arn("thinggroup/" + name) }
func (n naming) certificate(id string) string    { return n.arn("cert/" + id) }
func (n naming) policy(name string) string       { return n.arn("policy/" + name) }
func (n naming) template(name string) string     { return n.arn("provisioningtemplate/" + name) }
func (n naming) target(t registry.Target) string { return n.arn(string(t)) }

// resource returns the part of an ARN after the account.
func (n naming) resource(arn string) (string, error) {
	rest, ok := strings.CutPrefix(arn, n.arn(""))
	if !ok {
		return "", invalid("%q is no ARN of this account and Region; theirs begin with %s", clip(arn), n.arn(""))
	}
	return rest, nil
}

// principal returns the id of the certificate whose ARN arn is. Other kinds of
// principal do not exist here.
func (n naming) principal(arn string) (id string, err error) {
	if arn == "" {
		return "", invalid("a principal is required")
	}
	resource, err := n.resource(arn)
	if err != nil {
		return "", err
	}
	id, ok := registry.Target(resource).Certificate()
	if !ok {
		return "", invalid("%q is not the ARN of a certificate", clip(arn))
	}
	return id, checkCertificateID(id)
}

// named returns name or, where that is empty, what follows prefix in arn.
func (n naming) named(name, arn, prefix string) (string, error) {
	if name != "" || arn == "" {
		return name, nil
	}
	resource, err := n.resource(arn)
	if err != nil {
		return "", err
	}
	name, ok := strings.CutPrefix(resource, prefix)
	if !ok {
		return "", invalid("%q is not the ARN of a %s", clip(arn), strings.TrimSuffix(prefix, "/"))
	}
	return name, nil
}

var certificateIDPattern = regexp.MustCompile(`^[a-f0-9]{64}$`)

func checkCertificateID(id string) error {
	if !certificateIDPattern.MatchString(id) {
		return invalid("certificate id %q must be 64 lower-case hexadecimal digits", clip(id))
	}
	return nil
}
