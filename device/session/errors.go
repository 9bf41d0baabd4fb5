package session

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
)

// A Stage is the step of a connection's life at which an error arose.
type Stage string

// The stages, in the order in which a connection passes them.
const (
	StageOptions     Stage = "options"     // the options cannot be used
	StageResolve     Stage = "resolve"     // finding the addresses of the endpoint
	StageDial        Stage = "dial"        // opening the TCP connection
	StageProxy       Stage = "proxy"       // reaching an HTTP proxy and asking it for a tunnel
	StageTLS         Stage = "tls"         // the TLS handshake, as far as the client can see it
	StageConnect     Stage = "connect"     // from CONNECT to CONNACK, TLS 1.3 client authentication included
	StageSubscribe   Stage = "subscribe"   // from SUBSCRIBE to SUBACK
	StagePublish     Stage = "publish"     // from PUBLISH to PUBACK
	StageUnsubscribe Stage = "unsubscribe" // from UNSUBSCRIBE to UNSUBACK
	StageRequest     Stage = "request"     // from an HTTP request to its response, see [Get]
	StageLost        Stage = "lost"        // an established connection that ended with nothing unanswered
)

// Causes to look for with [errors.Is].
var (
	// ErrClosedSilently: the server closed the connection without a response while a packet was
	// unanswered. AWS IoT denies that way: CONNECT, SUBSCRIBE and PUBLISH that no policy allows all
	// end like this, and so does a connection over a quota, or on a network that breaks down.
	// Error.After names the packet. One such end, or several within seconds, prove nothing.
	ErrClosedSilently = errors.New("server closed the connection without a response")

	ErrNoServerHello = errors.New("no response to the TLS ClientHello") // with and without ML-KEM
	ErrProtocol      = errors.New("server broke MQTT")                  // sent what is not MQTT 3.1.1, or not at that time
	ErrLimit         = errors.New("AWS IoT would reject the request")   // exceeds a limit and was not sent
	ErrCertificate   = errors.New("obtaining the client certificate")   // Options.Certificate returned an error
	ErrNotConnected  = errors.New("session is closed")                  // by Close
	ErrSigning       = errors.New("signing with the private key")       // the key failed, which may be in hardware, not the network
)

// A timeoutError is a [context.DeadlineExceeded] that says what has taken how long, and only that.
type timeoutError string

func (e timeoutError) Error() string { return string(e) }
func (timeoutError) Unwrap() error   { return context.DeadlineExceeded }

// An Error is the end of an attempt or of a session. Find it with [errors.As]; find its cause (a
// [*ConnackError], [*SubackError], [*ProxyError], [*awsiot.ValidityError], [tls.AlertError],
// [*net.DNSError], [x509.UnknownAuthorityError], [ErrClosedSilently] and so on) likewise.
type Error struct {
	Stage    Stage
	Endpoint string // host:port of the server that was wanted
	Address  string // the address that was reached, if any: the server's or the proxy's
	// Authenticated: the server had proved with its certificate that it is the endpoint. Before
	// that, what comes may be from a captive portal or from another device on the way.
	Authenticated bool
	After         string   // the oldest unanswered packet: "CONNECT", "SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH" or ""
	Topics        []string // the topic filters of that SUBSCRIBE, or the topic of that PUBLISH
	Err           error

	https bool
}

// Unanswered returns the packet after which the server closed the connection without a response, as
// AWS IoT does to deny it: the After of an [*Error] with [ErrClosedSilently]. It is empty for other
// errors, and where nothing was unanswered.
func Unanswered(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && errors.Is(err, ErrClosedSilently) {
		return e.After
	}
	return ""
}

// Error returns step, place and cause in one line. Characters of the server's
// choice that could forge a line are escaped.
func (e *Error) Error() string {
	topics := strings.Join(e.Topics, ", ")
	doing := map[Stage]string{
		StageOptions:     "preparing to connect",
		StageResolve:     "resolving " + e.Endpoint,
		StageDial:        "opening a connection to " + e.Endpoint,
		StageProxy:       "asking proxy " + e.Address + " for a tunnel to " + e.Endpoint,
		StageTLS:         "negotiating TLS with " + e.Endpoint + e.unsuitable(),
		StageConnect:     "connecting to " + e.Endpoint + e.unsuitable(),
		StageRequest:     "requesting from " + e.Endpoint,
		StageSubscribe:   "subscribing to " + topics,
		StageUnsubscribe: "unsubscribing from " + topics,
		StagePublish:     "publishing to " + topics,
		StageLost:        "connection to " + e.Endpoint + " lost",
	}
	return awsiot.Printable(doing[e.Stage] + ": " + e.Err.Error())
}

