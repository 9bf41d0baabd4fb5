package controlapi

import (
	"slices"

	"example.com/fleety/device/localcore/registry"
)

// maxAuthInfos is how many actions one TestAuthorization may evaluate.
const maxAuthInfos = 10

// actions are the IoT actions by the action types of TestAuthorization.
var actions = map[string]string{
	"CONNECT":   "iot:Connect",
	"PUBLISH":   "iot:Publish",
	"RECEIVE":   "iot:Receive",
	"SUBSCRIBE": "iot:Subscribe",
}

// endpointTypes are those of DescribeEndpoint. All give the one endpoint.
var endpointTypes = []string{"", "iot:Data", "iot:Data-ATS", "iot:CredentialProvider", "iot:Jobs"}

func (a *api) describeEndpoint(q *request) (any, error) {
	if kind := q.query("endpointType"); !slices.Contains(endpointTypes, kind) {
		return nil, invalid("endpoint type %q must be one of %q", clip(kind), endpointTypes[1:])
	}
	return object{"endpointAddress": a.Endpoint}, nil
}

func (a *api) effectivePolicies(q *request, in struct {
	Principal string `json:"principal"`
}) (any, error) {
	thing := q.query("thingName")
	if in.Principal == "" && thing == "" {
		return nil, invalid("a principal or a thing name is required")
	}
	var principal registry.Target
	if in.Principal != "" {
		var err error
		if principal, err = a.principal(in.Principal); err != nil {
			return nil, err
		}
	}
	documents, err := a.Registry.EffectivePolicies(principal, thing)
	return object{"effectivePolicies": convert(documents, func(d registry.PolicyDocument) object {
		return object{"policyName": d.Name, "policyArn": a.arn("policy/" + d.Name), "policyDocument": d.Document}
	})}, err
}

type authInfo struct {
	ActionType string   `json:"actionType,omitempty"`
	Resources  []string `json:"resources"`
}

type testAuthorization struct {
	Principal string     `json:"principal"`
	AuthInfos []authInfo `json:"authInfos"`
	Add       []string   `json:"policyNamesToAdd"`
	Skip      []string   `json:"policyNamesToSkip"`
}

// testAuthorization answers for each resource by itself.
func (a *api) testAuthorization(q *request, in testAuthorization) (any, error) {
	if len(in.AuthInfos) < 1 || len(in.AuthInfos) > maxAuthInfos {
		return nil, invalid("%d authInfos, there must be 1 to %d", len(in.AuthInfos), maxAuthInfos)
	}
	for _, info := range in.AuthInfos {
		if actions[info.ActionType] == "" {
			return nil, invalid("action type %q must be CONNECT, PUBLISH, RECEIVE or SUBSCRIBE", clip(info.ActionType))
		}
		if len(info.Resources) == 0 {
			return nil, invalid("action type %s has no resources", info.ActionType)
		}
	}
	request, err := a.authRequest(in, q.query("clientId"))
	if err != nil {
		return nil, err
	}
	results := []object{}
	for _, info := range in.AuthInfos {
		for _, resource := range info.Resources {
			request.Action, request.Resource = actions[info.ActionType], resource
			results = append(results, a.authResult(authInfo{info.ActionType, []string{resource}}, a.Authorizer.Authorize(q.Context(), request)))
		}
	}
	return object{"authResults": results}, nil
}

// authRequest gathers the policies that apply: those of the principal and of
// the thing named as the client id, with the changes of the request.
func (a *api) authRequest(in testAuthorization, clientID string) (AuthRequest, error) {
	q := AuthRequest{ClientID: clientID}
	if in.Principal != "" {
		principal, err := a.principal(in.Principal)
		if err != nil {
			return q, err
		}
		if q.Policies, err = a.Registry.EffectivePolicies(principal, ""); err != nil {
			return q, err
		}
		if id, ok := principal.Certificate(); ok {
			q.CertificateID, q.Policies = id, a.Registry.PoliciesFor(id, clientID)
		}
	}
	for _, name := range in.Add {
		p, err := a.Registry.GetPolicy(name)
		if err != nil {
			return q, err
		}
		q.Policies = append(q.Policies, registry.PolicyDocument{Name: p.Name, Document: p.Document()})
	}
	q.Policies = slices.DeleteFunc(q.Policies, func(d registry.PolicyDocument) bool { return slices.Contains(in.Skip, d.Name) })
	return q, nil
}

func (a *api) authResult(info authInfo, result AuthResult) object {
	by := []policySummary{}
	if result.Policy != "" {
		by = append(by, a.policySummary(result.Policy))
	}
	out := object{"authInfo": info, "missingContextValues": []string{}}
	switch {
	case result.Allowed:
		out["authDecision"], out["allowed"] = "ALLOWED", object{"policies": by}
	case result.Explicit:
		out["authDecision"], out["denied"] = "EXPLICIT_DENY", object{"explicitDeny": object{"policies": by}}
	default:
		out["authDecision"], out["denied"] = "IMPLICIT_DENY", object{"implicitDeny": object{"policies": by}}
	}
	return out
}
