package policy

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of the certificate variables.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/cert-policy-variables.html,
// section on limitations.
const (
	maxValues         = 5    // values of one attribute; further ones are ignored
	maxValue          = 1024 // characters; a longer value is not substituted
	wildcardsInValues = "*$+?#"
	escapedInValues   = `,"\+=<>;`
)

// A source is the part of the certificate that a field is read from.
type source uint8

const (
	subject source = iota
	issuer
	subjectAlternative
	issuerAlternative
	serial
	availableKeys
)

// A field is what follows iot:Certificate. in the name of a variable.
type field struct {
	source source
	oid    int // of a name: the last arc of 2.5.4.x
	tag    int // of an alternative name
	index  int // counts from 0
	list   bool
}

// nameFields are the attributes of a distinguished name, by their last arc
// under 2.5.4.
var nameFields = []struct {
	name string
	oid  int
}{
	{"DistinguishedNameQualifier", 46},
	{"Country", 6},
	{"Organization", 10},
	{"OrganizationalUnit", 11},
	{"State", 8},
	{"CommonName", 3},
	{"SerialNumber", 5},
	{"Title", 12},
	{"Surname", 4},
	{"GivenName", 42},
	{"Initials", 43},
	{"Pseudonym", 65},
	{"GenerationQualifier", 44},
}

// Tags of GeneralName, RFC 5280 section 4.2.1.6.
const (
	tagEmail     = 1
	tagDNS       = 2
	tagDirectory = 4
	tagURI       = 6
	tagIP        = 7
)

var alternativeFields = []struct {
	name string
	tag  int
}{
	{"RFC822Name", tagEmail},
	{"DNSName", tagDNS},
	{"DirectoryName", tagDirectory},
	{"UniformResourceIdentifier", tagURI},
	{"IPAddress", tagIP},
}

const alternativePrefix = "AlternativeName."

func parseField(name string) (field, bool) {
	switch {
	case strings.EqualFold(name, "SerialNumber"):
		return field{source: serial}, true
	case strings.EqualFold(name, "AvailableKeys"):
		return field{source: availableKeys, list: true}, true
	}
	for _, of := range []struct {
		prefix            string
		name, alternative source
	}{{"Subject.", subject, subjectAlternative}, {"Issuer.", issuer, issuerAlternative}} {
		rest, ok := cutPrefixFold(name, of.prefix)
		if !ok {
			continue
		}
		if alternative, ok := cutPrefixFold(rest, alternativePrefix); ok {
			return parseAlternative(alternative, field{source: of.alternative})
		}
		return parseName(rest, field{source: of.name})
	}
	return field{}, false
}

func parseName(text string, f field) (field, bool) {
	name, suffix, _ := strings.Cut(text, ".")
	for _, known := range nameFields {
		if strings.EqualFold(name, known.name) {
			f.oid = known.oid
			return f, f.parseSuffix(suffix)
		}
	}
	return field{}, false
}

func parseAlternative(text string, f field) (field, bool) {
	name, suffix, _ := strings.Cut(text, ".")
	for _, known := range alternativeFields {
		if strings.EqualFold(name, known.name) {
			f.tag = known.tag
			return f, f.parseSuffix(suffix)
		}
	}
	return field{}, false
}

// parseSuffix reads what may follow a field: nothing for the first value, an
// index that counts from zero, or List for all values.
func (f *field) parseSuffix(suffix string) bool {
	if suffix == "" {
		return true
	}
	if f.list = strings.EqualFold(suffix, "List"); f.list {
		return true
	}
	index, err := strconv.ParseUint(suffix, 10, 8)
	f.index = int(index)
	return err == nil
}

func cutPrefixFold(text, prefix string) (string, bool) {
	if len(text) < len(prefix) || !strings.EqualFold(text[:len(prefix)], prefix) {
		return text, false
	}
	return text[len(prefix):], true
}

