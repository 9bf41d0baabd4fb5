package controlapi

import (
	_ "embed"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/time/rate"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/registry"
)

// An operation is one call of the API: AWS's name, the pattern of its method
// and path, and what it does. The result is written as JSON, nil as no body.
type operation struct {
	name, pattern string
	query         string // the names of its query parameters, separated by spaces
	run           func(*request) (any, error)
}

// takes reports whether the operation has the query parameter.
func (o operation) takes(name string) bool { return slices.Contains(strings.Fields(o.query), name) }

// Query parameters of lists, in the two forms that AWS IoT has.
const (
	paged  = "maxResults nextToken"
	marked = "pageSize marker"
)

// operations lists the operations that are emulated. Names, paths and query
// parameters are those of AWS's models.
func (a *api) operations() []operation {
	return []operation{
		{"CreateThing", "POST /things/{thingName}", "", with(a.createThing)},
		{"DescribeThing", "GET /things/{thingName}", "", a.describeThing},
		{"UpdateThing", "PATCH /things/{thingName}", "", with(a.updateThing)},
		{"DeleteThing", "DELETE /things/{thingName}", "expectedVersion", func(q *request) (any, error) {
			return object{}, a.Registry.DeleteThing(q.path("thingName"), q.number("expectedVersion"))
		}},
		{"ListThings", "GET /things", paged + " attributeName attributeValue thingTypeName usePrefixAttributeValue", a.listThings},
		{"RegisterThing", "POST /things", "", needs("provisioning", a.Registrar != nil, with(a.registerThing))},

		{"CreateThingType", "POST /thing-types/{thingTypeName}", "", with(a.createThingType)},
		{"DescribeThingType", "GET /thing-types/{thingTypeName}", "", a.describeThingType},
		{"UpdateThingType", "PATCH /thing-types/{thingTypeName}", "", with(a.updateThingType)},
		{"DeprecateThingType", "POST /thing-types/{thingTypeName}/deprecate", "", with(a.deprecateThingType)},
		{"DeleteThingType", "DELETE /thing-types/{thingTypeName}", "", func(q *request) (any, error) {
			return object{}, a.Registry.DeleteThingType(q.path("thingTypeName"))
		}},
		{"ListThingTypes", "GET /thing-types", paged + " thingTypeName", func(q *request) (any, error) {
			return list(q, "thingTypes", a.Registry.ListThingTypes(q.query("thingTypeName")),
				func(t registry.ThingType) string { return t.Name }, a.thingType)
		}},

		{"CreateThingGroup", "POST /thing-groups/{thingGroupName}", "", with(a.createThingGroup)},
		{"DescribeThingGroup", "GET /thing-groups/{thingGroupName}", "", a.describeThingGroup},
		{"UpdateThingGroup", "PATCH /thing-groups/{thingGroupName}", "", with(a.updateThingGroup)},
		{"DeleteThingGroup", "DELETE /thing-groups/{thingGroupName}", "expectedVersion", func(q *request) (any, error) {
			return object{}, a.Registry.DeleteThingGroup(q.path("thingGroupName"), q.number("expectedVersion"))
		}},
		{"ListThingGroups", "GET /thing-groups", paged + " parentGroup namePrefixFilter recursive", a.listThingGroups},
		{"AddThingToThingGroup", "PUT /thing-groups/addThingToThingGroup", "", change[addition](a, a.Registry.AddThingToThingGroup)},
		{"RemoveThingFromThingGroup", "PUT /thing-groups/removeThingFromThingGroup", "", change[thingAndGroup](a, a.Registry.RemoveThingFromThingGroup)},
		{"UpdateThingGroupsForThing", "PUT /thing-groups/updateThingGroupsForThing", "", with(a.updateThingGroupsForThing)},
		{"ListThingGroupsForThing", "GET /things/{thingName}/thing-groups", paged, func(q *request) (any, error) {
			return listOf(q, "thingGroups", self, a.groupName)(a.Registry.ListThingGroupsForThing(q.path("thingName")))
		}},
		{"ListThingsInThingGroup", "GET /thing-groups/{thingGroupName}/things", paged + " recursive", func(q *request) (any, error) {
			return listOf(q, "things", self, self)(a.Registry.ListThingsInThingGroup(q.path("thingGroupName"), q.flag("recursive")))
		}},

		{"CreateBillingGroup", "POST /billing-groups/{billingGroupName}", "", with(a.createBillingGroup)},
		{"DescribeBillingGroup", "GET /billing-groups/{billingGroupName}", "", a.describeBillingGroup},
		{"UpdateBillingGroup", "PATCH /billing-groups/{billingGroupName}", "", with(a.updateBillingGroup)},
		{"DeleteBillingGroup", "DELETE /billing-groups/{billingGroupName}", "expectedVersion", func(q *request) (any, error) {
			return object{}, a.Registry.DeleteBillingGroup(q.path("billingGroupName"), q.number("expectedVersion"))
		}},
		{"ListBillingGroups", "GET /billing-groups", paged + " namePrefixFilter", a.listBillingGroups},
		{"AddThingToBillingGroup", "PUT /billing-groups/addThingToBillingGroup", "", change[thingAndBillingGroup](a, a.Registry.AddThingToBillingGroup)},
		{"RemoveThingFromBillingGroup", "PUT /billing-groups/removeThingFromBillingGroup", "", change[thingAndBillingGroup](a, a.Registry.RemoveThingFromBillingGroup)},
		{"ListThingsInBillingGroup", "GET /billing-groups/{billingGroupName}/things", paged, func(q *request) (any, error) {
			return listOf(q, "things", self, self)(a.Registry.ListThingsInBillingGroup(q.path("billingGroupName")))
		}},

		{"TagResource", "POST /tags", "", with(a.tagResource)},
		{"UntagResource", "POST /untag", "", with(a.untagResource)},
		{"ListTagsForResource", "GET /tags", "resourceArn nextToken", a.listTagsForResource},

		{"CreateKeysAndCertificate", "POST /keys-and-certificate", "setAsActive", needs("certificate authority", a.Issuer != nil, a.createKeysAndCertificate)},
		{"CreateCertificateFromCsr", "POST /certificates", "setAsActive", needs("certificate authority", a.Issuer != nil, with(a.createCertificateFromCSR))},
		{"RegisterCertificateWithoutCA", "POST /certificate/register-no-ca", "", with(a.registerCertificateWithoutCA)},
		{"DescribeCertificate", "GET /certificates/{certificateId}", "", a.describeCertificate},
		{"UpdateCertificate", "PUT /certificates/{certificateId}", "newStatus", func(q *request) (any, error) {
			return nil, a.Registry.UpdateCertificate(q.path("certificateId"), registry.CertificateStatus(q.query("newStatus")))
		}},
		{"DeleteCertificate", "DELETE /certificates/{certificateId}", "forceDelete", func(q *request) (any, error) {
			return nil, a.Registry.DeleteCertificate(q.path("certificateId"), q.flag("forceDelete"))
		}},
		{"ListCertificates", "GET /certificates", marked + " isAscendingOrder", func(q *request) (any, error) {
			return list(q, "certificates", a.Registry.ListCertificates(), certificateAge, a.certificateSummary)
		}},

		{"GetRegistrationCode", "GET /registrationcode", "", a.registrationCode},
		{"DeleteRegistrationCode", "DELETE /registrationcode", "", func(*request) (any, error) {
			return object{}, a.Registry.DeleteRegistrationCode()
		}},
		{"RegisterCACertificate", "POST /cacertificate", "setAsActive allowAutoRegistration", with(a.registerCACertificate)},
		{"DescribeCACertificate", "GET /cacertificate/{certificateId}", "", a.describeCACertificate},
		{"UpdateCACertificate", "PUT /cacertificate/{certificateId}", "newStatus newAutoRegistrationStatus", with(a.updateCACertificate)},
		{"DeleteCACertificate", "DELETE /cacertificate/{certificateId}", "", func(q *request) (any, error) {
			return object{}, a.Registry.DeleteCACertificate(q.path("certificateId"))
		}},
		{"ListCACertificates", "GET /cacertificates", marked + " isAscendingOrder templateName", func(q *request) (any, error) {
			return list(q, "certificates", a.Registry.ListCACertificates(q.query("templateName")),
				func(c registry.CACertificate) string { return certificateAge(c.Certificate) }, a.caSummary)
		}},
		{"RegisterCertificate", "POST /certificate/register", "setAsActive", with(a.registerCertificate)},
		{"ListCertificatesByCA", "GET /certificates-by-ca/{certificateId}", marked + " isAscendingOrder", func(q *request) (any, error) {
			return list(q, "certificates", a.Registry.ListCertificatesByCA(q.path("certificateId")), certificateAge, a.certificateSummary)
		}},
		{"CreateCertificateProvider", "POST /certificate-providers/{certificateProviderName}", "", with(a.createCertificateProvider)},
		{"DescribeCertificateProvider", "GET /certificate-providers/{certificateProviderName}", "", a.describeCertificateProvider},
		{"UpdateCertificateProvider", "PUT /certificate-providers/{certificateProviderName}", "", with(a.updateCertificateProvider)},
		{"DeleteCertificateProvider", "DELETE /certificate-providers/{certificateProviderName}", "", func(q *request) (any, error) {
			return object{}, a.Registry.DeleteCertificateProvider(q.path("certificateProviderName"))
		}},
		{"ListCertificateProviders", "GET /certificate-providers/{$}", "nextToken isAscendingOrder", func(q *request) (any, error) {
			return list(q, "certificateProviders", a.Registry.ListCertificateProviders(),
				func(p registry.CertificateProvider) string { return p.Name },
				func(p registry.CertificateProvider) object { return a.providerSummary(p.Name) })
		}},

		{"CreatePolicy", "POST /policies/{policyName}", "", with(a.createPolicy)},
		{"GetPolicy", "GET /policies/{policyName}", "", a.getPolicy},
		{"DeletePolicy", "DELETE /policies/{policyName}", "", func(q *request) (any, error) {
			return nil, a.Registry.DeletePolicy(q.path("policyName"))
		}},
		{"ListPolicies", "GET /policies", marked + " isAscendingOrder", func(q *request) (any, error) {
			return a.policiesByAge(q, a.Registry.ListPolicies())
		}},
		{"CreatePolicyVersion", "POST /policies/{policyName}/version", "setAsDefault", with(a.createPolicyVersion)},
		{"ListPolicyVersions", "GET /policies/{policyName}/version", "", a.listPolicyVersions},
		{"GetPolicyVersion", "GET /policies/{policyName}/version/{versionId}", "", a.getPolicyVersion},
		{"SetDefaultPolicyVersion", "PATCH /policies/{policyName}/version/{versionId}", "", func(q *request) (any, error) {
			return nil, a.Registry.SetDefaultPolicyVersion(q.path("policyName"), q.version())
		}},
		{"DeletePolicyVersion", "DELETE /policies/{policyName}/version/{versionId}", "", func(q *request) (any, error) {
			return nil, a.Registry.DeletePolicyVersion(q.path("policyName"), q.version())
		}},

		{"AttachPolicy", "PUT /target-policies/{policyName}", "", a.ofTarget(a.Registry.AttachPolicy)},
		{"DetachPolicy", "POST /target-policies/{policyName}", "", a.ofTarget(a.Registry.DetachPolicy)},
		{"ListAttachedPolicies", "POST /attached-policies/{target...}", marked + " recursive", a.listAttachedPolicies},
		{"ListTargetsForPolicy", "POST /policy-targets/{policyName}", marked, func(q *request) (any, error) {
			return listOf(q, "targets", a.targetARN, a.targetARN)(a.Registry.ListTargetsForPolicy(q.path("policyName")))
		}},
		{"AttachPrincipalPolicy", "PUT /principal-policies/{policyName}", "", a.ofPrincipal(a.Registry.AttachPolicy)},
		{"DetachPrincipalPolicy", "DELETE /principal-policies/{policyName}", "", a.ofPrincipal(a.Registry.DetachPolicy)},
		{"ListPrincipalPolicies", "GET /principal-policies", marked + " isAscendingOrder", a.listPrincipalPolicies},
		{"ListPolicyPrincipals", "GET /policy-principals", marked + " isAscendingOrder", a.listPolicyPrincipals},
		{"AttachThingPrincipal", "PUT /things/{thingName}/principals", "thingPrincipalType", a.attachThingPrincipal},
		{"DetachThingPrincipal", "DELETE /things/{thingName}/principals", "", a.detachThingPrincipal},
		{"ListThingPrincipals", "GET /things/{thingName}/principals", paged, func(q *request) (any, error) {
			return attachments(q, "principals", certificateKey, a.certificateOf)(a.Registry.ListThingPrincipals(q.path("thingName")))
		}},
		{"ListThingPrincipalsV2", "GET /things/{thingName}/principals-v2", paged + " thingPrincipalType", a.listThingPrincipalsV2},
		{"ListPrincipalThings", "GET /principals/things", paged, func(q *request) (any, error) {
			return attachments(q, "things", thingKey, thingKey)(a.thingsOfPrincipal(q))
		}},
		{"ListPrincipalThingsV2", "GET /principals/things-v2", paged + " thingPrincipalType", a.listPrincipalThingsV2},

		{"CreateProvisioningTemplate", "POST /provisioning-templates", "", with(a.createProvisioningTemplate)},
		{"DescribeProvisioningTemplate", "GET /provisioning-templates/{templateName}", "", a.describeProvisioningTemplate},
		{"UpdateProvisioningTemplate", "PATCH /provisioning-templates/{templateName}", "", with(a.updateProvisioningTemplate)},
		{"DeleteProvisioningTemplate", "DELETE /provisioning-templates/{templateName}", "", func(q *request) (any, error) {
			return object{}, a.Registry.DeleteProvisioningTemplate(q.path("templateName"))
		}},
		{"ListProvisioningTemplates", "GET /provisioning-templates", paged, func(q *request) (any, error) {
			return list(q, "templates", a.Registry.ListProvisioningTemplates(),
				func(t registry.ProvisioningTemplate) string { return t.Name }, a.templateSummary)
		}},
		{"CreateProvisioningTemplateVersion", "POST /provisioning-templates/{templateName}/versions", "setAsDefault", with(a.createProvisioningTemplateVersion)},
		{"ListProvisioningTemplateVersions", "GET /provisioning-templates/{templateName}/versions", paged, a.listProvisioningTemplateVersions},
		{"DescribeProvisioningTemplateVersion", "GET /provisioning-templates/{templateName}/versions/{versionId}", "", a.describeProvisioningTemplateVersion},
		{"DeleteProvisioningTemplateVersion", "DELETE /provisioning-templates/{templateName}/versions/{versionId}", "", func(q *request) (any, error) {
			return object{}, a.Registry.DeleteProvisioningTemplateVersion(q.path("templateName"), q.version())
		}},
		{"CreateProvisioningClaim", "POST /provisioning-templates/{templateName}/provisioning-claim", "", needs("certificate authority", a.Issuer != nil, a.createProvisioningClaim)},

		{"CreateRoleAlias", "POST /role-aliases/{roleAlias}", "", with(a.createRoleAlias)},
		{"DescribeRoleAlias", "GET /role-aliases/{roleAlias}", "", a.describeRoleAlias},
		{"UpdateRoleAlias", "PUT /role-aliases/{roleAlias}", "", with(a.updateRoleAlias)},
		{"DeleteRoleAlias", "DELETE /role-aliases/{roleAlias}", "", func(q *request) (any, error) {
			return object{}, a.Registry.DeleteRoleAlias(q.path("roleAlias"))
		}},
		{"ListRoleAliases", "GET /role-aliases", marked + " isAscendingOrder", a.listRoleAliases},

		{"DescribeEndpoint", "GET /endpoint", "endpointType", a.describeEndpoint},
		{"UpdateEventConfigurations", "PATCH /event-configurations", "", with(a.updateEventConfigurations)},
		{"DescribeEventConfigurations", "GET /event-configurations", "", a.describeEventConfigurations},
		{"TestAuthorization", "POST /test-authorization", "clientId", needs("policy evaluation", a.Authorizer != nil, with(a.testAuthorization))},
		{"GetEffectivePolicies", "POST /effective-policies", "thingName", with(a.effectivePolicies)},

		{"Publish", "POST /topics/{topic...}", "qos retain contentType responseTopic messageExpiry", needs("broker", a.Publish != nil, a.publish)},
		{"GetRetainedMessage", "GET /retainedMessage/{topic...}", "", needs("broker", a.Broker != nil, a.retainedMessage)},
		{"ListRetainedMessages", "GET /retainedMessage", paged, needs("broker", a.Broker != nil, a.listRetainedMessages)},
		{"DeleteConnection", "DELETE /connections/{clientId}", "cleanSession preventWillMessage", needs("broker", a.Broker != nil, a.deleteConnection)},
		{"GetConnection", "GET /connections/{clientId}", "includeSocketInformation", needs("broker", a.Broker != nil, a.getConnection)},
		{"ListSubscriptions", "GET /connections/{clientId}/subscriptions", paged, needs("broker", a.Broker != nil, a.listSubscriptions)},
		{"SendDirectMessage", "POST /connections/{clientId}/messages", "topic confirmation timeout contentType responseTopic", needs("broker", a.Broker != nil, a.sendDirectMessage)},

		{"GetThingShadow", "GET /things/{thingName}/shadow", "name", a.shadowRequest(awsiot.GetShadow)},
		{"UpdateThingShadow", "POST /things/{thingName}/shadow", "name", a.shadowRequest(awsiot.UpdateShadow)},
		{"DeleteThingShadow", "DELETE /things/{thingName}/shadow", "name", a.shadowRequest(awsiot.DeleteShadow)},
		{"ListNamedShadowsForThing", "GET /api/things/shadow/ListNamedShadowsForThing/{thingName}", "pageSize nextToken", needs("Device Shadow service", a.Shadows != nil, a.listNamedShadows)},

		{"CreateJob", "PUT /jobs/{jobId}", "", a.jobsOf(with(a.createJob))},
		{"DescribeJob", "GET /jobs/{jobId}", "", a.jobsOf(a.describeJob)},
		{"UpdateJob", "PATCH /jobs/{jobId}", "", a.jobsOf(with(a.updateJob))},
		{"DeleteJob", "DELETE /jobs/{jobId}", "force", a.jobsOf(a.deleteJob)},
		{"CancelJob", "PUT /jobs/{jobId}/cancel", "force", a.jobsOf(with(a.cancelJob))},
		{"AssociateTargetsWithJob", "POST /jobs/{jobId}/targets", "", a.jobsOf(with(a.associateTargets))},
		{"GetJobDocument", "GET /jobs/{jobId}/job-document", "", a.jobsOf(a.jobDocument)},
		{"ListJobs", "GET /jobs", paged + " status targetSelection thingGroupName", a.jobsOf(a.listJobs)},
		{"ListJobExecutionsForJob", "GET /jobs/{jobId}/things", paged + " status", a.jobsOf(a.listJobExecutionsForJob)},
		{"ListJobExecutionsForThing", "GET /things/{thingName}/jobs", paged + " status jobId", a.jobsOf(a.listJobExecutionsForThing)},
		{"DescribeJobExecution", "GET /things/{thingName}/jobs/{jobId}", "executionNumber", a.jobsOf(a.describeJobExecution)},
		{"CancelJobExecution", "PUT /things/{thingName}/jobs/{jobId}/cancel", "force", a.jobsOf(with(a.cancelJobExecution))},
		{"DeleteJobExecution", "DELETE /things/{thingName}/jobs/{jobId}/executionNumber/{executionNumber}", "force", a.jobsOf(a.deleteJobExecution)},
		// Of the jobs data plane; see byPlane.
		{"GetPendingJobExecutions", "GET /things/{thingName}/jobs", "", a.deviceJobs(awsiot.GetPendingJobExecutions)},
		{"StartNextPendingJobExecution", "PUT /things/{thingName}/jobs/$next", "", a.deviceJobs(awsiot.StartNextPendingJobExecution)},
		{"DescribeJobExecution", "GET /things/{thingName}/jobs/{jobId}", "executionNumber includeJobDocument", a.deviceJobs(awsiot.DescribeJobExecution)},
		{"UpdateJobExecution", "POST /things/{thingName}/jobs/{jobId}", "", a.deviceJobs(awsiot.UpdateJobExecution)},

		{"CreateTopicRule", "POST /rules/{ruleName}", "", a.rulesOf(with(a.createTopicRule))},
		{"GetTopicRule", "GET /rules/{ruleName}", "", a.rulesOf(a.topicRule)},
		{"ReplaceTopicRule", "PATCH /rules/{ruleName}", "", a.rulesOf(with(a.replaceTopicRule))},
		{"DeleteTopicRule", "DELETE /rules/{ruleName}", "", a.rulesOf(a.deleteTopicRule)},
		{"EnableTopicRule", "POST /rules/{ruleName}/enable", "", a.rulesOf(a.enableTopicRule)},
		{"DisableTopicRule", "POST /rules/{ruleName}/disable", "", a.rulesOf(a.disableTopicRule)},
		{"ListTopicRules", "GET /rules", paged + " topic ruleDisabled", a.rulesOf(a.listTopicRules)},
	}
}

