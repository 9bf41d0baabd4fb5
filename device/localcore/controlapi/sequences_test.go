package controlapi_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/google/go-cmp/cmp"
)

// A sequence is what an infrastructure tool calls for one resource. Read
// returns what the tool compares with its plan.
type sequence struct {
	create, update, destroy func(context.Context) error
	read                    func(context.Context) (any, error)
	created, updated        any
}

// state is what a tool compares: the properties of a resource.
type state map[string]any

func callOf[I, O, F any](call func(context.Context, *I, ...F) (*O, error), in *I) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := call(ctx, in)
		return err
	}
}

// inTurn calls one after the other, up to the first error.
func inTurn(calls ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, call := range calls {
			if err := call(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// A world is the API with what the resources of a sequence refer to.
type world struct {
	*iot.Client
	arn         func(string) string
	certificate types.CertificateDescription
	role        string
}

func newWorld(t *testing.T) world {
	t.Helper()
	s, ctx := startEmulator(t), t.Context()
	w := world{Client: sdkClient(s.APIURL()), arn: s.ARN, role: "arn:aws:iam::" + account + ":role/provisioning"}
	made := must(w.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{SetAsActive: true}))(t)
	w.certificate = *must(w.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: made.CertificateId}))(t).CertificateDescription
	must(w.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("world")}))(t)
	must(w.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: aws.String("world"), PolicyDocument: aws.String(allowing("a"))}))(t)
	must(w.CreateThingGroup(ctx, &iot.CreateThingGroupInput{ThingGroupName: aws.String("world")}))(t)
	must(w.CreateThingType(ctx, &iot.CreateThingTypeInput{ThingTypeName: aws.String("world")}))(t)
	return w
}

// tags are read as every tool reads them: in pages.
func (w world) tags(ctx context.Context, arn *string) (map[string]string, error) {
	pages := iot.NewListTagsForResourcePaginator(w.Client, &iot.ListTagsForResourceInput{ResourceArn: arn})
	all := map[string]string{}
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, t := range page.Tags {
			all[*t.Key] = *t.Value
		}
	}
	return all, nil
}

// retag replaces the tag line=7 by line=8 and owner=me, and takes it away again.
func (w world) retag(resource string) func(context.Context) error {
	arn := aws.String(w.arn(resource))
	return inTurn(
		callOf(w.UntagResource, &iot.UntagResourceInput{ResourceArn: arn, TagKeys: []string{"line"}}),
		callOf(w.TagResource, &iot.TagResourceInput{ResourceArn: arn, Tags: []types.Tag{
			{Key: aws.String("line"), Value: aws.String("8")}, {Key: aws.String("owner"), Value: aws.String("me")},
		}}),
	)
}

var lineTag = []types.Tag{{Key: aws.String("line"), Value: aws.String("7")}}

var (
	tagsBefore = map[string]string{"line": "7"}
	tagsAfter  = map[string]string{"line": "8", "owner": "me"}
)

func allowing(client string) string {
	return `{"Statement":[{"Action":"iot:Connect","Effect":"Allow","Resource":"arn:aws:iot:us-east-1:` + account + `:client/` + client + `"}],"Version":"2012-10-17"}`
}

func templateBody(status string) string {
	return `{"Resources":{"c":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":{"Ref":"AWS::IoT::Certificate::Id"},"Status":"` + status + `"}}}}`
}

