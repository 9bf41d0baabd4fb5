package admit_test

import (
	"testing"
	"time"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/payload"
)

const (
	active   = admit.Active
	revoked  = admit.Revoked
	pending  = admit.PendingActivation
	inactive = admit.Status("INACTIVE")
	gone     = admit.Deleted
)

var (
	now      = time.Date(2026, time.November, 26, 12, 0, 0, 0, time.UTC)
	admitted = admit.Verdict{Admitted: true, Reason: admit.Admitted}
	rotated  = admit.Verdict{Admitted: true, Reason: admit.Rotated}
)

func held(why admit.Reason, by string) admit.Verdict { return admit.Verdict{Reason: why, HeldBy: by} }

// evaluate decides on certificate "new" for serial number 2974685, asked for by certificate
// "caller".
func evaluate(r admit.Rules, f admit.Facts) admit.Verdict {
	f.Now = now
	return r.Evaluate(payload.Request{
		ClaimCertificateID: "caller", CertificateID: "new",
		Parameters: payload.ParametersOf(map[string]string{payload.SerialNumber: "2974685"}),
	}, f)
}

func TestClaimGetsNoThingThatIsInUseOrRevoked(t *testing.T) {
	for name, test := range map[string]struct {
		has  []admit.Certificate
		want admit.Verdict
	}{
		"new thing":                      {nil, admitted},
		"its own, registered before":     {[]admit.Certificate{{"new", active}}, admitted},
		"its own, not active":            {[]admit.Certificate{{"new", pending}}, admitted},
		"its own, revoked":               {[]admit.Certificate{{"new", revoked}}, held(admit.ThingRevoked, "new")},
		"another, deactivated":           {[]admit.Certificate{{"old", inactive}}, admitted},
		"another, deleted meanwhile":     {[]admit.Certificate{{"old", gone}}, admitted},
		"another, active":                {[]admit.Certificate{{"old", active}}, held(admit.ThingTaken, "old")},
		"another, revoked":               {[]admit.Certificate{{"old", revoked}}, held(admit.ThingRevoked, "old")},
		"its own beside an active one":   {[]admit.Certificate{{"new", active}, {"old", active}}, held(admit.ThingTaken, "old")},
		"active after inactive ones":     {[]admit.Certificate{{"a", inactive}, {"b", pending}, {"old", active}}, held(admit.ThingTaken, "old")},
		"revoked after active ones":      {[]admit.Certificate{{"a", active}, {"old", revoked}}, held(admit.ThingRevoked, "old")},
		"revoked before a rotated one":   {[]admit.Certificate{{"old", revoked}, {"new", active}}, held(admit.ThingRevoked, "old")},
		"the claim itself, on the thing": {[]admit.Certificate{{"caller", active}}, held(admit.ThingTaken, "caller")},
		"no id, active":                  {[]admit.Certificate{{"", active}}, held(admit.ThingTaken, "")},
	} {
		t.Run(name, func(t *testing.T) {
			if got := evaluate(admit.Rules{}, admit.Facts{Certificates: test.has}); got != test.want {
				t.Errorf("verdict %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestTakeExistingStillDeniesRevokedDevices(t *testing.T) {
	for status, want := range map[admit.Status]admit.Verdict{active: admitted, revoked: held(admit.ThingRevoked, "old")} {
		if got := evaluate(admit.Rules{TakeExisting: true}, admit.Facts{Certificates: []admit.Certificate{{"old", status}}}); got != want {
			t.Errorf("%s: verdict %+v, want %+v", status, got, want)
		}
	}
}

func TestRotationNeedsTheThingsOwnActiveCertificate(t *testing.T) {
	const ours, other = "fleety_2974685", "fleety_2974686"
	denied := func(why admit.Reason) admit.Verdict { return admit.Verdict{Reason: why} }
	for name, test := range map[string]struct {
		rules  admit.Rules
		caller []string
		has    []admit.Certificate
		want   admit.Verdict
	}{
		"its own thing":               {admit.Rules{}, []string{ours}, []admit.Certificate{{"caller", active}}, rotated},
		"again, its answer was lost":  {admit.Rules{}, []string{ours}, []admit.Certificate{{"caller", active}, {"new", active}}, rotated},
		"again, its new key was lost": {admit.Rules{}, []string{ours}, []admit.Certificate{{"caller", active}, {"lost", active}}, rotated},
		"after an older was revoked":  {admit.Rules{}, []string{ours}, []admit.Certificate{{"old", revoked}, {"caller", active}}, rotated},
		"one of several things":       {admit.Rules{}, []string{other, ours}, []admit.Certificate{{"caller", active}}, rotated},
		"another thing":               {admit.Rules{}, []string{other}, nil, denied(admit.OtherThing)},
		"another thing, in use":       {admit.Rules{}, []string{other}, []admit.Certificate{{"old", active}}, denied(admit.OtherThing)},
		"deactivated":                 {admit.Rules{}, []string{ours}, []admit.Certificate{{"caller", inactive}}, denied(admit.RotationNotActive)},
		"revoked":                     {admit.Rules{}, []string{ours}, []admit.Certificate{{"caller", revoked}}, denied(admit.RotationNotActive)},
		"detached meanwhile":          {admit.Rules{}, []string{ours}, nil, denied(admit.RotationNotActive)},
		"to a revoked certificate":    {admit.Rules{}, []string{ours}, []admit.Certificate{{"caller", active}, {"new", revoked}}, held(admit.ThingRevoked, "new")},
		"switched off":                {admit.Rules{NoRotation: true}, []string{ours}, []admit.Certificate{{"caller", active}}, denied(admit.RotationOff)},
		"any thing may be taken":      {admit.Rules{TakeExisting: true}, []string{other}, nil, denied(admit.OtherThing)},
		"another thing prefix":        {admit.Rules{ThingPrefix: "acme-"}, []string{ours}, []admit.Certificate{{"caller", active}}, denied(admit.OtherThing)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := evaluate(test.rules, admit.Facts{Certificates: test.has, Caller: test.caller}); got != test.want {
				t.Errorf("verdict %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestMarkIsALease(t *testing.T) {
	at := func(after time.Duration) string { return now.Add(after).Format(time.RFC3339Nano) }
	justNow, before := at(-admit.Lease+time.Second), at(-admit.Lease)
	unlisted := admit.Verdict{Reason: admit.SerialUnlisted}
	for name, test := range map[string]struct {
		mark         admit.Mark
		once, listed admit.Verdict
	}{
		"never seen":                  {admit.Mark{}, admitted, unlisted},
		"listed, unused":              {admit.Mark{Listed: true}, admitted, admitted},
		"its own":                     {admit.Mark{true, "new", justNow, pending}, admitted, admitted},
		"its own, active":             {admit.Mark{true, "new", before, active}, admitted, admitted},
		"its own, revoked":            {admit.Mark{true, "new", before, revoked}, held(admit.SerialRevoked, "new"), held(admit.SerialRevoked, "new")},
		"another's, active":           {admit.Mark{true, "old", before, active}, held(admit.SerialUsed, "old"), held(admit.SerialUsed, "old")},
		"another's, active, just now": {admit.Mark{true, "old", justNow, active}, held(admit.SerialUsed, "old"), held(admit.SerialUsed, "old")},
		"another's, revoked":          {admit.Mark{true, "old", before, revoked}, held(admit.SerialRevoked, "old"), held(admit.SerialRevoked, "old")},
		"another's, being registered": {admit.Mark{true, "old", justNow, pending}, held(admit.SerialPending, "old"), held(admit.SerialPending, "old")},
		"another's, never registered": {admit.Mark{true, "old", before, pending}, admitted, admitted},
		"another's, deactivated":      {admit.Mark{true, "old", justNow, inactive}, admitted, admitted},
		"another's, deleted":          {admit.Mark{true, "old", before, gone}, admitted, admitted},
		"another's, not shown yet":    {admit.Mark{true, "old", justNow, gone}, held(admit.SerialPending, "old"), held(admit.SerialPending, "old")},
		"another's, by its clock":     {admit.Mark{true, "old", at(time.Second), gone}, held(admit.SerialPending, "old"), held(admit.SerialPending, "old")},
		"another's, in years":         {admit.Mark{true, "old", at(1e4 * time.Hour), gone}, admitted, admitted},
		"another's, in a far zone":    {admit.Mark{true, "old", now.In(time.FixedZone("", 3600)).Format(time.RFC3339), pending}, held(admit.SerialPending, "old"), held(admit.SerialPending, "old")},
		"another's, some day":         {admit.Mark{true, "old", "some day", pending}, admitted, admitted},
		"another's, without a time":   {admit.Mark{true, "old", "", gone}, admitted, admitted},
	} {
		t.Run(name, func(t *testing.T) {
			if got := evaluate(admit.Rules{}, admit.Facts{Mark: &test.mark}); got != test.once {
				t.Errorf("once: %+v, want %+v", got, test.once)
			}
			if got := evaluate(admit.Rules{ListedOnly: true}, admit.Facts{Mark: &test.mark}); got != test.listed {
				t.Errorf("listed: %+v, want %+v", got, test.listed)
			}
		})
	}
}

func TestThingInUseComesBeforeTheMark(t *testing.T) {
	f := admit.Facts{Certificates: []admit.Certificate{{"old", active}}, Mark: &admit.Mark{}}
	if got, want := evaluate(admit.Rules{}, f), held(admit.ThingTaken, "old"); got != want {
		t.Errorf("verdict %+v, want %+v", got, want)
	}
}
