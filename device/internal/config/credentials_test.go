package config_test

import (
	"errors"
	"net"
	"strconv"
	"testing"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/config"
)

func TestCredentialsEndpointIsAHostWithOrWithoutPort(t *testing.T) {
	for value, want := range map[string]string{ // empty: a problem
		"abc1.credentials.iot.eu-central-1.amazonaws.com":  "abc1.credentials.iot.eu-central-1.amazonaws.com:443",
		"abc1.credentials.iot.eu-central-1.amazonaws.com.": "abc1.credentials.iot.eu-central-1.amazonaws.com:443",
		"abc1.credentials.iot.cn-north-1.amazonaws.com.cn": "abc1.credentials.iot.cn-north-1.amazonaws.com.cn:443",
		"localhost:8883":                                          "localhost:8883",
		"credentials.example.com":                                 "credentials.example.com:443",
		"abc1-ats.iot.eu-central-1.amazonaws.com":                 "", // that of the devices
		"iot.eu-central-1.amazonaws.com":                          "",
		"xxxx.credentials.iot.REGION.amazonaws.com":               "",
		"https://abc1.credentials.iot.eu-central-1.amazonaws.com": "",
		"localhost:port":                                          "",
		"localhost:0":                                             "",
		"localhost:65536":                                         "",
		":443":                                                    "",
		"a b":                                                     "",
		"a/b":                                                     "",
	} {
		c, err := load(t, good+"# end\n", config.Sources{Flags: []config.Setting{{Key: "server.credentialsendpoint", Value: value, Flag: "--set"}}})
		if want == "" {
			problems, ok := errors.AsType[config.Problems](err)
			if !ok || len(problems) != 1 || problems[0].Key != "server.credentialsEndpoint" {
				t.Errorf("%q: got %v", value, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", value, err)
			continue
		}
		host, port, err := c.CredentialsProvider()
		if got := net.JoinHostPort(host, strconv.Itoa(port)); err != nil || got != want {
			t.Errorf("%q: got %s, %v", value, got, err)
		}
	}
}

func TestMissingCredentialsEndpointIsAProblemOnlyWhereItIsNeeded(t *testing.T) {
	c, err := load(t, good, config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.CredentialsProvider(); awsiot.ClassOf(err) != awsiot.Misconfigured {
		t.Errorf("got %v", err)
	}
}
