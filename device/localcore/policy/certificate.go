package policy

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/netip"
	"regexp"
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
)

var escapedInValues = regexp.MustCompile(`[,"\\+=<>;]`) // characters that a policy must write with a backslash

// The parts of a certificate that a field is read from, as the name of a variable has them.
const (
	subject       = "Subject."
	issuer        = "Issuer."
	serial        = "SerialNumber"
	availableKeys = "AvailableKeys"
)

// A field is what follows iot:Certificate. in the name of a variable.
type field struct {
	source    string
	attribute attributeName // of subject and issuer
	index     int           // counts from 0
	list      bool
}

// An attributeName is that of an attribute of a distinguished name, or of an alternative name.
type attributeName struct {
	name string
	oid  int // the last arc of 2.5.4.x
	tag  int
}

// Tags of GeneralName, RFC 5280 section 4.2.1.6.
const (
	tagEmail     = 1
	tagDNS       = 2
	tagDirectory = 4
	tagURI       = 6
	tagIP        = 7
)

var nameFields = []attributeName{
	{"DistinguishedNameQualifier", 46, 0}, {"Country", 6, 0}, {"Organization", 10, 0}, {"OrganizationalUnit", 11, 0}, {"State", 8, 0},
	{"CommonName", 3, 0}, {"SerialNumber", 5, 0}, {"Title", 12, 0}, {"Surname", 4, 0}, {"GivenName", 42, 0}, {"Initials", 43, 0},
	{"Pseudonym", 65, 0}, {"GenerationQualifier", 44, 0},
	{"AlternativeName.RFC822Name", 0, tagEmail}, {"AlternativeName.DNSName", 0, tagDNS}, {"AlternativeName.DirectoryName", 0, tagDirectory},
	{"AlternativeName.UniformResourceIdentifier", 0, tagURI}, {"AlternativeName.IPAddress", 0, tagIP},
}

// fieldsByName has those of a first value, by what names them in lower case.
var fieldsByName = func() map[string]field {
	all := map[string]field{"serialnumber": {source: serial}, "availablekeys": {source: availableKeys, list: true}}
	for _, a := range nameFields {
		for _, source := range []string{subject, issuer} {
			all[strings.ToLower(source+a.name)] = field{source: source, attribute: a}
		}
	}
	return all
}()

// parseField reads a field. What may follow the name of an attribute: nothing for the first value,
// an index that counts from zero, or List for all values.
func parseField(name string) (f field, ok bool) {
	name = strings.ToLower(name)
	if f, ok = fieldsByName[name]; ok {
		return f, true
	}
	dot := max(strings.LastIndexByte(name, '.'), 0)
	f, ok = fieldsByName[name[:dot]]
	suffix := strings.TrimPrefix(name[dot:], ".")
	index, err := strconv.ParseUint(suffix, 10, 8)
	f.index, f.list = int(index), suffix == "list"
	return f, ok && f.attribute.name != "" && (f.list || err == nil)
}

// values appends what the field holds in the certificate, without the values that AWS IoT does not
// substitute.
func (f *field) values(dst []string, c *x509.Certificate) []string {
	name, alternative := c.Subject, oidSubjectAlternative
	switch f.source {
	case serial:
		return append(dst, c.SerialNumber.String())
	case availableKeys:
		return append(dst, available(c)...)
	case issuer:
		name, alternative = c.Issuer, oidIssuerAlternative
	}
	var all []string
	if f.attribute.tag != 0 {
		all = alternativeValues(c, alternative, f.attribute.tag)
	} else {
		for _, attribute := range name.Names {
			if value, ok := attribute.Value.(string); ok && attribute.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, f.attribute.oid}) {
				all = append(all, value)
			}
		}
	}
	all = all[:min(len(all), maxValues)]
	if !f.list {
		all = all[min(f.index, len(all)):min(f.index+1, len(all))]
	}
	for _, value := range all {
		if utf8.RuneCountInString(value) <= maxValue && !strings.ContainsAny(value, wildcardsInValues) {
			if f.attribute.tag != tagDirectory { // whose text is escaped already
				value = escapedInValues.ReplaceAllString(value, `\$0`)
			}
			dst = append(dst, value)
		}
	}
	return dst
}

var (
	oidSubjectAlternative = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidIssuerAlternative  = asn1.ObjectIdentifier{2, 5, 29, 18}
)

// alternativeValues reads the extension itself, since crypto/x509 parses neither the issuer's names
// nor directory names.
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
		if name.Class != asn1.ClassContextSpecific || name.Tag != tag {
			continue
		}
		value := string(name.Bytes)
		switch tag {
		case tagIP:
			ip, _ := netip.AddrFromSlice(name.Bytes)
			if value = ""; ip.IsValid() {
				value = ip.Unmap().String()
			}
		case tagDirectory:
			var sequence pkix.RDNSequence
			_, _ = asn1.Unmarshal(name.Bytes, &sequence) // what cannot be read is empty
			value = sequence.String()
		}
		values = appendSet(values, value)
	}
	return values
}

// available returns the names of all certificate variables that have a value.
func available(c *x509.Certificate) []string {
	names := []string{"iot:Certificate.SerialNumber"}
	for _, a := range nameFields {
		for _, source := range []string{subject, issuer} {
			if f := (field{source: source, attribute: a}); len(f.values(nil, c)) > 0 {
				names = append(names, "iot:Certificate."+source+a.name)
			}
		}
	}
	return names
}
