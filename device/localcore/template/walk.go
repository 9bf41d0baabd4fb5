package template

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/jsontree"
)

// A walk goes over a template and makes the plan of it. The walk of Parse checks the template:
// references have no value yet, and what is wrong whatever they are is a fault with its place. The
// walk of Resolve knows them: what is wrong rejects the registration, and the template itself has
// no faults any more.
type walk struct {
	*Template
	in        Input
	rejection *Error // the first

	checking bool
	faults   []*SyntaxError
	value    *jsontree.Node // that is evaluated; nil once it has a fault or needs a reference

	inPolicy bool // inside a Policy resource
}

// fail reports a fault of the text.
func (w *walk) fail(n *jsontree.Node, format string, args ...any) {
	w.faults = append(w.faults, jsontree.ErrorAt(w.body, n.Start, n.Path, fmt.Sprintf(format, args...)))
	w.value = nil
}

// failKey reports a fault of the key that n is the value of.
func (w *walk) failKey(n *jsontree.Node, format string, args ...any) {
	w.faults = append(w.faults, jsontree.ErrorAt(w.body, n.KeyStart, n.Path, fmt.Sprintf(format, args...)))
	w.value = nil
}

// reject reports what a value is or holds. Of a value that is checked only the first counts, and
// none after a reference.
func (w *walk) reject(code, format string, args ...any) {
	message := awsiot.Printable(fmt.Sprintf(format, args...))
	switch {
	case !w.checking && w.rejection == nil:
		w.rejection = &Error{Code: code, Message: message}
	case w.checking && w.value != nil:
		w.fail(w.value, "%s", message)
	}
}

// expect reports whether n is of that kind.
func (w *walk) expect(n *jsontree.Node, want jsontree.Kind) bool {
	if n.Kind != want {
		w.fail(n, "must be %s, is %s", want, n.Kind)
	}
	return n.Kind == want
}

// members reports whether n is an object. Each other key than those is a fault.
func (w *walk) members(n *jsontree.Node, keys ...string) bool {
	if !w.expect(n, jsontree.Object) {
		return false
	}
	for _, m := range n.Items {
		if !slices.Contains(keys, m.Key) {
			w.failKey(m, "not known here; known are %s", strings.Join(keys, ", "))
		}
	}
	return true
}

// object returns the members of n, which may be nil.
func (w *walk) object(n *jsontree.Node) []*jsontree.Node {
	if n == nil || !w.expect(n, jsontree.Object) {
		return nil
	}
	return n.Items
}

// declarations reads the sections that hold no references.
func (w *walk) declarations() {
	for _, m := range w.object(w.root.Get("Parameters")) {
		if length := utf8.RuneCountInString(m.Key); length == 0 || length > MaxParameterName {
			w.failKey(m, "a parameter's name must have 1 to %d characters, has %d", MaxParameterName, length)
		}
		w.parameters[m.Key] = nil
		if !w.members(m, "Type", "Default") {
			continue
		}
		switch kind := m.Get("Type"); {
		case kind == nil:
			w.fail(m, `has no Type; the only one is "String"`)
		case kind.Text != "String" || kind.Kind != jsontree.String:
			w.fail(kind, `the only Type is "String"`)
		}
		if d := m.Get("Default"); d != nil && w.expect(d, jsontree.String) {
			if length := utf8.RuneCountInString(d.Text); length > MaxParameterValue {
				w.fail(d, "has %d characters, %d are allowed", length, MaxParameterValue)
			}
			w.parameters[m.Key] = &d.Text
		}
	}
	for _, table := range w.object(w.root.Get("Mappings")) {
		w.mappings[table.Key] = map[string]map[string]string{}
		for _, row := range w.object(table) {
			values := map[string]string{}
			w.mappings[table.Key][row.Key] = values
			for _, m := range w.object(row) {
				if isFunction(row) || isFunction(m) {
					w.fail(m, "no functions are allowed inside Mappings")
				} else if w.expect(m, jsontree.String) {
					values[m.Key] = m.Text
				}
			}
		}
	}
}

// plan reads the resources and the device configuration.
func (w *walk) plan() *Plan {
	plan := &Plan{}
	if n := w.root.Get("Resources"); n == nil {
		w.fail(w.root, "has no Resources")
	} else if w.expect(n, jsontree.Object) {
		if len(n.Items) == 0 {
			w.fail(n, "declares no resource")
		}
		for _, m := range n.Items {
			w.resource(plan, m)
		}
	}
	plan.DeviceConfiguration = w.texts(w.object(w.root.Get("DeviceConfiguration")), nil)
	return plan
}

