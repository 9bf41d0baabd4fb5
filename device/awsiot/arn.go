package awsiot

import (
	"fmt"
	"strings"
)

// An ARN is an Amazon Resource Name. Region and Account are empty for
// resources that have none.
//
// AWS page: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
type ARN struct {
	Partition, Service, Region, Account string
	Resource                            string // the rest, such as "thing/NAME", "cert/ID" or "function:NAME"
}

// ParseARN splits an ARN. Its parts may hold any text, wildcards included; the
// partition, the service and the resource must not be empty.
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

// PartitionOf returns the partition of a Region: "aws-cn" for cn-north-1,
// "aws-us-gov" for us-gov-west-1, "aws" for every Region without a partition
// of its own.
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
