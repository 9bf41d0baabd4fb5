package registry

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"example.com/fleety/device/localcore/records"
)

// childPath names the file that a child process of the kill test works on.
const childPath = "REGISTRY_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		if err := registerForever(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// registerForever registers one thing after the other and prints the name of
// each when it is done.
func registerForever(path string) error {
	r, err := Open(path, Options{})
	if err != nil {
		return err
	}
	for i := len(r.ListThings()); ; i++ {
		text, err := makePEM()
		if err != nil {
			return err
		}
		if _, err := r.CreatePendingCertificate(text, token, principal, time.Hour); err != nil {
			return err
		}
		p := registration()
		p.Plan.Thing.Name = fmt.Sprint("thing", i)
		if _, err := r.Provision(p); err != nil {
			return err
		}
		fmt.Println(p.Plan.Thing.Name)
	}
}

func openAt(t *testing.T, path string) *Registry {
	t.Helper()
	r := must(Open(path, Options{}))(t)
	t.Cleanup(func() { r.Close() })
	return r
}

// Tunnels end with the process.
func TestTagsOfTunnelsEndWithTheProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.db")
	r := openAt(t, path)
	tags := map[string]string{"line": "7"}
	ok(t, r.TagResource("tunnel/t", tags), r.TagResource("job/j", tags), r.Close())
	ok(t, openAt(t, path).Close())
	f := must(records.Open(path))(t)
	defer f.Close()
	var left []string
	ok(t, f.Bucket("tags").Each(func(resource string, _ []byte) error { left = append(left, resource); return nil }))
	if diff := cmp.Diff([]string{"job/j"}, left); diff != "" {
		t.Error(diff)
	}
}

func TestKilledProcessLosesNothingAndLeavesNoHalf(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.db")
	r := openAt(t, path)
	furnish(t, r)
	ok(t, r.Close())
	var done []string
	for round := range 5 {
		done = append(done, runAndKill(t, path, 3+2*round)...)
		r := openAt(t, path)
		for _, name := range done {
			if _, err := r.DescribeThing(name); err != nil {
				t.Errorf("round %d: acknowledged, then lost: %v", round, err)
			}
		}
		checkWhole(t, r)
		ok(t, r.Close())
	}
}

// runAndKill kills the child with SIGKILL once it has printed n names.
func runAndKill(t *testing.T, path string, n int) (names []string) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childPath+"="+path)
	child.Stderr = os.Stderr
	out := must(child.StdoutPipe())(t)
	ok(t, child.Start())
	lines := bufio.NewScanner(out)
	for len(names) < n && lines.Scan() {
		names = append(names, lines.Text())
	}
	ok(t, child.Process.Kill())
	for lines.Scan() {
		names = append(names, lines.Text())
	}
	child.Wait() // it reports the kill
	if len(names) < n {
		t.Fatalf("the child ended after %d things", len(names))
	}
	return names
}

// checkWhole checks that each thing that Provision made has all its parts, and
// that no certificate is active without a thing.
func checkWhole(t *testing.T, r *Registry) {
	t.Helper()
	for _, thing := range r.ListThings() {
		if thing.Name == "thing" {
			continue // of furnish
		}
		principals := must(r.ListThingPrincipals(thing.Name))(t)
		groups := must(r.ListThingGroupsForThing(thing.Name))(t)
		if len(principals) != 1 || !cmp.Equal(groups, []string{"child"}) {
			t.Fatalf("thing %s has principals %v and groups %v", thing.Name, principals, groups)
		}
		c := must(r.DescribeCertificate(principals[0].CertificateID))(t)
		policies := must(r.ListAttachedPolicies(CertificateTarget(c.ID), false))(t)
		if c.Status != Active || c.TokenHash != "" || !cmp.Equal(policies, []string{"policy"}) {
			t.Fatalf("certificate of %s: %s, policies %v", thing.Name, c.Status, policies)
		}
	}
	for _, c := range r.ListCertificates() {
		things := must(r.ListPrincipalThings(c.ID))(t)
		if (c.Status == Active) != (len(things) == 1) {
			t.Fatalf("certificate %s is %s and has things %v", c.ID, c.Status, things)
		}
	}
}