func (w *walk) resource(plan *Plan, n *jsontree.Node) {
	if !w.members(n, "Type", "Properties", "OverrideSettings") {
		return
	}
	kind, properties, settings := n.Get("Type"), n.Get("Properties"), n.Get("OverrideSettings")
	if kind == nil || properties == nil {
		w.fail(n, "a resource needs Type and Properties")
		return
	}
	if !w.expect(kind, jsontree.String) {
		return
	}
	switch kind.Text {
	case "AWS::IoT::Thing":
		if plan.Thing != nil {
			w.fail(kind, "the template has a thing already")
		}
		plan.Thing = w.thing(properties, settings, n.Key)
	case "AWS::IoT::Certificate":
		if plan.Certificate != nil {
			w.fail(kind, "the template has a certificate already")
		}
		plan.Certificate = w.certificate(properties, settings, n.Key)
	case "AWS::IoT::Policy":
		w.inPolicy = true
		plan.Policies = append(plan.Policies, w.policy(properties, settings, n.Key))
		w.inPolicy = false
	default:
		w.fail(kind, "%q is not a resource type; they are AWS::IoT::Thing, AWS::IoT::Certificate and AWS::IoT::Policy", kind.Text)
	}
}

func (w *walk) thing(n, settings *jsontree.Node, logicalName string) *Thing {
	t := &Thing{LogicalName: logicalName}
	if settings != nil {
		t.Override.AttributePayload = w.override(settings, "AttributePayload", "ATTRIBUTE_PAYLOAD", string(Merge))
		t.Override.ThingTypeName = w.override(settings, "ThingTypeName", "THING_TYPE_NAME")
		t.Override.ThingGroups = w.override(settings, "ThingGroups", "THING_GROUPS", string(Merge))
		w.members(settings, "AttributePayload", "ThingTypeName", "ThingGroups", "ATTRIBUTE_PAYLOAD", "THING_TYPE_NAME", "THING_GROUPS")
	}
	if !w.members(n, "ThingName", "AttributePayload", "ThingTypeName", "ThingGroups", "BillingGroup", "PackageVersions") {
		return t
	}
	if n.Get("ThingName") == nil {
		w.fail(n, "a thing needs a ThingName")
	}
	t.Name = w.text(n.Get("ThingName"), named("thing"))
	t.Type = w.text(n.Get("ThingTypeName"), named("thing type"))
	t.BillingGroup = w.text(n.Get("BillingGroup"), named("billing group"))
	if m := n.Get("ThingGroups"); m != nil {
		w.value = m
		var known bool
		t.Groups, known = w.list(m)
		if len(t.Groups) > awsiot.MaxGroupsPerThing {
			w.reject(invalidRequest, "%d thing groups, a thing may be in %d", len(t.Groups), awsiot.MaxGroupsPerThing)
		}
		for _, name := range t.Groups {
			if known {
				named("thing group")(w, name)
			}
		}
	}
	t.Attributes = w.attributes(n.Get("AttributePayload"), n.Get("ThingTypeName") != nil)
	w.texts(w.object(n.Get("PackageVersions")), nil)
	return t
}

func (w *walk) attributes(n *jsontree.Node, typed bool) map[string]string {
	if n == nil {
		return nil
	}
	members := w.object(n)
	limit, who := awsiot.MaxAttributesUntyped, "without a type"
	if typed {
		limit, who = awsiot.MaxAttributes, "with a type"
	}
	if len(members) > limit {
		w.fail(n, "has %d attributes, a thing %s may have %d", len(members), who, limit)
	}
	for _, m := range members {
		if m.Key == "attributes" && m.Kind == jsontree.Object && !isFunction(m) { // the form of the registry's own API
			w.failKey(m, "AttributePayload holds the attributes themselves here")
			return nil
		}
		if !awsiot.AttributeNames.Valid(m.Key) {
			w.failKey(m, "attribute name %q must have %s", awsiot.Clip(m.Key), awsiot.AttributeNames)
		}
	}
	return w.texts(members, rule("attribute value", awsiot.AttributeValues))
}

func (w *walk) certificate(n, settings *jsontree.Node, logicalName string) *Certificate {
	c := &Certificate{LogicalName: logicalName}
	if settings != nil {
		c.StatusOverride = w.override(settings, "Status", "STATUS")
		w.members(settings, "Status", "STATUS")
	}
	if !w.members(n, "CertificateId", "CertificateSigningRequest", "CertificatePem", "CACertificatePem", "Status", "ThingPrincipalType") {
		return c
	}
	w.checkSource(n)
	c.ID, c.CSR = w.text(n.Get("CertificateId"), nil), w.text(n.Get("CertificateSigningRequest"), nil)
	c.PEM, c.CAPEM = w.text(n.Get("CertificatePem"), nil), w.text(n.Get("CACertificatePem"), nil)
	if own := w.in.CertificateID; n.Get("CertificateId") != nil && own != "" && c.ID != own {
		w.reject(invalidParameters, "CertificateId resolves to %q, not to the certificate of the ownership token", c.ID)
	}
	const exclusive = "EXCLUSIVE_THING"
	c.Exclusive = w.text(n.Get("ThingPrincipalType"), oneOf("ThingPrincipalType", exclusive, "NON_EXCLUSIVE_THING")) == exclusive
	if c.Status = StatusActive; n.Get("Status") != nil {
		c.Status = w.text(n.Get("Status"), oneOf("Status", StatusActive, StatusInactive))
	}
	return c
}

