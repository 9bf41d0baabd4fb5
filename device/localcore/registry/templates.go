package registry

import (
	"cmp"
	"slices"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
)

// hookPayloadVersion is the one version of the hook's payload that AWS has published.
const hookPayloadVersion = "2020-04-01"

// A TemplateType is the use of a provisioning template.
type TemplateType string

// String returns AWS's name of the type.
func (t TemplateType) String() string { return string(t) }

// The template types of AWS IoT.
const (
	FleetProvisioning TemplateType = "FLEET_PROVISIONING"
	JITP              TemplateType = "JITP"
)

// A Hook is the Lambda function that is invoked before provisioning.
type Hook struct {
	PayloadVersion string // "2020-04-01" where it is empty
	TargetARN      string
}

// A ProvisioningTemplate is a template with its versions.
type ProvisioningTemplate struct {
	Name, Description string
	RoleARN           string
	Enabled           bool
	Type              TemplateType
	Hook              *Hook
	Versioned
}

func (t ProvisioningTemplate) clone() ProvisioningTemplate {
	t.Versions = slices.Clone(t.Versions)
	if t.Hook != nil {
		t.Hook = new(*t.Hook)
	}
	return t
}

// A ProvisioningTemplateUpdate describes a change of a template. Nil and zero leave a part alone.
type ProvisioningTemplateUpdate struct {
	Description    *string
	Enabled        *bool
	RoleARN        string `json:"provisioningRoleArn"`
	DefaultVersion *int   `json:"defaultVersionId"`
	Hook           *Hook  `json:"preProvisioningHook"`
	RemoveHook     bool   `json:"removePreProvisioningHook"` // takes the hook away; it excludes Hook
}

// CreateProvisioningTemplate makes a template; the body becomes version 1. Name and
// RoleARN are required, and Type is FleetProvisioning where it is empty.
func (r *Registry) CreateProvisioningTemplate(t ProvisioningTemplate, body string) (ProvisioningTemplate, error) {
	return mutate(r, func(tx *transaction) (ProvisioningTemplate, error) {
		t.Type, t.Versioned = cmp.Or(t.Type, FleetProvisioning), firstVersion(Version{Body: body}, tx.now)
		switch err := cmp.Or(t.setHook(t.Hook), t.check(), tx.options.checkTemplate(body)); {
		case err != nil:
			return t, err
		case tx.templates.has(t.Name):
			return t, rejectFor("provisioningtemplate/"+t.Name, CodeAlreadyExists, "Template %s already exists.", t.Name)
		case len(tx.templates.keys()) >= MaxTemplates:
			return t, Reject(CodeLimitExceeded, "There are %d provisioning templates already, which is the limit.", MaxTemplates)
		}
		tx.templates.put(t.Name, t)
		return t, nil
	})
}

// DescribeProvisioningTemplate returns the template with its versions.
func (r *Registry) DescribeProvisioningTemplate(name string) (ProvisioningTemplate, error) {
	return r.state().templates.find(name)
}

// ListProvisioningTemplates returns all templates in the order of their names.
func (r *Registry) ListProvisioningTemplates() []ProvisioningTemplate {
	return r.state().templates.all()
}

// UpdateProvisioningTemplate changes a template.
func (r *Registry) UpdateProvisioningTemplate(name string, u ProvisioningTemplateUpdate) error {
	return edit(r, name, func(tx *transaction, t *ProvisioningTemplate) error {
		t.Description = *cmp.Or(u.Description, &t.Description)
		t.Enabled = *cmp.Or(u.Enabled, &t.Enabled)
		t.RoleARN = cmp.Or(u.RoleARN, t.RoleARN)
		t.DefaultVersion = *cmp.Or(u.DefaultVersion, &t.DefaultVersion)
		t.Modified = tx.now
		switch {
		case u.RemoveHook && u.Hook != nil:
			return invalid("A pre-provisioning hook cannot be set and removed in one request.")
		case u.RemoveHook:
			t.Hook = nil
		}
		_, err := t.Find("Template "+t.Name, t.DefaultVersion)
		return cmp.Or(t.setHook(u.Hook), err, t.check())
	})
}

// DeleteProvisioningTemplate deletes a template with all its versions, as AWS's
// own CloudFormation handler relies on.
func (r *Registry) DeleteProvisioningTemplate(name string) error {
	return r.update(func(tx *transaction) error { return remove(tx, tx.templates, name) })
}

// CreateProvisioningTemplateVersion adds a body to a template, of which it
// then is the default if setDefault says so.
func (r *Registry) CreateProvisioningTemplateVersion(name, body string, setDefault bool) (v Version, err error) {
	err = edit(r, name, func(tx *transaction, t *ProvisioningTemplate) error {
		v, err = t.add("Template "+name, Version{Body: body}, setDefault, MaxTemplateVersions, tx.now)
		return cmp.Or(tx.options.checkTemplate(body), err)
	})
	return v, err
}

// DeleteProvisioningTemplateVersion deletes a version that is not the default one.
func (r *Registry) DeleteProvisioningTemplateVersion(name string, version int) error {
	return edit(r, name, func(tx *transaction, t *ProvisioningTemplate) error {
		if version == t.DefaultVersion {
			return Reject(CodeDeleteConflict, "Cannot delete the default version of template %s.", name)
		}
		return t.remove("Template "+name, version, tx.now)
	})
}

func (t *ProvisioningTemplate) check() error {
	switch {
	case !awsiot.TemplateNames.Valid(t.Name):
		return invalid("template name %q must have %s", awsiot.Clip(t.Name), awsiot.TemplateNames)
	case t.RoleARN == "":
		return invalid("A provisioning role ARN is required.")
	case t.Type != FleetProvisioning && t.Type != JITP:
		return invalid("template type %q is neither %s nor %s", awsiot.Clip(string(t.Type)), FleetProvisioning, JITP)
	case t.Type == JITP && t.Hook != nil:
		return invalid("A pre-provisioning hook is for %s templates only.", FleetProvisioning)
	case utf8.RuneCountInString(t.Description) > MaxTemplateDescription:
		return invalid("a description of a template has at most %d characters", MaxTemplateDescription)
	}
	return nil
}

// setHook sets a copy of the hook, with its default filled in. A nil one leaves it alone.
func (t *ProvisioningTemplate) setHook(hook *Hook) error {
	if hook == nil {
		return nil
	}
	h := *hook
	h.PayloadVersion = cmp.Or(h.PayloadVersion, hookPayloadVersion)
	t.Hook = &h
	if h.PayloadVersion != hookPayloadVersion {
		return invalid("hook payload version %q is not emulated; it must be %s", awsiot.Clip(h.PayloadVersion), hookPayloadVersion)
	}
	return checkFunctionARN(h.TargetARN)
}