func (w world) thing() sequence {
	name := aws.String("thing")
	return sequence{
		create: callOf(w.CreateThing, &iot.CreateThingInput{
			ThingName: name, ThingTypeName: aws.String("world"), AttributePayload: &types.AttributePayload{Attributes: map[string]string{"a": "1", "b": "2"}},
		}),
		read: func(ctx context.Context) (any, error) {
			got, err := w.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: name})
			if err != nil {
				return nil, err
			}
			return state{"arn": *got.ThingArn, "type": got.ThingTypeName, "attributes": got.Attributes, "client": *got.DefaultClientId, "version": got.Version}, nil
		},
		created: state{"arn": w.arn("thing/thing"), "type": aws.String("world"), "attributes": map[string]string{"a": "1", "b": "2"}, "client": "thing", "version": int64(1)},
		update: callOf(w.UpdateThing, &iot.UpdateThingInput{
			ThingName: name, RemoveThingType: true, AttributePayload: &types.AttributePayload{Attributes: map[string]string{"a": "3"}},
		}),
		updated: state{"arn": w.arn("thing/thing"), "type": (*string)(nil), "attributes": map[string]string{"a": "3"}, "client": "thing", "version": int64(2)},
		destroy: callOf(w.DeleteThing, &iot.DeleteThingInput{ThingName: name}),
	}
}

func (w world) thingType() sequence {
	name := aws.String("type")
	return sequence{
		create: callOf(w.CreateThingType, &iot.CreateThingTypeInput{ThingTypeName: name, Tags: lineTag, ThingTypeProperties: &types.ThingTypeProperties{
			ThingTypeDescription: aws.String("gauges"), SearchableAttributes: []string{"a"},
		}}),
		read: func(ctx context.Context) (any, error) {
			got, err := w.DescribeThingType(ctx, &iot.DescribeThingTypeInput{ThingTypeName: name})
			if err != nil {
				return nil, err
			}
			tags, err := w.tags(ctx, got.ThingTypeArn)
			return state{
				"description": *got.ThingTypeProperties.ThingTypeDescription, "searchable": got.ThingTypeProperties.SearchableAttributes,
				"deprecated": got.ThingTypeMetadata.Deprecated, "tags": tags,
			}, err
		},
		created: state{"description": "gauges", "searchable": []string{"a"}, "deprecated": false, "tags": tagsBefore},
		update: inTurn(w.retag("thingtype/type"),
			callOf(w.DeprecateThingType, &iot.DeprecateThingTypeInput{ThingTypeName: name}),
			callOf(w.DeprecateThingType, &iot.DeprecateThingTypeInput{ThingTypeName: name, UndoDeprecate: true})),
		updated: state{"description": "gauges", "searchable": []string{"a"}, "deprecated": false, "tags": tagsAfter},
		destroy: inTurn(
			callOf(w.DeprecateThingType, &iot.DeprecateThingTypeInput{ThingTypeName: name}),
			callOf(w.DeleteThingType, &iot.DeleteThingTypeInput{ThingTypeName: name})),
	}
}

// thingGroup reads as Terraform does, to which a part that is there and empty is
// a difference.
func (w world) thingGroup() sequence {
	name := aws.String("group")
	return sequence{
		create: callOf(w.CreateThingGroup, &iot.CreateThingGroupInput{ThingGroupName: name, Tags: lineTag, ThingGroupProperties: &types.ThingGroupProperties{
			AttributePayload: &types.AttributePayload{Attributes: map[string]string{"a": "1"}},
		}}),
		read: func(ctx context.Context) (any, error) {
			got, err := w.DescribeThingGroup(ctx, &iot.DescribeThingGroupInput{ThingGroupName: name})
			if err != nil {
				return nil, err
			}
			tags, err := w.tags(ctx, got.ThingGroupArn)
			s := state{"version": got.Version, "tags": tags}
			if p := got.ThingGroupProperties; p.ThingGroupDescription != nil {
				s["description"] = *p.ThingGroupDescription
			}
			if p := got.ThingGroupProperties.AttributePayload; p != nil {
				s["attributes"] = p.Attributes
			}
			if m := got.ThingGroupMetadata; m.ParentGroupName != nil || m.RootToParentThingGroups != nil {
				s["parents"] = m.RootToParentThingGroups
			}
			return s, err
		},
		created: state{"version": int64(1), "attributes": map[string]string{"a": "1"}, "tags": tagsBefore},
		update: inTurn(w.retag("thinggroup/group"), callOf(w.UpdateThingGroup, &iot.UpdateThingGroupInput{
			ThingGroupName: name, ExpectedVersion: aws.Int64(1),
			ThingGroupProperties: &types.ThingGroupProperties{AttributePayload: &types.AttributePayload{Attributes: map[string]string{}}},
		})),
		updated: state{"version": int64(2), "tags": tagsAfter},
		destroy: callOf(w.DeleteThingGroup, &iot.DeleteThingGroupInput{ThingGroupName: name}),
	}
}

