package localcore

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"example.com/fleety/device/localcore/broker"
)

// AccessKeyID and SecretAccessKey are the AWS credentials of the account. A request for MQTT over
// WebSocket must be signed with them, or with those of the credentials provider; its client may
// then do everything, as no IAM policy is emulated. Other requests need no signature.
const (
	AccessKeyID     = "any"
	SecretAccessKey = "any"
)

const (
	signingAlgorithm = "AWS4-HMAC-SHA256"
	signingTime      = "20060102T150405Z"
	defaultExpires   = "300" // seconds
	clockSkew        = 5 * time.Minute
	// AWS page: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-authentication-methods.html
	maxExpires = 604800 // seconds
)

// signingServices are the names that AWS's device SDKs sign WebSocket requests for, the present
// ones and those of version 1.
var signingServices = []string{"iotdevicegateway", "iotdata"}

// serveWebSocket serves MQTT over WebSocket to a client that signed its request. A page of another
// site has no business here: it could sign as well. Beyond loopback, pages of the same host belong
// here too, and those of hosts without a domain, such as the containers beside this one.
func (s *Server) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	accessKeyID, err := s.verifySignature(r)
	if origin := r.Header.Get("Origin"); origin != "" {
		u, parseErr := url.Parse(origin)
		near := parseErr == nil && s.config.UnsafeAllowAnyAddress && u.Host != "" &&
			(u.Hostname() == hostname(r.Host) || !strings.ContainsAny(u.Hostname(), ".:"))
		if parseErr != nil || !near && !isLoopback(u.Host) {
			err = fmt.Errorf("the page %q that connects is not of this machine", origin)
		}
	}
	if err != nil {
		s.history.Record(Event{Type: Rejected, Action: ActionConnect, Address: r.RemoteAddr, Reason: err.Error()})
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	s.broker.ServeWebSocket(w, r, broker.Principal{AccessKeyID: accessKeyID, ServerName: "localhost"}) //nolint:contextcheck // r has it
}

// verifySignature checks a signature in the query, whose security token is not part of what was
// signed.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html
func (s *Server) verifySignature(r *http.Request) (accessKeyID string, err error) {
	query := r.URL.Query()
	if query.Get("X-Amz-Algorithm") != signingAlgorithm {
		return "", fmt.Errorf("the request for MQTT over WebSocket is not signed: its query must hold a signature %s for %s", signingAlgorithm, signingServices[0])
	}
	scope := strings.Split(query.Get("X-Amz-Credential"), "/")
	if len(scope) != 5 || scope[2] != s.config.Region || !slices.Contains(signingServices, scope[3]) {
		return "", fmt.Errorf("X-Amz-Credential is %q, it must be KEY/DATE/%s/%s/aws4_request", query.Get("X-Amz-Credential"), s.config.Region, signingServices[0])
	}
	credentials := aws.Credentials{AccessKeyID: scope[0], SecretAccessKey: SecretAccessKey}
	switch token := query.Get("X-Amz-Security-Token"); {
	case scope[0] == testAccessKeyID && token == testSessionToken:
		credentials.SecretAccessKey = testSecretAccessKey
	case scope[0] == testAccessKeyID:
		return "", errors.New("X-Amz-Security-Token is not the session token of the credentials provider")
	case scope[0] != AccessKeyID:
		return "", fmt.Errorf("the access key id is %q, the one of this account is %q", scope[0], AccessKeyID)
	}
	at, err := time.Parse(signingTime, query.Get("X-Amz-Date"))
	if err != nil {
		return "", fmt.Errorf("X-Amz-Date is %q, it must have the form %s", query.Get("X-Amz-Date"), signingTime)
	}
	life, err := strconv.Atoi(cmp.Or(query.Get("X-Amz-Expires"), defaultExpires))
	if err != nil || life < 1 || life > maxExpires {
		return "", fmt.Errorf("X-Amz-Expires is %q, it must be from 1 to %d seconds", query.Get("X-Amz-Expires"), maxExpires)
	}
	if now := s.config.Now(); now.Before(at.Add(-clockSkew)) || now.After(at.Add(time.Duration(life)*time.Second)) {
		return "", fmt.Errorf("the signature of %s is not valid at %s", at.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	query.Del("X-Amz-Security-Token")
	for _, host := range []string{r.Host, hostname(r.Host)} { // AWS's own port is no part of the host
		// The signer sets parameters itself: equal signatures would not show that they were changed.
		if signed, err := s.sign(r, query, host, credentials, scope[3], at); err != nil || maps.EqualFunc(signed, query, slices.Equal) {
			return scope[0], err
		}
	}
	return "", errors.New("the signature does not match: sign path /mqtt with the secret access key of this account, and add X-Amz-Security-Token after that")
}

// sign returns the query, which has no security token, as it should be with its signature.
func (s *Server) sign(r *http.Request, query url.Values, host string, credentials aws.Credentials, service string, at time.Time) (url.Values, error) {
	signed := &http.Request{Method: r.Method, Host: host, Header: http.Header{}, URL: &url.URL{Path: r.URL.Path}}
	for name := range strings.SplitSeq(query.Get("X-Amz-SignedHeaders"), ";") {
		if value := r.Header.Get(name); value != "" {
			signed.Header.Set(name, value)
		}
	}
	query = maps.Clone(query)
	query.Del("X-Amz-Signature")
	signed.URL.RawQuery = query.Encode()
	empty := sha256.Sum256(nil)
	uri, _, err := v4.NewSigner().PresignHTTP(r.Context(), credentials, signed, hex.EncodeToString(empty[:]), service, s.config.Region, at)
	_, parameters, _ := strings.Cut(uri, "?")
	values, parseErr := url.ParseQuery(parameters)
	return values, cmp.Or(err, parseErr)
}

// An iamSession is one of a client with AWS credentials, which may do everything. It implements
// [broker.AuthSession].
type iamSession struct{}

func (iamSession) Authorize(broker.AuthRequest) (allowed bool, reason string) { return true, "" }

func (iamSession) Thing() (name string, exclusive bool) { return "", false }
