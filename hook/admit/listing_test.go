package admit_test

import (
	"testing"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/payload"
)

func TestJudgeListing(t *testing.T) {
	tests := map[string]struct {
		listing admit.Listing
		want    admit.Verdict
	}{
		"not listed":      {admit.Listing{}, admit.Verdict{Reason: admit.SerialUnlisted}},
		"used by another": {admit.Listing{Listed: true, UsedBy: "old"}, admit.Verdict{Reason: admit.SerialUsed, HeldBy: "old"}},
		"used by itself":  {admit.Listing{Listed: true, UsedBy: "new"}, admit.Verdict{Admitted: true, Reason: admit.Admitted}},
		"not marked":      {admit.Listing{Listed: true}, admit.Verdict{Reason: admit.SerialUsed}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := admit.JudgeListing(payload.Request{CertificateID: "new"}, test.listing); got != test.want {
				t.Errorf("verdict %+v, want %+v", got, test.want)
			}
		})
	}
}
