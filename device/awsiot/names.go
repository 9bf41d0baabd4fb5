package awsiot

import (
	"fmt"
	"strings"
)

// The rules for names, as text for messages. Each belongs to the function of the same subject
// below.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_Types.html
const (
	ThingNameRule    = "1 to 128 characters of a-z A-Z 0-9 : _ -"
	TemplateNameRule = "1 to 36 characters of a-z A-Z 0-9 _ -"
	PolicyNameRule   = "1 to 128 characters of a-z A-Z 0-9 _ + = , . @ -"
	RoleAliasRule    = "1 to 128 characters of a-z A-Z 0-9 _ = , @ -"
	ShadowNameRule   = "1 to 64 characters of a-z A-Z 0-9 : _ - $"

	AttributeNameRule  = "1 to 128 characters of a-z A-Z 0-9 _ . , @ / : # -"
	AttributeValueRule = "at most 800 characters of a-z A-Z 0-9 _ . , @ / : # = [ ] -"
)

// Limits of a thing.
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
const (
	MaxAttributes        = 50 // of a thing with a type
	MaxAttributesUntyped = 3
	MaxGroupsPerThing    = 10
)

// ValidThingName reports whether a thing, thing type, thing group or billing group may have the
// name.
func ValidThingName(name string) bool { return within(name, 128, ":_-") }

// ValidJobID reports whether a job may have the id.
func ValidJobID(id string) bool { return within(id, 64, "_-") }

// ValidJobDetailKey reports whether the status details of a job execution may have the key.
func ValidJobDetailKey(key string) bool { return within(key, 128, ":_-") }

// ValidTemplateName reports whether a provisioning template may have the name.
func ValidTemplateName(name string) bool { return within(name, 36, "_-") }

// ValidPolicyName reports whether a policy may have the name.
func ValidPolicyName(name string) bool { return within(name, 128, "_+=,.@-") }

// ValidRoleAlias reports whether a role alias may have the name.
func ValidRoleAlias(name string) bool { return within(name, 128, "_=,@-") }

// ValidShadowName reports whether a named shadow may have the name. The empty name is that of the
// classic shadow and not valid here. AWS itself uses $ in the name $package.
func ValidShadowName(name string) bool { return within(name, 64, ":_-$") }

// ValidAttributeName reports whether an attribute of a thing may have the name.
func ValidAttributeName(name string) bool { return within(name, 128, "_.,@/:#-") }

// ValidAttributeValue reports whether an attribute of a thing may have the value.
func ValidAttributeValue(value string) bool { return value == "" || within(value, 800, "_.,@/:#=[]-") }

// ValidCertificateID reports whether the text has the form of [CertificateID].
func ValidCertificateID(id string) bool {
	return len(id) == 64 && strings.Trim(id, "0123456789abcdef") == ""
}

// within reports whether name has 1 to most ASCII letters, digits and characters of others.
func within(name string, most int, others string) bool {
	for i := range len(name) {
		c := name[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		digit := '0' <= c && c <= '9'
		if !letter && !digit && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return 0 < len(name) && len(name) <= most
}

// An ARN is an Amazon Resource Name. Region and Account are empty for resources that have none.
//
// AWS page: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
type ARN struct {
	Partition, Service, Region, Account string
	Resource                            string // the rest, such as "thing/NAME", "cert/ID" or "function:NAME"
}

// ParseARN splits an ARN. Its parts may hold any text, wildcards included; the partition, the
// service and the resource must not be empty.
func ParseARN(text string) (ARN, error) {
	part := strings.SplitN(text, ":", 6)
	if len(part) != 6 || part[0] != "arn" || part[1] == "" || part[2] == "" || part[5] == "" {
		return ARN{}, fmt.Errorf("%q does not have the form arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE", text)
	}
	return ARN{part[1], part[2], part[3], part[4], part[5]}, nil
}

// String returns the ARN as AWS writes it.
func (a ARN) String() string {
	return "arn:" + a.Partition + ":" + a.Service + ":" + a.Region + ":" + a.Account + ":" + a.Resource
}

// PartitionOf returns the partition of a Region: "aws-cn" for cn-north-1, "aws-us-gov" for
// us-gov-west-1, "aws" for every Region without a partition of its own.
//
// AWS page: https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/partitions.html
func PartitionOf(region string) string {
	for _, p := range []struct{ prefix, partition string }{
		{"cn-", "aws-cn"}, {"us-gov-", "aws-us-gov"}, {"eusc-", "aws-eusc"},
		{"us-iso-", "aws-iso"}, {"us-isob-", "aws-iso-b"}, {"eu-isoe-", "aws-iso-e"}, {"us-isof-", "aws-iso-f"},
	} {
		if strings.HasPrefix(region, p.prefix) {
			return p.partition
		}
	}
	return "aws"
}