func (w world) billingGroup() sequence {
	name := aws.String("payers")
	return sequence{
		create: callOf(w.CreateBillingGroup, &iot.CreateBillingGroupInput{BillingGroupName: name, Tags: lineTag}),
		read: func(ctx context.Context) (any, error) {
			got, err := w.DescribeBillingGroup(ctx, &iot.DescribeBillingGroupInput{BillingGroupName: name})
			if err != nil {
				return nil, err
			}
			tags, err := w.tags(ctx, got.BillingGroupArn)
			s := state{"version": got.Version, "tags": tags}
			if d := got.BillingGroupProperties.BillingGroupDescription; d != nil {
				s["description"] = *d
			}
			return s, err
		},
		created: state{"version": int64(1), "tags": tagsBefore},
		update: inTurn(w.retag("billinggroup/payers"), callOf(w.UpdateBillingGroup, &iot.UpdateBillingGroupInput{
			BillingGroupName: name, ExpectedVersion: aws.Int64(1),
			BillingGroupProperties: &types.BillingGroupProperties{BillingGroupDescription: aws.String("plant 7")},
		})),
		updated: state{"version": int64(2), "description": "plant 7", "tags": tagsAfter},
		destroy: callOf(w.DeleteBillingGroup, &iot.DeleteBillingGroupInput{BillingGroupName: name}),
	}
}

// policy is updated until its versions are at the limit, as Terraform does it:
// the oldest goes.
func (w world) policy() sequence {
	name := aws.String("policy")
	renew := func(document string) func(context.Context) error {
		return func(ctx context.Context) error {
			in := &iot.CreatePolicyVersionInput{PolicyName: name, PolicyDocument: &document, SetAsDefault: true}
			_, err := w.CreatePolicyVersion(ctx, in)
			if codeOf(err) != "VersionsLimitExceededException" {
				return err
			}
			versions, err := w.ListPolicyVersions(ctx, &iot.ListPolicyVersionsInput{PolicyName: name})
			if err != nil {
				return err
			}
			oldest := versions.PolicyVersions[len(versions.PolicyVersions)-1]
			if _, err := w.DeletePolicyVersion(ctx, &iot.DeletePolicyVersionInput{PolicyName: name, PolicyVersionId: oldest.VersionId}); err != nil {
				return err
			}
			_, err = w.CreatePolicyVersion(ctx, in)
			return err
		}
	}
	return sequence{
		create: callOf(w.CreatePolicy, &iot.CreatePolicyInput{PolicyName: name, PolicyDocument: aws.String(allowing("a")), Tags: lineTag}),
		read: func(ctx context.Context) (any, error) {
			got, err := w.GetPolicy(ctx, &iot.GetPolicyInput{PolicyName: name})
			if err != nil {
				return nil, err
			}
			tags, err := w.tags(ctx, got.PolicyArn)
			return state{"document": *got.PolicyDocument, "default": *got.DefaultVersionId, "generation": *got.GenerationId != "", "tags": tags}, err
		},
		created: state{"document": allowing("a"), "default": "1", "generation": true, "tags": tagsBefore},
		update:  inTurn(w.retag("policy/policy"), renew(allowing("b")), renew(allowing("c")), renew(allowing("d")), renew(allowing("e")), renew(allowing("f"))),
		updated: state{"document": allowing("f"), "default": "6", "generation": true, "tags": tagsAfter},
		destroy: func(ctx context.Context) error {
			versions, err := w.ListPolicyVersions(ctx, &iot.ListPolicyVersionsInput{PolicyName: name})
			if err != nil {
				return err
			}
			for _, v := range versions.PolicyVersions {
				if !v.IsDefaultVersion {
					if _, err := w.DeletePolicyVersion(ctx, &iot.DeletePolicyVersionInput{PolicyName: name, PolicyVersionId: v.VersionId}); err != nil {
						return err
					}
				}
			}
			_, err = w.DeletePolicy(ctx, &iot.DeletePolicyInput{PolicyName: name})
			return err
		},
	}
}

