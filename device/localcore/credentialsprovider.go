package localcore

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/localcore/registry"
)

// The credentials that the credentials provider gives. No service accepts them.
const (
	testAccessKeyID     = "ASIAIOSFODNN7EXAMPLE"
	testSecretAccessKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	testSessionToken    = "SessionTokenOfIotCoreLocal"
)

// serveCredentials is the credentials provider: GET /role-aliases/NAME/credentials with the
// device's certificate. AWS serves it at an endpoint of its own; here it shares the port for
// devices. Whether the role exists, and what it allows, is not emulated. The order of the checks,
// statuses and messages are those that users have recorded.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/authorizing-direct-aws.html
func (s *Server) serveCredentials(r *http.Request, p broker.Principal) *http.Response {
	alias, isAlias := strings.CutPrefix(r.URL.Path, "/role-aliases/")
	alias, isCredentials := strings.CutSuffix(alias, "/credentials")
	thing, e := r.Header.Get(awsiot.ThingNameHeader), event.Event{
		Type: event.Rejected, Action: event.Credentials, Operation: "AssumeRoleWithCertificate",
		CertificateID: p.CertificateID, Address: p.Address.String(),
	}
	reject := func(status int, code, message, reason string) *http.Response {
		e.Code, e.Reason = code, reason
		s.history.Record(e)
		return httpResponse(status, code, map[string]string{"message": message})
	}
	if !isAlias || !isCredentials {
		return reject(http.StatusNotFound, registry.CodeNotFound, "Not Found", "there is nothing at "+r.URL.Path)
	}
	session := s.policySession(p.CertificateID, thing, p.Certificate)
	session.SourceIP, session.DomainName = p.Address.Addr(), p.ServerName
	if thing != "" && (session.Thing == nil || session.Thing.Name != thing) {
		return reject(http.StatusForbidden, "AccessDeniedException", "Invalid thing name passed",
			"thing "+thing+" of the header "+awsiot.ThingNameHeader+" is not attached to the certificate")
	}
	e.ThingName = thing
	d := s.evaluate(s.registry.PoliciesFor(p.CertificateID, thing), "iot:AssumeRoleWithCertificate", s.ARN("rolealias/"+alias), session)
	if !d.Allowed {
		return reject(http.StatusForbidden, "AccessDeniedException", "Access Denied", d.Explain())
	}
	a, err := s.registry.DescribeRoleAlias(alias)
	if err != nil {
		return reject(http.StatusNotFound, registry.CodeNotFound, "Role alias does not exist", err.Error())
	}
	e.Type, e.Action, e.Reason = event.Replied, "", "role alias "+alias
	s.history.Record(e)
	return httpResponse(http.StatusOK, "", awsiot.CredentialsResponse{Credentials: awsiot.Credentials{
		AccessKeyID: testAccessKeyID, SecretAccessKey: testSecretAccessKey, SessionToken: testSessionToken,
		Expiration: s.config.Now().Add(a.CredentialDuration).UTC().Truncate(time.Second),
	}})
}

func httpResponse(status int, errorType string, v any) *http.Response {
	body := awsiot.EncodeJSON(v)
	r := &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}},
		ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
	}
	if errorType != "" {
		r.Header.Set("X-Amzn-ErrorType", errorType)
	}
	return r
}
