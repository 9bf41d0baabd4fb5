// Package template reads fleet provisioning templates and resolves them: from
// a template, a device's parameters and a certificate it makes a [Plan] of what
// to register. It touches no registry: whether a named policy, group or type
// exists is for the one who carries out the plan.
//
// What AWS does not document is decided in ambiguous.go and nowhere else.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html
package template

import (
	"maps"
	"slices"
	"unicode/utf8"
)

// A Template is a parsed provisioning template. It does not change and is safe
// for concurrent use.
type Template struct {
	parameters    map[string]parameter
	thing         *thing
	certificate   *certificate
	policies      []policy
	configuration map[string]expression
}

// A parameter is a declared one.
type parameter struct{ fallback *string }

// A thing is a Thing before its values are known.
type thing struct {
	logicalName     string
	name            expression
	kind            expression // nil when absent, like the two that follow
	groups          listExpression
	billingGroup    expression
	attributes      map[string]expression
	packageVersions map[string]expression
	override        ThingOverride
}

type certificate struct {
	logicalName    string
	id             expression // of these three exactly one is set
	csr            expression
	pem            expression
	caPEM          expression // beside pem, or nil
	status         expression
	principalType  expression
	statusOverride Override
}

// A policy has a name or a document.
type policy struct {
	logicalName string
	name        expression
	document    expression
}

// Input is what one registration gives to a template.
type Input struct {
	// Parameters are the device's, with those of the hook's answer laid over them.
	Parameters map[string]string
	// CertificateID is the certificate to be registered. It is the value of
	// AWS::IoT::Certificate::Id and wins over a parameter of that name. When it
	// is empty, as in a call of RegisterThing over HTTPS, that parameter counts.
	CertificateID string
}

// Resolve replaces every function and reference by its value. The error is an
// *[Error], what AWS answers the device. It changes neither t nor in.
func (t *Template) Resolve(in Input) (*Plan, error) {
	if err := checkParameters(in.Parameters); err != nil {
		return nil, err
	}
	s := &scope{certificateID: in.CertificateID, given: in.Parameters, declared: t.parameters}
	plan := &Plan{Undeclared: t.undeclared(in.Parameters)}
	for _, step := range []func(*scope, *Plan) error{
		t.resolveThing, t.resolveCertificate, t.resolvePolicies, t.resolveConfiguration,
	} {
		if err := step(s, plan); err != nil {
			return nil, err
		}
	}
	return plan, nil
}

func checkParameters(given map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if n := utf8.RuneCountInString(name); n > MaxParameterName {
			return badParameter.errorf("a parameter's name has %d characters, %d are allowed", n, MaxParameterName)
		}
		if n := utf8.RuneCountInString(given[name]); n > MaxParameterValue {
			return badParameter.errorf("parameter %s has %d characters, %d are allowed", name, n, MaxParameterValue)
		}
	}
	return nil
}

func (t *Template) undeclared(given map[string]string) []string {
	var names []string
	for name := range given {
		if _, ok := t.parameters[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (t *Template) resolveThing(s *scope, plan *Plan) error {
	if t.thing == nil {
		return nil
	}
	resolved := &Thing{LogicalName: t.thing.logicalName, Override: t.thing.override}
	plan.Thing = resolved
	for _, v := range []struct {
		from expression
		to   *string
	}{
		{t.thing.name, &resolved.Name},
		{t.thing.kind, &resolved.Type},
		{t.thing.billingGroup, &resolved.BillingGroup},
	} {
		if err := resolveText(s, v.from, v.to); err != nil {
			return err
		}
	}
	var err error
	if t.thing.groups != nil {
		if resolved.Groups, err = t.thing.groups.evalList(s); err != nil {
			return err
		}
	}
	if resolved.Attributes, err = resolveMap(s, t.thing.attributes); err != nil {
		return err
	}
	resolved.PackageVersions, err = resolveMap(s, t.thing.packageVersions)
	return err
}

func (t *Template) resolveCertificate(s *scope, plan *Plan) error {
	if t.certificate == nil {
		return nil
	}
	resolved := &Certificate{LogicalName: t.certificate.logicalName, StatusOverride: t.certificate.statusOverride}
	plan.Certificate = resolved
	for _, v := range []struct {
		from expression
		to   *string
	}{
		{t.certificate.id, &resolved.ID},
		{t.certificate.csr, &resolved.CSR},
		{t.certificate.pem, &resolved.PEM},
		{t.certificate.caPEM, &resolved.CAPEM},
	} {
		if err := resolveText(s, v.from, v.to); err != nil {
			return err
		}
	}
	if t.certificate.id != nil && s.certificateID != "" && resolved.ID != s.certificateID {
		return otherCertificate.errorf("CertificateId resolves to %q, not to the certificate of the ownership token", resolved.ID)
	}
	var principalType string
	if err := resolveText(s, t.certificate.principalType, &principalType); err != nil {
		return err
	}
	resolved.Exclusive = principalType == exclusiveThing
	return resolveText(s, t.certificate.status, &resolved.Status)
}

func (t *Template) resolvePolicies(s *scope, plan *Plan) error {
	for _, p := range t.policies {
		resolved := Policy{LogicalName: p.logicalName}
		if err := resolveText(s, p.name, &resolved.Name); err != nil {
			return err
		}
		if p.document != nil {
			var body string
			if err := resolveText(s, p.document, &body); err != nil {
				return err
			}
			resolved.Name, resolved.Document = documentName(body), []byte(body)
		}
		plan.Policies = append(plan.Policies, resolved)
	}
	return nil
}

func (t *Template) resolveConfiguration(s *scope, plan *Plan) error {
	resolved, err := resolveMap(s, t.configuration)
	if resolved == nil {
		resolved = make(map[string]string)
	}
	plan.DeviceConfiguration = resolved
	return err
}

// resolveText sets to unless from is nil.
func resolveText(s *scope, from expression, to *string) error {
	if from == nil {
		return nil
	}
	value, err := from.eval(s)
	*to = value
	return err
}

// resolveMap returns nil for nothing. Of several faults it always returns that
// of the first key.
func resolveMap(s *scope, from map[string]expression) (map[string]string, error) {
	if len(from) == 0 {
		return nil, nil
	}
	resolved := make(map[string]string, len(from))
	for _, key := range slices.Sorted(maps.Keys(from)) {
		value, err := from[key].eval(s)
		if err != nil {
			return nil, err
		}
		resolved[key] = value
	}
	return resolved, nil
}
