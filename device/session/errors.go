package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
)

// A Stage is the step of a connection's life at which an error arose.
type Stage string

// The stages, in the order in which a connection passes them.
const (
	StageOptions   Stage = "options"   // the options cannot be used
	StageResolve   Stage = "resolve"   // finding the addresses of the endpoint or of the proxy
	StageDial      Stage = "dial"      // opening the TCP connection
	StageProxy     Stage = "proxy"     // asking an HTTP proxy for a tunnel
	StageTLS       Stage = "tls"       // the TLS handshake, as far as the client can see it
	StageConnect   Stage = "connect"   // from CONNECT to CONNACK, TLS 1.3 client authentication included
	StageSubscribe Stage = "subscribe" // from SUBSCRIBE to SUBACK
	StagePublish   Stage = "publish"   // from PUBLISH to PUBACK
	StageLost      Stage = "lost"      // an established connection that ended with nothing unanswered
)

// A Class says what may be done about an error.
type Class int

// The classes. The zero value is a defect or a trouble of the local machine.
const (
	ClassFailed    Class = iota // neither waiting nor another configuration will help
	ClassConfig                 // something the owner configured is wrong
	ClassRefused                // the server said no; the same request will be refused again
	ClassTemporary              // the same attempt may succeed later
	ClassCanceled               // the caller's context was cancelled
)

// String returns the class in one lower-case word.
func (c Class) String() string {
	return [...]string{"failed", "config", "refused", "temporary", "canceled"}[c]
}

// ErrClosedSilently is found, with [errors.Is], in the error of a connection
// that the server closed without a word while a packet waited for its answer.
// AWS IoT denies that way: CONNECT, SUBSCRIBE and PUBLISH that no policy
// allows all end like this, and so does a network that breaks down. The
// error's After field tells which packet it was. Its class is temporary,
// since one such end proves nothing: count them, and take several after the
// same packet for a refusal.
var ErrClosedSilently = errors.New("server closed the connection without an answer")

// ErrNotConnected is returned for work on a session that has ended without a
// fault: one that was closed.
var ErrNotConnected = errors.New("session is closed")

// An Error is the end of an attempt or of a session. Find it with
// [errors.As]; find its cause (a [*ConnackError], [*SubackError],
// [*ProxyError], [*ValidityError], [tls.AlertError], [*net.DNSError],
// [x509.UnknownAuthorityError], [ErrClosedSilently] and so on) likewise.
type Error struct {
	Stage    Stage
	Endpoint string   // host:port of the server that was wanted
	Address  string   // the address that was reached, if any: the server's or the proxy's
	After    string   // the packet that was left unanswered: "CONNECT", "SUBSCRIBE", "PUBLISH" or ""
	Topics   []string // the topic filters of that SUBSCRIBE, or the topic of that PUBLISH
	Err      error
}

// Error tells the step, the place and the cause in one line.
func (e *Error) Error() string {
	return e.doing() + ": " + e.Err.Error()
}

