package policy

import (
	"fmt"
	"strconv"
	"strings"

	"example.com/fleety/device/awsiot"
)

// The names that AWS IoT documents, as variables or as condition keys, in lower case; two begin
// names.
//
// AWS pages: basic-policy-variables, thing-policy-variables, cert-policy-variables and connect-policy of
// https://docs.aws.amazon.com/iot/latest/developerguide/. The page pub-sub-policy uses iot:Thing.ThingName, which no page defines, for
// iot:Connection.Thing.ThingName.
const (
	clientID          = "iot:clientid"
	sourceIP          = "aws:sourceip"
	domainName        = "iot:domainname"
	thingName         = "iot:connection.thing.thingname"
	thingNameAlias    = "iot:thing.thingname"
	thingType         = "iot:connection.thing.thingtypename"
	thingAttached     = "iot:connection.thing.isattached"
	thingAttribute    = "iot:connection.thing.attributes["
	connectAttributes = "iot:connectattributes"
	lastWillTopic     = "iot:lastwilltopic"
	certificateID     = "iot:certificateid"
	certificateField  = "iot:certificate."
)

// A key is a policy variable or condition key. Its name compares without case, as in IAM; the name
// of a thing attribute inside it does not.
type key struct {
	name      string // as written
	kind      string // in lower case, of thingAttribute and certificateField the beginning
	attribute string // of thingAttribute
	field     field  // of certificateField
}

// parseKey has no error: a name that AWS IoT does not document is a key that never resolves.
func parseKey(name string) key {
	k := key{name: name, kind: strings.ToLower(name)}
	switch {
	case strings.HasPrefix(k.kind, thingAttribute) && strings.HasSuffix(name, "]"):
		k.kind, k.attribute = thingAttribute, name[len(thingAttribute):len(name)-1]
	case strings.HasPrefix(k.kind, certificateField):
		f, ok := parseField(name[len(certificateField):])
		if k.kind = ""; ok {
			k.kind, k.field = certificateField, f
		}
	}
	return k
}

// text returns the value to put in place of a variable. A list has no place in a text, so it does
// not resolve.
func (k *key) text(r *Request) (string, bool) {
	if k.kind == connectAttributes || k.kind == certificateField && k.field.list {
		return "", false
	}
	var buf [1]string
	values := k.values(buf[:0], r)
	if len(values) == 0 {
		return "", false
	}
	return values[0], true
}

// values appends what the key stands for in this request: nothing when it does not resolve, several
// for a list.
//
// Thing variables resolve only for a thing that is attached to the certificate; which thing that
// can be, the caller decides. IsAttached always resolves.
func (k *key) values(dst []string, r *Request) []string {
	s, value := r.Session, ""
	t := s.attached()
	switch k.kind {
	case clientID:
		return append(dst, s.ClientID)
	case sourceIP:
		if s.SourceIP.IsValid() {
			value = s.SourceIP.Unmap().WithZone("").String() // no block of addresses has a zone
		}
	case domainName:
		value = s.DomainName
	case thingAttached:
		value = strconv.FormatBool(t.Attached)
	case thingName, thingNameAlias:
		value = t.Name
	case thingType:
		value = t.Type
	case thingAttribute:
		value = t.Attributes[k.attribute]
	case connectAttributes:
		return append(dst, r.ConnectAttributes...)
	case lastWillTopic:
		value = r.LastWillTopic
	case certificateID:
		if s.Certificate != nil {
			value = awsiot.CertificateID(s.Certificate)
		}
	case certificateField:
		if s.Certificate != nil {
			return k.field.values(dst, s.Certificate)
		}
	}
	return appendSet(dst, value)
}

func appendSet(dst []string, value string) []string {
	if value == "" {
		return dst
	}
	return append(dst, value)
}

// attached returns the thing that the variables are about, the zero value without one.
func (s *Session) attached() Thing {
	if s.Thing == nil || !s.Thing.Attached {
		return Thing{}
	}
	return *s.Thing
}

// absence says why the key has no value in this request, or has no thing to be about.
func (k *key) absence(r *Request) string {
	s := r.Session
	switch k.kind {
	case sourceIP:
		return "the address of the client is not known"
	case domainName:
		return "the client named no server (SNI)"
	case thingName, thingNameAlias, thingType, thingAttribute, thingAttached:
		switch t := s.Thing; {
		case t == nil:
			return fmt.Sprintf("client id %q is not the name of a thing attached to the certificate", s.ClientID)
		case !t.Attached:
			return fmt.Sprintf("thing %q is not attached to the certificate", t.Name)
		case k.kind == thingType:
			return fmt.Sprintf("thing %q has no type", t.Name)
		case k.kind == thingAttribute:
			return fmt.Sprintf("thing %q has no attribute %q", t.Name, k.attribute)
		}
		return "the thing has no name"
	case connectAttributes:
		return "the connection requests no attribute"
	case lastWillTopic:
		return "the connection has no last will"
	case certificateID, certificateField:
		switch {
		case s.Certificate == nil:
			return "the client has no certificate"
		case k.field.list:
			return "the certificate has no value for it, or a list stands where one value belongs"
		}
		return fmt.Sprintf("the certificate has no value for it, or one with any of %s or of more than %d characters", wildcardsInValues, maxValue)
	}
	return "AWS IoT documents no such variable"
}