func TestReopeningGivesTheSameRegistry(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.db")
	r := openAt(t, path)
	furnish(t, r)
	kept, gone := newCertificate(t, r, Active), newCertificate(t, r, Inactive)
	ok(t, r.AttachThingPrincipal("thing", kept.ID, Exclusive),
		r.AttachPolicy("policy", CertificateTarget(kept.ID)),
		r.AddThingToThingGroup("thing", "child"),
		r.AddThingToThingGroup("thing", "other"),
		r.RemoveThingFromThingGroup("thing", "other"),
		r.DeleteCertificate(gone.ID, false))
	pending(t, r)
	must(r.CreateProvisioningTemplate(ProvisioningTemplate{Name: "t", RoleARN: "role", Hook: &Hook{TargetARN: "arn"}}, "{}"))(t)
	must(r.CreateProvisioningTemplate(ProvisioningTemplate{Name: "u", RoleARN: "role"}, "{}"))(t)
	must(r.CreateClaimCertificate(newPEM(t), "u", time.Minute))(t)
	must(r.CreateBillingGroup(ThingGroup{Name: "payers", Description: "plant 7"}))(t)
	must(r.CreateRoleAlias(RoleAlias{Name: "alias", RoleARN: "arn:aws:iam::123456789012:role/r"}))(t)
	must(r.RegisterCACertificate(CACertificate{
		Certificate:      Certificate{PEM: newPEM(t), Mode: SNIOnly},
		AutoRegistration: true, Registration: &RegistrationConfig{TemplateBody: "{}", RoleARN: "role"},
	}, ""))(t)
	must(r.RegistrationCode())(t)
	must(r.CreateCertificateProvider("provider", "arn"))(t)
	must(r.CreateThingType(ThingType{Name: "gauge", Propagating: []PropagatingAttribute{{UserPropertyKey: "k", ThingAttribute: "a"}}}))(t)
	ok(t, r.UpdateEventConfigurations(map[string]EventConfiguration{"THING": {Enabled: true}}),
		r.AddThingToBillingGroup("thing", "payers"),
		r.TagResource("policy/policy", map[string]string{"line": "7"}),
		r.TagResource("job/job", map[string]string{"line": "7"}),
		r.DeleteTags("job/job"),
		r.AttachPolicy("policy", "us-east-1:0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"))
	before := snapshot(t, r)
	for _, part := range r.state().buckets {
		if !part.changed() {
			t.Errorf("the test has nothing in bucket %s", part.name())
		}
	}
	ok(t, r.Close())
	if diff := cmp.Diff(before, snapshot(t, openAt(t, path))); diff != "" {
		t.Error(diff)
	}
}

// Claims of files whose certificates do not say it yet are not listed, and expire.
func TestClaimsOfEarlierFilesExpire(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.db")
	r := openAt(t, path)
	claim, device := newCertificate(t, r, Active), newCertificate(t, r, Active)
	ok(t, r.Close())
	expires := claim.Created.Add(time.Minute)
	file := must(records.Open(path))(t)
	ok(t, file.Bucket("claims").Save(map[string][]byte{
		claim.ID:  fmt.Appendf(nil, `{"Template":"t","Expires":%q}`, expires.Format(time.RFC3339Nano)),
		device.ID: fmt.Appendf(nil, `{"Template":"t","Expires":%q}`, device.Created.Format(time.RFC3339Nano)), // was registered again since
	}), file.Close())
	for range 2 { // it is not written anew by being read
		r = openAt(t, path)
		if c, _ := r.CertificateByID(claim.ID); c.ClaimTemplate != "t" || !c.ClaimExpires.Equal(expires) {
			t.Errorf("the claim is for template %q until %v", c.ClaimTemplate, c.ClaimExpires)
		}
		if listed := r.ListCertificates(); len(listed) != 1 || listed[0].ID != device.ID {
			t.Errorf("listed: %v", listed)
		}
		ok(t, r.Close())
	}
	r = openAt(t, path)
	if deleted := must(r.Expire(expires))(t); len(deleted) != 1 || deleted[0] != claim.ID {
		t.Errorf("expired: %v", deleted)
	}
	ok(t, r.Close())
	if listed := openAt(t, path).ListCertificates(); len(listed) != 1 {
		t.Errorf("left: %v", listed)
	}
}

