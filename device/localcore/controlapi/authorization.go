package controlapi

import (
	"slices"

	"example.com/fleety/device/localcore/registry"
)

// maxAuthInfos is how many questions one TestAuthorization may ask.
const maxAuthInfos = 10

// actions are the IoT actions by the action types of TestAuthorization.
var actions = map[string]string{
	"CONNECT":   "iot:Connect",
	"PUBLISH":   "iot:Publish",
	"RECEIVE":   "iot:Receive",
	"SUBSCRIBE": "iot:Subscribe",
}

// endpointTypes are what DescribeEndpoint knows. All give the one endpoint.
var endpointTypes = []string{"", "iot:Data", "iot:Data-ATS", "iot:CredentialProvider", "iot:Jobs"}

func (a *api) describeEndpoint(q *request) (any, error) {
	if kind := q.query("endpointType"); !slices.Contains(endpointTypes, kind) {
		return nil, invalid("endpoint type %q must be one of %q", clip(kind), endpointTypes[1:])
	}
	return struct {
		Address string `json:"endpointAddress"`
	}{a.Endpoint}, nil
}

type effectivePolicy struct {
	policySummary
	Document string `json:"policyDocument"`
}

func (a *api) effectivePolicies(q *request) (any, error) {
	var in struct {
		Principal string `json:"principal"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	thing := q.query("thingName")
	if in.Principal == "" && thing == "" {
		return nil, invalid("a principal or a thing name is required")
	}
	var id string
	if in.Principal != "" {
		var err error
		if id, err = a.names.principal(in.Principal); err != nil {
			return nil, err
		}
	}
	documents, err := a.Registry.EffectivePolicies(id, thing)
	if err != nil {
		return nil, err
	}
	return struct {
		Policies []effectivePolicy `json:"effectivePolicies"`
	}{convert(documents, func(d registry.PolicyDocument) effectivePolicy {
		return effectivePolicy{a.policySummary(d.Name), d.Document}
	})}, nil
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

// decidedBy lists the policies that led to a decision.
type decidedBy struct {
	Policies []policySummary `json:"policies"`
}

type denied struct {
	Implicit *decidedBy `json:"implicitDeny,omitempty"`
	Explicit *decidedBy `json:"explicitDeny,omitempty"`
}

type authResultBody struct {
	Info     authInfo   `json:"authInfo"`
	Allowed  *decidedBy `json:"allowed,omitempty"`
	Denied   *denied    `json:"denied,omitempty"`
	Decision string     `json:"authDecision"`
	Missing  []string   `json:"missingContextValues"`
}

// testAuthorization answers for each resource by itself.
func (a *api) testAuthorization(q *request) (any, error) {
	var in testAuthorization
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if err := in.check(); err != nil {
		return nil, err
	}
	if a.Authorizer == nil {
		return nil, unavailable("policy evaluation")
	}
	question, err := a.question(in, q.query("clientId"))
	if err != nil {
		return nil, err
	}
	results := []authResultBody{}
	for _, info := range in.AuthInfos {
		for _, resource := range info.Resources {
			question.Action, question.Resource = actions[info.ActionType], resource
			answer := a.Authorizer.Authorize(q.Context(), question)
			results = append(results, a.result(authInfo{info.ActionType, []string{resource}}, answer))
		}
	}
	return struct {
		Results []authResultBody `json:"authResults"`
	}{results}, nil
}

func (in testAuthorization) check() error {
	if len(in.AuthInfos) < 1 || len(in.AuthInfos) > maxAuthInfos {
		return invalid("%d authInfos, there must be 1 to %d", len(in.AuthInfos), maxAuthInfos)
	}
	for _, info := range in.AuthInfos {
		if actions[info.ActionType] == "" {
			return invalid("action type %q must be CONNECT, PUBLISH, RECEIVE or SUBSCRIBE", clip(info.ActionType))
		}
		if len(info.Resources) == 0 {
			return invalid("action type %s comes without resources", info.ActionType)
		}
	}
	return nil
}

// question gathers the policies that count: those of the principal and of the
// thing named as the client id, with the changes that the caller asks for.
func (a *api) question(in testAuthorization, clientID string) (AuthRequest, error) {
	q := AuthRequest{ClientID: clientID}
	if in.Principal != "" {
		id, err := a.names.principal(in.Principal)
		if err != nil {
			return q, err
		}
		if _, err := a.Registry.DescribeCertificate(id); err != nil {
			return q, err
		}
		q.CertificateID = id
		q.Policies = a.Registry.PoliciesFor(id, clientID)
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

func (a *api) result(info authInfo, answer AuthResult) authResultBody {
	by := &decidedBy{[]policySummary{}}
	if answer.Policy != "" {
		by.Policies = append(by.Policies, a.policySummary(answer.Policy))
	}
	r := authResultBody{Info: info, Missing: []string{}}
	switch {
	case answer.Allowed:
		r.Decision, r.Allowed = "ALLOWED", by
	case answer.Explicit:
		r.Decision, r.Denied = "EXPLICIT_DENY", &denied{Explicit: by}
	default:
		r.Decision, r.Denied = "IMPLICIT_DENY", &denied{Implicit: by}
	}
	return r
}
