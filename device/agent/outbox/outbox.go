// Package outbox is a durable queue of MQTT messages in one file. A message is on stable storage
// when [Outbox.Put] returns, and stays until it is acknowledged; producers that put at the same
// time share one sync. Messages leave in the order in which they were put.
//
// The file is a bbolt database: a crash or a power cut at any instant leaves the last commit. A
// file that is damaged nevertheless is renamed, never deleted. The outbox knows nothing of
// connections.
package outbox

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"example.com/fleety/device/internal/osfile"
)

// Defaults of [Config].
const (
	DefaultMaxBytes = 64 << 20
	DefaultMaxAge   = 168 * time.Hour
)

// maxSetAside bounds the messages that are kept for inspection.
const maxSetAside = 100

// perMessage is what a message costs beyond its topic and payload, in bytes.
const perMessage = 32

// clockWasSet separates the times of a clock from those of a device that has not set its own since
// it was switched on.
var clockWasSet = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

var (
	queued   = []byte("messages")
	setAside = []byte("setAside")
)

var errDamaged = errors.New("the file is damaged")

// ErrClosed is returned by [Outbox.Put] after [Outbox.Close].
var ErrClosed = errors.New("outbox is closed")

// Config says where the outbox is and what it may hold. Path is required.
type Config struct {
	Path     string        // of the file; its directory is made if it is missing
	MaxBytes int64         // of topics and payloads; the oldest messages give way; 0 means [DefaultMaxBytes]
	MaxAge   time.Duration // after which a message is dropped; 0 means [DefaultMaxAge]
	// Accept reports whether a topic can be the device's own; nil accepts all. Where it accepts none
	// of the messages of a file, that is another device's, and renamed.
	Accept func(topic string) bool
	Log    *slog.Logger // nil discards
}

// A Message is one that was put and is not acknowledged.
type Message struct {
	Sequence uint64 // grows in the order of the outbox
	Stored   time.Time
	Topic    string
	Payload  []byte
}

// Stats are the present state of the outbox, and counts since it was opened, which are not in its
// JSON.
type Stats struct {
	Messages int       `json:"messages"`        // queued now
	Bytes    int64     `json:"bytes"`           // of their topics and payloads, and a little for each
	Oldest   time.Time `json:"oldest,omitzero"` // when the first of them was put; zero if there is none
	SetAside uint64    `json:"setAside"`        // kept for inspection now, because they ended the connection

	Stored       uint64 `json:"-"` // put
	Acknowledged uint64 `json:"-"`
	DroppedBytes uint64 `json:"-"` // because of MaxBytes
	DroppedAge   uint64 `json:"-"` // because of MaxAge
	Syncs        uint64 `json:"-"` // commits to stable storage
}

// An Outbox may be used concurrently, but [Outbox.Next], [Outbox.Acknowledge] and [Outbox.SetAside]
// by one consumer only. Where the file cannot be opened, every call tries again, so that a disk may
// recover.
type Outbox struct {
	config Config
	puts   chan *put
	ready  chan struct{}
	done   chan struct{}  // closed by Close
	runs   sync.WaitGroup // commitAll, until done

	stats atomic.Pointer[Stats] // changed under mu; who reads it does not wait for the disk

	mu   sync.Mutex
	db   *bolt.DB
	file os.FileInfo // of db
	// cursor is the last message that the consumer is done with. It may be ahead of the file, which
	// cannot be changed on a full or read-only disk.
	cursor uint64
	last   uint64 // the last message of this file and those before it
	// opened is when the first file was opened, in which inherited was the last message.
	opened    time.Time
	inherited uint64
}

// A put waits for its commit.
type put struct {
	topic   string
	payload []byte
	result  chan error
}

// New returns the outbox that c describes, to be closed. It opens the file, if that is possible
// now.
func New(c Config) *Outbox {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	o := &Outbox{config: c, puts: make(chan *put), ready: make(chan struct{}, 1), done: make(chan struct{})}
	o.stats.Store(&Stats{})
	o.SetBounds(c.MaxBytes, c.MaxAge)
	o.mu.Lock()
	if err := o.open(); err != nil {
		c.Log.Error("the outbox cannot be opened; messages are not accepted", "error", err)
	}
	o.mu.Unlock()
	o.runs.Go(o.commitAll)
	return o
}

// SetBounds replaces those of the [Config]. They count from the next message on.
func (o *Outbox) SetBounds(bytes int64, age time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.config.MaxBytes, o.config.MaxAge = cmp.Or(bytes, DefaultMaxBytes), cmp.Or(age, DefaultMaxAge)
}