func (e *Error) doing() string {
	switch e.Stage {
	case StageOptions:
		return "preparing to connect"
	case StageResolve:
		return "resolving " + e.Endpoint
	case StageDial:
		return "opening a connection to " + e.Endpoint
	case StageProxy:
		return "asking proxy " + e.Address + " for a tunnel to " + e.Endpoint
	case StageTLS:
		return "negotiating TLS with " + e.Endpoint
	case StageConnect:
		return "connecting to " + e.Endpoint
	case StageSubscribe:
		return "subscribing to " + strings.Join(e.Topics, ", ")
	case StagePublish:
		return "publishing to " + strings.Join(e.Topics, ", ")
	}
	return "connection to " + e.Endpoint + " lost"
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether the same attempt may succeed later.
func (e *Error) Temporary() bool { return e.Class() == ClassTemporary }

// Refused reports whether the server said no.
func (e *Error) Refused() bool { return e.Class() == ClassRefused }

// Config reports whether something configured is wrong: endpoint, roots,
// proxy, port.
func (e *Error) Config() bool { return e.Class() == ClassConfig }

// Class judges the error by its cause.
func (e *Error) Class() Class {
	if errors.Is(e.Err, context.Canceled) {
		return ClassCanceled
	}
	if c, ok := errors.AsType[classed](e.Err); ok {
		return c.class()
	}
	if alert, ok := errors.AsType[tls.AlertError](e.Err); ok {
		return alertClass(alert)
	}
	dns, isDNS := errors.AsType[*net.DNSError](e.Err)
	switch {
	case e.Stage == StageOptions,
		isDNS && dns.IsNotFound,
		e.Stage == StageTLS && !isNetworkError(e.Err): // a certificate, a name, a version, or no TLS at all
		return ClassConfig
	}
	return ClassTemporary
}

func isNetworkError(err error) bool {
	return errors.Is(err, ErrClosedSilently) || isContextError(err) || isTimeout(err)
}

// blameUnanswered names the packet that waits for its answer. A lost session
// takes the stage of that packet.
func (e *Error) blameUnanswered(w *wire) {
	r, ok := w.unanswered()
	if !ok {
		return
	}
	e.After = r.packet
	if e.Stage == StageLost {
		e.Stage, e.Topics = stageOf[r.packet], r.topics
	}
}

var stageOf = map[string]Stage{"CONNECT": StageConnect, "SUBSCRIBE": StageSubscribe, "PUBLISH": StagePublish}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// classed is what our own causes have in common.
type classed interface {
	error
	class() Class
}

// A ConnackError is the refusal of a CONNECT by a CONNACK packet (MQTT 3.1.1,
// section 3.2.2.3).
type ConnackError struct {
	Code byte // 1 to 5 as in MQTT; 7 is what older AWS pages name for "not authorised"
}

var connackReasons = map[byte]string{
	1: "unacceptable protocol version",
	2: "client id rejected",
	3: "server unavailable",
	4: "bad user name or password",
	5: "not authorised",
	7: "not authorised",
}

// Error returns the reason and the code.
func (e *ConnackError) Error() string {
	reason := connackReasons[e.Code]
	if reason == "" {
		reason = "unknown reason"
	}
	return fmt.Sprintf("refused by the server: %s (CONNACK return code %d)", reason, e.Code)
}

func (e *ConnackError) class() Class {
	switch e.Code {
	case 1:
		return ClassConfig
	case 3:
		return ClassTemporary
	}
	return ClassRefused
}

// A SubackError tells which topic filters of a SUBSCRIBE were refused with
// return code 0x80. AWS IoT answers so when a subscription quota is reached;
// filters that no policy allows end in [ErrClosedSilently] instead.
type SubackError struct {
	Filters []string
}

// Error names the refused filters.
func (e *SubackError) Error() string {
	return "refused by the server (SUBACK return code 0x80): " + strings.Join(e.Filters, ", ")
}

func (e *SubackError) class() Class { return ClassRefused }

// A ProxyError is a proxy's answer to CONNECT other than success.
type ProxyError struct {
	StatusCode int    // 407: credentials wanted; 403: this host or port is forbidden
	Status     string // as received, such as "407 Proxy Authentication Required"
}

// Error returns the proxy's answer.
func (e *ProxyError) Error() string { return "proxy answered " + e.Status }

func (e *ProxyError) class() Class {
	if e.StatusCode >= 500 || e.StatusCode == 429 {
		return ClassTemporary
	}
	return ClassConfig
}

// callbackError marks what Options.Certificate returned.
type callbackError struct{ err error }

func (e *callbackError) Error() string { return "obtaining the client certificate: " + e.err.Error() }
func (e *callbackError) Unwrap() error { return e.err }
func (e *callbackError) class() Class  { return ClassFailed }

// A protocolError is what a server sent against MQTT 3.1.1.
type protocolError struct{ msg string }

func (e *protocolError) Error() string { return "server broke MQTT: " + e.msg }
func (e *protocolError) class() Class  { return ClassConfig }

// A limitError is a request that AWS IoT would answer by closing the session.
type limitError struct{ msg string }

func (e *limitError) Error() string { return e.msg }
func (e *limitError) class() Class  { return ClassFailed }
