package template

import (
	"strings"

	"example.com/fleety/device/localcore/jsontree"
)

// Values of ThingPrincipalType.
const (
	exclusiveThing    = "EXCLUSIVE_THING"
	nonExclusiveThing = "NON_EXCLUSIVE_THING"
)

func (p *parser) readResources(n *jsontree.Node) {
	if !p.expect(n, jsontree.Object) {
		return
	}
	if len(n.Items) == 0 {
		p.fail(n, "declares no resource")
	}
	for _, m := range n.Items {
		p.readResource(m)
	}
}

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

// groups give names of thing groups, within AWS IoT's limits.
type groups struct{ listExpression }

func (g groups) evalList(s *scope) ([]string, error) {
	names, err := g.listExpression.evalList(s)
	if err != nil {
		return nil, err
	}
	if len(names) > MaxGroups {
		return nil, badValue.errorf("%d thing groups, a thing may be in %d", len(names), MaxGroups)
	}
	for _, name := range names {
		if wrong := groupName.check(name); wrong != "" {
			return nil, badValue.errorf("%s", wrong)
		}
	}
	return names, nil
}

func (p *parser) readGroups(n *jsontree.Node) listExpression {
	g := groups{p.list(n)}
	_, err := g.evalList(&scope{parsing: true})
	p.failEarly(n, err)
	return g
}

func (p *parser) readCertificate(kind, n, settings *jsontree.Node, logicalName string) {
	if p.template.certificate != nil {
		p.fail(kind, "the template has a certificate already")
	}
	c := &certificate{logicalName: logicalName, status: literal(StatusActive), principalType: literal(nonExclusiveThing)}
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
	value, err := enum{literal(m.Text), key, allowed}.eval(nil)
	p.failEarly(m, err)
	return Override(value)
}

func (p *parser) overrideKeys(settings *jsontree.Node, keys ...string) {
	both := keys
	for _, key := range keys {
		if other := screaming(key); other != key {
			both = append(both, other)
		}
	}
	p.members(settings, both...)
}
