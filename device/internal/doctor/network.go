package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"example.com/fleety/device/session"
)

// dns looks the endpoint up, unless a proxy will do that.
func (e *examination) dns(ctx context.Context) {
	const name = "dns"
	host := e.Settings.Server.Endpoint
	proxy, err := e.options().ProxyURL()
	if err != nil {
		e.fail(name, session.ClassConfig, err.Error(), "", "correct server.proxy, HTTPS_PROXY or NO_PROXY")
		return
	}
	if proxy != nil {
		e.ok("proxy", proxy.Redacted()+" is asked for tunnels")
		host = proxy.Hostname()
	}
	if net.ParseIP(host) != nil {
		e.skip(name, host+" is an address")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	addresses, err := e.Resolve(ctx, host)
	if err == nil {
		e.ok(name, host+" is "+strings.Join(addresses, ", "))
		return
	}
	e.unknown = true
	e.noAddress(name, host, proxy, err)
}

func (e *examination) noAddress(name, host string, proxy *url.URL, err error) {
	found := host + " could not be looked up"
	if dns, ok := errors.AsType[*net.DNSError](err); !ok || !dns.IsNotFound {
		e.fail(name, session.ClassTemporary, found, err.Error(), "check that the device is online, and that the name server of the network answers")
		return
	}
	remedy := "check server.endpoint for a slip"
	if proxy != nil {
		remedy = "check the address of the proxy"
	}
	e.fail(name, session.ClassConfig, found, "there is no such host", remedy)
}

// tcp opens a connection to the configured port, and to the other one that
// AWS IoT has, which is a way out where a firewall stands in the way.
// https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html
func (e *examination) tcp(ctx context.Context) {
	if e.unknown {
		e.skip("tcp", "there is no address to connect to")
		return
	}
	configured := e.Settings.Server.Port
	other := 443
	if configured == 443 {
		other = session.DefaultPort
	}
	err := e.dial(ctx, configured)
	var otherErr error
	if e.onAWS() {
		otherErr = e.dial(ctx, other)
	}
	switch {
	case err == nil:
		e.port = configured
		e.ok(portName(configured), "open")
	case e.onAWS() && otherErr == nil:
		e.port = other
		e.fail(portName(configured), session.ClassConfig, err.Error(), "a firewall probably stops it", fmt.Sprintf("set server.port to %d, which is open", other))
	default:
		cause, remedy := e.whyNoConnection(err)
		e.fail(portName(configured), classOf(err), err.Error(), cause, remedy)
	}
	switch {
	case !e.onAWS():
		e.skip(portName(other), "only AWS IoT's own endpoints have it")
	case otherErr == nil:
		e.ok(portName(other), "open")
	default:
		e.skip(portName(other), "closed, and not needed with server.port "+strconv.Itoa(configured))
	}
}

func portName(port int) string { return "tcp-" + strconv.Itoa(port) }

func (e *examination) dial(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	o := e.options()
	o.Port = port
	conn, err := session.Dial(ctx, o)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (e *examination) whyNoConnection(err error) (cause, remedy string) {
	if refusal, ok := errors.AsType[*session.ProxyError](err); ok {
		if refusal.StatusCode == 407 {
			return "the proxy wants a user and a password", "write them into server.proxy: http://USER:PASSWORD@HOST:PORT"
		}
		return "the proxy does not let this host and port through", "ask its administrator to allow it, or try server.port 443"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there, or a firewall refuses", "check server.endpoint and server.port"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "the device has no route to the network", "check that the device is online"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer: a firewall probably drops what is sent", "let the port out, or set server.proxy"
	}
	return "", "check that the device is online"
}

// classOf returns the class of an error of package session.
func classOf(err error) session.Class {
	if e, ok := errors.AsType[*session.Error](err); ok {
		return e.Class()
	}
	return session.ClassFailed
}