func (w world) certificateOf(create func(context.Context) (string, error)) sequence {
	var id string
	status := func(s types.CertificateStatus) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := w.UpdateCertificate(ctx, &iot.UpdateCertificateInput{CertificateId: &id, NewStatus: s})
			return err
		}
	}
	return sequence{
		create: func(ctx context.Context) (err error) {
			id, err = create(ctx)
			return err
		},
		read: func(ctx context.Context) (any, error) {
			got, err := w.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: &id})
			if err != nil {
				return nil, err
			}
			c := got.CertificateDescription
			return state{
				"arn": *c.CertificateArn == w.arn("cert/"+id), "status": c.Status, "ca": c.CaCertificateId, "pem": *c.CertificatePem != "",
				"generation": *c.GenerationId != "", "transfer": c.TransferData != nil && c.TransferData.TransferDate == nil, "until": c.Validity.NotAfter != nil,
			}, nil
		},
		created: state{"arn": true, "status": types.CertificateStatusActive, "ca": (*string)(nil), "pem": true, "generation": true, "transfer": true, "until": true},
		update:  status(types.CertificateStatusInactive),
		updated: state{"arn": true, "status": types.CertificateStatusInactive, "ca": (*string)(nil), "pem": true, "generation": true, "transfer": true, "until": true},
		destroy: inTurn(status(types.CertificateStatusInactive), func(ctx context.Context) error {
			_, err := w.DeleteCertificate(ctx, &iot.DeleteCertificateInput{CertificateId: &id, ForceDelete: true})
			return err
		}),
	}
}

func (w world) provisioningTemplate() sequence {
	name := aws.String("template")
	hook := &types.ProvisioningHook{TargetArn: aws.String("arn:aws:lambda:us-east-1:" + account + ":function:hook"), PayloadVersion: aws.String("2020-04-01")}
	return sequence{
		create: callOf(w.CreateProvisioningTemplate, &iot.CreateProvisioningTemplateInput{
			TemplateName: name, TemplateBody: aws.String(templateBody("ACTIVE")), ProvisioningRoleArn: &w.role, Enabled: aws.Bool(true), PreProvisioningHook: hook, Tags: lineTag,
		}),
		read: func(ctx context.Context) (any, error) {
			got, err := w.DescribeProvisioningTemplate(ctx, &iot.DescribeProvisioningTemplateInput{TemplateName: name})
			if err != nil {
				return nil, err
			}
			tags, err := w.tags(ctx, got.TemplateArn)
			return state{
				"body": *got.TemplateBody, "default": *got.DefaultVersionId, "enabled": *got.Enabled, "role": *got.ProvisioningRoleArn, "type": got.Type,
				"description": aws.ToString(got.Description), "hook": got.PreProvisioningHook != nil, "tags": tags,
			}, err
		},
		created: state{
			"body": templateBody("ACTIVE"), "default": int32(1), "enabled": true, "role": w.role, "type": types.TemplateTypeFleetProvisioning,
			"description": "", "hook": true, "tags": tagsBefore,
		},
		update: inTurn(w.retag("provisioningtemplate/template"),
			callOf(w.CreateProvisioningTemplateVersion, &iot.CreateProvisioningTemplateVersionInput{
				TemplateName: name, TemplateBody: aws.String(templateBody("INACTIVE")), SetAsDefault: true,
			}),
			callOf(w.UpdateProvisioningTemplate, &iot.UpdateProvisioningTemplateInput{
				TemplateName: name, Description: aws.String("of gauges"), Enabled: aws.Bool(false), ProvisioningRoleArn: &w.role, RemovePreProvisioningHook: aws.Bool(true),
			})),
		updated: state{
			"body": templateBody("INACTIVE"), "default": int32(2), "enabled": false, "role": w.role, "type": types.TemplateTypeFleetProvisioning,
			"description": "of gauges", "hook": false, "tags": tagsAfter,
		},
		destroy: callOf(w.DeleteProvisioningTemplate, &iot.DeleteProvisioningTemplateInput{TemplateName: name}),
	}
}