// Close ends the outbox. Messages stay in the file.
func (o *Outbox) Close() error {
	close(o.done)
	o.runs.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.db == nil {
		return nil
	}
	return o.db.Close()
}

// open opens the file and counts what is in it. The caller holds mu.
func (o *Outbox) open() error {
	if o.db != nil {
		return nil
	}
	err := o.guard(o.openFile)
	if errors.Is(err, errDamaged) {
		err = o.guard(o.openFile)
	}
	if err != nil {
		return fmt.Errorf("opening the outbox: %w", err)
	}
	o.signal()
	return nil
}

// moved reports whether the file that is open is not at its path any more: its directory may have
// been replaced, or another file system mounted there, and no later process would find what is
// stored in it.
func (o *Outbox) moved() bool {
	return o.db != nil && errors.Is(osfile.InPlace(o.config.Path, o.file), syscall.ESTALE)
}

// follow leaves a file that was moved, once its messages are acknowledged, for the one in its place.
// No message is at the consumer then. The caller holds mu.
func (o *Outbox) follow() {
	if o.Stats().Messages == 0 && o.moved() {
		o.config.Log.Warn("the file of the outbox was removed or replaced; opening the one in its place", "path", o.config.Path)
		o.db.Close()
		o.db, o.cursor, o.last, o.opened = nil, 0, 0, time.Time{}
	}
}

// guard runs work on the file. bbolt checks pages only as it uses them, and panics. A damaged file is
// renamed, never deleted, and open begins a new one. The caller holds mu.
func (o *Outbox) guard(work func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a file that is shorter than its pages say
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
		if !errors.Is(err, errDamaged) {
			return
		}
		moved := o.moved()
		if o.db != nil {
			go o.db.Close() // which may wait for a transaction that could not be rolled back
			o.db = nil
		}
		if moved { // what is at its path is another file
			o.config.Log.Error("the outbox was damaged, and its file removed or replaced; the messages in it were not sent", "error", err)
			return
		}
		aside, renameErr := osfile.SetAside(o.config.Path)
		if renameErr != nil {
			err = fmt.Errorf("renaming the damaged outbox: %w", renameErr)
			return
		}
		o.config.Log.Error("the outbox was damaged and a new one begun; the messages of the old one were not sent", "kept", aside, "error", err)
	}()
	return work()
}

// openFile opens the file and reads all of it.
func (o *Outbox) openFile() (err error) {
	path := o.config.Path
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// With NoFreelistSync it would panic on a goroutine of its own.
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType})
	if err != nil {
		info, statErr := os.Stat(path)
		if _, system := errors.AsType[syscall.Errno](err); !system && !errors.Is(err, berrors.ErrTimeout) && statErr == nil && info.Size() > 0 {
			err = fmt.Errorf("%w: %w", errDamaged, err)
		}
		return err
	}
	o.db = db
	defer func() {
		if err != nil {
			db.Close()
			o.db = nil
		}
	}()
	if err := osfile.SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	next := o.Stats()
	next.Messages, next.Bytes, next.Oldest, next.SetAside = 0, 0, time.Time{}, 0
	own := o.config.Accept == nil // or there is a message that can be this device's
	err = db.Update(func(tx *bolt.Tx) error {
		if o.file, err = os.Stat(path); err != nil || o.file.Size() < tx.Size() {
			return fmt.Errorf("%w: it has not the %d bytes that it should have", errDamaged, tx.Size())
		}
		read := func(bucket []byte, each func(Message)) error {
			b, err := tx.CreateBucketIfNotExists(bucket)
			if err != nil {
				return err
			}
			var before []byte
			return b.ForEach(func(k, v []byte) error {
				m, err := decode(k, v)
				if bytes.Compare(k, before) <= 0 {
					err = fmt.Errorf("%w: its messages are not in order", errDamaged)
				}
				before = k
				each(m)
				return err
			})
		}
		if err := read(setAside, func(Message) { next.SetAside++ }); err != nil {
			return err
		}
		err := read(queued, func(m Message) {
			if next.Messages == 0 {
				next.Oldest = m.Stored
			}
			next.Messages++
			next.Bytes += m.size()
			own = own || o.config.Accept(m.Topic)
			o.last = max(o.last, m.Sequence)
		})
		if err != nil {
			return err
		}
		if next.Messages > 0 && !own {
			return fmt.Errorf("%w: its messages are another device's", errDamaged)
		}
		b := tx.Bucket(queued)
		o.last = max(o.last, b.Sequence())
		return b.SetSequence(o.last) // of a new file: what the consumer has of the old one stays apart
	})
	if err != nil {
		return err
	}
	if o.stats.Store(&next); o.opened.IsZero() {
		o.opened, o.inherited = time.Now(), o.last
	}
	return nil
}

