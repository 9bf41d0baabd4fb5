package template

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"example.com/fleety/device/localcore/jsontree"
)

// maxDepth bounds how deep values may be nested in each other.
const maxDepth = 64

// Parse reads a fleet provisioning template and finds what is wrong with it
// whatever the parameters will be. The error is [SyntaxErrors], of which
// [errors.As] also finds the first *[SyntaxError].
func Parse(body []byte) (*Template, error) { return parse(body, true) }

// ParseBody is [Parse] for the template body of RegisterThing over HTTPS, which
// may give the certificate as a signing request or in PEM form too.
func ParseBody(body []byte) (*Template, error) { return parse(body, false) }

func parse(body []byte, fleet bool) (*Template, error) {
	p := &parser{body: body, fleet: fleet, template: &Template{}}
	if n := utf8.RuneCount(body); n > MaxBody {
		p.faults = SyntaxErrors{jsontree.ErrorAt(body, 0, "$", fmt.Sprintf("the template has %d characters, %d are allowed", n, MaxBody))}
	} else if root, faults := jsontree.Parse(body, maxDepth); root != nil {
		p.readTemplate(root)
	} else {
		p.faults = faults
	}
	if len(p.faults) > 0 {
		slices.SortStableFunc(p.faults, func(a, b *SyntaxError) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return nil, p.faults
	}
	return p.template, nil
}

// A parser collects the faults of a template while it reads it.
type parser struct {
	body     []byte
	fleet    bool // of fleet provisioning
	template *Template
	mappings mappings
	inPolicy bool // inside a Policy resource
	faults   SyntaxErrors
}

func (p *parser) fail(n *jsontree.Node, format string, args ...any) {
	p.faults = append(p.faults, jsontree.ErrorAt(p.body, n.Start, n.Path(), fmt.Sprintf(format, args...)))
}

// failKey reports a fault of the key that n is the value of.
func (p *parser) failKey(n *jsontree.Node, format string, args ...any) {
	p.faults = append(p.faults, jsontree.ErrorAt(p.body, n.KeyStart, n.Path(), fmt.Sprintf(format, args...)))
}

// members reports whether n is an object that has no other keys than those.
func (p *parser) members(n *jsontree.Node, keys ...string) bool {
	if !p.expect(n, jsontree.Object) {
		return false
	}
	for _, m := range n.Items {
		if !slices.Contains(keys, m.Key) {
			p.failKey(m, "not known here; known are %s", strings.Join(keys, ", "))
		}
	}
	return true
}

func (p *parser) expect(n *jsontree.Node, want jsontree.Kind) bool {
	if n.Kind != want {
		p.fail(n, "must be %s, is %s", want, n.Kind)
	}
	return n.Kind == want
}

// object returns the members of n, which may be nil.
func (p *parser) object(n *jsontree.Node) []*jsontree.Node {
	if n == nil || !p.expect(n, jsontree.Object) {
		return nil
	}
	return n.Items
}

func (p *parser) readTemplate(root *jsontree.Node) {
	if !p.members(root, "Parameters", "Mappings", "Resources", "DeviceConfiguration") {
		return
	}
	p.template.parameters = map[string]parameter{}
	for _, m := range p.object(root.Get("Parameters")) {
		if length := utf8.RuneCountInString(m.Key); length == 0 || length > MaxParameterName {
			p.failKey(m, "a parameter's name must have 1 to %d characters, has %d", MaxParameterName, length)
		}
		p.template.parameters[m.Key] = p.readParameter(m)
	}
	p.mappings = mappings{}
	for _, table := range p.object(root.Get("Mappings")) {
		p.mappings[table.Key] = map[string]map[string]string{}
		for _, row := range p.object(table) {
			values := map[string]string{}
			p.mappings[table.Key][row.Key] = values
			for _, m := range p.object(row) {
				if isFunction(row) || isFunction(m) {
					p.fail(m, "no functions are allowed inside Mappings")
				} else if p.expect(m, jsontree.String) {
					values[m.Key] = m.Text
				}
			}
		}
	}
	if n := root.Get("Resources"); n == nil {
		p.fail(root, "has no Resources")
	} else if items := p.object(n); items != nil {
		for _, m := range items {
			p.readResource(m)
		}
	} else if n.Kind == jsontree.Object {
		p.fail(n, "declares no resource")
	}
	if n := root.Get("DeviceConfiguration"); n != nil {
		p.template.configuration = p.texts(n, nil)
	}
}

func (p *parser) readParameter(n *jsontree.Node) (declared parameter) {
	if !p.members(n, "Type", "Default") {
		return declared
	}
	switch kind := n.Get("Type"); {
	case kind == nil:
		p.fail(n, `has no Type; the only one is "String"`)
	case kind.Text != "String" || kind.Kind != jsontree.String:
		p.fail(kind, `the only Type is "String"`)
	}
	if d := n.Get("Default"); d != nil && p.expect(d, jsontree.String) {
		if length := utf8.RuneCountInString(d.Text); length > MaxParameterValue {
			p.fail(d, "has %d characters, %d are allowed", length, MaxParameterValue)
		}
		declared.fallback = &d.Text
	}
	return declared
}

// A constraint returns a value as it will be used, or rejects it.
type constraint func(s *scope, value string) string

func obeying(r rule) constraint {
	return func(s *scope, value string) string {
		if wrong := r.check(value); wrong != "" {
			return s.reject(badValue, "%s", wrong)
		}
		return value
	}
}

// oneOf allows few values, in any letter case.
func oneOf(what string, values ...string) constraint {
	return func(s *scope, value string) string {
		for _, v := range values {
			if strings.EqualFold(v, value) {
				return v
			}
		}
		return s.reject(badValue, "%s %q is not one of %s", what, value, strings.Join(values, ", "))
	}
}

// compacted requires a JSON object and removes its white space.
func compacted(s *scope, value string) string {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(value)); err != nil {
		return s.reject(badDocument, "the policy document is not JSON: %v", err)
	}
	if !strings.HasPrefix(b.String(), "{") {
		return s.reject(badDocument, "the policy document is not a JSON object")
	}
	return b.String()
}

