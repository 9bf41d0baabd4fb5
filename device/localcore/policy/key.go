package policy

import (
	"fmt"
	"strconv"
	"strings"

	"example.com/fleety/device/awsiot"
)

// A keyKind is one of the names that AWS IoT documents, as a variable or as a condition key.
type keyKind uint8

const (
	unknownKey keyKind = iota
	clientID
	sourceIP
	domainName
	thingName
	thingType
	thingAttribute
	thingAttached
	connectAttributes
	lastWillTopic
	certificateID
	certificateField
)

// A key is a policy variable or condition key. Its name compares without case, as in IAM; the name of a thing attribute inside it does
// not.
type key struct {
	name      string // as written
	kind      keyKind
	attribute string // of thingAttribute
	field     field  // of certificateField
}

// keys by name in lower case.
//
// AWS pages: basic-policy-variables, thing-policy-variables, cert-policy-variables and connect-policy of
// https://docs.aws.amazon.com/iot/latest/developerguide/. The page
// pub-sub-policy uses iot:Thing.ThingName, which no page defines, for iot:Connection.Thing.ThingName.
var keys = map[string]keyKind{
	"iot:clientid":                       clientID,
	"aws:sourceip":                       sourceIP,
	"iot:domainname":                     domainName,
	"iot:connection.thing.thingname":     thingName,
	"iot:thing.thingname":                thingName,
	"iot:connection.thing.thingtypename": thingType,
	"iot:connection.thing.isattached":    thingAttached,
	"iot:connectattributes":              connectAttributes,
	"iot:lastwilltopic":                  lastWillTopic,
	"iot:certificateid":                  certificateID,
}

const (
	attributePrefix   = "iot:connection.thing.attributes["
	certificatePrefix = "iot:certificate."
)

// parseKey has no error: a name that AWS IoT does not document is a key that never resolves.
func parseKey(name string) key {
	k := key{name: name}
	folded := strings.ToLower(name)
	switch {
	case strings.HasPrefix(folded, attributePrefix) && strings.HasSuffix(name, "]"):
		k.kind = thingAttribute
		k.attribute = name[len(attributePrefix) : len(name)-1]
	case strings.HasPrefix(folded, certificatePrefix):
		if f, ok := parseField(name[len(certificatePrefix):]); ok {
			k.kind, k.field = certificateField, f
		}
	default:
		k.kind = keys[folded]
	}
	return k
}

// text returns the value to put in place of a variable. A list has no place in a text, so it does not resolve.
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

// values appends what the key stands for in this request: nothing when it does not resolve, several for a list.
//
// Thing variables resolve only for a thing that is attached to the certificate; which thing that can be, the caller decides. IsAttached
// always resolves.
func (k *key) values(dst []string, r *Request) []string {
	s := r.Session
	switch k.kind {
	case clientID:
		return append(dst, s.ClientID)
	case sourceIP:
		if s.SourceIP.IsValid() {
			return append(dst, s.SourceIP.Unmap().String())
		}
	case domainName:
		return appendSet(dst, s.DomainName)
	case thingAttached:
		return append(dst, strconv.FormatBool(s.attached() != nil))
	case thingName, thingType, thingAttribute:
		switch t := s.attached(); {
		case t == nil:
		case k.kind == thingName:
			return appendSet(dst, t.Name)
		case k.kind == thingType:
			return appendSet(dst, t.Type)
		default:
			return appendSet(dst, t.Attributes[k.attribute])
		}
	case connectAttributes:
		return append(dst, r.ConnectAttributes...)
	case lastWillTopic:
		return appendSet(dst, r.LastWillTopic)
	case certificateID:
		if s.Certificate != nil {
			return append(dst, awsiot.CertificateID(s.Certificate))
		}
	case certificateField:
		if s.Certificate != nil {
			return k.field.values(dst, s.Certificate)
		}
	}
	return dst
}

func appendSet(dst []string, value string) []string {
	if value == "" {
		return dst
	}
	return append(dst, value)
}

// attached returns the thing that the variables are about, or nil.
func (s *Session) attached() *Thing {
	if s.Thing == nil || !s.Thing.Attached {
		return nil
	}
	return s.Thing
}

// absence says why the key has no value in this request, or has no thing to be about.
func (k *key) absence(r *Request) string {
	s := r.Session
	switch k.kind {
	case sourceIP:
		return "the address of the client is not known"
	case domainName:
		return "the client named no server (SNI)"
	case thingName, thingType, thingAttribute, thingAttached:
		switch t := s.attached(); {
		case s.Thing == nil:
			return fmt.Sprintf("client id %q is not the name of a thing attached to the certificate", s.ClientID)
		case t == nil:
			return fmt.Sprintf("thing %q is not attached to the certificate", s.Thing.Name)
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
