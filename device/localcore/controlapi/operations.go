package controlapi

import (
	_ "embed"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/jobs"
	"example.com/fleety/device/localcore/registry"
)

// operations lists the operations that are emulated. Names, paths and parameters
// are those of AWS's models.
func (a *api) operations() []operation {
	r := a.Registry
	return []operation{
		op("CreateThing", "POST /things/{thingName} thingTypeName billingGroupName attributePayload", a.createThing),
		op("DescribeThing", "GET /things/{thingName}", r.DescribeThing, func(t registry.Thing) object {
			return a.thing(t).with(object{"thingId": t.ID, "defaultClientId": t.Name}).optional("billingGroupName", t.BillingGroup)
		}),
		op("UpdateThing", "PATCH /things/{thingName} *", r.UpdateThing),
		op("DeleteThing", "DELETE /things/{thingName}?expectedVersion", r.DeleteThing),
		op("ListThings", "GET /things?attributeName&attributeValue&thingTypeName&usePrefixAttributeValue",
			a.listThings, page("things", thingName, a.thing)),

		op("CreateThingType", "POST /thing-types/{thingTypeName} thingTypeProperties", newThingType, r.CreateThingType,
			func(t registry.ThingType) object {
				return a.ref("thingtype", "thingTypeName", t.Name).with(object{"thingTypeId": t.ID})
			}),
		op("DescribeThingType", "GET /thing-types/{thingTypeName}", r.DescribeThingType,
			func(t registry.ThingType) object { return a.thingType(t).with(object{"thingTypeId": t.ID}) }),
		op("UpdateThingType", "PATCH /thing-types/{thingTypeName} thingTypeProperties", newThingType, r.UpdateThingType),
		op("DeprecateThingType", "POST /thing-types/{thingTypeName}/deprecate undoDeprecate", r.DeprecateThingType),
		op("DeleteThingType", "DELETE /thing-types/{thingTypeName}", r.DeleteThingType),
		op("ListThingTypes", "GET /thing-types?thingTypeName", r.ListThingTypes, page("thingTypes", thingTypeName, a.thingType)),

		op("CreateThingGroup", "POST /thing-groups/{thingGroupName} parentGroupName thingGroupProperties", newThingGroup, r.CreateThingGroup, a.groupCreated("thingGroup")),
		op("DescribeThingGroup", "GET /thing-groups/{thingGroupName}", r.DescribeThingGroup,
			func(g registry.ThingGroup, ancestors []string) object { return a.group("thingGroup", g, ancestors...) }),
		op("UpdateThingGroup", "PATCH /thing-groups/{thingGroupName} thingGroupProperties expectedVersion", updatedGroup, r.UpdateThingGroup, groupVersion),
		op("DeleteThingGroup", "DELETE /thing-groups/{thingGroupName}?expectedVersion", r.DeleteThingGroup),
		op("ListThingGroups", "GET /thing-groups?parentGroup&namePrefixFilter&recursive", a.listThingGroups, page("thingGroups", self, a.groupSummary)),
		// An addition may override dynamic groups, of which there are none.
		op("AddThingToThingGroup", "PUT /thing-groups/addThingToThingGroup thingName thingGroupName overrideDynamicGroups",
			func(thing, group string, _ bool) error { return r.AddThingToThingGroup(thing, group) }),
		op("RemoveThingFromThingGroup", "PUT /thing-groups/removeThingFromThingGroup thingName thingGroupName", r.RemoveThingFromThingGroup),
		op("UpdateThingGroupsForThing", "PUT /thing-groups/updateThingGroupsForThing thingName thingGroupsToAdd thingGroupsToRemove overrideDynamicGroups",
			func(thing string, add, remove []string, _ bool) error {
				return r.UpdateThingGroupsForThing(thing, add, remove)
			}),
		op("ListThingGroupsForThing", "GET /things/{thingName}/thing-groups", r.ListThingGroupsForThing, page("thingGroups", self, a.groupSummary)),
		op("ListThingsInThingGroup", "GET /thing-groups/{thingGroupName}/things?recursive", r.ListThingsInThingGroup, page("things", self, self)),

		op("CreateBillingGroup", "POST /billing-groups/{billingGroupName} billingGroupProperties",
			func(name string, p groupProperties) registry.ThingGroup { return newThingGroup(name, "", p) }, r.CreateBillingGroup, a.groupCreated("billingGroup")),
		op("DescribeBillingGroup", "GET /billing-groups/{billingGroupName}", r.DescribeBillingGroup,
			func(g registry.ThingGroup) object { return a.group("billingGroup", g) }),
		op("UpdateBillingGroup", "PATCH /billing-groups/{billingGroupName} billingGroupProperties expectedVersion", updatedGroup, r.UpdateBillingGroup, groupVersion),
		op("DeleteBillingGroup", "DELETE /billing-groups/{billingGroupName}?expectedVersion", r.DeleteBillingGroup),
		op("ListBillingGroups", "GET /billing-groups?namePrefixFilter",
			r.ListBillingGroups, page("billingGroups", billingGroupName, func(g registry.ThingGroup) object { return a.ref("billinggroup", "groupName", g.Name) })),
		op("AddThingToBillingGroup", "PUT /billing-groups/addThingToBillingGroup thingName billingGroupName", r.AddThingToBillingGroup),
		op("RemoveThingFromBillingGroup", "PUT /billing-groups/removeThingFromBillingGroup thingName billingGroupName", r.RemoveThingFromBillingGroup),
		op("ListThingsInBillingGroup", "GET /billing-groups/{billingGroupName}/things", r.ListThingsInBillingGroup, page("things", self, self)),

		op("TagResource", "POST /tags resourceArn tags", tagsAsMap, r.TagResource),
		op("UntagResource", "POST /untag resourceArn tagKeys", r.UntagResource),
		op("ListTagsForResource", "GET /tags?resourceArn", a.tagsOf, page("tags", tagKey, self[tag])),

		op("RegisterCertificateWithoutCA", "POST /certificate/register-no-ca certificatePem status", a.registerCertificateWithoutCA),
		op("DescribeCertificate", "GET /certificates/{certificateId}", r.DescribeCertificate, func(c registry.Certificate) object {
			return object{"certificateDescription": a.certificateSummary(c).with(a.description(c)).
				with(object{"transferData": object{}}).optional("caCertificateId", c.CAID)}
		}),
		op("UpdateCertificate", "PUT /certificates/{certificateId}?newStatus", r.UpdateCertificate),
		op("DeleteCertificate", "DELETE /certificates/{certificateId}?forceDelete", r.DeleteCertificate),
		op("ListCertificates", "GET /certificates", r.ListCertificates, page("certificates", certificateAge, a.certificateSummary)),

		op("GetRegistrationCode", "GET /registrationcode", r.RegistrationCode, func(code string) object { return object{"registrationCode": code} }),
		op("DeleteRegistrationCode", "DELETE /registrationcode", r.DeleteRegistrationCode),
		op("RegisterCACertificate",
			"POST /cacertificate?setAsActive&allowAutoRegistration caCertificate verificationCertificate registrationConfig certificateMode", a.registerCACertificate),
		op("DescribeCACertificate", "GET /cacertificate/{caCertificateId}", r.DescribeCACertificate, a.caDescription),
		op("UpdateCACertificate", "PUT /cacertificate/{caCertificateId}?newStatus&newAutoRegistrationStatus registrationConfig removeAutoRegistration",
			a.updateCACertificate),
		op("DeleteCACertificate", "DELETE /cacertificate/{caCertificateId}", r.DeleteCACertificate),
		op("ListCACertificates", "GET /cacertificates?templateName", r.ListCACertificates, page("certificates", caAge, a.caSummary)),
		op("RegisterCertificate", "POST /certificate/register?setAsActive certificatePem caCertificatePem status", a.registerCertificate),
		op("ListCertificatesByCA", "GET /certificates-by-ca/{caCertificateId}",
			r.ListCertificatesByCA, page("certificates", certificateAge, a.certificateSummary)),

		op("CreateCertificateProvider", // idempotent, whatever its token
			"POST /certificate-providers/{certificateProviderName} lambdaFunctionArn accountDefaultForOperations clientToken", a.createCertificateProvider),
		op("DescribeCertificateProvider", "GET /certificate-providers/{certificateProviderName}", r.DescribeCertificateProvider, a.provider),
		op("UpdateCertificateProvider", "PUT /certificate-providers/{certificateProviderName} lambdaFunctionArn accountDefaultForOperations",
			func(name, function string, _ []string) (object, error) {
				return a.providerSummary(registry.CertificateProvider{Name: name}), r.UpdateCertificateProvider(name, function)
			}),
		op("DeleteCertificateProvider", "DELETE /certificate-providers/{certificateProviderName}", r.DeleteCertificateProvider),
		op("ListCertificateProviders", "GET /certificate-providers/{$}",
			r.ListCertificateProviders, page("certificateProviders", providerName, a.providerSummary)),

		op("CreatePolicy", "POST /policies/{policyName} policyDocument", r.CreatePolicy, func(p registry.Policy) object {
			return a.policySummary(p).with(object{"policyDocument": p.Default().Document, "policyVersionId": strconv.Itoa(p.DefaultVersion)})
		}),
		op("GetPolicy", "GET /policies/{policyName}", r.GetPolicy, a.policy),
		op("DeletePolicy", "DELETE /policies/{policyName}", r.DeletePolicy),
		op("ListPolicies", "GET /policies", r.ListPolicies, page("policies", policyAge, a.policySummary)),
		op("CreatePolicyVersion", "POST /policies/{policyName}/version?setAsDefault policyDocument", a.createPolicyVersion),
		op("ListPolicyVersions", "GET /policies/{policyName}/version", r.GetPolicy, policyVersions),
		op("GetPolicyVersion", "GET /policies/{policyName}/version/{policyVersionId}", a.policyVersion),
		op("SetDefaultPolicyVersion", "PATCH /policies/{policyName}/version/{policyVersionId}", r.SetDefaultPolicyVersion),
		op("DeletePolicyVersion", "DELETE /policies/{policyName}/version/{policyVersionId}", r.DeletePolicyVersion),

		op("AttachPolicy", "PUT /target-policies/{policyName} target", r.AttachPolicy),
		op("DetachPolicy", "POST /target-policies/{policyName} target", r.DetachPolicy),
		op("ListAttachedPolicies", "POST /attached-policies/{target...}?recursive", r.ListAttachedPolicies, page("policies", self, a.policyName)),
		op("ListTargetsForPolicy", "POST /policy-targets/{policyName}", r.ListTargetsForPolicy, page("targets", a.targetARN, a.targetARN)),
		// The older operations of principal policies, which AWS still offers.
		op("AttachPrincipalPolicy", "PUT /principal-policies/{policyName} X-Amzn-Iot-Principal", r.AttachPolicy),
		op("DetachPrincipalPolicy", "DELETE /principal-policies/{policyName} X-Amzn-Iot-Principal", r.DetachPolicy),
		op("ListPrincipalPolicies", "GET /principal-policies X-Amzn-Iot-Principal", a.principalPolicies, page("policies", policyAge, a.policySummary)),
		op("ListPolicyPrincipals", "GET /policy-principals X-Amzn-Iot-Policy", func(policy string) ([]registry.Target, error) {
			targets, err := r.ListTargetsForPolicy(policy)
			return slices.DeleteFunc(targets, func(t registry.Target) bool { _, group := t.ThingGroup(); return group }), err
		}, page("principals", a.targetAge, a.targetARN)),
		op("AttachThingPrincipal", "PUT /things/{thingName}/principals?thingPrincipalType X-Amzn-Principal",
			func(thing string, kind registry.PrincipalType, certificateID string) error {
				return r.AttachThingPrincipal(thing, certificateID, kind)
			}),
		op("DetachThingPrincipal", "DELETE /things/{thingName}/principals X-Amzn-Principal", r.DetachThingPrincipal),
		op("ListThingPrincipals", "GET /things/{thingName}/principals",
			r.ListThingPrincipals, page("principals", attachedCertificate, a.attachedPrincipal)),
		op("ListThingPrincipalsV2", "GET /things/{thingName}/principals-v2?thingPrincipalType",
			ofType("thingName", r.ListThingPrincipals), page("thingPrincipalObjects", attachedCertificate, func(at registry.Attachment) object {
				return object{"principal": a.attachedPrincipal(at), "thingPrincipalType": at.Type}
			})),
		op("ListPrincipalThings", "GET /principals/things X-Amzn-Principal", r.ListPrincipalThings, page("things", attachedThing, attachedThing)),
		op("ListPrincipalThingsV2", "GET /principals/things-v2?thingPrincipalType X-Amzn-Principal",
			ofType("X-Amzn-Principal", r.ListPrincipalThings), page("principalThingObjects", attachedThing, func(at registry.Attachment) object {
				return object{"thingName": at.Thing, "thingPrincipalType": at.Type}
			})),

		op("CreateProvisioningTemplate", "POST /provisioning-templates "+
			"templateName description templateBody enabled provisioningRoleArn preProvisioningHook type", a.createProvisioningTemplate),
		op("DescribeProvisioningTemplate", "GET /provisioning-templates/{templateName}", r.DescribeProvisioningTemplate, a.template),
		op("UpdateProvisioningTemplate", "PATCH /provisioning-templates/{templateName} *", r.UpdateProvisioningTemplate),
		op("DeleteProvisioningTemplate", "DELETE /provisioning-templates/{templateName}", r.DeleteProvisioningTemplate),
		op("ListProvisioningTemplates", "GET /provisioning-templates", r.ListProvisioningTemplates, page("templates", templateName, a.templateSummary)),
		op("CreateProvisioningTemplateVersion", "POST /provisioning-templates/{templateName}/versions?setAsDefault templateBody",
			a.createProvisioningTemplateVersion),
		op("ListProvisioningTemplateVersions", "GET /provisioning-templates/{templateName}/versions", r.DescribeProvisioningTemplate, listTemplateVersions),
		op("DescribeProvisioningTemplateVersion", "GET /provisioning-templates/{templateName}/versions/{versionId}", a.describeTemplateVersion),
		op("DeleteProvisioningTemplateVersion", "DELETE /provisioning-templates/{templateName}/versions/{versionId}", r.DeleteProvisioningTemplateVersion),

		op("CreateRoleAlias", "POST /role-aliases/{roleAlias} roleArn credentialDurationSeconds", newRoleAlias, r.CreateRoleAlias, a.roleAlias),
		op("DescribeRoleAlias", "GET /role-aliases/{roleAlias}", r.DescribeRoleAlias, func(alias registry.RoleAlias) object {
			return object{"roleAliasDescription": a.roleAlias(alias).with(object{
				"roleArn": alias.RoleARN, "owner": a.Account, "credentialDurationSeconds": int64(alias.CredentialDuration.Seconds()),
				"creationDate": epoch(alias.Created), "lastModifiedDate": epoch(alias.Modified),
			})}
		}),
		op("UpdateRoleAlias", "PUT /role-aliases/{roleAlias} roleArn credentialDurationSeconds", newRoleAlias,
			func(alias registry.RoleAlias) (object, error) { return a.roleAlias(alias), r.UpdateRoleAlias(alias) }),
		op("DeleteRoleAlias", "DELETE /role-aliases/{roleAlias}", r.DeleteRoleAlias),
		op("ListRoleAliases", "GET /role-aliases", r.ListRoleAliases, page("roleAliases", roleAliasName, roleAliasName)),

		op("DescribeEndpoint", "GET /endpoint?endpointType", a.describeEndpoint),
		op("UpdateEventConfigurations", "PATCH /event-configurations eventConfigurations", r.UpdateEventConfigurations),
		op("DescribeEventConfigurations", "GET /event-configurations", r.EventConfigurations, eventConfigurations),
		op("GetEffectivePolicies", "POST /effective-policies?thingName principal", a.effectivePolicies),

		op("RegisterThing", "POST /things templateBody parameters", a.registerThing),

		op("CreateKeysAndCertificate", "POST /keys-and-certificate?setAsActive", a.createKeysAndCertificate),
		op("CreateCertificateFromCsr", "POST /certificates?setAsActive certificateSigningRequest", a.createCertificateFromCSR),
		op("CreateProvisioningClaim", "POST /provisioning-templates/{templateName}/provisioning-claim", a.createProvisioningClaim),

		op("TestAuthorization", "POST /test-authorization?clientId principal authInfos policyNamesToAdd policyNamesToSkip", a.testAuthorization),

		op("Publish", "POST /topics/{topic...}?qos&retain&contentType&responseTopic&messageExpiry", (*request).message, a.Publish),

		op("GetRetainedMessage", "GET /retainedMessage/{topic...}", a.retainedMessage),
		op("ListRetainedMessages", "GET /retainedMessage", func() []*broker.Message { return a.Broker.AllRetained() }, page("retainedTopics", retainedTopic, func(m *broker.Message) object {
			return object{"topic": m.Topic, "payloadSize": len(m.Payload), "qos": m.QoS, "lastModifiedTime": m.Time.UnixMilli()}
		})),

		op("DeleteConnection", "DELETE /connections/{clientId}?cleanSession&preventWillMessage", a.deleteConnection),
		op("GetConnection", "GET /connections/{clientId}?includeSocketInformation", a.connection),
		op("ListSubscriptions", "GET /connections/{clientId}/subscriptions", a.listSubscriptions),
		op("SendDirectMessage", "POST /connections/{clientId}/messages?topic&confirmation&timeout&contentType&responseTopic", a.sendDirectMessage),

		op("GetThingShadow", "GET /things/{thingName}/shadow?name", a.shadowRequest(awsiot.GetShadow)),
		op("UpdateThingShadow", "POST /things/{thingName}/shadow?name", a.shadowRequest(awsiot.UpdateShadow)),
		op("DeleteThingShadow", "DELETE /things/{thingName}/shadow?name", a.shadowRequest(awsiot.DeleteShadow)),
		op("ListNamedShadowsForThing", "GET /api/things/shadow/ListNamedShadowsForThing/{thingName}",
			a.Shadows.NamedShadows, page("results", self, self[string]),
			func(list object) object { return list.with(object{"timestamp": time.Now().Unix()}) }),

		op("CreateJob", "PUT /jobs/{jobId} *", a.Jobs.CreateJob, jobSummary),
		op("DescribeJob", "GET /jobs/{jobId}", a.Jobs.DescribeJob, jobDescription),
		op("UpdateJob", "PATCH /jobs/{jobId} *", a.Jobs.UpdateJob),
		op("DeleteJob", "DELETE /jobs/{jobId}?force", a.Jobs.DeleteJob, a.deleteTags("job", "jobId")),
		op("CancelJob", "PUT /jobs/{jobId}/cancel?force reasonCode comment", a.Jobs.CancelJob, jobSummary),
		op("AssociateTargetsWithJob", "POST /jobs/{jobId}/targets targets comment", a.Jobs.AssociateTargetsWithJob, jobSummary),
		op("GetJobDocument", "GET /jobs/{jobId}/job-document", a.Jobs.DescribeJob, func(j jobs.Job) object { return object{"document": j.Document} }),
		op("ListJobs", "GET /jobs?status&targetSelection&thingGroupName", a.listJobs, page("jobs", newestJob, jobListed)),
		op("ListJobExecutionsForJob", "GET /jobs/{jobId}/things?status",
			a.Jobs.JobExecutions, page("executionSummaries", executionKey, func(e jobs.Execution) object {
				return object{"thingArn": a.ARN("thing/" + e.ThingName), "jobExecutionSummary": executionSummary(e)}
			})),
		op("ListJobExecutionsForThing", "GET /things/{thingName}/jobs?status&jobId",
			a.Jobs.ThingExecutions, page("executionSummaries", executionKey, func(e jobs.Execution) object {
				return object{"jobId": e.JobID, "jobExecutionSummary": executionSummary(e)}
			})),
		op("DescribeJobExecution", "GET /things/{thingName}/jobs/{jobId}?executionNumber", a.Jobs.DescribeJobExecution, a.jobExecution),
		op("CancelJobExecution", "PUT /things/{thingName}/jobs/{jobId}/cancel?force expectedVersion statusDetails", a.Jobs.CancelJobExecution),
		op("DeleteJobExecution", "DELETE /things/{thingName}/jobs/{jobId}/executionNumber/{executionNumber}?force", a.Jobs.DeleteJobExecution),
		// Of the jobs data plane; see byPlane.
		op("GetPendingJobExecutions", "GET /things/{thingName}/jobs", a.deviceJobs(awsiot.GetPendingJobExecutions)),
		op("StartNextPendingJobExecution", "PUT /things/{thingName}/jobs/$next *", a.deviceJobs(awsiot.StartNextPendingJobExecution)),
		op("DescribeJobExecution", "GET /things/{thingName}/jobs/{jobId}?executionNumber&includeJobDocument", a.deviceJobs(awsiot.DescribeJobExecution)),
		op("UpdateJobExecution", "POST /things/{thingName}/jobs/{jobId} *", a.deviceJobs(awsiot.UpdateJobExecution)),

		op("CreateTopicRule", "POST /rules/{ruleName} X-Amz-Tagging *", a.createTopicRule),
		op("GetTopicRule", "GET /rules/{ruleName}", a.Rules.TopicRule, a.topicRule),
		op("ReplaceTopicRule", "PATCH /rules/{ruleName} *", a.Rules.ReplaceTopicRule),
		op("DeleteTopicRule", "DELETE /rules/{ruleName}", a.Rules.DeleteTopicRule, a.deleteTags("rule", "ruleName")),
		op("EnableTopicRule", "POST /rules/{ruleName}/enable", func(name string) error { return a.Rules.SetDisabled(name, false) }),
		op("DisableTopicRule", "POST /rules/{ruleName}/disable", func(name string) error { return a.Rules.SetDisabled(name, true) }),
		op("ListTopicRules", "GET /rules?topic&ruleDisabled", a.topicRules, page("rules", ruleName, a.ruleSummary)),
	}
}