// value reads a string or function with what it must obey, and looks for
// faults that do not depend on parameters.
func (p *parser) value(n *jsontree.Node, c constraint) expression {
	e := p.expression(n)
	if c != nil {
		inner := e
		e = func(s *scope) string { return c(s, inner(s)) }
	}
	p.try(n, func(s *scope) { e(s) })
	return e
}

// optional reads a member of n; absent is nil.
func (p *parser) optional(n *jsontree.Node, key string, c constraint) expression {
	m := n.Get(key)
	if m == nil {
		return nil
	}
	return p.value(m, c)
}

// texts reads a flat object of strings and functions.
func (p *parser) texts(n *jsontree.Node, c constraint) map[string]expression {
	if !p.expect(n, jsontree.Object) {
		return nil
	}
	values := make(map[string]expression, len(n.Items))
	for _, m := range n.Items {
		if m.Kind == jsontree.Object && !isFunction(m) {
			p.fail(m, "must be a string or a function; nested objects are not allowed")
			continue
		}
		values[m.Key] = p.value(m, c)
	}
	return values
}

// try reports the fault of an evaluation while parsing. A reference that has no
// value yet is none.
func (p *parser) try(n *jsontree.Node, eval func(*scope)) {
	s := &scope{parsing: true}
	eval(s)
	if e, ok := errors.AsType[*Error](s.err); ok {
		p.fail(n, "%s", e.Message)
	}
}

// Values of ThingPrincipalType.
const (
	exclusiveThing    = "EXCLUSIVE_THING"
	nonExclusiveThing = "NON_EXCLUSIVE_THING"
)

func (p *parser) readResource(n *jsontree.Node) {
	if !p.members(n, "Type", "Properties", "OverrideSettings") {
		return
	}
	kind, properties := n.Get("Type"), n.Get("Properties")
	if kind == nil || properties == nil {
		p.fail(n, "a resource needs Type and Properties")
		return
	}
	if !p.expect(kind, jsontree.String) {
		return
	}
	settings := n.Get("OverrideSettings")
	switch kind.Text {
	case "AWS::IoT::Thing":
		p.readThing(kind, properties, settings, n.Key)
	case "AWS::IoT::Certificate":
		p.readCertificate(kind, properties, settings, n.Key)
	case "AWS::IoT::Policy":
		p.readPolicy(properties, settings, n.Key)
	default:
		p.fail(kind, "%q is not a resource type; they are AWS::IoT::Thing, AWS::IoT::Certificate and AWS::IoT::Policy", kind.Text)
	}
}