// topicRule gets its tags in a header. AWS answers UnauthorizedException for a
// rule that does not exist, by which tools know that it is gone.
func (w world) topicRule() sequence {
	name := aws.String("rule")
	payload := func(sql string, disabled bool) *types.TopicRulePayload {
		return &types.TopicRulePayload{Sql: &sql, RuleDisabled: &disabled, AwsIotSqlVersion: aws.String("2016-03-23"), Actions: []types.Action{
			{Republish: &types.RepublishAction{RoleArn: &w.role, Topic: aws.String("copy")}},
		}}
	}
	return sequence{
		create: callOf(w.CreateTopicRule, &iot.CreateTopicRuleInput{RuleName: name, TopicRulePayload: payload("SELECT * FROM 'a'", false), Tags: aws.String("line=7")}),
		read: func(ctx context.Context) (any, error) {
			got, err := w.GetTopicRule(ctx, &iot.GetTopicRuleInput{RuleName: name})
			if codeOf(err) == "UnauthorizedException" {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			tags, err := w.tags(ctx, got.RuleArn)
			return state{"sql": *got.Rule.Sql, "disabled": *got.Rule.RuleDisabled, "topic": *got.Rule.Actions[0].Republish.Topic, "tags": tags}, err
		},
		created: state{"sql": "SELECT * FROM 'a'", "disabled": false, "topic": "copy", "tags": tagsBefore},
		update: inTurn(w.retag("rule/rule"),
			callOf(w.ReplaceTopicRule, &iot.ReplaceTopicRuleInput{RuleName: name, TopicRulePayload: payload("SELECT * FROM 'b'", true)})),
		updated: state{"sql": "SELECT * FROM 'b'", "disabled": true, "topic": "copy", "tags": tagsAfter},
		destroy: callOf(w.DeleteTopicRule, &iot.DeleteTopicRuleInput{RuleName: name}),
	}
}

func (w world) job() sequence {
	id := aws.String("job")
	return sequence{
		create: callOf(w.CreateJob, &iot.CreateJobInput{
			JobId: id, Document: aws.String("{}"), Targets: []string{w.arn("thing/world")}, Tags: lineTag, Description: aws.String("one"),
		}),
		read: func(ctx context.Context) (any, error) {
			got, err := w.DescribeJob(ctx, &iot.DescribeJobInput{JobId: id})
			if err != nil {
				return nil, err
			}
			tags, err := w.tags(ctx, got.Job.JobArn)
			return state{"description": *got.Job.Description, "targets": got.Job.Targets, "tags": tags}, err
		},
		created: state{"description": "one", "targets": []string{w.arn("thing/world")}, "tags": tagsBefore},
		update:  inTurn(w.retag("job/job"), callOf(w.UpdateJob, &iot.UpdateJobInput{JobId: id, Description: aws.String("two")})),
		updated: state{"description": "two", "targets": []string{w.arn("thing/world")}, "tags": tagsAfter},
		destroy: callOf(w.DeleteJob, &iot.DeleteJobInput{JobId: id, Force: true}),
	}
}

// attachment is a resource that is there or not, and cannot be updated.
func attachment(create, destroy func(context.Context) error, list func(context.Context) ([]string, error), what string) sequence {
	return sequence{
		create: create, destroy: destroy, created: state{"attached": true},
		read: func(ctx context.Context) (any, error) {
			all, err := list(ctx)
			if err == nil && !slices.Contains(all, what) {
				return nil, nil
			}
			return state{"attached": true}, err
		},
	}
}

func (w world) policyAttachment(target string) sequence {
	name := aws.String("world")
	return attachment(
		callOf(w.AttachPolicy, &iot.AttachPolicyInput{PolicyName: name, Target: &target}),
		callOf(w.DetachPolicy, &iot.DetachPolicyInput{PolicyName: name, Target: &target}),
		func(ctx context.Context) (all []string, err error) {
			pages := iot.NewListAttachedPoliciesPaginator(w.Client, &iot.ListAttachedPoliciesInput{Target: &target, PageSize: aws.Int32(250)})
			for pages.HasMorePages() {
				page, err := pages.NextPage(ctx)
				if err != nil {
					return nil, err
				}
				for _, p := range page.Policies {
					all = append(all, *p.PolicyName)
				}
			}
			// CloudFormation reads from the other side.
			targets, err := w.ListTargetsForPolicy(ctx, &iot.ListTargetsForPolicyInput{PolicyName: name})
			if err != nil || slices.Contains(targets.Targets, target) != slices.Contains(all, "world") {
				return nil, err
			}
			return all, nil
		}, "world")
}

func (w world) thingPrincipalAttachment() sequence {
	name := aws.String("world")
	return attachment(
		callOf(w.AttachThingPrincipal, &iot.AttachThingPrincipalInput{ThingName: name, Principal: w.certificate.CertificateArn}),
		callOf(w.DetachThingPrincipal, &iot.DetachThingPrincipalInput{ThingName: name, Principal: w.certificate.CertificateArn}),
		func(ctx context.Context) (all []string, err error) {
			listed, err := w.ListThingPrincipalsV2(ctx, &iot.ListThingPrincipalsV2Input{ThingName: name})
			if err != nil {
				return nil, err
			}
			for _, p := range listed.ThingPrincipalObjects {
				all = append(all, *p.Principal)
			}
			return all, nil
		}, *w.certificate.CertificateArn)
}

func (w world) thingGroupMembership() sequence {
	name := aws.String("world")
	return attachment(
		callOf(w.AddThingToThingGroup, &iot.AddThingToThingGroupInput{ThingName: name, ThingGroupName: name}),
		callOf(w.RemoveThingFromThingGroup, &iot.RemoveThingFromThingGroupInput{ThingName: name, ThingGroupName: name}),
		func(ctx context.Context) (all []string, err error) {
			listed, err := w.ListThingGroupsForThing(ctx, &iot.ListThingGroupsForThingInput{ThingName: name})
			if err != nil {
				return nil, err
			}
			for _, g := range listed.ThingGroups {
				all = append(all, *g.GroupName)
			}
			return all, nil
		}, "world")
}

// The call sequences of Terraform's and CloudFormation's resources run to the
// end: create, read without a difference, update, delete.
func TestInfrastructureToolsRunToTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	csr := newCSR(t)
	for name, s := range map[string]sequence{
		"thing":                              w.thing(),
		"thing type":                         w.thingType(),
		"thing group":                        w.thingGroup(),
		"billing group":                      w.billingGroup(),
		"policy":                             w.policy(),
		"provisioning template":              w.provisioningTemplate(),
		"policy attachment to a certificate": w.policyAttachment(*w.certificate.CertificateArn),
		"policy attachment to a group":       w.policyAttachment(w.arn("thinggroup/world")),
		"policy attachment to a Cognito identity": w.policyAttachment("us-east-1:0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"),
		"thing principal attachment":              w.thingPrincipalAttachment(),
		"thing group membership":                  w.thingGroupMembership(),
		"topic rule":                              w.topicRule(),
		"job":                                     w.job(),
		"certificate with keys": w.certificateOf(func(ctx context.Context) (string, error) {
			made, err := w.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{SetAsActive: true})
			if err != nil {
				return "", err
			}
			return *made.CertificateId, nil
		}),
		"certificate of a CSR": w.certificateOf(func(ctx context.Context) (string, error) {
			made, err := w.CreateCertificateFromCsr(ctx, &iot.CreateCertificateFromCsrInput{CertificateSigningRequest: &csr, SetAsActive: true})
			if err != nil {
				return "", err
			}
			return *made.CertificateId, nil
		}),
		"certificate in PEM form": w.certificateOf(func(ctx context.Context) (string, error) {
			made, err := w.RegisterCertificateWithoutCA(ctx, &iot.RegisterCertificateWithoutCAInput{CertificatePem: aws.String(issue()), Status: "ACTIVE"})
			if err != nil {
				return "", err
			}
			return *made.CertificateId, nil
		}),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			step := func(what string, call func(context.Context) error) {
				t.Helper()
				if err := call(ctx); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			plan := func(want any) {
				t.Helper()
				for range 2 { // a refresh changes nothing
					if diff := cmp.Diff(want, must(s.read(ctx))(t)); diff != "" {
						t.Fatal(diff)
					}
				}
			}
			step("create", s.create)
			plan(s.created)
			if s.update != nil {
				step("update", s.update)
				plan(s.updated)
			}
			step("delete", s.destroy)
			if got, err := s.read(ctx); got != nil || err != nil && codeOf(err) != "ResourceNotFoundException" {
				t.Errorf("after deletion: %v, %v", got, err)
			}
		})
	}
}