func (t *table[V]) touchAll() {
	for _, key := range t.keys() {
		t.touch(key)
	}
}

// snapshot returns all that the registry holds, as it would be stored.
func snapshot(t *testing.T, r *Registry) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, part := range r.state().buckets {
		part.(interface{ touchAll() }).touchAll()
		for key, value := range part.changes() {
			out[part.name()+" "+key] = string(value)
		}
	}
	return out
}

func TestOpenRejectsWhatItCannotUse(t *testing.T) {
	t.Parallel()
	t.Run("locked", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "registry.db")
		openAt(t, path)
		if _, err := Open(path, Options{}); !errors.Is(err, records.ErrLocked) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another format", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "registry.db")
		openAt(t, path).Close()
		db := must(bolt.Open(path, 0o600, nil))(t)
		ok(t, db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(metaBucket)).Put([]byte(formatKey), []byte("9")) }), db.Close())
		if _, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), `format version "9"`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no registry", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "registry.db")
		ok(t, os.WriteFile(path, []byte(strings.Repeat("not a registry ", 2000)), 0o600))
		if _, err := Open(path, Options{}); !errors.Is(err, records.ErrDamaged) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no folder", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "none", "registry.db")
		if _, err := Open(path, Options{}); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
}

func TestTokensAreNotStored(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.db")
	r := openAt(t, path)
	must(r.CreatePendingCertificate(newPEM(t), "the-secret-token", principal, time.Hour))(t)
	ok(t, r.Close())
	if content := must(os.ReadFile(path))(t); strings.Contains(string(content), "the-secret-token") {
		t.Error("the file holds the token")
	}
}

func TestFailedWriteLeavesMemoryAlone(t *testing.T) {
	t.Parallel()
	r := openAt(t, filepath.Join(t.TempDir(), "registry.db"))
	furnish(t, r)
	ok(t, r.file.Close()) // from here on nothing can be written
	generation := r.Generation()
	if _, err := r.CreateThing(Thing{Name: "new"}); err == nil {
		t.Fatal("the thing was created")
	}
	if _, err := r.DescribeThing("new"); code(err) != CodeNotFound || r.Generation() != generation {
		t.Errorf("the thing is in memory: %v", err)
	}
}

// A mutation copies the nodes of its trees on the way to what it changes, not the records in them.
func TestMutationCopiesNoOtherRecord(t *testing.T) {
	r := must(Open("", Options{}))(t)
	c := must(r.CreateCertificate(Certificate{PEM: newPEM(t)}))(t)
	for i := range 1000 {
		ok(t, r.update(func(tx *transaction) error {
			tx.certificates.put(fmt.Sprint(i), c)
			return nil
		}))
	}
	statuses := []CertificateStatus{Active, Inactive}
	i, before := 0, memory()
	if n := testing.AllocsPerRun(100, func() {
		i++
		ok(t, r.UpdateCertificate(c.ID, statuses[i%2]))
	}); n > 75 {
		t.Errorf("%v allocations", n)
	}
	if n := (memory() - before) / 101; n > 9_000 { // a node of records would have 5 kB, and there are several
		t.Errorf("%d bytes", n)
	}
}

// memory returns the bytes that were allocated so far.
func memory() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestFirstOfSeveralBadAttributesIsReported(t *testing.T) {
	t.Parallel()
	r := must(Open("", Options{}))(t)
	for range 30 {
		_, err := r.CreateThing(Thing{Name: "t", Attributes: map[string]string{"b": "{", "a": "{", "c": "{"}})
		if err == nil || !strings.Contains(err.Error(), "attribute a ") {
			t.Fatal(err)
		}
	}
}