func (p *parser) readThing(kind, n, settings *jsontree.Node, logicalName string) {
	if p.template.thing != nil {
		p.fail(kind, "the template has a thing already")
	}
	t := &thing{logicalName: logicalName}
	p.template.thing = t
	if settings != nil {
		t.override = ThingOverride{
			AttributePayload: p.override(settings, "AttributePayload", string(Merge)),
			ThingTypeName:    p.override(settings, "ThingTypeName"),
			ThingGroups:      p.override(settings, "ThingGroups", string(Merge)),
		}
		p.overrideKeys(settings, "AttributePayload", "ThingTypeName", "ThingGroups")
	}
	if !p.members(n, "ThingName", "AttributePayload", "ThingTypeName", "ThingGroups", "BillingGroup", "PackageVersions") {
		return
	}
	t.name = p.optional(n, "ThingName", obeying(thingName))
	if t.name == nil {
		p.fail(n, "a thing needs a ThingName")
	}
	t.kind = p.optional(n, "ThingTypeName", obeying(thingTypeName))
	t.billingGroup = p.optional(n, "BillingGroup", obeying(billingGroup))
	if m := n.Get("AttributePayload"); m != nil {
		t.attributes = p.readAttributes(m, t.kind != nil)
	}
	if m := n.Get("ThingGroups"); m != nil {
		t.groups = p.readGroups(m)
	}
	if m := n.Get("PackageVersions"); m != nil {
		t.packageVersions = p.texts(m, nil)
	}
}

func (p *parser) readAttributes(n *jsontree.Node, typed bool) map[string]expression {
	if !p.expect(n, jsontree.Object) {
		return nil
	}
	// The form of the registry's own API.
	if m := n.Get("attributes"); m != nil && m.Kind == jsontree.Object && !isFunction(m) {
		p.failKey(m, "AttributePayload holds the attributes themselves here")
		return nil
	}
	limit, who := MaxAttributesUntyped, "without a type"
	if typed {
		limit, who = MaxAttributes, "with a type"
	}
	if len(n.Items) > limit {
		p.fail(n, "has %d attributes, a thing %s may have %d", len(n.Items), who, limit)
	}
	for _, m := range n.Items {
		if wrong := attributeName.check(m.Key); wrong != "" {
			p.failKey(m, "%s", wrong)
		}
	}
	return p.texts(n, obeying(attributeValue))
}

// readGroups reads names of thing groups, within AWS IoT's limits.
func (p *parser) readGroups(n *jsontree.Node) listExpression {
	list := p.list(n)
	groups := func(s *scope) []string {
		names := list(s)
		if len(names) > MaxGroups {
			s.reject(badValue, "%d thing groups, a thing may be in %d", len(names), MaxGroups)
		}
		for _, name := range names {
			obeying(groupName)(s, name)
		}
		return names
	}
	p.try(n, func(s *scope) { groups(s) })
	return groups
}

func (p *parser) readCertificate(kind, n, settings *jsontree.Node, logicalName string) {
	if p.template.certificate != nil {
		p.fail(kind, "the template has a certificate already")
	}
	c := &certificate{logicalName: logicalName, status: constant(StatusActive), principalType: constant(nonExclusiveThing)}
	p.template.certificate = c
	if settings != nil {
		c.statusOverride = p.override(settings, "Status")
		p.overrideKeys(settings, "Status")
	}
	if !p.members(n, "CertificateId", "CertificateSigningRequest", "CertificatePem", "CACertificatePem", "Status", "ThingPrincipalType") {
		return
	}
	c.id, c.csr = p.optional(n, "CertificateId", nil), p.optional(n, "CertificateSigningRequest", nil)
	c.pem, c.caPEM = p.optional(n, "CertificatePem", nil), p.optional(n, "CACertificatePem", nil)
	p.checkSource(n)
	if e := p.optional(n, "Status", oneOf("Status", StatusActive, StatusInactive)); e != nil {
		c.status = e
	}
	if e := p.optional(n, "ThingPrincipalType", oneOf("ThingPrincipalType", exclusiveThing, nonExclusiveThing)); e != nil {
		c.principalType = e
	}
}

