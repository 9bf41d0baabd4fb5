package registry

import (
	"cmp"
	"slices"
	"time"

	"example.com/fleety/device/awsiot"
)

// hookPayloadVersion is the one version of the hook's payload that AWS has
// published.
const hookPayloadVersion = "2020-04-01"

// A TemplateType is the use of a provisioning template.
type TemplateType string

// The template types of AWS IoT.
const (
	FleetProvisioning TemplateType = "FLEET_PROVISIONING"
	JITP              TemplateType = "JITP"
)

// String returns AWS's name of the type.
func (t TemplateType) String() string { return string(t) }

// A Hook is the Lambda function that is invoked before provisioning.
type Hook struct {
	// PayloadVersion is "2020-04-01" where it is empty.
	PayloadVersion string
	TargetARN      string
}

// A ProvisioningTemplate is a template with its versions, oldest first.
type ProvisioningTemplate struct {
	Name, Description string
	RoleARN           string
	Enabled           bool
	Type              TemplateType
	Hook              *Hook
	Versions          []TemplateVersion
	DefaultVersion    int
	NextVersion       int
	Created, Modified time.Time
}

// A TemplateVersion is one body of a provisioning template. Versions count
// from 1 and are never reused.
type TemplateVersion struct {
	ID      int
	Body    string
	Created time.Time
}

func (t ProvisioningTemplate) clone() ProvisioningTemplate {
	t.Versions = slices.Clone(t.Versions)
	if t.Hook != nil {
		h := *t.Hook
		t.Hook = &h
	}
	return t
}

// Version returns the version with this id.
func (t ProvisioningTemplate) Version(id int) (TemplateVersion, bool) {
	i := slices.IndexFunc(t.Versions, func(v TemplateVersion) bool { return v.ID == id })
	if i < 0 {
		return TemplateVersion{}, false
	}
	return t.Versions[i], true
}

// Body returns the body of the default version, the one in effect.
func (t ProvisioningTemplate) Body() string {
	v, _ := t.Version(t.DefaultVersion)
	return v.Body
}

// A NewProvisioningTemplate describes a template to create. Name, Body and
// RoleARN are required.
type NewProvisioningTemplate struct {
	Name, Description string
	Body              string
	RoleARN           string
	Enabled           bool
	// Type is FleetProvisioning where it is empty.
	Type TemplateType
	Hook *Hook
}

// A ProvisioningTemplateUpdate describes a change of a template. Nil and zero
// leave a part alone.
type ProvisioningTemplateUpdate struct {
	Name           string
	Description    *string
	Enabled        *bool
	RoleARN        string
	DefaultVersion int
	Hook           *Hook
	// RemoveHook takes the hook away; it excludes Hook.
	RemoveHook bool
}

// CreateProvisioningTemplate makes a template; the body becomes version 1.
func (r *Registry) CreateProvisioningTemplate(n NewProvisioningTemplate) (ProvisioningTemplate, error) {
	return mutate(r, func(tx *transaction) (ProvisioningTemplate, error) {
		hook, err := n.Hook.checked()
		if err != nil {
			return ProvisioningTemplate{}, err
		}
		t := ProvisioningTemplate{
			Name: n.Name, Description: n.Description, RoleARN: n.RoleARN, Enabled: n.Enabled,
			Type: cmp.Or(n.Type, FleetProvisioning), Hook: hook, DefaultVersion: 1, NextVersion: 2,
			Versions: []TemplateVersion{{ID: 1, Body: n.Body, Created: tx.now}}, Created: tx.now, Modified: tx.now,
		}
		if err := cmp.Or(t.check(), tx.options.checkTemplate(n.Body)); err != nil {
			return ProvisioningTemplate{}, err
		}
		if tx.templates.has(n.Name) {
			return ProvisioningTemplate{}, rejectFor("provisioningtemplate/"+n.Name, CodeAlreadyExists, "Template %s already exists.", n.Name)
		}
		if len(tx.templates.keys()) >= MaxTemplates {
			return ProvisioningTemplate{}, Reject(CodeLimitExceeded, "There are %d provisioning templates already, which is the limit.", MaxTemplates)
		}
		tx.templates.put(t.Name, t)
		return t.clone(), nil
	})
}

// DescribeProvisioningTemplate returns the template with its versions.
func (r *Registry) DescribeProvisioningTemplate(name string) (ProvisioningTemplate, error) {
	return describe(r, r.committed.templates, name)
}

// ListProvisioningTemplates returns all templates in the order of their names.
func (r *Registry) ListProvisioningTemplates() []ProvisioningTemplate {
	return list(r, r.committed.templates, nil)
}

