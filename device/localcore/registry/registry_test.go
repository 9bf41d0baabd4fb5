package registry

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const document = `{"Version":"2012-10-17","Statement":[]}`

// A clock is a time that tests move by hand.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func open(t *testing.T) (*Registry, *clock) {
	t.Helper()
	c := &clock{epoch}
	r, err := Open("", Options{Now: c.now, CheckPolicy: func(document []byte) error { return json.Unmarshal(document, &map[string]any{}) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, c
}

// makePEM returns a new self-signed certificate, which may be that of a CA.
func makePEM() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	return makePEMOf(key)
}

func makePEMOf(key crypto.Signer) (string, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{SerialNumber: serial, NotBefore: epoch, NotAfter: epoch.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}

func newPEM(t *testing.T) string {
	t.Helper()
	text, err := makePEM()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func newCertificate(t *testing.T, r *Registry, status CertificateStatus) Certificate {
	t.Helper()
	return must(r.CreateCertificate(Certificate{PEM: newPEM(t), Status: status}))(t)
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// code returns the code of a rejection, empty for no error.
func code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// furnish makes a type, a small tree of groups, a policy and a thing.
func furnish(t *testing.T, r *Registry) {
	t.Helper()
	must(r.CreateThingType(ThingType{Name: "type"}))(t)
	must(r.CreateThingGroup(ThingGroup{Name: "root"}))(t)
	must(r.CreateThingGroup(ThingGroup{Name: "child", Parent: "root"}))(t)
	must(r.CreateThingGroup(ThingGroup{Name: "other"}))(t)
	must(r.CreatePolicy("policy", document))(t)
	must(r.CreateThing(Thing{Name: "thing", Type: "type", Attributes: map[string]string{"a": "1"}}))(t)
}

// A name from outside cannot forge a line of a log or of a tool's output.
func TestRejectionIsOnePrintableLine(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	for _, name := range []string{"a\nERROR forged", "\x1b[2Ja", "\u009b31m", "\u202egnp.exe", `"quoted"`} {
		_, err := r.DescribeThing(name)
		e, ok := errors.AsType[*Error](err)
		if !ok || strings.ContainsFunc(e.Message, func(c rune) bool { return !unicode.IsPrint(c) }) {
			t.Errorf("%q: got %q", name, err)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/x509-client-certs.html:
// a certificate that is brought along has a key of RSA 2048 bits or more, or on P-256, P-384 or P-521.
func TestKeysThatNoCertificateHas(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	ca := must(r.RegisterCACertificate(CACertificate{
		Certificate: Certificate{PEM: newPEM(t), Mode: SNIOnly, Status: Active}, AutoRegistration: true,
	}, ""))(t)
	for name, key := range map[string]crypto.Signer{
		"RSA 1024": must(rsa.GenerateKey(rand.Reader, 1024))(t), "P-224": must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))(t), "Ed25519": ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
	} {
		text := must(makePEMOf(key))(t)
		leaf := must(awsiot.Certificates([]byte(text)))(t)[0]
		_, byAPI := r.CreateCertificate(Certificate{PEM: text})
		_, justInTime := r.RegisterJustInTime(leaf, ca.Certificate.ID)
		for _, err := range []error{byAPI, justInTime} {
			if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeCertificateInvalid {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if all := r.ListCertificates(); len(all) > 0 {
		t.Errorf("registered %v", all)
	}
}

// Each case is of
// https://docs.aws.amazon.com/iot/latest/apireference/API_Operations.html.
func TestRejectionsHaveTheCodesOfAWS(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		do   func(r *Registry, active, inactive string) error
		want string
	}{
		"A thing's name has letters, digits and :_- only.": {
			func(r *Registry, _, _ string) error { _, err := r.CreateThing(Thing{Name: "a b"}); return err },
			CodeInvalidRequest,
		},
		"A thing that exists with other properties is ResourceAlreadyExistsException.": {
			func(r *Registry, _, _ string) error { _, err := r.CreateThing(Thing{Name: "thing"}); return err },
			CodeAlreadyExists,
		},
		"A thing's type must exist.": {
			func(r *Registry, _, _ string) error {
				_, err := r.CreateThing(Thing{Name: "t", Type: "none"})
				return err
			},
			CodeNotFound,
		},
		"An attribute value has no space.": {
			func(r *Registry, _, _ string) error {
				_, err := r.CreateThing(Thing{Name: "t", Attributes: map[string]string{"a": "b c"}})
				return err
			},
			CodeInvalidRequest,
		},
		"A thing without a type has 3 attributes at most.": {
			func(r *Registry, _, _ string) error {
				_, err := r.CreateThing(Thing{Name: "t", Attributes: map[string]string{"a": "1", "b": "1", "c": "1", "d": "1"}})
				return err
			},
			CodeInvalidRequest,
		},
		"Updating a thing that does not exist is ResourceNotFoundException.": {
			func(r *Registry, _, _ string) error { return r.UpdateThing("none", ThingUpdate{}) },
			CodeNotFound,
		},
		"An expectedVersion that is not the current one is VersionConflictException.": {
			func(r *Registry, _, _ string) error {
				return r.UpdateThing("thing", ThingUpdate{ExpectedVersion: new(int64(7))})
			},
			CodeVersionConflict,
		},
		"A thing is not deleted while a principal is attached.": {
			func(r *Registry, active, _ string) error {
				return errors.Join(r.AttachThingPrincipal("thing", active, ""), r.DeleteThing("thing", nil))
			},
			CodeInvalidRequest,
		},
		"A thing type is not deleted while a thing has it.": {
			func(r *Registry, _, _ string) error {
				return errors.Join(r.DeprecateThingType("type", false), r.DeleteThingType("type"))
			},
			CodeInvalidRequest,
		},
		"A thing type must be deprecated before it is deleted.": {
			func(r *Registry, _, _ string) error { return r.DeleteThingType("type") },
			CodeInvalidRequest,
		},
		"No thing gets a deprecated type.": {
			func(r *Registry, _, _ string) error {
				_, err := r.CreateThing(Thing{Name: "t", Type: "type"})
				return errors.Join(r.DeprecateThingType("type", false), r.DeleteThing("t", nil), err,
					r.UpdateThing("thing", ThingUpdate{Type: "type"}))
			},
			CodeInvalidRequest,
		},
		"A group's parent must exist.": {
			func(r *Registry, _, _ string) error {
				_, err := r.CreateThingGroup(ThingGroup{Name: "g", Parent: "none"})
				return err
			},
			CodeInvalidRequest,
		},
		"A group with child groups is not deleted.": {
			func(r *Registry, _, _ string) error { return r.DeleteThingGroup("root", nil) },
			CodeInvalidRequest,
		},
		"A thing is not in two groups of one hierarchy.": {
			func(r *Registry, _, _ string) error {
				return errors.Join(r.AddThingToThingGroup("thing", "root"), r.AddThingToThingGroup("thing", "child"))
			},
			CodeInvalidRequest,
		},
		"A certificate to register must be in PEM form.": {
			func(r *Registry, _, _ string) error {
				_, err := r.CreateCertificate(Certificate{PEM: "x"})
				return err
			},
			CodeCertificateInvalid,
		},
		"A certificate is registered once.": {
			func(r *Registry, active, _ string) error {
				c, _ := r.CertificateByID(active)
				_, err := r.CreateCertificate(Certificate{PEM: c.PEM})
				return err
			},
			CodeAlreadyExists,
		},
		"PENDING_ACTIVATION cannot be set.": {
			func(r *Registry, active, _ string) error { return r.UpdateCertificate(active, PendingActivation) },
			CodeInvalidRequest,
		},
		"An ACTIVE certificate is not deleted, by force neither: CertificateStateException.": {
			func(r *Registry, active, _ string) error { return r.DeleteCertificate(active, true) },
			CodeCertificateState,
		},
		"A certificate with a policy is not deleted without force: DeleteConflictException.": {
			func(r *Registry, _, inactive string) error {
				return errors.Join(r.AttachPolicy("policy", CertificateTarget(inactive)), r.DeleteCertificate(inactive, false))
			},
			CodeDeleteConflict,
		},
		"A certificate with a thing is not deleted even by force: DeleteConflictException.": {
			func(r *Registry, _, inactive string) error {
				return errors.Join(r.AttachThingPrincipal("thing", inactive, ""), r.DeleteCertificate(inactive, true))
			},
			CodeDeleteConflict,
		},
		"A policy that exists is ResourceAlreadyExistsException, even with the same document.": {
			func(r *Registry, _, _ string) error { _, err := r.CreatePolicy("policy", document); return err },
			CodeAlreadyExists,
		},
		"A policy document that is no JSON object is MalformedPolicyException.": {
			func(r *Registry, _, _ string) error { _, err := r.CreatePolicy("p", `[]`); return err },
			CodeMalformedPolicy,
		},
		"A policy is not deleted while it is attached: DeleteConflictException.": {
			func(r *Registry, active, _ string) error {
				return errors.Join(r.AttachPolicy("policy", CertificateTarget(active)), r.DeletePolicy("policy"))
			},
			CodeDeleteConflict,
		},
		"The default version of a policy is not deleted.": {
			func(r *Registry, _, _ string) error { return r.DeletePolicyVersion("policy", 1) },
			CodeInvalidRequest,
		},
		"A default version of a policy must exist.": {
			func(r *Registry, _, _ string) error { return r.SetDefaultPolicyVersion("policy", 2) },
			CodeNotFound,
		},
		"A policy is attached to certificates and thing groups only.": {
			func(r *Registry, _, _ string) error { return r.AttachPolicy("policy", "thing/thing") },
			CodeInvalidRequest,
		},
		"A policy is not attached to a certificate that is not registered.": {
			func(r *Registry, _, _ string) error { return r.AttachPolicy("policy", CertificateTarget("00")) },
			CodeNotFound,
		},
		"A provisioning template needs a role.": {
			func(r *Registry, _, _ string) error {
				_, err := r.CreateProvisioningTemplate(ProvisioningTemplate{Name: "t"}, "{}")
				return err
			},
			CodeInvalidRequest,
		},
		"A provisioning claim's template must exist.": {
			func(r *Registry, active, _ string) error {
				c, _ := r.CertificateByID(active)
				_, err := r.CreateClaimCertificate(c.PEM, "none", time.Minute)
				return err
			},
			CodeNotFound,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, _ := open(t)
			furnish(t, r)
			active, inactive := newCertificate(t, r, Active), newCertificate(t, r, Inactive)
			err := test.do(r, active.ID, inactive.ID)
			if got := code(err); got != test.want {
				t.Fatalf("got %q (%v), want %q", got, err, test.want)
			}
			var e *Error
			if errors.As(err, &e) && (e.Status < 400 || e.Status > 599) {
				t.Errorf("code %s has status %d", e.Code, e.Status)
			}
		})
	}
}

// Each case is of https://docs.aws.amazon.com/general/latest/gr/iot-core.html.
func TestLimits(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		allowed int
		step    func(r *Registry, certificate string, i int) error
		want    string
	}{
		"A tree of thing groups is 7 deep at most.": {MaxGroupDepth, func(r *Registry, _ string, i int) error {
			g := ThingGroup{Name: fmt.Sprint("d", i)}
			if i > 0 {
				g.Parent = fmt.Sprint("d", i-1)
			}
			_, err := r.CreateThingGroup(g)
			return err
		}, CodeInvalidRequest},
		"A thing group has 100 direct children at most.": {MaxGroupChildren, func(r *Registry, _ string, i int) error {
			_, err := r.CreateThingGroup(ThingGroup{Name: fmt.Sprint("c", i), Parent: "other"})
			return err
		}, CodeInvalidRequest},
		"A thing is in 10 groups at most.": {awsiot.MaxGroupsPerThing, func(r *Registry, _ string, i int) error {
			group := fmt.Sprint("g", i)
			_, err := r.CreateThingGroup(ThingGroup{Name: group})
			return errors.Join(err, r.AddThingToThingGroup("thing", group))
		}, CodeInvalidRequest},
		"A certificate has 10 policies at most.": {MaxPoliciesPerPrincipal, func(r *Registry, certificate string, i int) error {
			_, err := r.CreatePolicy(fmt.Sprint("p", i), document)
			return errors.Join(err, r.AttachPolicy(fmt.Sprint("p", i), CertificateTarget(certificate)))
		}, CodeLimitExceeded},
		"A thing group has 2 policies at most.": {MaxPoliciesPerGroup, func(r *Registry, _ string, i int) error {
			_, err := r.CreatePolicy(fmt.Sprint("p", i), document)
			return errors.Join(err, r.AttachPolicy(fmt.Sprint("p", i), ThingGroupTarget("root")))
		}, CodeLimitExceeded},
		"A policy has 5 versions at most.": {MaxPolicyVersions - 1, func(r *Registry, _ string, i int) error {
			_, err := r.CreatePolicyVersion("policy", document, true)
			return err
		}, CodeVersionsLimitExceeded},
		"An account has 256 provisioning templates at most.": {MaxTemplates, func(r *Registry, _ string, i int) error {
			_, err := r.CreateProvisioningTemplate(ProvisioningTemplate{Name: fmt.Sprint("t", i), RoleARN: "role"}, "{}")
			return err
		}, CodeLimitExceeded},
		"A provisioning template has 5 versions at most.": {MaxTemplateVersions, func(r *Registry, _ string, i int) error {
			if i == 0 {
				_, err := r.CreateProvisioningTemplate(ProvisioningTemplate{Name: "t", RoleARN: "role"}, "{}")
				return err
			}
			_, err := r.CreateProvisioningTemplateVersion("t", "{}", false)
			return err
		}, CodeVersionsLimitExceeded},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, _ := open(t)
			furnish(t, r)
			c := newCertificate(t, r, Active)
			for i := range test.allowed {
				if err := test.step(r, c.ID, i); err != nil {
					t.Fatalf("step %d of %d: %v", i+1, test.allowed, err)
				}
			}
			if got := code(test.step(r, c.ID, test.allowed)); got != test.want {
				t.Errorf("one more gave %q, want %q", got, test.want)
			}
		})
	}
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a stored policy
// has 2048 characters at most, white space not counted.
func TestPolicyLengthCountsNoWhiteSpace(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	fill := func(n int) string {
		return fmt.Sprintf("{\"a\": \n\t\"%0*d\"}", n-len(`{"a":""}`), 0)
	}
	must(r.CreatePolicy("fits", fill(MaxPolicyDocument)))(t)
	if _, err := r.CreatePolicy("long", fill(MaxPolicyDocument+1)); code(err) != CodeMalformedPolicy {
		t.Errorf("got %v", err)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateThing.html:
// creating a thing again with the same configuration succeeds and changes
// nothing.
func TestRepeatingAnOperationSucceedsAndChangesNothing(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	furnish(t, r)
	c := newCertificate(t, r, Active)
	operations := func() {
		ok(t,
			r.AddThingToThingGroup("thing", "child"),
			r.AttachPolicy("policy", CertificateTarget(c.ID)),
			r.AttachThingPrincipal("thing", c.ID, Exclusive),
			r.UpdateCertificate(c.ID, Active),
			r.DeleteThing("none", nil),
			r.DeprecateThingType("type", true))
		must(r.CreateThing(Thing{Name: "thing", Type: "type", Attributes: map[string]string{"a": "1"}}))(t)
		must(r.CreateThingType(ThingType{Name: "type"}))(t)
		must(r.CreateThingGroup(ThingGroup{Name: "child", Parent: "root"}))(t)
	}
	operations()
	before, generation := must(r.DescribeThing("thing"))(t), r.Generation()
	r.options.Changed = func([]Event, []Change) { t.Error("a change is reported") }
	operations()
	must(r.Expire(epoch))(t)
	if diff := cmp.Diff(before, must(r.DescribeThing("thing"))(t)); diff != "" {
		t.Error(diff)
	}
	if r.Generation() != generation {
		t.Error("the generation grew")
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_UpdateThing.html:
// attributes are replaced, or merged if merge is set, and an empty value
// removes an attribute.
func TestUpdateThingAttributes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		update AttributeUpdate
		want   map[string]string
	}{
		"replace":       {AttributeUpdate{Attributes: map[string]string{"b": "2"}}, map[string]string{"b": "2"}},
		"merge":         {AttributeUpdate{Attributes: map[string]string{"b": "2"}, Merge: true}, map[string]string{"a": "1", "b": "2"}},
		"empty removes": {AttributeUpdate{Attributes: map[string]string{"a": ""}, Merge: true}, map[string]string{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, _ := open(t)
			furnish(t, r)
			ok(t, r.UpdateThing("thing", ThingUpdate{Attributes: &test.update, ExpectedVersion: new(int64(1))}))
			got := must(r.DescribeThing("thing"))(t)
			if diff := cmp.Diff(test.want, got.Attributes); diff != "" || got.Version != 2 {
				t.Errorf("version %d, attributes:\n%s", got.Version, diff)
			}
		})
	}
}

func TestReturnedRecordsBelongToTheCaller(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	furnish(t, r)
	got := must(r.DescribeThing("thing"))(t)
	got.Attributes["a"] = "changed"
	if again := must(r.DescribeThing("thing"))(t); again.Attributes["a"] != "1" {
		t.Error("changing a returned thing changed the registry")
	}
}

func TestFailedMutationLeavesNoTrace(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	furnish(t, r)
	generation := r.Generation()
	err := r.UpdateThingGroupsForThing("thing", []string{"root", "none"}, nil)
	if code(err) != CodeNotFound {
		t.Fatal(err)
	}
	if groups := must(r.ListThingGroupsForThing("thing"))(t); len(groups) != 0 {
		t.Errorf("the thing is in %v", groups)
	}
	if r.Generation() != generation {
		t.Error("the generation grew")
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/thing-groups.html: a
// thing in a group counts for the groups above it when listed recursively.
func TestGroupTree(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	furnish(t, r)
	ok(t, r.AddThingToThingGroup("thing", "child"))
	_, ancestors, err := r.DescribeThingGroup("child")
	ok(t, err)
	if diff := cmp.Diff([]string{"root"}, ancestors); diff != "" {
		t.Error(diff)
	}
	for recursive, want := range map[bool][]string{false: nil, true: {"thing"}} {
		if diff := cmp.Diff(want, must(r.ListThingsInThingGroup("root", recursive))(t)); diff != "" {
			t.Errorf("recursive %v: %s", recursive, diff)
		}
	}
	names := func(parent string, recursive bool) (out []string) {
		for _, g := range must(r.ListThingGroups(parent, recursive))(t) {
			out = append(out, g.Name)
		}
		return out
	}
	if diff := cmp.Diff([]string{"other", "root"}, names("", false)); diff != "" {
		t.Errorf("roots: %s", diff)
	}
	if diff := cmp.Diff([]string{"child"}, names("root", true)); diff != "" {
		t.Errorf("descendants: %s", diff)
	}
	ok(t, r.DeleteThingGroup("child", nil))
	if groups := must(r.ListThingGroupsForThing("thing"))(t); len(groups) != 0 {
		t.Errorf("the thing is still in %v", groups)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/registry-events.html: the parents in the event of
// a group begin at the root and are named by ARN and ID.
func TestEventOfGroupListsItsParentsFromTheRoot(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	ok(t, r.UpdateEventConfigurations(map[string]EventConfiguration{groupEvent: {Enabled: true}}))
	var events []Event
	r.options.Changed = func(all []Event, _ []Change) { events = append(events, all...) }
	var parents []map[string]string
	for i, name := range []string{"a", "b", "c"} {
		parent := ""
		if i > 0 {
			parent = events[i-1].Payload["thingGroupName"].(string)
		}
		g := must(r.CreateThingGroup(ThingGroup{Name: name, Parent: parent}))(t)
		if diff := cmp.Diff(parents, events[i].Payload["rootToParentThingGroups"]); diff != "" {
			t.Error(diff)
		}
		parents = append(parents, map[string]string{"groupArn": "thinggroup/" + name, "groupId": g.ID})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/exclusive-thing.html:
// an exclusively attached thing is found under any client id, another under its
// own name only.
func TestSessionThing(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		kind     PrincipalType
		clientID string
		want     string
	}{
		"non-exclusive, client id is the name": {NonExclusive, "thing", "thing"},
		"non-exclusive, another client id":     {NonExclusive, "else", ""},
		"exclusive, client id is the name":     {Exclusive, "thing", "thing"},
		"exclusive, another client id":         {Exclusive, "else", "thing"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, _ := open(t)
			furnish(t, r)
			c := newCertificate(t, r, Active)
			ok(t, r.AttachThingPrincipal("thing", c.ID, test.kind))
			if got, _ := r.ThingFor(c.ID, test.clientID); got.Name != test.want {
				t.Errorf("got %q, want %q", got.Name, test.want)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_AttachThingPrincipal.html:
// an EXCLUSIVE_THING principal is tied to one thing.
func TestExclusiveCertificateHasOneThing(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	furnish(t, r)
	must(r.CreateThing(Thing{Name: "second"}))(t)
	tied, free := newCertificate(t, r, Active), newCertificate(t, r, Active)
	ok(t, r.AttachThingPrincipal("thing", tied.ID, Exclusive))
	ok(t, r.AttachThingPrincipal("thing", free.ID, NonExclusive))
	for name, err := range map[string]error{
		"second thing":               r.AttachThingPrincipal("second", tied.ID, NonExclusive),
		"exclusive beside another":   r.AttachThingPrincipal("second", free.ID, Exclusive),
		"another kind on same thing": r.AttachThingPrincipal("thing", tied.ID, NonExclusive),
	} {
		if code(err) != CodeInvalidRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/thing-groups.html:
// policies of a group and of the groups above it hold for its things.
func TestSessionPolicies(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	furnish(t, r)
	c := newCertificate(t, r, Active)
	for _, name := range []string{"ofCertificate", "ofChild", "ofRoot"} {
		must(r.CreatePolicy(name, document))(t)
	}
	ok(t, r.AttachPolicy("ofCertificate", CertificateTarget(c.ID)),
		r.AttachPolicy("ofChild", ThingGroupTarget("child")),
		r.AttachPolicy("ofRoot", ThingGroupTarget("root")),
		r.AttachPolicy("ofCertificate", ThingGroupTarget("root")),
		r.AddThingToThingGroup("thing", "child"))
	names := func(clientID string) (out []string) {
		for _, p := range r.PoliciesFor(c.ID, clientID) {
			out = append(out, p.Name)
		}
		return out
	}
	if diff := cmp.Diff([]string{"ofCertificate"}, names("thing")); diff != "" {
		t.Errorf("thing is not attached: %s", diff)
	}
	ok(t, r.AttachThingPrincipal("thing", c.ID, ""))
	if diff := cmp.Diff([]string{"ofCertificate", "ofChild", "ofRoot"}, names("thing")); diff != "" {
		t.Errorf("client id is the thing's name: %s", diff)
	}
	if diff := cmp.Diff([]string{"ofCertificate"}, names("else")); diff != "" {
		t.Errorf("another client id: %s", diff)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_SetDefaultPolicyVersion.html:
// the default version of a policy is in effect, and version numbers are not
// used again.
func TestPolicyVersionInEffectIsTheDefault(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	furnish(t, r)
	c := newCertificate(t, r, Active)
	ok(t, r.AttachPolicy("policy", CertificateTarget(c.ID)))
	second := `{"Version":"2012-10-17","Statement":[{}]}`
	v := must(r.CreatePolicyVersion("policy", second, false))(t)
	if got := r.PoliciesFor(c.ID, "")[0].Document; got != document {
		t.Errorf("before: %s", got)
	}
	ok(t, r.SetDefaultPolicyVersion("policy", v.ID), r.DeletePolicyVersion("policy", 1))
	if got := r.PoliciesFor(c.ID, "")[0].Document; got != second {
		t.Errorf("after: %s", got)
	}
	if v := must(r.CreatePolicyVersion("policy", document, false))(t); v.ID != 3 {
		t.Errorf("version %d, want 3: numbers are never reused", v.ID)
	}
}

func TestNoCertificateIsRegisteredWithAStatusThatCannotBeSet(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	for _, status := range []CertificateStatus{PendingActivation, "UNKNOWN"} {
		if _, err := r.CreateCertificate(Certificate{PEM: newPEM(t), Status: status}); code(err) != CodeCertificateState {
			t.Errorf("CreateCertificate with status %s: %v", status, err)
		}
		if _, err := r.RegisterCertificate(Certificate{PEM: newPEM(t), Status: status}, ""); code(err) != CodeCertificateState {
			t.Errorf("RegisterCertificate with status %s: %v", status, err)
		}
	}
}

func TestChangesAreStatusesAndDeletions(t *testing.T) {
	t.Parallel()
	var got []Change
	r := must(Open("", Options{Changed: func(_ []Event, changes []Change) { got = append(got, changes...) }}))(t)
	c := newCertificate(t, r, Active)
	ok(t, r.UpdateCertificate(c.ID, Inactive), r.UpdateCertificate(c.ID, Inactive), r.DeleteCertificate(c.ID, false))
	newCertificate(t, r, Active)
	want := []Change{{c.ID, Inactive}, {c.ID, ""}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestConcurrentRegistrationsAndSessions(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	furnish(t, r)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 10 {
				name := fmt.Sprintf("thing-%d-%d", i, j)
				text, err := makePEM()
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := r.CreatePendingCertificate(text, name, principal, time.Hour); err != nil {
					t.Error(err)
				}
				p := registration()
				p.Token, p.Plan.Thing.Name = name, name
				done, err := r.Provision(p)
				if err != nil {
					t.Error(err)
				}
				thing, there := r.ThingFor(done.Certificate.ID, name)
				if policies := r.PoliciesFor(done.Certificate.ID, name); !there || thing.Name != name || len(policies) != 1 {
					t.Errorf("thing %q, policies %v", thing.Name, policies)
				}
			}
		})
	}
	wg.Wait()
	if things := must(r.ListThingsInThingGroup("child", false))(t); len(things) != 40 {
		t.Errorf("%d things in the group", len(things))
	}
}

func BenchmarkProvision(b *testing.B) {
	for name, path := range map[string]string{"memory": "", "durable": filepath.Join(b.TempDir(), "registry.db")} {
		b.Run(name, func(b *testing.B) {
			r, err := Open(path, Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			r.CreateThingType(ThingType{Name: "type"})
			r.CreateThingGroup(ThingGroup{Name: "child"})
			r.CreatePolicy("policy", document)
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				text, err := makePEM()
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if _, err := r.CreatePendingCertificate(text, fmt.Sprint(i), principal, time.Hour); err != nil {
					b.Fatal(err)
				}
				p := registration()
				p.Token, p.Plan.Thing.Name = fmt.Sprint(i), fmt.Sprint("thing", i)
				if _, err := r.Provision(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSessionLookups(b *testing.B) {
	r, _ := Open("", Options{})
	text, err := makePEM()
	if err != nil {
		b.Fatal(err)
	}
	c, _ := r.CreateCertificate(Certificate{PEM: text, Status: Active})
	r.CreatePolicy("policy", document)
	r.CreateThing(Thing{Name: "thing"})
	r.AttachPolicy("policy", CertificateTarget(c.ID))
	r.AttachThingPrincipal("thing", c.ID, "")
	b.ReportAllocs()
	for b.Loop() {
		r.CertificateByID(c.ID)
		r.ThingFor(c.ID, "thing")
		r.PoliciesFor(c.ID, "thing")
	}
}
