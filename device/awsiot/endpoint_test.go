package awsiot_test

import (
	"testing"

	"example.com/fleety/device/awsiot"
)

func TestEndpointKindFollowsFromTheHostName(t *testing.T) {
	t.Parallel()
	tests := map[string]awsiot.Endpoint{
		"a1b2c3-ats.iot.us-east-1.amazonaws.com":                    {Kind: awsiot.EndpointData, Region: "us-east-1", Partition: "aws"},
		"A1B2C3-ATS.iot.eu-central-1.amazonaws.com.":                {Kind: awsiot.EndpointData, Region: "eu-central-1", Partition: "aws"},
		"a1b2c3-ats.iot.eu-west-1.api.aws":                          {Kind: awsiot.EndpointData, Region: "eu-west-1", Partition: "aws"},
		"a1b2c3.ats.iot.cn-north-1.amazonaws.com.cn":                {Kind: awsiot.EndpointData, Region: "cn-north-1", Partition: "aws-cn"},
		"a1b2c3-ats.iot.us-gov-west-1.amazonaws.com":                {Kind: awsiot.EndpointData, Region: "us-gov-west-1", Partition: "aws-us-gov"},
		"data.iot-fips.us-east-1.amazonaws.com":                     {Kind: awsiot.EndpointData, Region: "us-east-1", Partition: "aws"},
		"dbc123defghijk.iot.us-west-2.amazonaws.com":                {Kind: awsiot.EndpointData, Region: "us-west-2", Partition: "aws"},
		"data.iot.us-east-1.amazonaws.com":                          {Kind: awsiot.EndpointLegacyData, Region: "us-east-1", Partition: "aws"},
		"a1b2c3.iot.us-east-1.amazonaws.com":                        {Kind: awsiot.EndpointLegacyData, Region: "us-east-1", Partition: "aws"},
		"a1b2c3.credentials.iot.us-east-1.amazonaws.com":            {Kind: awsiot.EndpointCredentials, Region: "us-east-1", Partition: "aws"},
		"data.credentials.iot-fips.us-west-2.amazonaws.com":         {Kind: awsiot.EndpointCredentials, Region: "us-west-2", Partition: "aws"},
		"a1b2c3.jobs.iot.us-east-1.amazonaws.com":                   {Kind: awsiot.EndpointJobs, Region: "us-east-1", Partition: "aws"},
		"data.jobs.iot-fips.us-east-1.amazonaws.com":                {Kind: awsiot.EndpointJobs, Region: "us-east-1", Partition: "aws"},
		"data.tunneling.iot.ap-southeast-2.amazonaws.com":           {Kind: awsiot.EndpointTunneling, Region: "ap-southeast-2", Partition: "aws"},
		"iot.us-east-1.amazonaws.com":                               {Kind: awsiot.EndpointControlPlane, Region: "us-east-1", Partition: "aws"},
		"iot-fips.us-east-1.amazonaws.com":                          {Kind: awsiot.EndpointControlPlane, Region: "us-east-1", Partition: "aws"},
		"iot.us-east-1.api.aws":                                     {Kind: awsiot.EndpointControlPlane, Region: "us-east-1", Partition: "aws"},
		"iot.cn-northwest-1.api.amazonwebservices.com.cn":           {Kind: awsiot.EndpointControlPlane, Region: "cn-northwest-1", Partition: "aws-cn"},
		"vpce-0a1-x2y.data.iot.us-east-1.vpce.amazonaws.com":        {Kind: awsiot.EndpointVPC, Region: "us-east-1", Partition: "aws"},
		"vpce-0a1-x2y.credentials.iot.us-east-1.vpce.amazonaws.com": {Kind: awsiot.EndpointVPC, Region: "us-east-1", Partition: "aws"},
		"eu-west-1.console.aws.amazon.com":                          {Kind: awsiot.EndpointConsole, Region: "eu-west-1", Partition: "aws"},
		"console.amazonaws.cn":                                      {Kind: awsiot.EndpointConsole, Partition: "aws-cn"},
		"s3.us-east-1.amazonaws.com":                                {Kind: awsiot.EndpointOtherAWS, Region: "us-east-1", Partition: "aws"},
		"localhost":                                                 {},
		"127.0.0.1":                                                 {},
		"::1":                                                       {},
		"iot.example.com":                                           {},
		"a1-ats.iot.us-east-1.amazonaws.com.evil.example":           {},
		"xamazonaws.com":                                            {},
		"":                                                          {},
	}
	for host, want := range tests {
		got := awsiot.ParseEndpoint(host)
		got.Host = ""
		if got != want {
			t.Errorf("ParseEndpoint(%q) = %+v, want %+v", host, got, want)
		}
		if got.AWS() != (want.Kind != awsiot.EndpointOther) {
			t.Errorf("ParseEndpoint(%q).AWS() = %t", host, got.AWS())
		}
	}
}

func FuzzParseEndpoint(f *testing.F) {
	f.Add("a1-ats.iot.us-east-1.amazonaws.com")
	f.Add(".amazonaws.com")
	f.Add("vpce.amazonaws.com")
	f.Fuzz(func(t *testing.T, host string) {
		e := awsiot.ParseEndpoint(host)
		if !e.AWS() && (e.Region != "" || e.Partition != "") {
			t.Errorf("%q is not AWS's and yet %+v", host, e)
		}
	})
}
