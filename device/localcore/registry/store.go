package registry

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/tidwall/btree"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/records"
)

// formatVersion is the version of what the buckets hold. A file of another version is rejected.
const formatVersion = "1"

const metaBucket, formatKey = "meta", "format"

// state is all that the registry holds at one time. Reading one that is committed
// needs no lock: what comes after it is a copy, which shares what stays the same.
type state struct {
	things        *table[Thing]
	types         *table[ThingType]
	groups        *table[ThingGroup]
	certificates  *table[Certificate]
	authorities   *table[CACertificate]
	codes         *table[string] // the registration code, under codeKey
	providers     *table[CertificateProvider]
	policies      *table[Policy]
	billingGroups *table[ThingGroup]
	tags          *table[map[string]string] // by the resource part of the ARN
	templates     *table[ProvisioningTemplate]
	roleAliases   *table[RoleAlias]
	ownerships    *table[ownership] // by the hex SHA-256 of the token

	eventConfigurations *table[EventConfigurations] // by theAccount

	thingGroups   *relation[struct{}]      // thing name, group name
	thingCerts    *relation[PrincipalType] // thing name, certificate id
	policyTargets *relation[struct{}]      // policy name, target

	buckets    []bucket // all of these
	generation uint64   // counts the mutations
}

// Keys of what exists once.
const (
	theAccount = "account"
	codeKey    = "code"
)

// next returns a copy of the state, to be changed. Its zero value is empty.
func (s *state) next() *state {
	all := make([]bucket, 0, len(s.buckets))
	b := &all
	n := &state{
		things:        tableIn(b, "things", s.things, "thing", "Thing", Thing.clone),
		types:         tableIn(b, "thing-types", s.types, "thingtype", "Thing type", ThingType.clone),
		groups:        tableIn(b, "thing-groups", s.groups, "thinggroup", "Thing group", ThingGroup.clone),
		certificates:  tableIn(b, "certificates", s.certificates, "cert", "Certificate id", nil),
		authorities:   tableIn(b, "ca-certificates", s.authorities, "cacert", "CA certificate", nil),
		codes:         tableIn(b, "registration-code", s.codes, "", "Registration code", nil),
		providers:     tableIn(b, "certificate-providers", s.providers, "certificateprovider", "Certificate provider", nil),
		policies:      tableIn(b, "policies", s.policies, "policy", "Policy", Policy.clone),
		billingGroups: tableIn(b, "billing-groups", s.billingGroups, "billinggroup", "Billing group", ThingGroup.clone),
		tags:          tableIn(b, "tags", s.tags, "", "", maps.Clone),
		templates:     tableIn(b, "templates", s.templates, "provisioningtemplate", "Provisioning template", ProvisioningTemplate.clone),
		roleAliases:   tableIn(b, "role-aliases", s.roleAliases, "rolealias", "Role alias", nil),
		ownerships:    tableIn(b, "ownerships", s.ownerships, "", "", nil),

		eventConfigurations: tableIn(b, "event-configurations", s.eventConfigurations, "", "", EventConfigurations.clone),

		thingGroups:   relationIn(b, "things-in-groups", s.thingGroups),
		thingCerts:    relationIn(b, "thing-certificates", s.thingCerts),
		policyTargets: relationIn(b, "policy-targets", s.policyTargets),
	}
	n.buckets, n.generation = all, s.generation+1
	return n
}

// A bucket is a table as the store sees it.
type bucket interface {
	name() string // in the store, part of the format
	changed() bool
	// changes returns the encoded rows that differ from the state before; a nil
	// value is a deletion.
	changes() map[string][]byte
	// load reads one row from the store.
	load(key string, value []byte) error
}

// A table holds the records of one kind by their key. What it takes and gives
// shares nothing with what it holds.
type table[V any] struct {
	bucket     string // its name
	kind, what string // of a record, as in its ARN and in a sentence
	clone      func(V) V
	rows       *btree.Map[string, *V] // never changed themselves, since former states share them
	touched    map[string]bool        // keys of rows that may differ from the state before; nil without any
}

// tableIn adds a table to all. A nil clone is for records without maps and slices.
func tableIn[V any](all *[]bucket, name string, before *table[V], kind, what string, clone func(V) V) *table[V] {
	if clone == nil {
		clone = func(v V) V { return v }
	}
	t := &table[V]{bucket: name, kind: kind, what: what, clone: clone}
	if before != nil {
		t.rows = before.rows.Copy()
	} else {
		t.rows = btree.NewMap[string, *V](8)
	}
	*all = append(*all, t)
	return t
}

func (t *table[V]) name() string { return t.bucket }

func (t *table[V]) get(key string) (v V, ok bool) {
	row, ok := t.rows.Get(key)
	if ok {
		v = t.clone(*row)
	}
	return v, ok
}

func (t *table[V]) has(key string) bool {
	_, ok := t.rows.Get(key)
	return ok
}

// find is get with a rejection for a record that is not there.
func (t *table[V]) find(key string) (V, error) {
	v, ok := t.get(key)
	if !ok {
		return v, rejectFor(t.kind+"/"+key, CodeNotFound, "%s %s cannot be found.", t.what, awsiot.Clip(key))
	}
	return v, nil
}

// check returns the error of find.
func (t *table[V]) check(key string) error {
	_, err := t.find(key)
	return err
}

// checkOptional is check for a key that may be empty.
func (t *table[V]) checkOptional(key string) error {
	if key == "" {
		return nil
	}
	return t.check(key)
}

