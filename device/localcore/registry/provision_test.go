package registry

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/localcore/template"
)

const (
	token     = "a token"
	principal = "the claim"
)

func pending(t *testing.T, r *Registry) Certificate {
	t.Helper()
	return must(r.CreatePendingCertificate(newPEM(t), token, principal, time.Hour))(t)
}

// registration asks for thing "new" with everything that furnish offers.
func registration() Provisioning {
	return Provisioning{
		Token: token, Principal: principal,
		Plan: &template.Plan{
			Thing: &template.Thing{
				Name: "new", Type: "type", Groups: []string{"child"}, Attributes: map[string]string{"a": "1"},
			},
			Certificate: &template.Certificate{Status: template.StatusActive},
			Policies:    []template.Policy{{Name: "policy"}},
		},
	}
}

// again asks for thing "thing", which furnish made.
func again() Provisioning {
	return Provisioning{Token: token, Principal: principal, Plan: &template.Plan{
		Thing: &template.Thing{Name: "thing"}, Certificate: &template.Certificate{Status: template.StatusActive},
	}}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html:
// registration makes thing, policies and attachments and activates the
// certificate.
func TestProvisionMakesEverything(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	furnish(t, r)
	c := pending(t, r)
	p := registration()
	p.Plan.Policies = append(p.Plan.Policies, template.Policy{Name: "made", Document: []byte(document)})
	got := must(r.Provision(p))(t)
	if got.Certificate.ID != c.ID || got.Certificate.Status != Active || !got.Created || got.Thing.Name != "new" {
		t.Errorf("got %+v", got)
	}
	if groups := must(r.ListThingGroupsForThing("new"))(t); !cmp.Equal(groups, []string{"child"}) {
		t.Errorf("groups %v", groups)
	}
	if policies := must(r.ListAttachedPolicies(CertificateTarget(c.ID), false))(t); !cmp.Equal(policies, []string{"made", "policy"}) {
		t.Errorf("policies %v", policies)
	}
	want := []Attachment{{"new", c.ID, NonExclusive}}
	if diff := cmp.Diff(want, must(r.ListThingPrincipals("new"))(t)); diff != "" {
		t.Error(diff)
	}
	if n := r.state().ownerships.rows.Len(); n != 0 {
		t.Errorf("%d ownership tokens are left", n)
	}
}

func TestProvisionIsAllOrNothing(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spoil func(*Provisioning)
		want  string
	}{
		"no token":           {func(p *Provisioning) { p.Token = "" }, CodeInvalidToken},
		"unknown token":      {func(p *Provisioning) { p.Token = "else" }, CodeInvalidToken},
		"another principal":  {func(p *Provisioning) { p.Principal = "else" }, CodeInvalidToken},
		"missing type":       {func(p *Provisioning) { p.Plan.Thing.Type = "none" }, CodeNotFound},
		"missing group":      {func(p *Provisioning) { p.Plan.Thing.Groups = []string{"child", "none"} }, CodeNotFound},
		"groups of one tree": {func(p *Provisioning) { p.Plan.Thing.Groups = []string{"child", "root"} }, CodeInvalidRequest},
		"missing policy":     {func(p *Provisioning) { p.Plan.Policies[0].Name = "none" }, CodeNotFound},
		"malformed policy":   {func(p *Provisioning) { p.Plan.Policies[0] = template.Policy{Name: "x", Document: []byte("{")} }, CodeMalformedPolicy},
		"bad thing name":     {func(p *Provisioning) { p.Plan.Thing.Name = "a b" }, CodeInvalidRequest},
		"bad attribute":      {func(p *Provisioning) { p.Plan.Thing.Attributes["b"] = "a b" }, CodeInvalidRequest},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, _ := open(t)
			furnish(t, r)
			c := pending(t, r)
			p := registration()
			test.spoil(&p)
			generation := r.Generation()
			if _, err := r.Provision(p); code(err) != test.want {
				t.Fatalf("got %v, want %s", err, test.want)
			}
			if r.Generation() != generation {
				t.Error("the registry changed")
			}
			if _, err := r.DescribeThing("new"); code(err) != CodeNotFound {
				t.Errorf("the thing: %v", err)
			}
			if got := must(r.CertificateByToken(token, principal))(t); got.ID != c.ID || got.Status != PendingActivation {
				t.Errorf("the token is gone or the certificate changed: %+v", got)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html:
// DO_NOTHING, REPLACE, MERGE and FAIL say what happens to a thing that exists.
func TestOverrideSettings(t *testing.T) {
	t.Parallel()
	type outcome struct {
		Code       string
		Type       string
		Attributes map[string]string
		Groups     []string
	}
	kept := outcome{"", "type", map[string]string{"a": "1"}, []string{"other"}}
	tests := map[string]struct {
		set  func(*template.Thing)
		want outcome
	}{
		"unset and equal": {
			func(p *template.Thing) {
				p.Type, p.Attributes, p.Groups = "type", map[string]string{"a": "1"}, []string{"other"}
			}, kept,
		},
		"unset and silent":     {func(p *template.Thing) {}, kept},
		"unset and other type": {func(p *template.Thing) { p.Type = "type2" }, outcome{Code: CodeResourceConflicts}},
		"unset and other attributes": {
			func(p *template.Thing) { p.Attributes = map[string]string{"b": "2"} }, outcome{Code: CodeResourceConflicts},
		},
		"unset and other groups": {
			func(p *template.Thing) { p.Groups = []string{"child"} }, outcome{Code: CodeResourceConflicts},
		},
		"do nothing": {
			func(p *template.Thing) {
				p.Type, p.Attributes, p.Groups = "type2", map[string]string{"b": "2"}, []string{"child"}
				p.Override = template.ThingOverride{AttributePayload: template.DoNothing, ThingTypeName: template.DoNothing, ThingGroups: template.DoNothing}
			}, kept,
		},
		"replace": {
			func(p *template.Thing) {
				p.Type, p.Attributes, p.Groups = "type2", map[string]string{"b": "2"}, []string{"child"}
				p.Override = template.ThingOverride{AttributePayload: template.Replace, ThingTypeName: template.Replace, ThingGroups: template.Replace}
			}, outcome{"", "type2", map[string]string{"b": "2"}, []string{"child"}},
		},
		"replace by nothing": {
			func(p *template.Thing) {
				p.Attributes, p.Groups = map[string]string{}, []string{}
				p.Override.AttributePayload, p.Override.ThingGroups = template.Replace, template.Replace
			}, outcome{"", "type", map[string]string{}, nil},
		},
		"merge": {
			func(p *template.Thing) {
				p.Attributes, p.Groups = map[string]string{"b": "2"}, []string{"child"}
				p.Override.AttributePayload, p.Override.ThingGroups = template.Merge, template.Merge
			}, outcome{"", "type", map[string]string{"a": "1", "b": "2"}, []string{"child", "other"}},
		},
		"unset and nothing there": {
			func(p *template.Thing) {
				p.Name, p.Type, p.Attributes, p.Groups = "bare", "type", map[string]string{"a": "1"}, []string{"other"}
			}, kept,
		},
		"fail on groups where there are none": {
			func(p *template.Thing) {
				p.Name, p.Groups, p.Override.ThingGroups = "bare", []string{"other"}, template.Fail
			},
			outcome{Code: CodeResourceConflicts},
		},
		"fail on equal type": {
			func(p *template.Thing) { p.Type, p.Override.ThingTypeName = "type", template.Fail }, outcome{Code: CodeResourceConflicts},
		},
		"fail on equal groups": {
			func(p *template.Thing) { p.Groups, p.Override.ThingGroups = []string{"other"}, template.Fail }, outcome{Code: CodeResourceConflicts},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, _ := open(t)
			furnish(t, r)
			must(r.CreateThingType(ThingType{Name: "type2"}))(t)
			must(r.CreateThing(Thing{Name: "bare"}))(t)
			ok(t, r.AddThingToThingGroup("thing", "other"))
			pending(t, r)
			p := again()
			test.set(p.Plan.Thing)
			_, err := r.Provision(p)
			got := outcome{Code: code(err)}
			if err == nil {
				thing := must(r.DescribeThing(p.Plan.Thing.Name))(t)
				got.Type, got.Attributes = thing.Type, thing.Attributes
				got.Groups = must(r.ListThingGroupsForThing(p.Plan.Thing.Name))(t)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

func TestTokenWorksOnce(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	furnish(t, r)
	pending(t, r)
	must(r.Provision(registration()))(t)
	if _, err := r.Provision(registration()); code(err) != CodeInvalidToken {
		t.Errorf("got %v", err)
	}
}

func TestRegistrationBringsNoRevokedCertificateBack(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	furnish(t, r)
	c := pending(t, r)
	ok(t, r.UpdateCertificate(c.ID, Revoked))
	if _, err := r.Provision(registration()); code(err) != CodeResourceConflicts {
		t.Errorf("got %v", err)
	}
	if c, _ := r.CertificateByID(c.ID); c.Status != Revoked {
		t.Errorf("the certificate is %s", c.Status)
	}
	replacing := registration()
	replacing.Plan.Certificate.StatusOverride = template.Replace
	if got := must(r.Provision(replacing))(t); got.Certificate.Status != Active {
		t.Errorf("with a template that replaces the status, the certificate is %s", got.Certificate.Status)
	}
}

func TestOlderCertificatesStayAttached(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	furnish(t, r)
	old := newCertificate(t, r, Active)
	ok(t, r.AttachThingPrincipal("thing", old.ID, ""))
	pending(t, r)
	must(r.Provision(again()))(t)
	if got := must(r.ListThingPrincipals("thing"))(t); len(got) != 2 {
		t.Errorf("principals %v", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/fleet-provision-api.html:
// a certificate whose token expires without registration is deleted.
func TestExpire(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		use     func(r *Registry, c Certificate) error
		deleted bool
	}{
		"untouched":            {func(*Registry, Certificate) error { return nil }, true},
		"active, not attached": {func(r *Registry, c Certificate) error { return r.UpdateCertificate(c.ID, Active) }, true},
		"pending with policy": {func(r *Registry, c Certificate) error {
			return r.AttachPolicy("policy", CertificateTarget(c.ID))
		}, true},
		"active with thing": {func(r *Registry, c Certificate) error {
			ok := r.UpdateCertificate(c.ID, Active)
			if ok != nil {
				return ok
			}
			return r.AttachThingPrincipal("thing", c.ID, "")
		}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, clock := open(t)
			furnish(t, r)
			c := pending(t, r)
			ok(t, test.use(r, c))
			expiry := epoch.Add(time.Hour)
			if deleted := must(r.Expire(expiry.Add(-1)))(t); len(deleted) != 0 {
				t.Fatalf("deleted %v too early", deleted)
			}
			clock.Time = expiry
			if _, err := r.CertificateByToken(token, principal); code(err) != CodeInvalidToken {
				t.Errorf("expired token: %v", err)
			}
			must(r.Expire(expiry))(t)
			if _, there := r.CertificateByID(c.ID); there == test.deleted {
				t.Errorf("certificate is there: %v", there)
			}
			if n := r.state().ownerships.rows.Len(); n != 0 {
				t.Errorf("%d ownership tokens are left", n)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateProvisioningClaim.html:
// a provisioning claim is an active certificate that expires.
func TestProvisioningClaimIsUnlistedAndExpires(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	must(r.CreateProvisioningTemplate(ProvisioningTemplate{Name: "template", RoleARN: "role"}, "{}"))(t)
	c, err := r.CreateClaimCertificate(newPEM(t), "template", 5*time.Minute)
	ok(t, err)
	if c.ClaimTemplate != "template" || c.Status != Active {
		t.Errorf("template %q, status %s", c.ClaimTemplate, c.Status)
	}
	if listed := r.ListCertificates(); len(listed) != 0 {
		t.Errorf("listed: %v", listed)
	}
	if deleted := must(r.Expire(c.ClaimExpires))(t); !cmp.Equal(deleted, []string{c.ID}) {
		t.Errorf("deleted %v", deleted)
	}
}
