package controlapi_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"example.com/fleety/device/localcore/registry"
)

// https://docs.aws.amazon.com/iot/latest/apireference/API_UpdateThing.html:
// things are created, updated with expectedVersion, listed and deleted.
func TestThings(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	must(e.iot.CreateThingType(ctx, &iot.CreateThingTypeInput{ThingTypeName: aws.String("kind")}))(t)
	created := must(e.iot.CreateThing(ctx, &iot.CreateThingInput{
		ThingName: aws.String("a:thing"), ThingTypeName: aws.String("kind"),
		AttributePayload: &types.AttributePayload{Attributes: map[string]string{"a": "1", "none": ""}},
	}))(t)
	if got, want := *created.ThingArn, arnPrefix+"thing/a:thing"; got != want {
		t.Errorf("arn %s, want %s", got, want)
	}
	must(e.iot.UpdateThing(ctx, &iot.UpdateThingInput{
		ThingName: aws.String("a:thing"), ExpectedVersion: aws.Int64(1),
		AttributePayload: &types.AttributePayload{Attributes: map[string]string{"b": "2"}, Merge: true},
	}))(t)
	got := must(e.iot.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: aws.String("a:thing")}))(t)
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "2"}, got.Attributes); diff != "" {
		t.Error(diff)
	}
	if got.Version != 2 || *got.ThingTypeName != "kind" || *got.DefaultClientId != "a:thing" || *got.ThingId != *created.ThingId {
		t.Errorf("description %+v", got)
	}
	must(e.iot.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("other")}))(t)
	must(e.iot.DeleteThing(ctx, &iot.DeleteThingInput{ThingName: aws.String("a:thing"), ExpectedVersion: aws.Int64(2)}))(t)
	if left := must(e.iot.ListThings(ctx, &iot.ListThingsInput{}))(t); len(left.Things) != 1 {
		t.Errorf("left %+v", left.Things)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_ListThings.html:
// things are listed by type, or by attribute, its whole value or the beginning
// of it.
func TestThingsAreListedByEveryFilter(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	must(e.registry.CreateThingType(registry.ThingType{Name: "kind"}))(t)
	must(e.registry.CreateThing(registry.Thing{Name: "typed", Type: "kind", Attributes: map[string]string{"line": "7"}}))(t)
	must(e.registry.CreateThing(registry.Thing{Name: "other", Attributes: map[string]string{"line": "70"}}))(t)
	must(e.registry.CreateThing(registry.Thing{Name: "plain"}))(t)
	line, seven, none, kind := aws.String("line"), aws.String("7"), aws.String("8"), aws.String("kind")
	for name, tc := range map[string]struct {
		in   iot.ListThingsInput
		want []string
		code string
	}{
		"nothing":                   {iot.ListThingsInput{}, []string{"other", "plain", "typed"}, ""},
		"type":                      {iot.ListThingsInput{ThingTypeName: kind}, []string{"typed"}, ""},
		"unused type":               {iot.ListThingsInput{ThingTypeName: aws.String("none")}, nil, ""},
		"attribute":                 {iot.ListThingsInput{AttributeName: line}, []string{"other", "typed"}, ""},
		"value":                     {iot.ListThingsInput{AttributeName: line, AttributeValue: seven}, []string{"typed"}, ""},
		"beginning":                 {iot.ListThingsInput{AttributeName: line, AttributeValue: seven, UsePrefixAttributeValue: true}, []string{"other", "typed"}, ""},
		"beginning of nothing":      {iot.ListThingsInput{AttributeName: line, UsePrefixAttributeValue: true}, []string{"other", "typed"}, ""},
		"another value":             {iot.ListThingsInput{AttributeName: line, AttributeValue: none}, nil, ""},
		"value without attribute":   {iot.ListThingsInput{AttributeValue: seven}, nil, "InvalidRequestException"},
		"prefix without attribute":  {iot.ListThingsInput{UsePrefixAttributeValue: true}, nil, "InvalidRequestException"},
		"type and value":            {iot.ListThingsInput{ThingTypeName: kind, AttributeValue: seven}, nil, "InvalidRequestException"},
		"type and attribute":        {iot.ListThingsInput{ThingTypeName: kind, AttributeName: line}, nil, "InvalidRequestException"},
		"type, attribute and value": {iot.ListThingsInput{ThingTypeName: kind, AttributeName: line, AttributeValue: seven}, nil, "InvalidRequestException"},
		"type and prefix": {iot.ListThingsInput{
			ThingTypeName: kind, AttributeName: line, AttributeValue: seven, UsePrefixAttributeValue: true,
		}, nil, "InvalidRequestException"},
	} {
		t.Run(name, func(t *testing.T) {
			pages := iot.NewListThingsPaginator(e.iot, &tc.in, func(o *iot.ListThingsPaginatorOptions) { o.Limit = 1 })
			var got []string
			for pages.HasMorePages() {
				page, err := pages.NextPage(ctx)
				if code := codeOf(err); code != tc.code {
					t.Fatalf("got %v, want %q", err, tc.code)
				}
				if err != nil {
					return
				}
				for _, thing := range page.Things {
					got = append(got, *thing.ThingName)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_DeprecateThingType.html:
// a thing type is deprecated before it is deleted.
func TestThingTypes(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	name := aws.String("kind")
	must(e.iot.CreateThingType(ctx, &iot.CreateThingTypeInput{ThingTypeName: name, ThingTypeProperties: &types.ThingTypeProperties{
		ThingTypeDescription: aws.String("text"), SearchableAttributes: []string{"wattage", "model"},
	}}))(t)
	propagating := &types.Mqtt5Configuration{PropagatingAttributes: []types.PropagatingAttribute{
		{UserPropertyKey: aws.String("line"), ThingAttribute: aws.String("line")},
		{UserPropertyKey: aws.String("id"), ConnectionAttribute: aws.String("iot:ClientId")},
	}}
	must(e.iot.UpdateThingType(ctx, &iot.UpdateThingTypeInput{ThingTypeName: name, ThingTypeProperties: &types.ThingTypeProperties{
		Mqtt5Configuration: propagating,
	}}))(t)
	// AWS was seen to reject every other change.
	for _, other := range []*types.ThingTypeProperties{
		{ThingTypeDescription: aws.String("new text")}, {SearchableAttributes: []string{"b"}, Mqtt5Configuration: propagating},
	} {
		_, err := e.iot.UpdateThingType(ctx, &iot.UpdateThingTypeInput{ThingTypeName: name, ThingTypeProperties: other})
		if code := codeOf(err); code != "InvalidRequestException" {
			t.Errorf("got %v", err)
		}
	}
	must(e.iot.DeprecateThingType(ctx, &iot.DeprecateThingTypeInput{ThingTypeName: name}))(t)
	got := must(e.iot.DescribeThingType(ctx, &iot.DescribeThingTypeInput{ThingTypeName: name}))(t)
	if diff := cmp.Diff(propagating, got.ThingTypeProperties.Mqtt5Configuration, cmpopts.IgnoreUnexported(types.Mqtt5Configuration{}, types.PropagatingAttribute{})); diff != "" {
		t.Error(diff)
	}
	// As in https://docs.aws.amazon.com/iot/latest/developerguide/thing-types.html, whatever their order was.
	if diff := cmp.Diff([]string{"model", "wattage"}, got.ThingTypeProperties.SearchableAttributes); diff != "" {
		t.Error(diff)
	}
	if m := got.ThingTypeMetadata; *got.ThingTypeProperties.ThingTypeDescription != "text" || !m.Deprecated ||
		!m.CreationDate.After(epoch) || m.DeprecationDate == nil || !m.DeprecationDate.After(*m.CreationDate) {
		t.Errorf("got %+v %+v", got.ThingTypeProperties, m)
	}
	if listed := must(e.iot.ListThingTypes(ctx, &iot.ListThingTypesInput{ThingTypeName: name}))(t); len(listed.ThingTypes) != 1 {
		t.Errorf("listed %+v", listed.ThingTypes)
	}
	must(e.iot.DeleteThingType(ctx, &iot.DeleteThingTypeInput{ThingTypeName: name}))(t)
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_UpdateThingGroup.html:
// groups have parents and attributes, and things are put into them and taken
// out.
func TestThingGroups(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	e.furnish(t)
	must(e.iot.CreateThingGroup(ctx, &iot.CreateThingGroupInput{
		ThingGroupName: aws.String("child"), ParentGroupName: aws.String("group"),
		ThingGroupProperties: &types.ThingGroupProperties{ThingGroupDescription: aws.String("text")},
	}))(t)
	updated := must(e.iot.UpdateThingGroup(ctx, &iot.UpdateThingGroupInput{
		ThingGroupName: aws.String("child"),
		ThingGroupProperties: &types.ThingGroupProperties{
			AttributePayload: &types.AttributePayload{Attributes: map[string]string{"a": "1"}},
		},
	}))(t)
	got := must(e.iot.DescribeThingGroup(ctx, &iot.DescribeThingGroupInput{ThingGroupName: aws.String("child")}))(t)
	if *got.ThingGroupProperties.ThingGroupDescription != "text" || got.ThingGroupProperties.AttributePayload.Attributes["a"] != "1" ||
		got.Version != updated.Version || *got.ThingGroupMetadata.RootToParentThingGroups[0].GroupName != "group" {
		t.Errorf("got %+v", got)
	}
	must(e.iot.AddThingToThingGroup(ctx, &iot.AddThingToThingGroupInput{
		ThingArn: aws.String(arnPrefix + "thing/thing"), ThingGroupName: aws.String("child"),
	}))(t)
	of := must(e.iot.ListThingGroupsForThing(ctx, &iot.ListThingGroupsForThingInput{ThingName: aws.String("thing")}))(t)
	if len(of.ThingGroups) != 1 || *of.ThingGroups[0].GroupArn != arnPrefix+"thinggroup/child" {
		t.Errorf("groups of the thing %+v", of.ThingGroups)
	}
	in := must(e.iot.ListThingsInThingGroup(ctx, &iot.ListThingsInThingGroupInput{ThingGroupName: aws.String("group"), Recursive: true}))(t)
	if diff := cmp.Diff([]string{"thing"}, in.Things); diff != "" {
		t.Error(diff)
	}
	must(e.iot.UpdateThingGroupsForThing(ctx, &iot.UpdateThingGroupsForThingInput{
		ThingName: aws.String("thing"), ThingGroupsToAdd: []string{"group"}, ThingGroupsToRemove: []string{"child"},
	}))(t)
	must(e.iot.RemoveThingFromThingGroup(ctx, &iot.RemoveThingFromThingGroupInput{
		ThingName: aws.String("thing"), ThingGroupName: aws.String("group"),
	}))(t)
	must(e.iot.DeleteThingGroup(ctx, &iot.DeleteThingGroupInput{ThingGroupName: aws.String("child")}))(t)
	all := must(e.iot.ListThingGroups(ctx, &iot.ListThingGroupsInput{}))(t)
	if len(all.ThingGroups) != 1 || *all.ThingGroups[0].GroupName != "group" {
		t.Errorf("listed %+v", all.ThingGroups)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_RegisterCertificateWithoutCA.html:
// certificates are made with keys, from a CSR or brought along, and each has
// its status.
func TestCertificates(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	made := must(e.iot.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{SetAsActive: true}))(t)
	if *made.CertificateId != fingerprint(*made.CertificatePem) || *made.CertificateArn != arnPrefix+"cert/"+*made.CertificateId {
		t.Errorf("made %+v", made)
	}
	leaf := checkKeyPair(t, *made.CertificatePem, made.KeyPair)
	signed := must(e.iot.CreateCertificateFromCsr(ctx, &iot.CreateCertificateFromCsrInput{
		CertificateSigningRequest: aws.String(newCSR(t)),
	}))(t)
	brought := issue()
	registered := must(e.iot.RegisterCertificateWithoutCA(ctx, &iot.RegisterCertificateWithoutCAInput{
		CertificatePem: &brought, Status: types.CertificateStatusActive,
	}))(t)
	if *registered.CertificateId != fingerprint(brought) {
		t.Errorf("registered %+v", registered)
	}
	statuses := map[string]types.CertificateStatus{}
	for _, c := range must(e.iot.ListCertificates(ctx, &iot.ListCertificatesInput{AscendingOrder: true}))(t).Certificates {
		statuses[*c.CertificateId] = c.Status
	}
	want := map[string]types.CertificateStatus{*made.CertificateId: "ACTIVE", *signed.CertificateId: "INACTIVE", *registered.CertificateId: "ACTIVE"}
	if diff := cmp.Diff(want, statuses); diff != "" {
		t.Error(diff)
	}
	must(e.iot.UpdateCertificate(ctx, &iot.UpdateCertificateInput{CertificateId: made.CertificateId, NewStatus: types.CertificateStatusRevoked}))(t)
	described := must(e.iot.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: made.CertificateId}))(t).CertificateDescription
	if described.Status != types.CertificateStatusRevoked || *described.CertificatePem != *made.CertificatePem ||
		*described.CustomerVersion != 2 || !described.Validity.NotBefore.Equal(leaf.NotBefore) || !described.Validity.NotAfter.Equal(leaf.NotAfter) ||
		!described.LastModifiedDate.After(*described.CreationDate) {
		t.Errorf("described %+v", described)
	}
	must(e.iot.DeleteCertificate(ctx, &iot.DeleteCertificateInput{CertificateId: made.CertificateId}))(t)
	if left := must(e.iot.ListCertificates(ctx, &iot.ListCertificatesInput{}))(t); len(left.Certificates) != 2 {
		t.Errorf("left %+v", left.Certificates)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreatePolicyVersion.html:
// policies have numbered versions, of which one is the default.
func TestPolicies(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	name := aws.String("a+policy=,.@-")
	created := must(e.iot.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: name, PolicyDocument: aws.String(document)}))(t)
	if *created.PolicyVersionId != "1" || *created.PolicyDocument != document || *created.PolicyArn != arnPrefix+"policy/"+*name {
		t.Errorf("created %+v", created)
	}
	second := `{"Version":"2012-10-17","Statement":[{}]}`
	version := must(e.iot.CreatePolicyVersion(ctx, &iot.CreatePolicyVersionInput{
		PolicyName: name, PolicyDocument: &second, SetAsDefault: true,
	}))(t)
	if !version.IsDefaultVersion || *version.PolicyVersionId != "2" {
		t.Errorf("version %+v", version)
	}
	got := must(e.iot.GetPolicy(ctx, &iot.GetPolicyInput{PolicyName: name}))(t)
	if *got.PolicyDocument != second || *got.DefaultVersionId != "2" {
		t.Errorf("got %+v", got)
	}
	must(e.iot.SetDefaultPolicyVersion(ctx, &iot.SetDefaultPolicyVersionInput{PolicyName: name, PolicyVersionId: aws.String("1")}))(t)
	one := must(e.iot.GetPolicyVersion(ctx, &iot.GetPolicyVersionInput{PolicyName: name, PolicyVersionId: aws.String("2")}))(t)
	if one.IsDefaultVersion || *one.PolicyDocument != second {
		t.Errorf("version 2: %+v", one)
	}
	if versions := must(e.iot.ListPolicyVersions(ctx, &iot.ListPolicyVersionsInput{PolicyName: name}))(t); len(versions.PolicyVersions) != 2 {
		t.Errorf("versions %+v", versions.PolicyVersions)
	}
	must(e.iot.DeletePolicyVersion(ctx, &iot.DeletePolicyVersionInput{PolicyName: name, PolicyVersionId: aws.String("2")}))(t)
	if listed := must(e.iot.ListPolicies(ctx, &iot.ListPoliciesInput{}))(t); len(listed.Policies) != 1 {
		t.Errorf("listed %+v", listed.Policies)
	}
	must(e.iot.DeletePolicy(ctx, &iot.DeletePolicyInput{PolicyName: name}))(t)
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_AttachPolicy.html: a
// policy is attached to certificates and groups, and both ends list it.
func TestPolicyAttachments(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	certificate := aws.String(arnPrefix + "cert/" + e.furnish(t))
	group := aws.String(arnPrefix + "thinggroup/group")
	for _, target := range []*string{certificate, group} {
		must(e.iot.AttachPolicy(ctx, &iot.AttachPolicyInput{PolicyName: aws.String("policy"), Target: target}))(t)
		attached := must(e.iot.ListAttachedPolicies(ctx, &iot.ListAttachedPoliciesInput{Target: target}))(t)
		if len(attached.Policies) != 1 || *attached.Policies[0].PolicyName != "policy" {
			t.Errorf("attached to %s: %+v", *target, attached.Policies)
		}
	}
	targets := must(e.iot.ListTargetsForPolicy(ctx, &iot.ListTargetsForPolicyInput{PolicyName: aws.String("policy")}))(t)
	if diff := cmp.Diff([]string{*certificate, *group}, targets.Targets); diff != "" {
		t.Error(diff)
	}
	must(e.iot.DetachPolicy(ctx, &iot.DetachPolicyInput{PolicyName: aws.String("policy"), Target: certificate}))(t)
	if left := must(e.iot.ListTargetsForPolicy(ctx, &iot.ListTargetsForPolicyInput{PolicyName: aws.String("policy")}))(t); len(left.Targets) != 1 {
		t.Errorf("left %v", left.Targets)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_ListThingPrincipalsV2.html:
// an attachment says whether it is exclusive, and a thing is deleted after it
// is gone.
func TestThingPrincipals(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	principal, thing := aws.String(arnPrefix+"cert/"+e.furnish(t)), aws.String("thing")
	must(e.iot.AttachThingPrincipal(ctx, &iot.AttachThingPrincipalInput{
		ThingName: thing, Principal: principal, ThingPrincipalType: types.ThingPrincipalTypeExclusiveThing,
	}))(t)
	principals := must(e.iot.ListThingPrincipals(ctx, &iot.ListThingPrincipalsInput{ThingName: thing}))(t)
	things := must(e.iot.ListPrincipalThings(ctx, &iot.ListPrincipalThingsInput{Principal: principal}))(t)
	if !cmp.Equal(principals.Principals, []string{*principal}) || !cmp.Equal(things.Things, []string{"thing"}) {
		t.Errorf("principals %v, things %v", principals.Principals, things.Things)
	}
	typed := must(e.iot.ListThingPrincipalsV2(ctx, &iot.ListThingPrincipalsV2Input{ThingName: thing}))(t).ThingPrincipalObjects
	if len(typed) != 1 || typed[0].ThingPrincipalType != types.ThingPrincipalTypeExclusiveThing {
		t.Errorf("typed principals %+v", typed)
	}
	shared := must(e.iot.ListPrincipalThingsV2(ctx, &iot.ListPrincipalThingsV2Input{
		Principal: principal, ThingPrincipalType: types.ThingPrincipalTypeNonExclusiveThing,
	}))(t)
	if len(shared.PrincipalThingObjects) != 0 {
		t.Errorf("non-exclusive things %+v", shared.PrincipalThingObjects)
	}
	must(e.iot.DetachThingPrincipal(ctx, &iot.DetachThingPrincipalInput{ThingName: thing, Principal: principal}))(t)
	must(e.iot.DeleteThing(ctx, &iot.DeleteThingInput{ThingName: thing}))(t)
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_DescribeProvisioningTemplate.html:
// templates have versions, a default one, and a hook of payload version
// 2020-04-01.
func TestProvisioningTemplates(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	name := aws.String("template")
	must(e.iot.CreateProvisioningTemplate(ctx, &iot.CreateProvisioningTemplateInput{
		TemplateName: name, TemplateBody: aws.String("{}"), ProvisioningRoleArn: aws.String("arn:aws:iam::123456789012:role/r"), Enabled: aws.Bool(true),
		PreProvisioningHook: &types.ProvisioningHook{TargetArn: aws.String("function")},
	}))(t)
	version := must(e.iot.CreateProvisioningTemplateVersion(ctx, &iot.CreateProvisioningTemplateVersionInput{
		TemplateName: name, TemplateBody: aws.String(`{"a":1}`),
	}))(t)
	must(e.iot.UpdateProvisioningTemplate(ctx, &iot.UpdateProvisioningTemplateInput{
		TemplateName: name, DefaultVersionId: version.VersionId, Description: aws.String("text"),
	}))(t)
	got := must(e.iot.DescribeProvisioningTemplate(ctx, &iot.DescribeProvisioningTemplateInput{TemplateName: name}))(t)
	if *got.TemplateBody != `{"a":1}` || !*got.Enabled || *got.Description != "text" || got.Type != types.TemplateTypeFleetProvisioning ||
		*got.PreProvisioningHook.PayloadVersion != "2020-04-01" || *got.TemplateArn != arnPrefix+"provisioningtemplate/template" {
		t.Errorf("got %+v", got)
	}
	_, err := e.iot.UpdateProvisioningTemplate(ctx, &iot.UpdateProvisioningTemplateInput{
		TemplateName: name, PreProvisioningHook: &types.ProvisioningHook{TargetArn: aws.String("function"), PayloadVersion: aws.String("2019-01-01")},
	})
	if _, ok := errors.AsType[*types.InvalidRequestException](err); !ok {
		t.Errorf("a hook of a payload version that nobody sends: %v", err)
	}
	first := must(e.iot.DescribeProvisioningTemplateVersion(ctx, &iot.DescribeProvisioningTemplateVersionInput{
		TemplateName: name, VersionId: aws.Int32(1),
	}))(t)
	if *first.TemplateBody != "{}" || first.IsDefaultVersion {
		t.Errorf("version 1: %+v", first)
	}
	must(e.iot.DeleteProvisioningTemplateVersion(ctx, &iot.DeleteProvisioningTemplateVersionInput{TemplateName: name, VersionId: aws.Int32(1)}))(t)
	versions := must(e.iot.ListProvisioningTemplateVersions(ctx, &iot.ListProvisioningTemplateVersionsInput{TemplateName: name}))(t)
	listed := must(e.iot.ListProvisioningTemplates(ctx, &iot.ListProvisioningTemplatesInput{}))(t)
	if len(versions.Versions) != 1 || len(listed.Templates) != 1 {
		t.Errorf("versions %+v, templates %+v", versions.Versions, listed.Templates)
	}
	must(e.iot.DeleteProvisioningTemplate(ctx, &iot.DeleteProvisioningTemplateInput{TemplateName: name}))(t)
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateProvisioningClaim.html:
// a provisioning claim lasts five minutes.
func TestProvisioningClaimLastsFiveMinutes(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	must(e.iot.CreateProvisioningTemplate(ctx, &iot.CreateProvisioningTemplateInput{
		TemplateName: aws.String("template"), TemplateBody: aws.String("{}"), ProvisioningRoleArn: aws.String("arn:aws:iam::123456789012:role/r"),
	}))(t)
	claim := must(e.iot.CreateProvisioningClaim(ctx, &iot.CreateProvisioningClaimInput{TemplateName: aws.String("template")}))(t)
	c, ok := e.registry.CertificateByID(*claim.CertificateId)
	if !ok || !claim.Expiration.Equal(c.Created.Add(5*time.Minute)) {
		t.Errorf("claim %+v of %+v", claim, c)
	}
	checkKeyPair(t, *claim.CertificatePem, claim.KeyPair)
	if listed := must(e.iot.ListCertificates(ctx, &iot.ListCertificatesInput{}))(t); len(listed.Certificates) != 0 {
		t.Errorf("listed %+v", listed.Certificates)
	}
}

// checkKeyPair checks that a key pair is that of a certificate, which it returns.
func checkKeyPair(t *testing.T, certificatePEM string, pair *types.KeyPair) *x509.Certificate {
	t.Helper()
	certificate := must(tls.X509KeyPair([]byte(certificatePEM), []byte(*pair.PrivateKey)))(t)
	block, _ := pem.Decode([]byte(*pair.PublicKey))
	if block == nil || !bytes.Equal(block.Bytes, must(x509.MarshalPKIXPublicKey(certificate.Leaf.PublicKey))(t)) {
		t.Errorf("public key %s", *pair.PublicKey)
	}
	return certificate.Leaf
}
