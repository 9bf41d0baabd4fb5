package config_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/internal/config"
)

func TestTunnelServicesArePortsOrAddresses(t *testing.T) {
	for value, want := range map[string]string{
		"22":                  "127.0.0.1:22",
		"'022'":               "127.0.0.1:22",
		"192.168.0.10:80":     "192.168.0.10:80",
		"'[::1]:5900'":        "[::1]:5900",
		"camera.local:554":    "camera.local:554",
		"0":                   "",
		"65536":               "",
		"-1":                  "",
		"ssh":                 "",
		"':22'":               "",
		"localhost":           "",
		"'localhost:ssh'":     "",
		"'::1:22'":            "",
		"[22]":                "",
		"http://127.0.0.1:80": "",
	} {
		c, err := load(t, good+"agent: {tunnel: {services: {SSH: "+value+"}}}\n", config.Sources{})
		if want == "" {
			if problems, ok := errors.AsType[config.Problems](err); !ok || problems[0].Key != "agent.tunnel.services" || problems[0].Origin.Line == 0 {
				t.Errorf("%s: %v", value, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", value, err)
		} else if diff := cmp.Diff(map[string]string{"SSH": want}, c.Agent.Tunnel.Addresses()); diff != "" {
			t.Errorf("%s: %s", value, diff)
		}
	}
	for _, services := range []string{"{a/b: 22}", "{'': 22}", "{SSH: 22, SSH: 23}", "22", "[SSH]"} {
		if _, err := load(t, good+"agent: {tunnel: {services: "+services+"}}\n", config.Sources{}); err == nil {
			t.Errorf("%s is accepted", services)
		}
	}
	if c, err := load(t, good, config.Sources{}); err != nil || len(c.Agent.Tunnel.Addresses()) != 0 {
		t.Errorf("by default: %+v, %v", c.Agent.Tunnel, err)
	}
}

func TestTunnelEndpointIsAHostWithOrWithoutPort(t *testing.T) {
	for value, want := range map[string]int{
		"localhost:8480": 8480,
		"data.tunneling.iot.eu-central-1.amazonaws.com":    443,
		"tunnel.example.com":                               443,
		"data.tunneling.iot.REGION.amazonaws.com":          0,
		"wss://data.tunneling.iot.us-east-1.amazonaws.com": 0,
		"abc-ats.iot.us-east-1.amazonaws.com":              0,
		"localhost:x":                                      0,
		":443":                                             0,
	} {
		c, err := load(t, good+"agent: {tunnel: {endpoint: '"+value+"'}}\n", config.Sources{})
		if want == 0 {
			if problems, ok := errors.AsType[config.Problems](err); !ok || problems[0].Key != "agent.tunnel.endpoint" {
				t.Errorf("%s: %v", value, err)
			}
		} else if _, port := c.Agent.Tunnel.HostPort(); err != nil || port != want {
			t.Errorf("%s: port %d, %v", value, port, err)
		}
	}
}
