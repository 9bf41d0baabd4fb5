package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

// dns looks the endpoint up, unless a proxy will do that.
func (r *run) dns(ctx context.Context) {
	const name = "dns"
	host := r.Settings.Server.Endpoint
	proxy, err := r.options().ProxyURL()
	if err != nil {
		r.unknown = true
		// The address may be malformed around its password, so it is not shown.
		r.fail("proxy", awsiot.Misconfigured, "the proxy's address cannot be used", cause("proxy-address"))
		return
	}
	if proxy != nil {
		r.ok("proxy", proxy.Redacted()+" is asked for tunnels")
		host = proxy.Hostname()
	}
	if net.ParseIP(host) != nil {
		r.skip(name, host+" is an address")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	addresses, err := r.Resolve(ctx, host)
	if err == nil {
		r.ok(name, host+" is "+strings.Join(addresses, ", "))
		return
	}
	r.unknown = true
	c := cause("name-service", "host", host)
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		c = cause("name-unknown", "host", host)
	}
	if proxy != nil {
		c.Remedy = cause("proxy-down").Remedy
	}
	r.fail(name, awsiot.Temporary, host+": "+err.Error(), c)
}

// tcp opens a connection to the configured port, and to the other one that
// AWS IoT has, which may pass where a firewall blocks the first.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html
func (r *run) tcp(ctx context.Context) {
	if r.unknown {
		r.skip("tcp", "there is no address to connect to")
		return
	}
	configured := r.Settings.Server.Port
	other := 443
	if configured == 443 {
		other = session.DefaultPort
	}
	err := r.dial(ctx, configured)
	otherErr := error(nil)
	if r.onAWS() {
		otherErr = r.dial(ctx, other)
	}
	switch {
	case err == nil:
		r.port = configured
		r.ok(portName(configured), "open")
	case r.onAWS() && otherErr == nil:
		r.port = other
		r.fail(portName(configured), awsiot.Temporary, err.Error(), cause("port-blocked", "port", strconv.Itoa(configured), "other", strconv.Itoa(other)))
	default:
		r.failure(portName(configured), err)
	}
	switch {
	case !r.onAWS():
		r.skip(portName(other), "only AWS endpoints have it")
	case otherErr == nil:
		r.ok(portName(other), "open")
	default:
		r.skip(portName(other), fmt.Sprintf("closed, and not needed with server.port %d", configured))
	}
}

func portName(port int) string { return "tcp-" + strconv.Itoa(port) }

func (r *run) dial(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	o := r.options()
	o.Port = port
	conn, err := session.Dial(ctx, o)
	if err != nil {
		return err
	}
	return conn.Close()
}
