package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"example.com/fleety/device/session"
)

const serverName = "server-certificate"

// server looks at the server's certificates before it trusts any of them, so
// that the reason of a distrust can be told.
func (e *examination) server(ctx context.Context) {
	if e.port == 0 {
		e.skip(serverName, "no port is open")
		return
	}
	state, err := e.greet(ctx)
	if len(state.PeerCertificates) == 0 {
		e.noTLS(err)
		return
	}
	e.judgeChain(state.PeerCertificates)
	e.alpn(state, err)
}

// greet runs a handshake without a certificate of our own and returns what the
// server showed, also when it hangs up after that.
func (e *examination) greet(ctx context.Context) (state tls.ConnectionState, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	o := e.options()
	o.Port = e.port
	conn, err := session.Dial(ctx, o)
	if err != nil {
		return state, err
	}
	defer conn.Close()
	c := &tls.Config{
		ServerName:         o.Endpoint,
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // nothing is sent; judgeChain verifies
		VerifyConnection: func(s tls.ConnectionState) error {
			state = s
			return nil
		},
	}
	if e.port == 443 {
		c.NextProtos = []string{session.ALPNProtocol}
	}
	return state, tls.Client(conn, c).HandshakeContext(ctx)
}

func (e *examination) noTLS(err error) {
	switch _, plain := errors.AsType[tls.RecordHeaderError](err); {
	case plain:
		e.fail(serverName, session.ClassConfig, "what answers does not speak TLS",
			"a captive portal or a proxy probably answers in the server's place, or the port is wrong",
			"log in to the network, set server.proxy, or correct server.port")
	case errors.Is(err, context.DeadlineExceeded):
		e.fail(serverName, session.ClassTemporary, "the server says nothing", "a proxy or firewall probably swallows TLS", "check the network between here and the endpoint")
	default:
		e.fail(serverName, session.ClassTemporary, "the TLS handshake failed: "+err.Error(), "a proxy, a firewall, or a port that is not the one for MQTT", "check server.endpoint and server.port")
	}
}

// judgeChain verifies the chain against the bundle and explains what is wrong.
func (e *examination) judgeChain(chain []*x509.Certificate) {
	leaf := chain[0]
	e.noEarlierThan(leaf, "the server's certificate")
	if e.roots == nil {
		e.skip(serverName, "there are no roots to judge it by")
		return
	}
	verified, err := leaf.Verify(e.verifyOptions(chain))
	if err == nil {
		e.trusted = true
		top := verified[0][len(verified[0])-1]
		e.ok(serverName, fmt.Sprintf("%q, valid until %s, from root %q", leaf.Subject, date(leaf.NotAfter), top.Subject.CommonName))
		return
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		e.fail(serverName, session.ClassConfig, fmt.Sprintf("it is for %s, not for %s", strings.Join(leaf.DNSNames, ", "), e.Settings.Server.Endpoint),
			"another server answers: the endpoint is wrong, or a proxy or captive portal stands in its place", "check server.endpoint; log in to the network")
		return
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		e.fail(serverName, session.ClassConfig, fmt.Sprintf("%q expired on %s", invalid.Cert.Subject, date(invalid.Cert.NotAfter)),
			"the clock says "+date(e.rightTime())+": either it is ahead, or the server or the bundle is out of date", "check the clock; then "+removeBundle)
		return
	}
	e.unknownRoot(chain[len(chain)-1], err)
}

func (e *examination) verifyOptions(chain []*x509.Certificate) x509.VerifyOptions {
	o := x509.VerifyOptions{
		DNSName:       e.Settings.Server.Endpoint,
		Roots:         e.roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   e.rightTime(),
	}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	return o
}

// removeBundle is the way back to roots that are known to be right.
const removeBundle = "remove bootstrap.cacertificatepath to use the Amazon roots of this program"

// unknownRoot names the root that the bundle lacks: the issuer at the top of
// the chain.
func (e *examination) unknownRoot(top *x509.Certificate, err error) {
	bundle := e.rootsFrom
	missing := top.Issuer.CommonName
	if missing == "" {
		missing = top.Issuer.String()
	}
	found := fmt.Sprintf("%s does not hold its root, %q", bundle, missing)
	const renew = "" + removeBundle
	switch {
	case !isUnknownAuthority(err):
		e.fail(serverName, session.ClassConfig, "it cannot be verified: "+err.Error(), "", removeBundle)
	case isAWSRoot(missing):
		e.fail(serverName, session.ClassConfig, found, "the bundle is incomplete", removeBundle)
	case strings.Contains(missing, "VeriSign") || strings.Contains(missing, "Symantec"):
		e.fail(serverName, session.ClassConfig, found, "this is the legacy endpoint, whose root is trusted no more",
			`set server.endpoint to what "aws iot describe-endpoint --endpoint-type iot:Data-ATS" prints`)
	case e.onAWS():
		e.fail(serverName, session.ClassConfig, found, "this is none of AWS's roots: a proxy that opens TLS, or a captive portal, answers in the server's place",
			"have the proxy let "+e.Settings.Server.Endpoint+" through unopened; log in to the network")
	case holdsName(e.bundle, missing):
		e.fail(serverName, session.ClassConfig, "its root has the name of one in "+bundle+" and another key", "the server was set up anew since",
			"copy the server's root again")
	default:
		e.fail(serverName, session.ClassConfig, found, "the bundle belongs to another server", "set bootstrap.cacertificatepath to this server's root")
	}
}

func isUnknownAuthority(err error) bool {
	_, ok := errors.AsType[x509.UnknownAuthorityError](err)
	return ok
}

func holdsName(bundle []*x509.Certificate, commonName string) bool {
	for _, c := range bundle {
		if c.Subject.CommonName == commonName {
			return true
		}
	}
	return false
}

// alpn checks that port 443 leads to MQTT and not to HTTPS.
func (e *examination) alpn(state tls.ConnectionState, err error) {
	const name = "alpn"
	switch {
	case e.port != 443:
		e.skip(name, fmt.Sprintf("port %d uses none", e.port))
	case state.NegotiatedProtocol == session.ALPNProtocol:
		e.ok(name, session.ALPNProtocol)
	default:
		cause := "a proxy that opens TLS, or a server that is not AWS IoT"
		if err != nil {
			cause = err.Error()
		}
		e.fail(name, session.ClassConfig, "the server does not take "+session.ALPNProtocol, cause, "check server.endpoint, or use server.port 8883")
	}
}
