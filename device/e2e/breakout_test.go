package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// The tests below hold the claim or a device and try what the policies, the hook
// and the template do not allow. Each attempt must be rejected, must cause an event
// that says who, what and which rule, and must not affect the other device.

// denied is the explanation of a request that no statement allows.
func denied(action, resource string) string {
	return "allows " + action + " on " + resource + "; nearest is "
}

// check compares the refusal of an attempt, which begins now, with what it must
// be; the reason need only contain want.Reason.
func (r *realm) check(t *testing.T, want localcore.Event, attempt func()) {
	t.Helper()
	began := time.Now().UTC()
	attempt()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := r.AwaitEvent(ctx, func(e localcore.Event) bool {
		return e.Type == localcore.Rejected && e.CertificateID == want.CertificateID && !e.Time.Before(began)
	})
	if err != nil {
		t.Fatalf("no event reports a rejection: %v", err)
	}
	if !strings.Contains(got.Reason, want.Reason) {
		t.Errorf("the reason is\n%s\nand says nothing of\n%s", got.Reason, want.Reason)
	}
	want.Type, want.Time, want.Address, want.Reason = localcore.Rejected, got.Time, got.Address, got.Reason
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("wanted (-), got (+):\n%s", diff)
	}
}

// guard runs attempts while the other device listens. It must hear nothing and
// keep its certificate, and no thing may come.
func (r *realm) guard(t *testing.T, attempts func()) {
	t.Helper()
	things := r.Registry().ListThings()
	v := r.mustConnect(t, r.victim)
	v.mustSubscribe("fleet/" + theirs + "/down/#")
	v.mustSubscribe("$aws/things/" + theirs + "/shadow/#")
	attempts()
	const end = "fleet/" + theirs + "/down/end"
	r.send(t, end)
	for p, ok := v.next().(*packets.PublishPacket); !ok || p.TopicName != end; p, ok = v.next().(*packets.PublishPacket) {
		t.Errorf("the other device received %v", p)
		if !ok {
			break
		}
	}
	if diff := cmp.Diff(things, r.Registry().ListThings()); diff != "" {
		t.Errorf("things before (-) and after (+):\n%s", diff)
	}
	if diff := cmp.Diff([]string{r.victim.id()}, r.principals(t, theirs)); diff != "" {
		t.Errorf("certificate of the other device (-), certificates that it has (+):\n%s", diff)
	}
}