// Put stores a message and returns when it is on stable storage. An error means that it may not be,
// mostly because the disk is full or cannot be written.
func (o *Outbox) Put(topic string, payload []byte) error {
	p := &put{topic, payload, make(chan error, 1)}
	select {
	case o.puts <- p:
		return <-p.result
	case <-o.done:
		return ErrClosed
	}
}

// commitAll stores messages until Close. Those that come during a sync share the next one.
func (o *Outbox) commitAll() {
	for {
		var group []*put
		select {
		case p := <-o.puts:
			group = append(group, p)
		case <-o.done:
			return
		}
	more:
		for size := 0; len(group) < 256 && size < 1<<20; {
			select {
			case p := <-o.puts:
				group = append(group, p)
				size += len(p.payload)
			default:
				break more
			}
		}
		err := o.commit(group)
		if errors.Is(err, errDamaged) {
			err = o.commit(group) // in a new file
		}
		for _, p := range group {
			p.result <- err
		}
	}
}

func (o *Outbox) commit(group []*put) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.follow()
	if err := o.open(); err != nil {
		return err
	}
	if o.moved() {
		return fmt.Errorf("storing in the outbox: its file %s was removed or replaced; the messages in the old one are sent first", o.config.Path)
	}
	now := time.Now()
	err := o.update(func(tx *bolt.Tx, next *Stats) error {
		b := tx.Bucket(queued)
		b.FillPercent = 0.95 // messages come at the end
		for _, p := range group {
			sequence, err := b.NextSequence()
			if err != nil {
				return err
			}
			o.last = sequence
			m := Message{Sequence: sequence, Stored: now, Topic: p.topic, Payload: p.payload}
			if err := b.Put(m.encode()); err != nil {
				return err
			}
			if next.Messages == 0 {
				next.Oldest = now
			}
			next.Messages++
			next.Stored++
			next.Bytes += m.size()
		}
		return o.dropOldest(b, time.Time{}, next) // without a connection nothing says that the clock is right
	})
	o.signal()
	if err != nil {
		return fmt.Errorf("storing in the outbox: %w", err)
	}
	return nil
}

// update changes the file and the counts. Where the last sync fails, the change is in the file for
// this process, though perhaps not for the next: it counts, and is an error. The caller holds mu.
func (o *Outbox) update(change func(*bolt.Tx, *Stats) error) error {
	next := o.Stats()
	next.Syncs++
	return o.guard(func() error {
		var id int
		err := o.db.Update(func(tx *bolt.Tx) error {
			id = tx.ID()
			return change(tx, &next)
		})
		inFile := err == nil
		if err != nil {
			_ = o.db.View(func(tx *bolt.Tx) error { inFile = tx.ID() == id; return nil })
		}
		if inFile {
			o.stats.Store(&next)
		}
		return err
	})
}

// expired reports whether a message is too old. One of this process is not older than that: what was
// stored before the clock was set seems to be.
func (o *Outbox) expired(m *Message, now time.Time) bool {
	return m.Stored.After(clockWasSet) && now.Sub(m.Stored) > o.config.MaxAge &&
		(m.Sequence <= o.inherited || now.Sub(o.opened) > o.config.MaxAge)
}

// dropOldest drops messages that are too many, or too old at a time that is not zero.
func (o *Outbox) dropOldest(b *bolt.Bucket, now time.Time, stats *Stats) error {
	return removeOldest(b, stats, func(m *Message) *uint64 {
		switch {
		case m.Sequence <= o.cursor: // it could not be removed when it was acknowledged
			return &stats.Acknowledged
		case stats.Bytes > o.config.MaxBytes:
			return &stats.DroppedBytes
		case o.expired(m, now):
			return &stats.DroppedAge
		}
		return nil
	})
}

// removeOldest removes the first messages, and counts each where count says, up to one for which
// that is nil.
func removeOldest(b *bolt.Bucket, stats *Stats, count func(*Message) *uint64) error {
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.First() {
		m, err := decode(k, v)
		if err != nil {
			return err
		}
		counter := count(&m)
		if counter == nil {
			stats.Oldest = m.Stored
			return nil
		}
		if err := c.Delete(); err != nil {
			return err
		}
		*counter++
		stats.Messages--
		stats.Bytes -= m.size()
	}
	stats.Oldest = time.Time{}
	return nil
}