// needs returns an operation that is rejected where its part of the emulator is
// missing.
func needs(what string, there bool, run func(*request) (any, error)) func(*request) (any, error) {
	if there {
		return run
	}
	return func(*request) (any, error) {
		return nil, registry.Reject(registry.CodeServiceUnavailable, "This server has no %s.", what)
	}
}

// awsOperations has a line "NAME METHOD PATH" for each operation of AWS's
// models iot/2015-05-28, iot-data/2015-05-28 and iot-jobs-data/2017-09-29.
//
//go:embed aws_operations.txt
var awsOperations string

// NotEmulated returns the names of AWS's operations that this API does not
// have, sorted.
func NotEmulated() []string {
	emulated := new(api).operations()
	var names []string
	for line := range strings.Lines(awsOperations) {
		name := strings.Fields(line)[0]
		if !slices.ContainsFunc(emulated, func(o operation) bool { return o.name == name }) {
			names = append(names, name)
		}
	}
	return slices.Compact(names)
}

// operationOf returns AWS's name for a request, or "". JSON protocols name
// the operation in a header.
func operationOf(r *http.Request) string {
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		return target[strings.LastIndex(target, ".")+1:]
	}
	got := strings.Split(r.URL.EscapedPath(), "/")
	best, most := "", -1
	for line := range strings.Lines(awsOperations) {
		f := strings.Fields(line)
		want := strings.Split(f[2], "/")
		if f[1] != r.Method || len(want) != len(got) {
			continue
		}
		literals := 0
		for i, segment := range want {
			switch {
			case segment == got[i]:
				literals++
			case !strings.HasPrefix(segment, "{") || got[i] == "":
				literals = -len(want)
			}
		}
		if literals > most {
			best, most = f[0], literals
		}
	}
	return best
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

func limiter(operation string) *rate.Limiter {
	if n, ok := quotas[operation]; ok {
		return rate.NewLimiter(rate.Limit(n), n)
	}
	return rate.NewLimiter(rate.Inf, 0)
}