// A stack is torn down in any order: what is in the way has the code and the
// words that Terraform waits by.
func TestTerraformWaitsForWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, name := t.Context(), aws.String("world")
	must(w.CreateThingGroup(ctx, &iot.CreateThingGroupInput{ThingGroupName: aws.String("child"), ParentGroupName: name}))(t)
	must(w.AttachPolicy(ctx, &iot.AttachPolicyInput{PolicyName: name, Target: w.certificate.CertificateArn}))(t)
	must(w.AttachThingPrincipal(ctx, &iot.AttachThingPrincipalInput{ThingName: name, Principal: w.certificate.CertificateArn}))(t)
	for what, tc := range map[string]struct {
		call        func(context.Context) error
		code, words string
	}{
		"group with children":       {callOf(w.DeleteThingGroup, &iot.DeleteThingGroupInput{ThingGroupName: name}), "InvalidRequestException", "there are still child groups attached"},
		"policy that is attached":   {callOf(w.DeletePolicy, &iot.DeletePolicyInput{PolicyName: name}), "DeleteConflictException", ""},
		"thing with a certificate":  {callOf(w.DeleteThing, &iot.DeleteThingInput{ThingName: name}), "InvalidRequestException", ""},
		"active certificate":        {callOf(w.DeleteCertificate, &iot.DeleteCertificateInput{CertificateId: w.certificate.CertificateId}), "CertificateStateException", ""},
		"policy that exists":        {callOf(w.CreatePolicy, &iot.CreatePolicyInput{PolicyName: name, PolicyDocument: aws.String(allowing("a"))}), "ResourceAlreadyExistsException", ""},
		"principal of another name": {callOf(w.ListThingPrincipals, &iot.ListThingPrincipalsInput{ThingName: aws.String("none")}), "ResourceNotFoundException", ""},
	} {
		if err := tc.call(ctx); codeOf(err) != tc.code || !strings.Contains(err.Error(), tc.words) {
			t.Errorf("%s: got %v, want %s %q", what, err, tc.code, tc.words)
		}
	}
}