// checkSource reports a certificate that is not given in exactly one way, or in one that this kind
// of template does not allow.
func (w *walk) checkSource(n *jsontree.Node) {
	id, csr, pem, authority := n.Get("CertificateId"), n.Get("CertificateSigningRequest"), n.Get("CertificatePem"), n.Get("CACertificatePem")
	given := slices.DeleteFunc([]*jsontree.Node{id, csr, pem}, func(m *jsontree.Node) bool { return m == nil })
	other := cmp.Or(csr, pem, authority)
	switch {
	case w.fleet && other != nil:
		w.failKey(other, `fleet provisioning allows only CertificateId, {"Ref": "%s"}`, ImplicitCertificateID)
	case w.fleet && id == nil:
		w.fail(n, `a certificate needs CertificateId, {"Ref": "%s"}`, ImplicitCertificateID)
	case len(given) != 1:
		w.fail(n, "a certificate needs exactly one of CertificateId, CertificateSigningRequest and CertificatePem")
	case authority != nil && pem == nil:
		w.failKey(authority, "belongs to CertificatePem")
	}
}

// policy reads a policy. A document's name is its hash, in the form of AWS's example.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/single-thing-provisioning.html
func (w *walk) policy(n, settings *jsontree.Node, logicalName string) Policy {
	p := Policy{LogicalName: logicalName}
	if settings != nil {
		w.failKey(settings, "a policy has no OverrideSettings")
	}
	if !w.members(n, "PolicyName", "PolicyDocument") {
		return p
	}
	name, document := n.Get("PolicyName"), n.Get("PolicyDocument")
	switch {
	case (name == nil) == (document == nil):
		w.fail(n, "a policy needs exactly one of PolicyName and PolicyDocument")
		return p
	case name != nil:
		p.Name = w.text(name, rule("policy name", awsiot.PolicyNames))
		return p
	case document.Kind != jsontree.Object || isFunction(document):
		p.Document = []byte(w.text(document, compacted))
	default:
		w.value = document
		var b strings.Builder
		w.writeDocument(&b, document)
		text, _ := w.bounded(b.String())
		p.Document = []byte(text)
	}
	p.Name = fmt.Sprintf("%X", sha1.Sum(p.Document))
	return p
}

// writeDocument writes the JSON text of n, with the values of its functions.
func (w *walk) writeDocument(b *strings.Builder, n *jsontree.Node) {
	brackets := "{}"
	switch {
	case isFunction(n) && n.Get("Fn::Split") != nil:
		list, _ := w.list(n)
		b.Write(awsiot.EncodeJSON(list))
		return
	case isFunction(n):
		text, _ := w.evaluate(n)
		b.Write(awsiot.EncodeJSON(text))
		return
	case n.Kind == jsontree.Array:
		brackets = "[]"
	case n.Kind != jsontree.Object:
		b.Write(w.body[n.Start:n.End])
		return
	}
	b.WriteString(brackets[:1])
	for i, m := range n.Items {
		if i > 0 {
			b.WriteByte(',')
		}
		if n.Kind == jsontree.Object {
			b.WriteString(string(awsiot.EncodeJSON(m.Key)) + ":")
		}
		w.writeDocument(b, m)
	}
	b.WriteString(brackets[1:])
}

// override reads one setting, in either spelling of its key. Beside DO_NOTHING, REPLACE and FAIL it
// may have the values of more.
func (w *walk) override(settings *jsontree.Node, key, capitals string, more ...string) Override {
	m := settings.Get(key)
	if other := settings.Get(capitals); other != nil {
		if m != nil {
			w.failKey(other, "the same setting as %s", key)
		}
		m = other
	}
	if m == nil || !w.expect(m, jsontree.String) {
		return Unset
	}
	w.value = m
	return Override(oneOf(key, append([]string{string(DoNothing), string(Replace), string(Fail)}, more...)...)(w, m.Text))
}

// A constraint returns a value as it will be used, or rejects it.
type constraint func(w *walk, value string) string

// rule allows what the registry allows.
func rule(what string, names awsiot.NameRule) constraint {
	return func(w *walk, value string) string {
		if !names.Valid(value) {
			w.reject(invalidRequest, "%s %q must have %s", what, awsiot.Clip(value), names)
		}
		return value
	}
}

// named allows what a thing and its like may be named.
func named(what string) constraint {
	return rule(what+" name", awsiot.ThingNames)
}

// oneOf allows few values, in any letter case.
func oneOf(what string, values ...string) constraint {
	return func(w *walk, value string) string {
		i := slices.IndexFunc(values, func(v string) bool { return strings.EqualFold(v, value) })
		if i < 0 {
			w.reject(invalidRequest, "%s %q is not one of %s", what, value, strings.Join(values, ", "))
			return ""
		}
		return values[i]
	}
}

// compacted requires a JSON object and removes its white space.
func compacted(w *walk, value string) string {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(value)); err != nil {
		w.reject(malformedPolicy, "the policy document is not JSON: %v", err)
	} else if !bytes.HasPrefix(b.Bytes(), []byte("{")) {
		w.reject(malformedPolicy, "the policy document is not a JSON object")
	}
	return b.String()
}
