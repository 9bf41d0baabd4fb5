package main

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/google/go-cmp/cmp"
)

const (
	active   = types.CertificateStatusActive
	inactive = types.CertificateStatusInactive
	revoked  = types.CertificateStatusRevoked
	pending  = types.CertificateStatusPendingActivation
)

func TestOnlyFormerCertificatesOfTheThingAreRetired(t *testing.T) {
	now := time.Date(2026, time.November, 26, 12, 0, 0, 0, time.UTC)
	made := func(id string, status types.CertificateStatus, age, unchanged time.Duration, things int) certificate {
		return certificate{id: id, status: status, created: now.Add(-age), modified: now.Add(-unchanged), things: things}
	}
	const day = 24 * time.Hour
	proved := made("new", active, day, day, 1)
	for name, test := range map[string]struct {
		has    []certificate
		proved string
		want   []action
	}{
		"the first certificate":            {[]certificate{proved}, "new", []action{keep}},
		"the one before":                   {[]certificate{made("old", active, 2*day, 2*day, 1), proved}, "new", []action{deactivate, keep}},
		"several before":                   {[]certificate{proved, made("a", active, 2*day, 2*day, 1), made("b", active, 3*day, 3*day, 1)}, "new", []action{keep, deactivate, deactivate}},
		"retired already":                  {[]certificate{made("old", inactive, 40*day, 29*day, 1), proved}, "new", []action{keep, keep}},
		"retired for long":                 {[]certificate{made("old", inactive, 40*day, 30*day, 1), proved}, "new", []action{remove, keep}},
		"revoked":                          {[]certificate{made("old", revoked, 400*day, 300*day, 1), proved}, "new", []action{keep, keep}},
		"not registered":                   {[]certificate{made("old", pending, 2*day, 2*day, 1), proved}, "new", []action{keep, keep}},
		"also of another thing":            {[]certificate{made("old", active, 2*day, 2*day, 2), proved}, "new", []action{keep, keep}},
		"detached meanwhile":               {[]certificate{made("old", active, 2*day, 2*day, 0), proved}, "new", []action{keep, keep}},
		"the claim":                        {[]certificate{made("claim", active, 2*day, 2*day, 1), proved}, "new", []action{keep, keep}},
		"a newer one":                      {[]certificate{proved, made("newer", active, time.Hour, time.Hour, 1)}, "new", []action{keep, keep}},
		"one of the same instant":          {[]certificate{proved, made("twin", active, day, day, 1)}, "new", []action{keep, keep}},
		"a message of the old one, late":   {[]certificate{made("old", active, 2*day, 2*day, 1), proved}, "old", []action{keep, keep}},
		"a message of a retired one":       {[]certificate{made("old", inactive, 2*day, day, 1), made("older", active, 3*day, day, 1), proved}, "old", []action{keep, keep, keep}},
		"a message of a certificate of no": {[]certificate{made("old", active, 2*day, 2*day, 1), proved}, "other", []action{keep, keep}},
		"a message of the claim":           {[]certificate{made("old", active, 2*day, 2*day, 1), made("claim", active, day, day, 1)}, "claim", []action{keep, keep}},
		"deleted between the look-ups":     {[]certificate{{id: "gone"}, proved}, "new", []action{keep, keep}},
	} {
		t.Run(name, func(t *testing.T) {
			p := policy{claims: []string{"claim"}, grace: 30 * day}
			if diff := cmp.Diff(test.want, p.actions(test.proved, test.has, now)); diff != "" {
				t.Errorf("actions differ (-want +got):\n%s", diff)
			}
		})
	}
	if got := (policy{}).actions("new", []certificate{made("old", inactive, 400*day, 300*day, 1), proved}, now); got[0] != keep {
		t.Errorf("without a grace period: %q", got)
	}
}