// checkSource reports a certificate that is not given in exactly one way, or in
// one that this kind of template does not allow.
func (p *parser) checkSource(n *jsontree.Node) {
	var given []string
	for _, m := range n.Items {
		switch m.Key {
		case "CertificateSigningRequest", "CertificatePem", "CACertificatePem":
			if p.fleet {
				p.failKey(m, `fleet provisioning allows only CertificateId, {"Ref": "%s"}`, ImplicitCertificateID)
				return
			}
		}
		if m.Key == "CertificateId" || m.Key == "CertificateSigningRequest" || m.Key == "CertificatePem" {
			given = append(given, m.Key)
		}
	}
	switch {
	case len(given) == 0 && p.fleet:
		p.fail(n, `a certificate needs CertificateId, {"Ref": "%s"}`, ImplicitCertificateID)
	case len(given) != 1:
		p.fail(n, "a certificate needs exactly one of CertificateId, CertificateSigningRequest and CertificatePem")
	case given[0] != "CertificatePem" && n.Get("CACertificatePem") != nil:
		p.failKey(n.Get("CACertificatePem"), "belongs to CertificatePem")
	}
}

func (p *parser) readPolicy(n, settings *jsontree.Node, logicalName string) {
	p.inPolicy = true
	defer func() { p.inPolicy = false }()
	if settings != nil {
		p.failKey(settings, "a policy has no OverrideSettings")
	}
	if !p.members(n, "PolicyName", "PolicyDocument") {
		return
	}
	name, document := n.Get("PolicyName"), n.Get("PolicyDocument")
	switch {
	case name == nil && document == nil, name != nil && document != nil:
		p.fail(n, "a policy needs exactly one of PolicyName and PolicyDocument")
	case name != nil:
		p.template.policies = append(p.template.policies, policy{logicalName: logicalName, name: p.value(name, obeying(policyName))})
	default:
		p.template.policies = append(p.template.policies, policy{logicalName: logicalName, document: p.readDocument(document)})
	}
}

// screaming is the other spelling of a CamelCase key: THING_TYPE_NAME.
func screaming(key string) string {
	var b strings.Builder
	for i, c := range key {
		if i > 0 && 'A' <= c && c <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(c)
	}
	return strings.ToUpper(b.String())
}

// override reads one setting. Beside DO_NOTHING, REPLACE and FAIL it may have
// the values of more.
func (p *parser) override(settings *jsontree.Node, key string, more ...string) Override {
	m := settings.Get(key)
	if other := settings.Get(screaming(key)); other != nil && other.Key != key {
		if m != nil {
			p.failKey(other, "the same setting as %s", key)
		}
		m = other
	}
	if m == nil || !p.expect(m, jsontree.String) {
		return Unset
	}
	allowed := append([]string{string(DoNothing), string(Replace), string(Fail)}, more...)
	var value string
	p.try(m, func(s *scope) { value = oneOf(key, allowed...)(s, m.Text) })
	return Override(value)
}

func (p *parser) overrideKeys(settings *jsontree.Node, keys ...string) {
	for _, key := range slices.Clone(keys) {
		if other := screaming(key); other != key {
			keys = append(keys, other)
		}
	}
	p.members(settings, keys...)
}

// readDocument reads a policy document: an object with expressions in it, or a
// string or function that holds one.
func (p *parser) readDocument(n *jsontree.Node) expression {
	if n.Kind != jsontree.Object || isFunction(n) {
		return p.value(n, compacted)
	}
	parts := p.appendDocument(nil, n)
	document := func(s *scope) string {
		var b strings.Builder
		for _, part := range parts {
			b.WriteString(part(s))
		}
		return s.bounded(b.String())
	}
	p.try(n, func(s *scope) { document(s) })
	return document
}

// appendDocument appends the parts of the JSON text of n.
func (p *parser) appendDocument(parts []expression, n *jsontree.Node) []expression {
	brackets := "{}"
	switch {
	case isFunction(n) && n.Get("Fn::Split") != nil:
		list := p.list(n)
		return append(parts, func(s *scope) string { return encode(list(s)) })
	case isFunction(n):
		text := p.expression(n)
		return append(parts, func(s *scope) string { return encode(text(s)) })
	case n.Kind == jsontree.Array:
		brackets = "[]"
	case n.Kind != jsontree.Object:
		return append(parts, constant(string(p.body[n.Start:n.End])))
	}
	separator := brackets[:1]
	for _, m := range n.Items {
		if n.Kind == jsontree.Object {
			separator += encode(m.Key) + ":"
		}
		parts = p.appendDocument(append(parts, constant(separator)), m)
		separator = ","
	}
	if len(n.Items) == 0 {
		return append(parts, constant(brackets))
	}
	return append(parts, constant(brackets[1:]))
}

// encode returns strings as JSON, with no more escapes than needed.
func encode(value any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(value) // strings always encode
	return strings.TrimSpace(b.String())
}
