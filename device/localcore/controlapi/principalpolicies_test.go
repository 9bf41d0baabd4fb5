//nolint:staticcheck // deprecated operations, which AWS still offers
package controlapi_test

//lint:file-ignore SA1019 the deprecated operations are what this file is about

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/google/go-cmp/cmp"
)

// https://docs.aws.amazon.com/iot/latest/apireference/API_AttachPrincipalPolicy.html:
// the deprecated operations on principal policies do as their successors.
func TestPrincipalPoliciesAreTheOlderForm(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	principal, name := aws.String(arnPrefix+"cert/"+e.furnish(t)), aws.String("policy")
	must(e.iot.AttachPrincipalPolicy(ctx, &iot.AttachPrincipalPolicyInput{PolicyName: name, Principal: principal}))(t)
	policies := must(e.iot.ListPrincipalPolicies(ctx, &iot.ListPrincipalPoliciesInput{Principal: principal}))(t)
	principals := must(e.iot.ListPolicyPrincipals(ctx, &iot.ListPolicyPrincipalsInput{PolicyName: name}))(t)
	if len(policies.Policies) != 1 || !cmp.Equal(principals.Principals, []string{*principal}) {
		t.Errorf("policies %+v, principals %v", policies.Policies, principals.Principals)
	}
	must(e.iot.DetachPrincipalPolicy(ctx, &iot.DetachPrincipalPolicyInput{PolicyName: name, Principal: principal}))(t)
	if left := must(e.iot.ListPrincipalPolicies(ctx, &iot.ListPrincipalPoliciesInput{Principal: principal}))(t); len(left.Policies) != 0 {
		t.Errorf("left %+v", left.Policies)
	}
}