// send publishes a message as the owner of the account.
func (r *realm) send(t *testing.T, topic string) {
	t.Helper()
	answer, err := http.Post(r.APIURL()+"/topics/"+topic+"?qos=1", "", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	if answer.Body.Close(); answer.StatusCode != http.StatusOK {
		t.Fatalf("publishing: %s", answer.Status)
	}
}

// principals are the ids of a thing's certificates.
func (r *realm) principals(t *testing.T, thing string) (ids []string) {
	t.Helper()
	attached, err := r.Registry().ListThingPrincipals(thing)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attached {
		ids = append(ids, a.CertificateID)
	}
	return ids
}

func TestNobodyConnectsAsAnother(t *testing.T) {
	r := startRealm(t)
	attempts := map[string]struct {
		by     party
		client string
		why    string // the policy, if empty
	}{
		"claim as a device":             {r.claim, theirs, ""},
		"claim without its dash":        {r.claim, "claim", ""},
		"claim in another case":         {r.claim, "Claim-1", ""},
		"claim after a space":           {r.claim, " claim-1", `allows iot:Connect on "client/ claim-1"; nearest is "ConnectAsClaim"`},
		"claim in Cyrillic":             {r.claim, "\u0441laim-1", ""},
		"claim with a path":             {r.claim, "client/claim-1", ""},
		"claim with an endless name":    {r.claim, "claim-" + strings.Repeat("x", 123), "129 bytes; 128 are allowed"},
		"device as another":             {r.device, theirs, ""},
		"device as a claim":             {r.device, "claim-1", ""},
		"device in another case":        {r.device, strings.ToUpper(ours), ""},
		"device with more at its end":   {r.device, ours + "0", ""},
		"device with less at its end":   {r.device, ours[:len(ours)-1], ""},
		"device as a wildcard":          {r.device, "*", ""},
		"device as a variable":          {r.device, "${iot:Connection.Thing.ThingName}", ""},
		"device with full-width digits": {r.device, "fleety_２９７４６８６", ""},
	}
	r.guard(t, func() {
		for name, a := range attempts {
			t.Run(name, func(t *testing.T) {
				a.by.client = a.client
				if a.why == "" {
					a.why = denied("iot:Connect", "client/"+a.client)
				}
				want := localcore.Event{Action: localcore.ActionConnect, CertificateID: a.by.id(), ClientID: a.client, Reason: a.why}
				r.check(t, want, func() {
					if _, ack := r.connect(t, a.by, nil); ack != nil && ack.ReturnCode == 0 {
						t.Error("it was admitted")
					}
				})
			})
		}
	})
}

func TestNobodyLeavesAWillElsewhere(t *testing.T) {
	r := startRealm(t)
	attempts := map[string]struct {
		by     party
		topic  string
		retain bool
		why    string // no right to publish, if empty
	}{
		"claim to a device":       {r.claim, "fleet/" + theirs, false, "iot:ConnectAttributes"},
		"claim for a certificate": {r.claim, "$aws/certificates/create/json", false, "iot:ConnectAttributes"},
		"device to another":       {r.device, "fleet/" + theirs, false, ""},
		"device to a shadow":      {r.device, "$aws/things/" + theirs + "/shadow/update", false, ""},
		"device for good":         {r.device, "fleet/" + ours, true, denied("iot:RetainPublish", "topic/fleet/"+ours)},
		"device as another's end": {r.device, "$aws/events/presence/disconnected/" + theirs, false, "the topic is reserved"},
	}
	r.guard(t, func() {
		for name, a := range attempts {
			t.Run(name, func(t *testing.T) {
				if a.why == "" {
					a.why = denied("iot:Publish", "topic/"+a.topic)
				}
				want := localcore.Event{Action: localcore.ActionConnect, CertificateID: a.by.id(), ClientID: a.by.client, ThingName: a.by.thing(), Reason: a.why}
				r.check(t, want, func() {
					_, ack := r.connect(t, a.by, func(p *packets.ConnectPacket) {
						p.WillFlag, p.WillTopic, p.WillMessage, p.WillRetain = true, a.topic, []byte("x"), a.retain
					})
					if ack != nil {
						t.Error("it was admitted")
					}
				})
			})
		}
	})
}

// AWS IoT keeps a persistent session for an hour or more after its client has
// gone: a claim that everybody shares needs none.
func TestClaimGetsNoPersistentSession(t *testing.T) {
	r := startRealm(t)
	want := localcore.Event{Action: localcore.ActionConnect, CertificateID: r.claim.id(), ClientID: r.claim.client, Reason: "iot:ConnectAttributes"}
	r.check(t, want, func() {
		if _, ack := r.connect(t, r.claim, func(p *packets.ConnectPacket) { p.CleanSession = false }); ack != nil && ack.ReturnCode == 0 {
			t.Error("it was admitted")
		}
	})
}

func TestNobodyPublishesElsewhere(t *testing.T) {
	r := startRealm(t)
	const reserved, wildcard = "the topic is reserved, and AWS IoT offers nothing under it", "topic contains wildcards"
	attempts := map[string]struct {
		by         party
		topic, why string // the policy, if empty
	}{
		"claim to a device":                   {r.claim, "fleet/" + theirs, ""},
		"claim to a shadow":                   {r.claim, "$aws/things/" + theirs + "/shadow/update", ""},
		"claim with another template":         {r.claim, "$aws/provisioning-templates/Other/provision/json", ""},
		"claim with a longer template":        {r.claim, "$aws/provisioning-templates/GoFleetProvisioningTemplate2/provision/json", ""},
		"claim with a template in lower case": {r.claim, "$aws/provisioning-templates/gofleetprovisioningtemplate/provision/json", ""},
		"claim with a doubled slash":          {r.claim, "$aws//certificates/create/json", reserved},
		"claim in another format":             {r.claim, "$aws/certificates/create/xml", ""},
		"claim in a format in capitals":       {r.claim, "$aws/certificates/create/JSON", ""},
		"claim with more after the format":    {r.claim, "$aws/certificates/create/json/", ""},
		"claim as AWS, with a certificate":    {r.claim, "$aws/certificates/create-from-csr/json/accepted", ""},
		"claim as AWS, with a thing":          {r.claim, registerTopic.Accepted(), ""},
		"claim as AWS, with a refusal":        {r.claim, registerTopic.Rejected(), ""},
		"claim as a life-cycle event":         {r.claim, "$aws/events/presence/disconnected/" + theirs, reserved},
		"claim to a rule":                     {r.claim, "$aws/rules/birth/fleet/" + theirs, ""},

		"device to another":                 {r.device, "fleet/" + theirs, ""},
		"device below another":              {r.device, "fleet/" + theirs + "/x", ""},
		"device to the parent":              {r.device, "fleet", ""},
		"device to nobody":                  {r.device, "fleet/", ""},
		"device with more at its end":       {r.device, "fleet/" + ours + "0", ""},
		"device with less at its end":       {r.device, "fleet/" + ours[:len(ours)-1], ""},
		"device in another case":            {r.device, "fleet/" + strings.ToUpper(ours), ""},
		"device under another root":         {r.device, "Fleet/" + ours, ""},
		"device with a leading slash":       {r.device, "/fleet/" + ours, ""},
		"device with a doubled slash":       {r.device, "fleet//" + theirs, ""},
		"device with full-width digits":     {r.device, "fleet/fleety_２９７４６８６", ""},
		"device with a wildcard":            {r.device, "fleet/+", wildcard},
		"device to all below its own":       {r.device, "fleet/" + ours + "/#", wildcard},
		"device with too many slashes":      {r.device, "fleet/" + ours + "/1/2/3/4/5/6/7", "more than 7 slashes"},
		"device with an endless topic":      {r.device, "fleet/" + ours + "/" + strings.Repeat("x", 256), "277 bytes; 256 are allowed"},
		"device to another's shadow":        {r.device, "$aws/things/" + theirs + "/shadow/update", ""},
		"device to another's named shadow":  {r.device, "$aws/things/" + theirs + "/shadow/name/" + ours + "/update", ""},
		"device to itself":                  {r.device, "fleet/" + ours + "/down/hello", ""},
		"device beside its topics":          {r.device, "fleet/" + ours + "/hello", ""},
		"device as its shadow":              {r.device, "$aws/things/" + ours + "/shadow/update/accepted", ""},
		"device as its delta":               {r.device, "$aws/things/" + ours + "/shadow/update/delta", ""},
		"device as its named shadow":        {r.device, "$aws/things/" + ours + "/shadow/name/a/update/documents", ""},
		"device to delete its shadow":       {r.device, "$aws/things/" + ours + "/shadow/delete", ""},
		"device as its jobs":                {r.device, "$aws/things/" + ours + "/jobs/notify", ""},
		"device as its tunnels":             {r.device, "$aws/things/" + ours + "/tunnels/notify", ""},
		"device to another's jobs":          {r.device, "$aws/things/" + theirs + "/jobs/1/update", ""},
		"device to a rule":                  {r.device, "$aws/rules/birth/fleet/" + theirs, ""},
		"device as a life-cycle event":      {r.device, "$aws/events/presence/disconnected/" + theirs, reserved},
		"device to the broker's own topics": {r.device, "$SYS/broker", reserved},
		"device for a new certificate":      {r.device, "$aws/certificates/create/json", ""},
	}
	r.guard(t, func() {
		for name, a := range attempts {
			t.Run(name, func(t *testing.T) {
				if a.why == "" {
					a.why = denied("iot:Publish", "topic/"+a.topic)
				}
				r.checkPublish(t, a.by, a.topic, false, a.why)
			})
		}
		t.Run("device for good", func(t *testing.T) {
			r.checkPublish(t, r.device, "fleet/"+ours, true, denied("iot:RetainPublish", "topic/fleet/"+ours))
		})
	})
}

func (r *realm) checkPublish(t *testing.T, by party, topic string, retain bool, why string) {
	t.Helper()
	want := localcore.Event{Action: localcore.ActionPublish, CertificateID: by.id(), ClientID: by.client, ThingName: by.thing(), Topic: topic, Reason: why}
	r.check(t, want, func() {
		c := r.mustConnect(t, by)
		c.publish(topic, []byte("{}"), retain)
		if p := c.next(); p != nil {
			t.Errorf("answered with %v", p)
		}
	})
}

func TestNobodySubscribesElsewhere(t *testing.T) {
	r := startRealm(t)
	attempts := map[string]struct {
		by          party
		filter, why string // the policy, if empty
	}{
		"claim to all":                    {r.claim, "#", ""},
		"claim to all devices":            {r.claim, "fleet/#", ""},
		"claim to all of AWS":             {r.claim, "$aws/#", ""},
		"claim to all certificates":       {r.claim, "$aws/certificates/#", ""},
		"claim to any operation":          {r.claim, "$aws/certificates/+/json/accepted", ""},
		"claim to any template":           {r.claim, "$aws/provisioning-templates/+/provision/json/accepted", ""},
		"claim to requests":               {r.claim, "$aws/certificates/create/json", ""},
		"claim to life-cycle events":      {r.claim, "$aws/events/#", ""},
		"claim in a group":                {r.claim, "$share/g/fleet/#", ""},
		"claim to a shadow":               {r.claim, "$aws/things/" + theirs + "/shadow/#", ""},
		"device to all":                   {r.device, "#", ""},
		"device to one level":             {r.device, "+", ""},
		"device to all devices":           {r.device, "fleet/#", ""},
		"device to any device":            {r.device, "fleet/+", ""},
		"device to half a level":          {r.device, "fleet/fleety_#", "the filter breaks the rules for wildcards"},
		"device to another":               {r.device, "fleet/" + theirs, ""},
		"device to all of another":        {r.device, "fleet/" + theirs + "/#", ""},
		"device to another by a wildcard": {r.device, "+/" + theirs, ""},
		"device in a group":               {r.device, "$share/g/fleet/+", ""},
		"device in a group of its name":   {r.device, "$share/" + ours + "/fleet/" + theirs, ""},
		"device in a nameless group":      {r.device, "$share//fleet/" + theirs, "the filter breaks the rules for wildcards"},
		"device to all shadows":           {r.device, "$aws/things/+/shadow/#", ""},
		"device to another's shadow":      {r.device, "$aws/things/" + theirs + "/shadow/update/delta", ""},
		"device to what it sends":         {r.device, "fleet/" + ours, ""},
		"device to all that it sends":     {r.device, "fleet/" + ours + "/up/#", ""},
		"device to all below its own":     {r.device, "fleet/" + ours + "/#", ""},
		"device to all of its thing":      {r.device, "$aws/things/" + ours + "/#", ""},
		"device to another's jobs":        {r.device, "$aws/things/" + theirs + "/jobs/notify", ""},
		"device to life-cycle events":     {r.device, "$aws/events/presence/+/" + theirs, ""},
		"device to the broker's own":      {r.device, "$SYS/#", "the filter is reserved, and AWS IoT offers nothing under it"},
	}
	r.guard(t, func() {
		for name, a := range attempts {
			t.Run(name, func(t *testing.T) {
				if a.why == "" {
					a.why = denied("iot:Subscribe", "topicfilter/"+a.filter)
				}
				want := localcore.Event{Action: localcore.ActionSubscribe, CertificateID: a.by.id(), ClientID: a.by.client, ThingName: a.by.thing(), Topic: a.filter, Reason: a.why}
				r.check(t, want, func() {
					c := r.mustConnect(t, a.by)
					c.subscribe(a.filter)
					if ack, ok := c.next().(*packets.SubackPacket); ok && ack.ReturnCodes[0] != 0x80 {
						t.Errorf("it was granted: %v", ack)
					}
				})
			})
		}
	})
}

func TestDetachedPolicyEndsDeliveries(t *testing.T) {
	r := startRealm(t)
	topic := "fleet/" + ours + "/down/orders"
	c := r.mustConnect(t, r.device)
	c.mustSubscribe(topic)
	if err := r.Registry().DetachPolicy(r.device.policy, registry.CertificateTarget(r.device.id())); err != nil {
		t.Fatal(err)
	}
	want := localcore.Event{Action: localcore.ActionReceive, CertificateID: r.device.id(), ClientID: ours, ThingName: ours, Topic: topic,
		Reason: denied("iot:Receive", "topic/"+topic)}
	r.check(t, want, func() {
		r.send(t, topic)
	})
	c.send(packets.NewControlPacket(packets.Pingreq))
	if p, ok := c.next().(*packets.PingrespPacket); !ok {
		t.Errorf("heard %v", p)
	}
}

func TestAnswersGoToTheConnectionThatAsked(t *testing.T) {
	r := startRealm(t)
	spy, err := r.NewClaim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := r.mustConnect(t, claimOf(t, spy, "claim-spy"))
	c.mustSubscribe("$aws/certificates/create-from-csr/+/+")
	c.mustSubscribe("$aws/provisioning-templates/GoFleetProvisioningTemplate/provision/json/#")
	r.enroll(t, "2974689")
	c.send(packets.NewControlPacket(packets.Pingreq))
	if p, ok := c.next().(*packets.PingrespPacket); !ok {
		t.Errorf("heard %v", p)
	}
}

func TestClaimRegistersNothingThatTheHookDenies(t *testing.T) {
	r := startRealm(t)
	token := func(c *intruder) awsiot.Secret {
		_, token := c.certificate()
		return token
	}
	with := func(parameters map[string]string) func(*intruder) any {
		return func(c *intruder) any {
			return map[string]any{"certificateOwnershipToken": string(token(c)), "parameters": parameters}
		}
	}
	serial := func(serial string) func(*intruder) any {
		return with(map[string]string{"serialNumber": serial, "deviceLocation": "USA"})
	}
	withToken := func(token string) func(*intruder) any {
		return func(*intruder) any { return registration(awsiot.Secret(token), "2974687") }
	}
	const (
		badToken = "InvalidCertificateOwnershipToken"
		unknown  = "Certificate ownership token is unknown or was used already."
		byHook   = "the pre-provisioning hook"
		prefix   = "serial number does not begin with the prefix of this fleet"
		letters  = "serial number has characters that a thing name cannot have"
		taken    = "thing has another active certificate"
	)
	attempts := map[string]struct {
		request func(c *intruder) any
		code    string
		why     string
		hook    string // the hook's own reason, if it was asked
	}{
		"a foreign serial":                  {serial("1234567"), "AccessDenied", byHook, prefix},
		"a serial with a letter before":     {serial("x2974687"), "AccessDenied", byHook, prefix},
		"a serial in full width":            {serial("２９７４６８７"), "AccessDenied", byHook, letters},
		"a serial with a space":             {serial("2974687 "), "AccessDenied", byHook, letters},
		"a serial with a path":              {serial("297468/../" + theirs), "AccessDenied", byHook, letters},
		"a serial with a wildcard":          {serial("297468*"), "AccessDenied", byHook, letters},
		"a serial with a variable":          {serial("297468${iot:ClientId}"), "AccessDenied", byHook, letters},
		"a serial with a NUL":               {serial("2974687\x00"), "AccessDenied", byHook, letters},
		"an endless serial":                 {serial("297468" + strings.Repeat("0", 128)), "AccessDenied", byHook, "serial number is too long"},
		"an empty serial":                   {serial(""), "AccessDenied", byHook, "serial number is empty"},
		"the serial under another name":     {with(map[string]string{"SerialNumber": "2974687", "deviceLocation": "USA"}), "AccessDenied", byHook, "serial number is missing"},
		"the other device's name":           {serial("2974686"), "AccessDenied", byHook, taken},
		"a live name of its own":            {serial("2974685"), "AccessDenied", byHook, taken},
		"a place that the template has not": {with(map[string]string{"serialNumber": "2974687", "deviceLocation": "Mars"}), "InvalidParameters", "Mars", "admitted"},
		"a token of another claim":          {withToken(r.foreignToken(t)), badToken, unknown, ""},
		"a token that was used":             {withToken(r.usedToken(t)), badToken, unknown, ""},
		"a token that has expired":          {withToken(r.expiredToken(t)), badToken, unknown, ""},
		"a token of its own making":         {withToken("AAAA"), badToken, unknown, ""},
		"a certificate's id as its token":   {withToken(r.victim.id()), badToken, unknown, ""},
		"no token":                          {withToken(""), badToken, "cannot be empty", ""},
		"a text instead of an object":       {func(*intruder) any { return "2974687" }, "InvalidRequest", "not a json object", ""},
	}
	r.guard(t, func() {
		for name, a := range attempts {
			t.Run(name, func(t *testing.T) {
				want := localcore.Event{Action: localcore.ActionProvision, CertificateID: r.claim.id(), ClientID: r.claim.client,
					Operation: string(awsiot.RegisterThing), Topic: registerTopic.String(), Code: a.code, Reason: a.why}
				r.check(t, want, func() {
					c := r.mustConnect(t, r.claim)
					answer, accepted := c.ask(registerTopic, a.request(c))
					var refusal awsiot.ErrorResponse
					if err := json.Unmarshal(answer, &refusal); err != nil || accepted || refusal.ErrorCode != a.code {
						t.Errorf("answered with %s", answer)
					}
				})
				if a.hook != "" {
					r.verdicts.await(t, a.hook)
				}
			})
		}
	})
}

// foreignToken is an ownership token of another claim.
func (r *realm) foreignToken(t *testing.T) string {
	t.Helper()
	other, err := r.NewClaim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, token := r.mustConnect(t, claimOf(t, other, "claim-other")).certificate()
	return string(token)
}

// usedToken is an ownership token that a thing was registered with.
func (r *realm) usedToken(t *testing.T) string {
	t.Helper()
	c := r.mustConnect(t, r.claim)
	_, token := c.certificate()
	c.must(registerTopic, registration(token, "2974688"), new(awsiot.RegisterThingResponse))
	return string(token)
}

// expiredToken is an ownership token of the claim that is too old.
func (r *realm) expiredToken(t *testing.T) string {
	t.Helper()
	_, token := r.mustConnect(t, r.claim).certificate()
	if _, err := r.ExpireTokens(); err != nil {
		t.Fatal(err)
	}
	return string(token)
}

// The certificate is that of the token, whatever the parameters say.
func TestParametersCannotNameACertificate(t *testing.T) {
	r := startRealm(t)
	c := r.mustConnect(t, r.claim)
	made, token := c.certificate()
	var registered awsiot.RegisterThingResponse
	c.must(registerTopic, map[string]any{
		"certificateOwnershipToken": string(token),
		"parameters": map[string]string{
			"serialNumber": "2974687", "deviceLocation": "USA", "AWS::IoT::Certificate::Id": r.victim.id(),
		},
	}, &registered)
	for thing, owner := range map[string]party{registered.ThingName: made, theirs: r.victim} {
		if diff := cmp.Diff([]string{owner.id()}, r.principals(t, thing)); diff != "" {
			t.Errorf("certificate of %s (-), certificates that it has (+):\n%s", thing, diff)
		}
	}
}

func TestNobodyConnectsWithACertificateThatIsNotActive(t *testing.T) {
	r := startRealm(t)
	provisioned := func(serial string, status registry.CertificateStatus) party {
		p := r.enroll(t, serial)
		if err := r.Registry().UpdateCertificate(p.id(), status); err != nil {
			t.Fatal(err)
		}
		return p
	}
	pending, _ := r.mustConnect(t, r.claim).certificate()
	chained := selfMade(t)
	chained.Certificate.Certificate = append(chained.Certificate.Certificate, r.victim.Certificate.Certificate...)
	attempts := map[string]struct {
		by  party
		why string
	}{
		"pending":                       {pending, "the certificate is PENDING_ACTIVATION: RegisterThing has not succeeded"},
		"inactive":                      {provisioned("29746801", registry.Inactive), "the certificate is INACTIVE"},
		"revoked":                       {provisioned("29746802", registry.Revoked), "the certificate is REVOKED"},
		"of its own making":             {selfMade(t), "the certificate is not registered here"},
		"before another's in its chain": {chained, "the certificate is not registered here"},
	}
	r.guard(t, func() {
		for name, a := range attempts {
			t.Run(name, func(t *testing.T) {
				r.check(t, localcore.Event{Action: localcore.ActionTLS, CertificateID: a.by.id(), Reason: a.why}, func() {
					c, err := r.dial(t, a.by)
					if err == nil && c.next() != nil {
						t.Error("it was admitted")
					}
				})
			})
		}
	})
}

// register has a party ask for a certificate of its own and register it with a
// serial number.
func (r *realm) register(t *testing.T, by party, serial string) (made party, accepted bool) {
	t.Helper()
	c := r.mustConnect(t, by)
	defer c.Close()
	made, token := c.certificate()
	_, accepted = c.ask(registerTopic, registration(token, serial))
	return made, accepted
}

// A device proves possession of its present key by the connection that it asks
// on: that gives it the right to its own thing, and to nothing else.
func TestDeviceRotatesItselfAlone(t *testing.T) {
	r := startRealm(t)
	r.guard(t, func() {
		for name, serial := range map[string]string{"the other device": "2974686", "a new device": "2974687", "a stranger's": "1234567"} {
			if _, accepted := r.register(t, r.device, serial); accepted {
				t.Errorf("a device registered %s", name)
			}
		}
		r.verdicts.await(t, "certificate of the connection belongs to another thing")
		rotated, accepted := r.register(t, r.device, "2974685")
		if !accepted {
			t.Fatal("the device did not rotate")
		}
		again, accepted := r.register(t, r.device, "2974685") // the first answer was lost, and the key with it
		if !accepted {
			t.Fatal("the device did not rotate again")
		}
		for _, p := range []party{rotated, again} {
			r.mustConnect(t, p).Close()
		}
	})
}

func TestClaimCannotRotateADevice(t *testing.T) {
	r := startRealm(t)
	r.guard(t, func() {
		for _, serial := range []string{"2974685", "2974686"} {
			if _, accepted := r.register(t, r.claim, serial); accepted {
				t.Errorf("the claim registered %s", serial)
			}
		}
	})
}

// A connection that is open while its certificate is revoked may still ask.
func TestRevokedDeviceNeitherRotatesNorIsProvisionedAgain(t *testing.T) {
	for status, want := range map[registry.CertificateStatus]bool{registry.Revoked: false, registry.Inactive: true} {
		t.Run(string(status), func(t *testing.T) {
			r := startRealm(t)
			c := r.mustConnect(t, r.device)
			_, token := c.certificate()
			if err := r.Registry().UpdateCertificate(r.device.id(), status); err != nil {
				t.Fatal(err)
			}
			if p := packetAfter(c, registerTopic, registration(token, "2974685")); p != nil && p.TopicName == registerTopic.Accepted() {
				t.Errorf("the %s certificate rotated", status)
			}
			if _, accepted := r.register(t, r.claim, "2974685"); accepted != want {
				t.Errorf("provisioned again by the claim: %t, want %t", accepted, want)
			}
		})
	}
}

// packetAfter is the message that answers a request; nil if the connection was
// closed instead.
func packetAfter(c *intruder, topic awsiot.Topic, request any) *packets.PublishPacket {
	c.t.Helper()
	payload, err := json.Marshal(request)
	if err != nil {
		c.t.Fatal(err)
	}
	c.publish(topic.String(), payload, false)
	for {
		switch p := c.next().(type) {
		case nil:
			return nil
		case *packets.PublishPacket:
			return p
		}
	}
}

// selfMade is a certificate that bears the other device's name.
func selfMade(t *testing.T) party {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: theirs},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return party{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, theirs, localcore.DevicePolicyName}
}