// UpdateProvisioningTemplate changes a template.
func (r *Registry) UpdateProvisioningTemplate(u ProvisioningTemplateUpdate) error {
	return r.update(func(tx *transaction) error {
		t, err := tx.templates.find(u.Name)
		if err != nil {
			return err
		}
		if u.Description != nil {
			t.Description = *u.Description
		}
		if u.Enabled != nil {
			t.Enabled = *u.Enabled
		}
		if u.RoleARN != "" {
			t.RoleARN = u.RoleARN
		}
		if u.DefaultVersion != 0 {
			if _, ok := t.Version(u.DefaultVersion); !ok {
				return noTemplateVersion(u.Name, u.DefaultVersion)
			}
			t.DefaultVersion = u.DefaultVersion
		}
		switch {
		case u.RemoveHook && u.Hook != nil:
			return invalid("A pre-provisioning hook cannot be set and removed in one request.")
		case u.RemoveHook:
			t.Hook = nil
		case u.Hook != nil:
			if t.Hook, err = u.Hook.checked(); err != nil {
				return err
			}
		}
		if err := t.check(); err != nil {
			return err
		}
		t.Modified = tx.now
		tx.templates.put(t.Name, t)
		return nil
	})
}

// DeleteProvisioningTemplate deletes a template with all its versions, as AWS's
// own CloudFormation handler relies on.
func (r *Registry) DeleteProvisioningTemplate(name string) error {
	return r.update(func(tx *transaction) error { return remove(tx, tx.templates, name) })
}

// CreateProvisioningTemplateVersion adds a body to a template, of which it
// then is the default if setDefault says so.
func (r *Registry) CreateProvisioningTemplateVersion(name, body string, setDefault bool) (TemplateVersion, error) {
	return mutate(r, func(tx *transaction) (TemplateVersion, error) {
		t, err := tx.templates.find(name)
		if err := cmp.Or(err, tx.options.checkTemplate(body)); err != nil {
			return TemplateVersion{}, err
		}
		if len(t.Versions) >= MaxTemplateVersions {
			return TemplateVersion{}, Reject(CodeVersionsLimitExceeded, "Template %s has %d versions already, which is the limit.", name, MaxTemplateVersions)
		}
		v := TemplateVersion{ID: t.NextVersion, Body: body, Created: tx.now}
		t.Versions = append(slices.Clone(t.Versions), v)
		t.NextVersion++
		t.Modified = tx.now
		if setDefault {
			t.DefaultVersion = v.ID
		}
		tx.templates.put(name, t)
		return v, nil
	})
}

// DeleteProvisioningTemplateVersion deletes a version that is not the default
// one.
func (r *Registry) DeleteProvisioningTemplateVersion(name string, version int) error {
	return r.update(func(tx *transaction) error {
		t, err := tx.templates.find(name)
		if err != nil {
			return err
		}
		if _, ok := t.Version(version); !ok {
			return noTemplateVersion(name, version)
		}
		if version == t.DefaultVersion {
			return Reject(CodeDeleteConflict, "Cannot delete the default version of template %s.", name)
		}
		t.Versions = slices.DeleteFunc(slices.Clone(t.Versions), func(v TemplateVersion) bool { return v.ID == version })
		t.Modified = tx.now
		tx.templates.put(name, t)
		return nil
	})
}

func noTemplateVersion(name string, version int) *Error {
	return Reject(CodeNotFound, "Template %s has no version %d.", name, version)
}

func (t ProvisioningTemplate) check() error {
	switch {
	case !awsiot.ValidTemplateName(t.Name):
		return invalid("template name %q must have %s", clip(t.Name), awsiot.TemplateNameRule)
	case t.RoleARN == "":
		return invalid("A provisioning role ARN is required.")
	case t.Type != FleetProvisioning && t.Type != JITP:
		return invalid("template type %q is neither %s nor %s", clip(string(t.Type)), FleetProvisioning, JITP)
	case t.Type == JITP && t.Hook != nil:
		return invalid("A pre-provisioning hook is for %s templates only.", FleetProvisioning)
	}
	return checkDescription(t.Description, MaxTemplateDescription)
}

// checked returns a copy of the hook with its default filled in.
func (h *Hook) checked() (*Hook, error) {
	if h == nil {
		return nil, nil
	}
	c := *h
	c.PayloadVersion = cmp.Or(c.PayloadVersion, hookPayloadVersion)
	if !hookVersionPattern.MatchString(c.PayloadVersion) {
		return nil, invalid("hook payload version %q must be 10 to 32 digits and -", clip(c.PayloadVersion))
	}
	if c.TargetARN == "" || len(c.TargetARN) > 2048 {
		return nil, invalid("A hook's target must be the ARN of a Lambda function.")
	}
	return &c, nil
}
