package controlapi

import "golang.org/x/time/rate"

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
