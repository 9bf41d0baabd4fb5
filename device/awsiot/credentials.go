package awsiot

import "time"

// ThingNameHeader is the header of a request to the credentials provider that
// names the thing of the certificate. It is optional.
const ThingNameHeader = "X-Amzn-Iot-Thingname"

// CredentialsPath is the path of the credentials of a role alias.
func CredentialsPath(roleAlias string) string { return "/role-aliases/" + roleAlias + "/credentials" }

// A CredentialsResponse is the credentials provider's response.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/authorizing-direct-aws.html
type CredentialsResponse struct {
	Credentials Credentials `json:"credentials"`
}

// Credentials are temporary AWS credentials.
type Credentials struct {
	AccessKeyID     string    `json:"accessKeyId"`
	SecretAccessKey Secret    `json:"secretAccessKey"`
	SessionToken    Secret    `json:"sessionToken"`
	Expiration      time.Time `json:"expiration"`
}

// AssumeRoleWithCertificate is the operation of the credentials provider, named as
// the action iot:AssumeRoleWithCertificate that a policy must allow.
const AssumeRoleWithCertificate Operation = "AssumeRoleWithCertificate"
