package awsiot

import (
	"fmt"
	"strings"
)

// A NameRule says what AWS IoT allows as a name: how many characters, and which.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_Types.html
type NameRule struct {
	least, most int
	others      string // besides ASCII letters and digits
}

// The rules for names.
var (
	ThingNames      = NameRule{1, 128, ":_-"} // also of thing types, thing groups and billing groups
	TemplateNames   = NameRule{1, 36, "_-"}
	PolicyNames     = NameRule{1, 128, "_+=,.@-"}
	RoleAliases     = NameRule{1, 128, "_=,@-"}
	ShadowNames     = NameRule{1, 64, ":_-$"} // of named shadows; AWS itself uses $ in the name $package
	AttributeNames  = NameRule{1, 128, "_.,@/:#-"}
	AttributeValues = NameRule{0, 800, "_.,@/:#=[]-"}
	JobIDs          = NameRule{1, 64, "_-"}
	JobDetailKeys   = NameRule{1, 128, ":_-"}
	TunnelServices  = NameRule{1, 128, ":_-"}
)

// Valid reports whether the rule allows a name.
func (r NameRule) Valid(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		digit := '0' <= c && c <= '9'
		if !letter && !digit && strings.IndexByte(r.others, c) < 0 {
			return false
		}
	}
	return r.least <= len(name) && len(name) <= r.most
}

// String returns the rule as text for messages: "1 to 128 characters of a-z A-Z 0-9 : _ -".
func (r NameRule) String() string {
	least := "at most"
	if r.least > 0 {
		least = fmt.Sprint(r.least, " to")
	}
	return fmt.Sprintf("%s %d characters of a-z A-Z 0-9 %s", least, r.most, strings.Join(strings.Split(r.others, ""), " "))
}

// Limits of a thing.
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
const (
	MaxAttributes        = 50 // of a thing with a type
	MaxAttributesUntyped = 3
	MaxGroupsPerThing    = 10
)

// ValidCertificateID reports whether the text has the form of [CertificateID].
func ValidCertificateID(id string) bool {
	return len(id) == 64 && strings.Trim(id, "0123456789abcdef") == ""
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
