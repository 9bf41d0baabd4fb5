package config

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"

	"example.com/fleety/device/awsiot"
)

// Tunnel says what secure tunneling may reach; without services nothing.
type Tunnel struct {
	Services map[string]string // by name: a port of this device, or HOST:PORT
	Endpoint string            // host of the data plane, with its port if that is not 443; empty: that of the Region
}

// Addresses returns the services as HOST:PORT.
func (t Tunnel) Addresses() map[string]string {
	addresses := map[string]string{}
	for name, value := range t.Services {
		addresses[name], _ = serviceAddress(value)
	}
	return addresses
}

// HostPort returns host and port of Endpoint, an empty host without one.
func (t Tunnel) HostPort() (host string, port int) { return splitHostPort(t.Endpoint) }

// serviceAddress reads PORT, which stands for 127.0.0.1:PORT, or HOST:PORT.
func serviceAddress(value string) (address string, ok bool) {
	host, text, err := net.SplitHostPort(value)
	if err != nil {
		host, text = "127.0.0.1", value
	}
	port, err := strconv.ParseUint(text, 10, 16)
	return net.JoinHostPort(host, strconv.FormatUint(port, 10)), err == nil && port > 0 && fitsDNS(host)
}

func (v *validation) tunnel() {
	t := v.c.Agent.Tunnel
	for _, name := range slices.Sorted(maps.Keys(t.Services)) {
		if !awsiot.ValidTunnelService(name) {
			v.bad(servicesKey, fmt.Sprintf("service %q is not a name that AWS IoT allows", name), "use only a-z A-Z 0-9 : _ -, 128 characters at most")
		}
		if _, ok := serviceAddress(t.Services[name]); !ok {
			v.bad(servicesKey, fmt.Sprintf("service %q is at %q, which is neither a port nor HOST:PORT", name, t.Services[name]), "set it to a port of this device, as in {SSH: 22}")
		}
	}
	v.hostPort("agent.tunnel.endpoint", t.Endpoint, awsiot.EndpointTunneling, "remove it: it follows from the Region")
}
