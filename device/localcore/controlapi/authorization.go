package controlapi

import (
	"slices"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/registry"
)

// actions are the IoT actions by the action types of TestAuthorization.
var actions = map[string]string{
	"CONNECT":   "iot:Connect",
	"PUBLISH":   "iot:Publish",
	"RECEIVE":   "iot:Receive",
	"SUBSCRIBE": "iot:Subscribe",
}

// endpointTypes are those of DescribeEndpoint. All give the one endpoint.
var endpointTypes = []string{"", "iot:Data", "iot:Data-ATS", "iot:CredentialProvider", "iot:Jobs"}

func (a *api) describeEndpoint(kind string) (object, error) {
	if !slices.Contains(endpointTypes, kind) {
		return nil, invalid("endpoint type %q must be one of %q", awsiot.Clip(kind), endpointTypes[1:])
	}
	return object{"endpointAddress": a.Endpoint}, nil
}

func eventConfigurations(c registry.EventConfigurations) object {
	all := map[string]registry.EventConfiguration{}
	for _, kind := range registry.EventTypes {
		all[kind] = registry.EventConfiguration{Enabled: c.Enabled[kind]}
	}
	out := object{"eventConfigurations": all}
	if !c.Created.IsZero() {
		out["creationDate"], out["lastModifiedDate"] = epoch(c.Created), epoch(c.Modified)
	}
	return out
}

func (a *api) effectivePolicies(thing string, principal registry.Target) (object, error) {
	if principal == "" && thing == "" {
		return nil, invalid("a principal or a thing name is required")
	}
	documents, err := a.Registry.EffectivePolicies(principal, thing)
	return object{"effectivePolicies": convert(documents, func(d registry.PolicyDocument) object {
		return a.policyName(d.Name).with(object{"policyDocument": d.Document})
	})}, err
}

type authInfo struct {
	ActionType string   `json:"actionType,omitempty"`
	Resources  []string `json:"resources"`
}

// testAuthorization answers for each resource by itself. The policies that apply are those of the
// principal and of the thing named as the client id, with the changes of the request.
func (a *api) testAuthorization(clientID string, principal registry.Target, infos []authInfo, add, skip []string) (object, error) {
	policies, err := a.Registry.EffectivePolicies(principal, "")
	if err != nil {
		return nil, err
	}
	certificateID := ""
	if id, ok := principal.Certificate(); ok {
		certificateID, policies = id, a.Registry.PoliciesFor(id, clientID)
	}
	for _, name := range add {
		p, err := a.Registry.GetPolicy(name)
		if err != nil {
			return nil, err
		}
		policies = append(policies, registry.PolicyDocument{Name: p.Name, Document: p.Default().Document})
	}
	policies = slices.DeleteFunc(policies, func(d registry.PolicyDocument) bool { return slices.Contains(skip, d.Name) })
	session, results := a.Session(certificateID, clientID), []object{}
	for _, info := range infos {
		if actions[info.ActionType] == "" {
			return nil, invalid("action type %q must be CONNECT, PUBLISH, RECEIVE or SUBSCRIBE", awsiot.Clip(info.ActionType))
		}
		for _, resource := range info.Resources {
			results = append(results, a.authResult(info.ActionType, resource, session, policies))
		}
	}
	return object{"authResults": results}, nil
}

// authResult lists what each policy by itself decides.
func (a *api) authResult(actionType, resource string, session *policy.Session, policies []registry.PolicyDocument) object {
	allowed, implicit, explicit := []object{}, []object{}, []object{}
	for _, p := range policies {
		list := &implicit
		if d := a.Evaluate([]registry.PolicyDocument{p}, actions[actionType], resource, session); d.Allowed {
			list = &allowed
		} else if d.Statement != nil {
			list = &explicit
		}
		*list = append(*list, a.policyName(p.Name))
	}
	decision := "IMPLICIT_DENY"
	if len(explicit) > 0 {
		decision = "EXPLICIT_DENY"
	} else if len(allowed) > 0 {
		decision = "ALLOWED"
	}
	by := func(policies []object) object { return object{"policies": policies} }
	return object{
		"authInfo": authInfo{actionType, []string{resource}}, "authDecision": decision, "missingContextValues": []string{},
		"allowed": by(allowed), "denied": object{"implicitDeny": by(implicit), "explicitDeny": by(explicit)},
	}
}

func newRoleAlias(name, role string, seconds time.Duration) registry.RoleAlias {
	return registry.RoleAlias{Name: name, RoleARN: role, CredentialDuration: seconds * time.Second}
}

func (a *api) roleAlias(alias registry.RoleAlias) object {
	return a.ref("rolealias", "roleAlias", alias.Name)
}