// values appends what the field holds in the certificate, without the values
// that AWS IoT does not substitute.
func (f *field) values(dst []string, c *x509.Certificate) []string {
	switch f.source {
	case serial:
		return append(dst, c.SerialNumber.String())
	case availableKeys:
		return append(dst, available(c)...)
	}
	return f.substituted(dst, c)
}

func (f *field) substituted(dst []string, c *x509.Certificate) []string {
	all := f.all(c)
	if len(all) > maxValues {
		all = all[:maxValues]
	}
	if !f.list {
		if f.index >= len(all) {
			return dst
		}
		all = all[f.index : f.index+1]
	}
	for _, value := range all {
		if utf8.RuneCountInString(value) <= maxValue && !strings.ContainsAny(value, wildcardsInValues) {
			dst = append(dst, f.escape(value))
		}
	}
	return dst
}

func (f *field) all(c *x509.Certificate) []string {
	switch f.source {
	case subject:
		return nameValues(c.Subject, f.oid)
	case issuer:
		return nameValues(c.Issuer, f.oid)
	case subjectAlternative:
		return alternativeValues(c, oidSubjectAlternative, f.tag)
	}
	return alternativeValues(c, oidIssuerAlternative, f.tag)
}

// escape puts a backslash before the characters that a policy must write with
// one. The text of a directory name is escaped already.
func (f *field) escape(value string) string {
	if f.tag == tagDirectory || !strings.ContainsAny(value, escapedInValues) {
		return value
	}
	var b strings.Builder
	for _, r := range value {
		if strings.ContainsRune(escapedInValues, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

func nameValues(name pkix.Name, oid int) []string {
	var values []string
	for _, attribute := range name.Names {
		if !attribute.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, oid}) {
			continue
		}
		if value, ok := attribute.Value.(string); ok {
			values = append(values, value)
		}
	}
	return values
}

var (
	oidSubjectAlternative = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidIssuerAlternative  = asn1.ObjectIdentifier{2, 5, 29, 18}
)

// alternativeValues reads the extension itself, since crypto/x509 parses
// neither the issuer's names nor directory names.
func alternativeValues(c *x509.Certificate, oid asn1.ObjectIdentifier, tag int) []string {
	i := slices.IndexFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oid) })
	if i < 0 {
		return nil
	}
	var names []asn1.RawValue
	if _, err := asn1.Unmarshal(c.Extensions[i].Value, &names); err != nil {
		return nil
	}
	var values []string
	for _, name := range names {
		if name.Class == asn1.ClassContextSpecific && name.Tag == tag {
			values = appendSet(values, alternativeText(name))
		}
	}
	return values
}

func alternativeText(name asn1.RawValue) string {
	switch name.Tag {
	case tagIP:
		if len(name.Bytes) != net.IPv4len && len(name.Bytes) != net.IPv6len {
			return ""
		}
		return net.IP(name.Bytes).String()
	case tagDirectory:
		var sequence pkix.RDNSequence
		if _, err := asn1.Unmarshal(name.Bytes, &sequence); err != nil {
			return ""
		}
		return sequence.String()
	}
	return string(name.Bytes)
}

// available returns the names of all certificate variables that have a value.
func available(c *x509.Certificate) []string {
	names := []string{"iot:Certificate.SerialNumber"}
	add := func(name string, f field) {
		if len(f.substituted(nil, c)) > 0 {
			names = append(names, "iot:Certificate."+name)
		}
	}
	for _, known := range nameFields {
		add("Subject."+known.name, field{source: subject, oid: known.oid})
		add("Issuer."+known.name, field{source: issuer, oid: known.oid})
	}
	for _, known := range alternativeFields {
		add("Subject."+alternativePrefix+known.name, field{source: subjectAlternative, tag: known.tag})
		add("Issuer."+alternativePrefix+known.name, field{source: issuerAlternative, tag: known.tag})
	}
	return names
}