// unsuitable explains an endpoint that AWS IoT speaks no MQTT at, or that is an address: TLS sends
// no server name for it (RFC 6066, section 3), and AWS IoT requires one.
func (e *Error) unsuitable() string {
	host, _, err := net.SplitHostPort(e.Endpoint)
	if _, notAddress := netip.ParseAddr(host); err == nil && notAddress == nil {
		return " (an address sends no SNI, which AWS IoT requires; use the endpoint's host name)"
	}
	if kind := awsiot.ParseEndpoint(host).Kind; !kind.MQTT() && !e.https {
		return fmt.Sprintf(" (the %s, which does not speak MQTT)", kind)
	}
	return ""
}

func (e *Error) Unwrap() error { return e.Err }

// Class returns the error's class. Until the server has authenticated, every failure of time,
// names, network and TLS is [awsiot.Temporary]: clocks are set and networks come up while a device
// boots. After that only a CONNACK or a TLS alert about the client is [awsiot.Denied].
func (e *Error) Class() awsiot.Class {
	switch {
	case errors.Is(e.Err, context.Canceled):
		return awsiot.Interrupted
	case errors.Is(e.Err, ErrSigning):
		return awsiot.ClassOf(e.Err) // the key's: it may be in hardware that is busy
	case e.Stage == StageOptions:
		return awsiot.Misconfigured
	case errors.Is(e.Err, ErrLimit), errors.Is(e.Err, ErrCertificate):
		return awsiot.Failed
	case e.Authenticated && denies(e.Err):
		return awsiot.Denied
	}
	return awsiot.Temporary
}

// denyingAlerts are those about the client and its certificate (RFC 8446, section 6.2).
var denyingAlerts = []tls.AlertError{
	40,                     // handshake_failure: in TLS 1.2 also "no certificate"
	42, 43, 44, 45, 46, 48, // bad, unsupported, revoked, expired, unknown certificate; unknown_ca
	49, 51, 116, // access_denied, decrypt_error, certificate_required
}

func denies(err error) bool {
	if alert, ok := errors.AsType[tls.AlertError](err); ok {
		return slices.Contains(denyingAlerts, alert)
	}
	connack, ok := errors.AsType[*ConnackError](err)
	return ok && connack.Code != connackUnavailable
}

// A ConnackError is the rejection of a CONNECT by a CONNACK packet (MQTT 3.1.1, section 3.2.2.3).
type ConnackError struct {
	Code byte // 1 to 5 as in MQTT; 7 is what older AWS pages name for "not authorized"
}

const connackUnavailable = 3

var connackReasons = map[byte]string{
	1: "unacceptable protocol version",
	2: "client id rejected",
	3: "server unavailable",
	4: "bad user name or password",
	5: "not authorized",
	7: "not authorized",
}

func (e *ConnackError) Error() string {
	return fmt.Sprintf("rejected by the server: %s (CONNACK return code %d)", cmp.Or(connackReasons[e.Code], "unknown reason"), e.Code)
}

// A SubackError lists the topic filters of a SUBSCRIBE that were rejected with
// return code 0x80. AWS IoT does so when a subscription quota is reached;
// filters that no policy allows end in [ErrClosedSilently] instead.
type SubackError struct{ Filters []string }

func (e *SubackError) Error() string {
	return "rejected by the server (SUBACK return code 0x80): " + strings.Join(e.Filters, ", ")
}

// A ProxyError is a proxy's answer to CONNECT other than success.
type ProxyError struct {
	StatusCode int    // 407: credentials wanted; 403: this host or port is forbidden
	Status     string // as received, such as "407 Proxy Authentication Required"
	// Schemes are the authentication schemes that the proxy offers with 407.
	// Only Basic is supported.
	Schemes []string
}

// Error returns the proxy's answer, and the schemes if Basic is not among them.
func (e *ProxyError) Error() string {
	text := "proxy answered " + awsiot.Printable(e.Status)
	basic := slices.ContainsFunc(e.Schemes, func(s string) bool { return strings.EqualFold(s, "Basic") })
	if len(e.Schemes) > 0 && !basic {
		text += "; it accepts only " + awsiot.Printable(strings.Join(e.Schemes, " and ")) + " authentication, this program only Basic"
	}
	return text
}
