package admit_test

import (
	"testing"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/payload"
)

func TestJudgeThing(t *testing.T) {
	admitted := admit.Verdict{Admitted: true, Reason: admit.Admitted}
	takenBy := func(id string) admit.Verdict {
		return admit.Verdict{Reason: admit.ThingTaken, HeldBy: id}
	}
	tests := map[string]struct {
		has  []admit.Certificate
		want admit.Verdict
	}{
		"new thing":                    {nil, admitted},
		"its own, registered before":   {[]admit.Certificate{{"new", true}}, admitted},
		"its own, not active":          {[]admit.Certificate{{"new", false}}, admitted},
		"another, not active":          {[]admit.Certificate{{"old", false}}, admitted},
		"another, active":              {[]admit.Certificate{{"old", true}}, takenBy("old")},
		"its own beside an active one": {[]admit.Certificate{{"new", true}, {"old", true}}, takenBy("old")},
		"active after inactive ones":   {[]admit.Certificate{{"a", false}, {"b", false}, {"old", true}}, takenBy("old")},
		"several active":               {[]admit.Certificate{{"a", true}, {"b", true}}, takenBy("a")},
		"no id, active":                {[]admit.Certificate{{"", true}}, takenBy("")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := admit.JudgeThing(payload.Request{CertificateID: "new"}, test.has); got != test.want {
				t.Errorf("verdict %+v, want %+v", got, test.want)
			}
		})
	}
}
