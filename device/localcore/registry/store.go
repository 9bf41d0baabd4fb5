package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// formatVersion is the version of what the buckets hold. A file of another
// version is rejected.
const formatVersion = "1"

// lockWait is how long Open waits for another process to release the file.
const lockWait = 200 * time.Millisecond

// ErrLocked reports that another process has the registry's file open.
var ErrLocked = errors.New("in use by another process; stop that one, or use another state folder")

var (
	metaBucket = []byte("meta")
	formatKey  = []byte("format")
)

// state is all that the registry holds. A state may lie over another one and
// then holds only changes; see table.
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

	buckets map[string]bucket // all of these by the name in the store, part of the format
}

// newState returns an empty state that lies over base; base may be nil.
func newState(base *state) *state {
	if base == nil {
		base = &state{}
	}
	b := map[string]bucket{}
	return &state{
		things:        add(b, "things", newTable(base.things, "thing", "Thing")),
		types:         add(b, "thing-types", newTable(base.types, "thingtype", "Thing type")),
		groups:        add(b, "thing-groups", newTable(base.groups, "thinggroup", "Thing group")),
		certificates:  add(b, "certificates", newTable(base.certificates, "cert", "Certificate id")),
		authorities:   add(b, "ca-certificates", newTable(base.authorities, "cacert", "CA certificate")),
		codes:         add(b, "registration-code", newTable(base.codes, "", "Registration code")),
		providers:     add(b, "certificate-providers", newTable(base.providers, "certificateprovider", "Certificate provider")),
		policies:      add(b, "policies", newTable(base.policies, "policy", "Policy")),
		billingGroups: add(b, "billing-groups", newTable(base.billingGroups, "billinggroup", "Billing group")),
		tags:          add(b, "tags", newTable(base.tags, "", "")),
		templates:     add(b, "templates", newTable(base.templates, "provisioningtemplate", "Provisioning template")),
		roleAliases:   add(b, "role-aliases", newTable(base.roleAliases, "rolealias", "Role alias")),
		ownerships:    add(b, "ownerships", newTable(base.ownerships, "", "")),
		claims:        add(b, "claims", newTable(base.claims, "", "")),

		eventConfigurations: add(b, "event-configurations", newTable(base.eventConfigurations, "", "")),

		thingGroups:   add(b, "things-in-groups", newRelation(base.thingGroups)),
		thingCerts:    add(b, "thing-certificates", newRelation(base.thingCerts)),
		policyTargets: add(b, "policy-targets", newRelation(base.policyTargets)),
		buckets:       b,
	}
}

func add[B bucket](all map[string]bucket, name string, b B) B {
	all[name] = b
	return b
}

// A bucket is a table or relation as the store sees it.
type bucket interface {
	// size counts the rows.
	size() int
	// changes returns the encoded rows; a nil value is a deletion.
	changes() (map[string][]byte, error)
	// load reads one row from the store.
	load(key string, value []byte) error
	// merge moves the changes of over, which lies over the bucket, into it.
	merge(over bucket)
}

// A table holds the records of one kind by their key. A table may lie over
// another one: then its rows are changes, a nil row a deletion. Reading sees
// both. Records are never changed in place, only replaced.
type table[V any] struct {
	kind, what string // of a record, as in its ARN and in a sentence
	base       *table[V]
	rows       map[string]*V
}

func newTable[V any](base *table[V], kind, what string) *table[V] {
	return &table[V]{kind, what, base, map[string]*V{}}
}

func (t *table[V]) get(key string) (v V, ok bool) {
	for ; t != nil; t = t.base {
		if row, found := t.rows[key]; found {
			if row == nil {
				return v, false
			}
			return *row, true
		}
	}
	return v, false
}

