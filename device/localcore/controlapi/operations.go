package controlapi

// An operation is one call of the API: AWS's name, the pattern of its method
// and path, and what it does. The result is written as JSON, nil as no body.
type operation struct {
	name, pattern string
	run           func(*request) (any, error)
}

// operations lists all that there is. The paths are those of AWS's models.
func (a *api) operations() []operation {
	return []operation{
		{"CreateThing", "POST /things/{thingName}", a.createThing},
		{"DescribeThing", "GET /things/{thingName}", a.describeThing},
		{"UpdateThing", "PATCH /things/{thingName}", a.updateThing},
		{"DeleteThing", "DELETE /things/{thingName}", a.deleteThing},
		{"ListThings", "GET /things", a.listThings},
		{"RegisterThing", "POST /things", a.registerThing},

		{"CreateThingType", "POST /thing-types/{thingTypeName}", a.createThingType},
		{"DescribeThingType", "GET /thing-types/{thingTypeName}", a.describeThingType},
		{"UpdateThingType", "PATCH /thing-types/{thingTypeName}", a.updateThingType},
		{"DeprecateThingType", "POST /thing-types/{thingTypeName}/deprecate", a.deprecateThingType},
		{"DeleteThingType", "DELETE /thing-types/{thingTypeName}", a.deleteThingType},
		{"ListThingTypes", "GET /thing-types", a.listThingTypes},

		{"CreateThingGroup", "POST /thing-groups/{thingGroupName}", a.createThingGroup},
		{"DescribeThingGroup", "GET /thing-groups/{thingGroupName}", a.describeThingGroup},
		{"UpdateThingGroup", "PATCH /thing-groups/{thingGroupName}", a.updateThingGroup},
		{"DeleteThingGroup", "DELETE /thing-groups/{thingGroupName}", a.deleteThingGroup},
		{"ListThingGroups", "GET /thing-groups", a.listThingGroups},
		{"AddThingToThingGroup", "PUT /thing-groups/addThingToThingGroup", a.addThingToThingGroup},
		{"RemoveThingFromThingGroup", "PUT /thing-groups/removeThingFromThingGroup", a.removeThingFromThingGroup},
		{"UpdateThingGroupsForThing", "PUT /thing-groups/updateThingGroupsForThing", a.updateThingGroupsForThing},
		{"ListThingGroupsForThing", "GET /things/{thingName}/thing-groups", a.listThingGroupsForThing},
		{"ListThingsInThingGroup", "GET /thing-groups/{thingGroupName}/things", a.listThingsInThingGroup},

		{"CreateKeysAndCertificate", "POST /keys-and-certificate", a.createKeysAndCertificate},
		{"CreateCertificateFromCsr", "POST /certificates", a.createCertificateFromCSR},
		{"RegisterCertificateWithoutCA", "POST /certificate/register-no-ca", a.registerCertificateWithoutCA},
		{"DescribeCertificate", "GET /certificates/{certificateId}", a.describeCertificate},
		{"UpdateCertificate", "PUT /certificates/{certificateId}", a.updateCertificate},
		{"DeleteCertificate", "DELETE /certificates/{certificateId}", a.deleteCertificate},
		{"ListCertificates", "GET /certificates", a.listCertificates},

		{"CreatePolicy", "POST /policies/{policyName}", a.createPolicy},
		{"GetPolicy", "GET /policies/{policyName}", a.getPolicy},
		{"DeletePolicy", "DELETE /policies/{policyName}", a.deletePolicy},
		{"ListPolicies", "GET /policies", a.listPolicies},
		{"CreatePolicyVersion", "POST /policies/{policyName}/version", a.createPolicyVersion},
		{"ListPolicyVersions", "GET /policies/{policyName}/version", a.listPolicyVersions},
		{"GetPolicyVersion", "GET /policies/{policyName}/version/{policyVersionId}", a.getPolicyVersion},
		{"SetDefaultPolicyVersion", "PATCH /policies/{policyName}/version/{policyVersionId}", a.setDefaultPolicyVersion},
		{"DeletePolicyVersion", "DELETE /policies/{policyName}/version/{policyVersionId}", a.deletePolicyVersion},

		{"AttachPolicy", "PUT /target-policies/{policyName}", a.attachPolicy},
		{"DetachPolicy", "POST /target-policies/{policyName}", a.detachPolicy},
		{"ListAttachedPolicies", "POST /attached-policies/{target...}", a.listAttachedPolicies},
		{"ListTargetsForPolicy", "POST /policy-targets/{policyName}", a.listTargetsForPolicy},
		{"AttachPrincipalPolicy", "PUT /principal-policies/{policyName}", a.attachPrincipalPolicy},
		{"DetachPrincipalPolicy", "DELETE /principal-policies/{policyName}", a.detachPrincipalPolicy},
		{"ListPrincipalPolicies", "GET /principal-policies", a.listPrincipalPolicies},
		{"ListPolicyPrincipals", "GET /policy-principals", a.listPolicyPrincipals},
		{"AttachThingPrincipal", "PUT /things/{thingName}/principals", a.attachThingPrincipal},
		{"DetachThingPrincipal", "DELETE /things/{thingName}/principals", a.detachThingPrincipal},
		{"ListThingPrincipals", "GET /things/{thingName}/principals", a.listThingPrincipals},
		{"ListThingPrincipalsV2", "GET /things/{thingName}/principals-v2", a.listThingPrincipalsV2},
		{"ListPrincipalThings", "GET /principals/things", a.listPrincipalThings},
		{"ListPrincipalThingsV2", "GET /principals/things-v2", a.listPrincipalThingsV2},

		{"CreateProvisioningTemplate", "POST /provisioning-templates", a.createProvisioningTemplate},
		{"DescribeProvisioningTemplate", "GET /provisioning-templates/{templateName}", a.describeProvisioningTemplate},
		{"UpdateProvisioningTemplate", "PATCH /provisioning-templates/{templateName}", a.updateProvisioningTemplate},
		{"DeleteProvisioningTemplate", "DELETE /provisioning-templates/{templateName}", a.deleteProvisioningTemplate},
		{"ListProvisioningTemplates", "GET /provisioning-templates", a.listProvisioningTemplates},
		{"CreateProvisioningTemplateVersion", "POST /provisioning-templates/{templateName}/versions", a.createProvisioningTemplateVersion},
		{"ListProvisioningTemplateVersions", "GET /provisioning-templates/{templateName}/versions", a.listProvisioningTemplateVersions},
		{"DescribeProvisioningTemplateVersion", "GET /provisioning-templates/{templateName}/versions/{versionId}", a.describeProvisioningTemplateVersion},
		{"DeleteProvisioningTemplateVersion", "DELETE /provisioning-templates/{templateName}/versions/{versionId}", a.deleteProvisioningTemplateVersion},
		{"CreateProvisioningClaim", "POST /provisioning-templates/{templateName}/provisioning-claim", a.createProvisioningClaim},

		{"DescribeEndpoint", "GET /endpoint", a.describeEndpoint},
		{"TestAuthorization", "POST /test-authorization", a.testAuthorization},
		{"GetEffectivePolicies", "POST /effective-policies", a.effectivePolicies},

		{"Publish", "POST /topics/{topic...}", a.publish},
		{"GetRetainedMessage", "GET /retainedMessage/{topic...}", a.retainedMessage},
		{"ListRetainedMessages", "GET /retainedMessage", a.listRetainedMessages},
		{"DeleteConnection", "DELETE /connections/{clientId}", a.deleteConnection},
	}
}
