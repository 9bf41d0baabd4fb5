// Package registry is the registry of AWS IoT Core: things, thing types, thing
// groups, certificates, policies, provisioning templates, and what is attached
// to what. Its operations carry AWS's names, limits, idempotency and errors.
//
// It reads from memory. Opened with a path it is durable too: each mutation is one transaction of a
// bbolt file, and either happens whole or not at all, in the file and in memory.
//
// It has names and certificate ids, but no account and no Region: ARNs are made
// by those who show them. Likewise it stores policies and templates
// without reading them; Options says who checks them.
//
// AWS pages: https://docs.aws.amazon.com/iot/latest/developerguide/thing-registry.html
// and https://docs.aws.amazon.com/iot/latest/apireference/.
package registry

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/fleety/device/localcore/records"
)

// Options are what a registry leaves to others. The zero value works.
type Options struct {
	Now func() time.Time // the clock; nil means time.Now
	// CheckPolicy checks a policy document; what it returns becomes the text
	// of a MalformedPolicyException. Nil means that any text will do.
	CheckPolicy func(document []byte) error
	// CheckTemplate checks the body of a provisioning template; what it returns becomes the text of
	// an InvalidRequestException. Nil means that any text will do.
	CheckTemplate func(body []byte) error
	// ClaimPolicy returns the policy document of a provisioning claim for the
	// template, see [Registry.CreateClaimCertificate]. Nil means none.
	ClaimPolicy func(template string) string
	// CreateMissing has Provision create the thing type, the thing groups and the
	// billing group that it names and that do not exist.
	CreateMissing bool
	// Changed is called after each mutation, before the mutating method returns and without any lock
	// held, with the events that are to be published, and with the certificates whose status it has
	// changed, or that it deleted. Mutations made at the same time may arrive in either order: see
	// [Registry.CertificateByID] where that matters. Nil means that nobody waits for it.
	Changed func([]Event, []Change)
	// Account and ARN, which returns the full name of a resource such as
	// "thing/NAME", are for events. Nil returns the resource.
	Account string
	ARN     func(resource string) string
}

// A Registry holds the records. It is safe for concurrent use. Records that it
// returns belong to the caller. What it rejects gives an [*Error]; any other error
// of a mutation is of the file, and then nothing of it has happened.
type Registry struct {
	options   Options
	committed atomic.Pointer[state] // never changed, only replaced

	writing sync.Mutex    // held by the one mutation under way, its write to the file included
	file    *records.File // nil when memory only
}

// Open returns the registry that is stored in the file at path, which it makes
// where there is none. An empty path means memory only. A file that another
// process holds open gives [records.ErrLocked]. Errors do not repeat the path.
func Open(path string, o Options) (_ *Registry, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ARN == nil {
		o.ARN = func(resource string) string { return resource }
	}
	r := &Registry{options: o}
	first := new(state).next()
	r.committed.Store(first)
	if r.file, err = records.Open(path); err != nil {
		return nil, err
	}
	if err = first.load(r.file); err == nil {
		err = r.update(func(tx *transaction) error {
			for _, resource := range tx.tags.keys() {
				if strings.HasPrefix(resource, "tunnel/") { // which ended with the process that opened it
					tx.tags.remove(resource)
				}
			}
			return nil
		})
	}
	if err != nil {
		r.file.Close()
		return nil, err
	}
	return r, nil
}

// Close releases the file. Reading goes on to work; with a file, mutations fail.
func (r *Registry) Close() error { return r.file.Close() }

// state returns the committed state.
func (r *Registry) state() *state { return r.committed.Load() }

// Generation returns a number that grows with every mutation. While it stays
// the same, so does every answer of the registry; callers may cache by it.
func (r *Registry) Generation() uint64 { return r.state().generation }

// A Change reports that a certificate's status has changed or that it is gone.
type Change struct {
	CertificateID string
	Status        CertificateStatus // the new status, empty for a deleted certificate
}

// A transaction is one mutation under way: the state as it will be, and the
// time at which all of it happens.
type transaction struct {
	*state
	before  *state
	options *Options
	now     time.Time
	changes []Change
}

// update runs f on a copy of the committed state and, if f does not fail, commits
// it: to the file first, then to memory.
func (r *Registry) update(f func(*transaction) error) error {
	tx, err := r.commit(f)
	if tx != nil && r.options.Changed != nil {
		r.options.Changed(tx.events(), tx.changes)
	}
	return err
}

// commit returns nil for a transaction that failed, or changed nothing.
func (r *Registry) commit(f func(*transaction) error) (*transaction, error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	before := r.state()
	tx := &transaction{state: before.next(), before: before, options: &r.options, now: r.options.Now().UTC()}
	if err := f(tx); err != nil || !slices.ContainsFunc(tx.buckets, bucket.changed) {
		return nil, err
	}
	all := map[string]map[string][]byte{}
	for _, b := range tx.buckets {
		if r.file != nil && b.changed() {
			all[b.name()] = b.changes()
		}
	}
	if err := r.file.Save(all); err != nil {
		return nil, fmt.Errorf("writing the registry: %w", err)
	}
	r.committed.Store(tx.state)
	return tx, nil
}

// mutate is update for operations with a result, which counts without an error only.
func mutate[T any](r *Registry, f func(*transaction) (T, error)) (out T, err error) {
	err = r.update(func(tx *transaction) (err error) {
		out, err = f(tx)
		return err
	})
	return out, err
}

// edit replaces a record that must be there by what f makes of it. Each kind of record has one table.
func edit[V any](r *Registry, key string, f func(*transaction, *V) error) error {
	return r.update(func(tx *transaction) error {
		for _, b := range tx.buckets {
			if t, ok := b.(*table[V]); ok {
				return t.edit(key, func(v *V) error { return f(tx, v) })
			}
		}
		panic("no table of such records") // a defect of this program
	})
}

// remove deletes a record that must be there, and its tags.
func remove[V any](tx *transaction, t *table[V], key string) error {
	if err := t.check(key); err != nil {
		return err
	}
	t.remove(key)
	tx.tags.remove(t.kind + "/" + key)
	return nil
}