// awsOperations has a line "NAME METHOD PATH" for each operation of AWS's
// models iot/2015-05-28, iot-data/2015-05-28 and iot-jobs-data/2017-09-29.
//
//go:embed aws_operations.txt
var awsOperations string

// notEmulated returns the fields of those lines of awsOperations whose operations are not among ops.
func notEmulated(ops []operation) (lines [][]string) {
	for line := range strings.Lines(awsOperations) {
		fields := strings.Fields(line)
		if !slices.ContainsFunc(ops, func(o operation) bool { return o.name == fields[0] }) {
			lines = append(lines, fields)
		}
	}
	return lines
}

// NotEmulated returns the names of AWS's operations that this API does not have, sorted.
func NotEmulated() []string {
	return slices.Compact(convert(notEmulated(new(api).operations()), func(fields []string) string { return fields[0] }))
}

// quotas are the requests per second and account that AWS allows, by operation,
// in its large Regions. Operations without an entry are not limited.
//
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
var quotas = map[string]int{
	"CreateKeysAndCertificate":   10,
	"CreateCertificateFromCsr":   15,
	"RegisterThing":              10,
	"CreateThing":                100,
	"UpdateThing":                100,
	"AttachThingPrincipal":       100,
	"AttachPolicy":               15,
	"AddThingToThingGroup":       100,
	"DescribeThing":              350,
	"UpdateCertificate":          10,
	"DescribeCertificate":        10,
	"CreatePolicy":               10,
	"DescribeEndpoint":           10,
	"CreateProvisioningTemplate": 10,
	"CreateProvisioningClaim":    10,
	"ListThingPrincipals":        20,
}