// Ready receives a value when there may be messages again.
func (o *Outbox) Ready() <-chan struct{} { return o.ready }

func (o *Outbox) signal() {
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// Next returns the oldest messages that the consumer is not done with: at most count, and at most
// bytes of payload unless the first one has more. It drops those that are too old at the time now,
// which must be of a clock that is known to be right, and those that could not be removed before.
func (o *Outbox) Next(now time.Time, count, bytes int) (messages []Message, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.follow()
	for dropped := false; ; dropped = true {
		if err := o.open(); err != nil {
			return nil, err
		}
		left := bytes
		messages = nil
		err = o.guard(func() error {
			return o.db.View(func(tx *bolt.Tx) error {
				c := tx.Bucket(queued).Cursor()
				for k, v := c.Seek(key(o.cursor + 1)); k != nil && len(messages) < count; k, v = c.Next() {
					m, err := decode(k, v)
					if err != nil {
						return err
					}
					if left -= len(m.Payload); left < 0 && len(messages) > 0 {
						return nil
					}
					messages = append(messages, m)
				}
				return nil
			})
		})
		removable := len(messages) == 0 && o.Stats().Messages > 0 || len(messages) > 0 && o.expired(&messages[0], now)
		if err != nil || dropped || !removable {
			return messages, err
		}
		// What cannot be removed now is removed later.
		_ = o.update(func(tx *bolt.Tx, next *Stats) error { return o.dropOldest(tx.Bucket(queued), now, next) })
	}
}

// Acknowledge removes the messages up to that one. After an error they do not come again, unless
// the outbox is opened anew.
func (o *Outbox) Acknowledge(last Message) error { return o.finish(last, false) }

// SetAside removes a message, which must be the first, and keeps it in the file for inspection,
// beside the 99 before it. After an error the message comes again, unless it was dropped meanwhile.
func (o *Outbox) SetAside(m Message) error { return o.finish(m, true) }

func (o *Outbox) finish(last Message, aside bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !aside {
		o.cursor = last.Sequence
	}
	if err := o.open(); err != nil {
		return err
	}
	err := o.update(func(tx *bolt.Tx, next *Stats) error {
		err := removeOldest(tx.Bucket(queued), next, func(m *Message) *uint64 {
			switch {
			case m.Sequence > last.Sequence:
				return nil
			case aside && m.Sequence == last.Sequence:
				return &next.SetAside
			}
			return &next.Acknowledged
		})
		if err != nil || !aside {
			return err
		}
		if next.SetAside == o.Stats().SetAside {
			return errors.New("the message was dropped meanwhile")
		}
		kept := tx.Bucket(setAside)
		if c := kept.Cursor(); next.SetAside > maxSetAside {
			c.First()
			if err := c.Delete(); err != nil {
				return err
			}
			next.SetAside--
		}
		return kept.Put(last.encode())
	})
	if err != nil {
		return fmt.Errorf("removing from the outbox: %w", err)
	}
	return nil
}

// Stats returns the present counts, also while a disk is slow.
func (o *Outbox) Stats() Stats { return *o.stats.Load() }

func (m *Message) size() int64 { return int64(len(m.Topic) + len(m.Payload) + perMessage) }

func key(sequence uint64) []byte { return binary.BigEndian.AppendUint64(nil, sequence) }

// encode returns a message as key and value: when it was put, its topic, a zero byte, which no
// topic has, and its payload.
func (m *Message) encode() (k, v []byte) {
	v = binary.BigEndian.AppendUint64(nil, uint64(m.Stored.UnixMilli()))
	v = append(append(append(v, m.Topic...), 0), m.Payload...)
	return key(m.Sequence), v
}

func decode(k, v []byte) (Message, error) {
	if len(k) != 8 || len(v) < 9 {
		return Message{}, fmt.Errorf("%w: a message without its time", errDamaged)
	}
	topic, payload, ok := bytes.Cut(v[8:], []byte{0})
	if !ok {
		return Message{}, fmt.Errorf("%w: a message without its topic", errDamaged)
	}
	return Message{
		Sequence: binary.BigEndian.Uint64(k),
		Stored:   time.UnixMilli(int64(binary.BigEndian.Uint64(v))),
		Topic:    string(topic),
		Payload:  bytes.Clone(payload),
	}, nil
}
