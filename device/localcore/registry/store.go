package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/tidwall/btree"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// formatVersion is the version of what the buckets hold. A file of another version is rejected.
const formatVersion = "1"

// lockWait is how long Open waits for another process to release the file.
const lockWait = 200 * time.Millisecond

// ErrLocked reports that another process has the registry's file open.
var ErrLocked = errors.New("in use by another process; stop that one, or use another state folder")

var (
	metaBucket = []byte("meta")
	formatKey  = []byte("format")
)

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
	billingGroups *table[BillingGroup]
	tags          *table[map[string]string] // by the resource part of the ARN
	templates     *table[ProvisioningTemplate]
	roleAliases   *table[RoleAlias]
	ownerships    *table[ownership] // by the hex SHA-256 of the token
	claims        *table[claim]     // by certificate id

	eventConfigurations *table[EventConfigurations] // by theAccount

	thingGroups   *relation[struct{}]      // thing name, group name
	thingCerts    *relation[PrincipalType] // thing name, certificate id
	policyTargets *relation[struct{}]      // policy name, target

	buckets []bucket // all of these
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
		billingGroups: tableIn(b, "billing-groups", s.billingGroups, "billinggroup", "Billing group", nil),
		tags:          tableIn(b, "tags", s.tags, "", "", maps.Clone),
		templates:     tableIn(b, "templates", s.templates, "provisioningtemplate", "Provisioning template", ProvisioningTemplate.clone),
		roleAliases:   tableIn(b, "role-aliases", s.roleAliases, "rolealias", "Role alias", nil),
		ownerships:    tableIn(b, "ownerships", s.ownerships, "", "", nil),
		claims:        tableIn(b, "claims", s.claims, "", "", nil),

		eventConfigurations: tableIn(b, "event-configurations", s.eventConfigurations, "", "", EventConfigurations.clone),

		thingGroups:   relationIn(b, "things-in-groups", s.thingGroups),
		thingCerts:    relationIn(b, "thing-certificates", s.thingCerts),
		policyTargets: relationIn(b, "policy-targets", s.policyTargets),
	}
	n.buckets = all
	return n
}

// A bucket is a table or relation as the store sees it.
type bucket interface {
	name() string // in the store, part of the format
	changed() bool
	// changes returns the encoded rows that differ from the state before; a nil
	// value is a deletion.
	changes() (map[string][]byte, error)
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
		return v, rejectFor(t.kind+"/"+key, CodeNotFound, "%s %s cannot be found.", t.what, clip(key))
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

func (t *table[V]) changes() (map[string][]byte, error) {
	out := make(map[string][]byte, len(t.touched))
	for key := range t.touched {
		v, ok := t.rows.Get(key)
		if !ok {
			out[key] = nil
			continue
		}
		value, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		out[key] = value
	}
	return out, nil
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
	r := &relation[V]{tableIn(new([]bucket), name, before.pairs, "", "", nil), before.reversed.Copy()}
	*all = append(*all, r)
	return r
}

func (r *relation[V]) name() string { return r.pairs.name() }

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

func (r *relation[V]) changed() bool { return r.pairs.changed() }

func (r *relation[V]) changes() (map[string][]byte, error) { return r.pairs.changes() }

func (r *relation[V]) load(key string, value []byte) error {
	left, right, ok := strings.Cut(key, separator)
	if !ok {
		return errors.New("not a pair")
	}
	r.reversed.Set(right+separator+left, struct{}{})
	return r.pairs.load(key, value)
}

// openStore opens the file and reads all of it into s. Its errors leave the path to the caller.
func openStore(path string, s *state) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrLocked
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		return nil, fmt.Errorf("not a registry file, or damaged (%w); move it away to start empty", err)
	case err != nil:
		if e, ok := errors.AsType[*os.PathError](err); ok {
			return nil, e.Err
		}
		return nil, err
	}
	if err := db.Update(func(tx *bolt.Tx) error { return load(tx, s) }); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func load(tx *bolt.Tx, s *state) error {
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	switch found := meta.Get(formatKey); {
	case found == nil:
		if err := meta.Put(formatKey, []byte(formatVersion)); err != nil {
			return err
		}
	case string(found) != formatVersion:
		return fmt.Errorf("format version %q, this program reads version %s; use the program that wrote it, or move the file away", found, formatVersion)
	}
	for _, part := range s.buckets {
		b, err := tx.CreateBucketIfNotExists([]byte(part.name()))
		if err != nil {
			return err
		}
		err = b.ForEach(func(k, v []byte) error {
			if err := part.load(string(k), v); err != nil {
				return fmt.Errorf("record %q of %s: %w", k, part.name(), err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// persist writes the changes of a state in one transaction.
func persist(db *bolt.DB, s *state) error {
	return db.Update(func(tx *bolt.Tx) error {
		for _, part := range s.buckets {
			rows, err := part.changes()
			if err != nil {
				return err
			}
			b := tx.Bucket([]byte(part.name()))
			for key, value := range rows {
				if value == nil {
					err = b.Delete([]byte(key))
				} else {
					err = b.Put([]byte(key), value)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
}