// edit replaces a record that must be there by what f makes of it.
func (t *table[V]) edit(key string, f func(*V) error) error {
	v, err := t.find(key)
	if err == nil {
		err = f(&v)
	}
	if err == nil {
		t.put(key, v)
	}
	return err
}

// differs rejects the creation of a record that is there with other properties.
func (t *table[V]) differs(key string) error {
	return rejectFor(t.kind+"/"+key, CodeAlreadyExists, "%s %s already exists with different properties.", t.what, key)
}

func (t *table[V]) put(key string, v V) {
	v = t.clone(v)
	t.rows.Set(key, &v)
	t.touch(key)
}

func (t *table[V]) remove(key string) {
	if _, ok := t.rows.Delete(key); ok {
		t.touch(key)
	}
}

func (t *table[V]) touch(key string) {
	if t.touched == nil {
		t.touched = map[string]bool{}
	}
	t.touched[key] = true
}

// keys returns the keys of all records, sorted.
func (t *table[V]) keys() []string { return t.rows.Keys() }

// all returns the records in the order of their keys.
func (t *table[V]) all() []V { return t.where(func(V) bool { return true }) }

// where returns those of all that selects accepts. It does not change them.
func (t *table[V]) where(selects func(V) bool) (out []V) {
	t.rows.Scan(func(_ string, v *V) bool {
		if selects(*v) {
			out = append(out, t.clone(*v))
		}
		return true
	})
	return out
}

func (t *table[V]) changed() bool { return len(t.touched) > 0 }

func (t *table[V]) changes() map[string][]byte {
	out := make(map[string][]byte, len(t.touched))
	for key := range t.touched {
		out[key] = nil
		if v, ok := t.rows.Get(key); ok {
			out[key] = awsiot.EncodeJSON(v)
		}
	}
	return out
}

func (t *table[V]) load(key string, value []byte) error {
	var v V
	err := json.Unmarshal(value, &v)
	t.rows.Set(key, &v)
	return err
}

// A relation holds pairs of keys, each with a value, and finds them from both sides.
type relation[V any] struct {
	pairs    *table[V]                    // by left and right key
	reversed *btree.Map[string, struct{}] // by right and left key
}

// separator parts the two keys of a pair; no name may hold it.
const separator = "\x00"

func relationIn[V any](all *[]bucket, name string, before *relation[V]) *relation[V] {
	if before == nil {
		before = &relation[V]{reversed: btree.NewMap[string, struct{}](8)}
	}
	return &relation[V]{tableIn(all, name, before.pairs, "", "", nil), before.reversed.Copy()}
}

// index fills reversed once the pairs are loaded.
func (r *relation[V]) index() {
	for _, pair := range r.pairs.keys() {
		left, right, _ := strings.Cut(pair, separator)
		r.reversed.Set(right+separator+left, struct{}{})
	}
}

func (r *relation[V]) get(left, right string) (V, bool) { return r.pairs.get(left + separator + right) }

func (r *relation[V]) has(left, right string) bool { return r.pairs.has(left + separator + right) }

func (r *relation[V]) put(left, right string, v V) {
	r.pairs.put(left+separator+right, v)
	r.reversed.Set(right+separator+left, struct{}{})
}

func (r *relation[V]) remove(left, right string) {
	r.pairs.remove(left + separator + right)
	r.reversed.Delete(right + separator + left)
}

// removeLefts removes all pairs of right.
func (r *relation[V]) removeLefts(right string) {
	for _, left := range r.leftsOf(right) {
		r.remove(left, right)
	}
}

// rightsOf returns the right keys paired with left, sorted.
func (r *relation[V]) rightsOf(left string) []string { return pairedWith(left, r.pairs.rows) }

// leftsOf returns the left keys paired with right, sorted.
func (r *relation[V]) leftsOf(right string) []string { return pairedWith(right, r.reversed) }

func pairedWith[V any](first string, pairs *btree.Map[string, V]) (seconds []string) {
	prefix := first + separator
	pairs.Ascend(prefix, func(pair string, _ V) bool {
		second, ok := strings.CutPrefix(pair, prefix)
		if ok {
			seconds = append(seconds, second)
		}
		return ok
	})
	return seconds
}

// load reads the file into an empty state.
func (s *state) load(file *records.File) error {
	found := ""
	err := file.Bucket(metaBucket).Each(func(_ string, value []byte) error { found = string(value); return nil })
	switch {
	case err != nil:
		return err
	case found == "":
		return file.Save(map[string]map[string][]byte{metaBucket: {formatKey: []byte(formatVersion)}})
	case found != formatVersion:
		return fmt.Errorf("format version %q, this program reads version %s; use the program that wrote it, or move the file away", found, formatVersion)
	}
	for _, part := range s.buckets {
		err := file.Bucket(part.name()).Each(func(key string, value []byte) error {
			if err := part.load(key, value); err != nil {
				return fmt.Errorf("record %q of %s: %w", key, part.name(), err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	s.thingGroups.index()
	s.thingCerts.index()
	s.policyTargets.index()
	return s.loadClaims(file)
}

// loadClaims reads what files had in a bucket of its own before certificates said it. The rows stay
// there when their certificates go, so that one may be of a certificate that was registered again.
func (s *state) loadClaims(file *records.File) error {
	return file.Bucket("claims").Each(func(id string, value []byte) error {
		var claim struct {
			Template string
			Expires  time.Time
		}
		err := json.Unmarshal(value, &claim)
		if c, ok := s.certificates.rows.Get(id); ok && c.Created.Before(claim.Expires) {
			c.ClaimTemplate, c.ClaimExpires = claim.Template, claim.Expires
		}
		return err
	})
}