func (t *table[V]) has(key string) bool {
	_, ok := t.get(key)
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

// differs rejects the creation of a record that is there with other properties.
func (t *table[V]) differs(key string) error {
	return rejectFor(t.kind+"/"+key, CodeAlreadyExists, "%s %s already exists with different properties.", t.what, key)
}

func (t *table[V]) put(key string, v V) { t.rows[key] = &v }

func (t *table[V]) remove(key string) {
	delete(t.rows, key)
	if t.base.has(key) {
		t.rows[key] = nil
	}
}

// keys returns the keys of all records, sorted.
func (t *table[V]) keys() []string {
	if t.base == nil {
		return slices.Sorted(maps.Keys(t.rows))
	}
	keys := slices.DeleteFunc(t.base.keys(), func(k string) bool { _, changed := t.rows[k]; return changed })
	for k, row := range t.rows {
		if row != nil {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// all returns the records in the order of their keys.
func (t *table[V]) all() []V {
	keys := t.keys()
	out := make([]V, len(keys))
	for i, k := range keys {
		out[i], _ = t.get(k)
	}
	return out
}

func (t *table[V]) size() int { return len(t.rows) }

func (t *table[V]) merge(over bucket) {
	for k, row := range over.(*table[V]).rows {
		if row == nil {
			delete(t.rows, k)
		} else {
			t.rows[k] = row
		}
	}
}

func (t *table[V]) changes() (map[string][]byte, error) {
	out := make(map[string][]byte, len(t.rows))
	for key, row := range t.rows {
		if row == nil {
			out[key] = nil
			continue
		}
		value, err := json.Marshal(row)
		if err != nil {
			return nil, err
		}
		out[key] = value
	}
	return out, nil
}

func (t *table[V]) load(key string, value []byte) error {
	v := new(V)
	t.rows[key] = v
	return json.Unmarshal(value, v)
}

// A relation holds pairs of keys, each with a value, and finds them from both
// sides. Like a table it may lie over another one.
type relation[V any] struct {
	pairs  *table[V]
	base   *relation[V]
	rights map[string]map[string]bool // left key to right keys touched here
	lefts  map[string]map[string]bool // right key to left keys touched here
}

// separator parts the two keys of a pair; no name may hold it.
const separator = "\x00"

func newRelation[V any](base *relation[V]) *relation[V] {
	var pairs *table[V]
	if base != nil {
		pairs = base.pairs
	}
	return &relation[V]{newTable(pairs, "", ""), base, map[string]map[string]bool{}, map[string]map[string]bool{}}
}

func (r *relation[V]) get(left, right string) (V, bool) { return r.pairs.get(left + separator + right) }

func (r *relation[V]) has(left, right string) bool { return r.pairs.has(left + separator + right) }

func (r *relation[V]) put(left, right string, v V) {
	r.pairs.put(left+separator+right, v)
	r.index(left, right)
}

func (r *relation[V]) index(left, right string) {
	link(r.rights, left, right)
	link(r.lefts, right, left)
}

// remove keeps the pair in the index of a relation that lies over another one:
// it is touched here.
func (r *relation[V]) remove(left, right string) {
	r.pairs.remove(left + separator + right)
	if r.base == nil {
		unlink(r.rights, left, right)
		unlink(r.lefts, right, left)
	}
}

func link(m map[string]map[string]bool, from, to string) {
	if m[from] == nil {
		m[from] = map[string]bool{}
	}
	m[from][to] = true
}

func unlink(m map[string]map[string]bool, from, to string) {
	delete(m[from], to)
	if len(m[from]) == 0 {
		delete(m, from)
	}
}

// rightsOf returns the right keys paired with left, sorted.
func (r *relation[V]) rightsOf(left string) []string {
	set := map[string]bool{}
	for l := r; l != nil; l = l.base {
		maps.Copy(set, l.rights[left])
	}
	maps.DeleteFunc(set, func(right string, _ bool) bool { return !r.has(left, right) })
	return slices.Sorted(maps.Keys(set))
}

// leftsOf returns the left keys paired with right, sorted.
func (r *relation[V]) leftsOf(right string) []string {
	set := map[string]bool{}
	for l := r; l != nil; l = l.base {
		maps.Copy(set, l.lefts[right])
	}
	maps.DeleteFunc(set, func(left string, _ bool) bool { return !r.has(left, right) })
	return slices.Sorted(maps.Keys(set))
}

func (r *relation[V]) size() int { return r.pairs.size() }

func (r *relation[V]) changes() (map[string][]byte, error) { return r.pairs.changes() }

func (r *relation[V]) merge(over bucket) {
	for key, row := range over.(*relation[V]).pairs.rows {
		left, right, _ := strings.Cut(key, separator)
		if row == nil {
			r.remove(left, right)
		} else {
			r.put(left, right, *row)
		}
	}
}

func (r *relation[V]) load(key string, value []byte) error {
	left, right, ok := strings.Cut(key, separator)
	if !ok {
		return errors.New("not a pair")
	}
	r.index(left, right)
	return r.pairs.load(key, value)
}

// openStore opens the file and reads all of it into s. Its errors leave the path
// to the caller.
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
	for name, part := range s.buckets {
		b, err := tx.CreateBucketIfNotExists([]byte(name))
		if err != nil {
			return err
		}
		err = b.ForEach(func(k, v []byte) error {
			if err := part.load(string(k), v); err != nil {
				return fmt.Errorf("record %q of %s: %w", k, name, err)
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
		for name, part := range s.buckets {
			rows, err := part.changes()
			if err != nil {
				return err
			}
			b := tx.Bucket([]byte(name))
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
