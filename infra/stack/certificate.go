package stack

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// howToGetOne ends every error about certificateArn.
const howToGetOne = "scripts/create-keys-and-cert.sh creates a claim certificate and prints its ARN; " +
	"then run: cdk deploy -c certificateArn=ARN"

// A Certificate is a claim certificate, known by its ARN alone:
// arn:PARTITION:iot:REGION:ACCOUNT:cert/ID, where ID is the SHA-256 of the
// certificate in lower-case hexadecimal digits.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-action-resources.html
type Certificate struct {
	ARN, Partition, Region, Account, ID string
}

var certificateARN = regexp.MustCompile(`^arn:(aws[a-z-]*):iot:([a-z]+(?:-[a-z0-9]+)+):([0-9]{12}):cert/([0-9a-f]{64})$`)

func parseCertificate(arn string) (Certificate, error) {
	m := certificateARN.FindStringSubmatch(arn)
	if m == nil {
		return Certificate{}, fmt.Errorf("certificateArn: %.200q is not the ARN of an AWS IoT certificate, "+
			"arn:aws:iot:REGION:ACCOUNT:cert/ID with 64 lower-case hexadecimal digits as ID; %s", arn, howToGetOne)
	}
	c := Certificate{ARN: m[0], Partition: m[1], Region: m[2], Account: m[3], ID: m[4]}
	if p := partitionOf(c.Region); p != c.Partition {
		return Certificate{}, fmt.Errorf("certificateArn: %s is in partition %s, but Region %s is in %s; copy the ARN as AWS IoT prints it; %s",
			arn, c.Partition, c.Region, p, howToGetOne)
	}
	return c, nil
}

// partitionOf is the partition of a Region, by the first letters of its name.
//
// AWS page: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
func partitionOf(region string) string {
	for _, p := range []struct{ regions, partition string }{
		{"cn-", "aws-cn"}, {"us-gov-", "aws-us-gov"}, {"us-iso-", "aws-iso"}, {"us-isob-", "aws-iso-b"},
		{"eu-isoe-", "aws-iso-e"}, {"us-isof-", "aws-iso-f"}, {"eusc-", "aws-eusc"},
	} {
		if strings.HasPrefix(region, p.regions) {
			return p.partition
		}
	}
	return "aws"
}

// parseCertificates reads a comma-separated list of ARNs, at least one. They
// must be of one account and Region, because the stack is.
func parseCertificates(list string) ([]Certificate, error) {
	if strings.TrimSpace(list) == "" {
		return nil, errors.New("certificateArn is missing; " + howToGetOne)
	}
	var certificates []Certificate
	seen := map[string]bool{}
	for arn := range strings.SplitSeq(list, ",") {
		c, err := parseCertificate(strings.TrimSpace(arn))
		if err != nil {
			return nil, err
		}
		if seen[c.ARN] {
			return nil, fmt.Errorf("certificateArn: %s is given twice; give each claim certificate once", c.ARN)
		}
		seen[c.ARN] = true
		certificates = append(certificates, c)
		if first := certificates[0]; c.Partition != first.Partition || c.Region != first.Region || c.Account != first.Account {
			return nil, fmt.Errorf("certificateArn: %s and %s are of different accounts or Regions; "+
				"deploy once for each account and Region, with its own claim certificates", first.ARN, c.ARN)
		}
	}
	return certificates, nil
}
