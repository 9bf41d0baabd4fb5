package controlapi

import "example.com/fleety/device/localcore/registry"

type eventConfiguration struct{ Enabled bool }

func (a *api) updateEventConfigurations(_ *request, in struct {
	EventConfigurations map[string]eventConfiguration `json:"eventConfigurations"`
}) (any, error) {
	enabled := map[string]bool{}
	for kind, c := range in.EventConfigurations {
		enabled[kind] = c.Enabled
	}
	return object{}, a.Registry.UpdateEventConfigurations(enabled)
}

func (a *api) describeEventConfigurations(*request) (any, error) {
	c := a.Registry.EventConfigurations()
	all := map[string]eventConfiguration{}
	for _, kind := range registry.EventTypes {
		all[kind] = eventConfiguration{c.Enabled[kind]}
	}
	out := object{"eventConfigurations": all}
	if !c.Created.IsZero() {
		out["creationDate"], out["lastModifiedDate"] = epoch(c.Created), epoch(c.Modified)
	}
	return out, nil
}
