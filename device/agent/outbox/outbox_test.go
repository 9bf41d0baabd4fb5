package outbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/fleety/device/agent/outbox"
)

func open(t *testing.T, c outbox.Config) *outbox.Outbox {
	t.Helper()
	if c.Path == "" {
		c.Path = filepath.Join(t.TempDir(), "outbox.db")
	}
	o := outbox.New(c)
	t.Cleanup(func() { o.Close() })
	return o
}

func put(t *testing.T, o *outbox.Outbox, topics ...string) {
	t.Helper()
	for _, topic := range topics {
		if err := o.Put(topic, []byte("payload of "+topic)); err != nil {
			t.Fatal(err)
		}
	}
}

// next returns the topics of all messages.
func next(t *testing.T, o *outbox.Outbox) (topics []string) {
	t.Helper()
	messages, err := o.Next(time.Now(), 1<<20, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if string(m.Payload) != "payload of "+m.Topic {
			t.Errorf("%s has payload %q", m.Topic, m.Payload)
		}
		topics = append(topics, m.Topic)
	}
	return topics
}

func TestMessagesLeaveInOrderAndSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	o := outbox.New(outbox.Config{Path: path})
	put(t, o, "a", "b", "c", "d")
	messages, err := o.Next(time.Now(), 2, 1<<20)
	if err != nil || len(messages) != 2 {
		t.Fatal(messages, err)
	}
	if err := o.Acknowledge(messages[0]); err != nil {
		t.Fatal(err)
	}
	if got := next(t, o); !slices.Equal(got, []string{"b", "c", "d"}) {
		t.Errorf("after the acknowledgement: %v", got)
	}
	o.Close()
	o = open(t, outbox.Config{Path: path})
	put(t, o, "e")
	if got := next(t, o); !slices.Equal(got, []string{"b", "c", "d", "e"}) {
		t.Errorf("after reopening: %v", got)
	}
	if s := o.Stats(); s.Messages != 4 || s.Bytes == 0 || s.Oldest.IsZero() {
		t.Errorf("stats: %+v", s)
	}
}

func TestNextIsBoundedByBytesButNeverEmpty(t *testing.T) {
	o := open(t, outbox.Config{})
	put(t, o, "a", "b", "c")
	for bytes, want := range map[int]int{1: 1, 12: 1, 24: 2, 1000: 3} {
		if messages, err := o.Next(time.Now(), 10, bytes); err != nil || len(messages) != want {
			t.Errorf("%d bytes: %d messages, %v; want %d", bytes, len(messages), err, want)
		}
	}
}

// Producers that put at the same time share a sync.
func TestConcurrentProducersShareCommits(t *testing.T) {
	o := open(t, outbox.Config{})
	const producers, each = 50, 20
	var working sync.WaitGroup
	for p := range producers {
		working.Go(func() {
			for i := range each {
				put(t, o, fmt.Sprintf("%d/%d", p, i))
			}
		})
	}
	working.Wait()
	last := map[string]int{}
	topics := next(t, o)
	for _, topic := range topics {
		producer, number, _ := strings.Cut(topic, "/")
		if number != fmt.Sprint(last[producer]) {
			t.Fatalf("producer %s: %s comes after %d messages", producer, number, last[producer])
		}
		last[producer]++
	}
	if s := o.Stats(); len(topics) != producers*each || s.Stored != producers*each || s.Syncs > producers*each/2 {
		t.Errorf("%d messages, %+v", len(topics), s)
	}
}

func TestOldestMessagesGiveWay(t *testing.T) {
	o := open(t, outbox.Config{MaxBytes: 1000})
	for i := range 100 {
		put(t, o, fmt.Sprintf("topic/%02d", i))
	}
	topics, s := next(t, o), o.Stats()
	if n := len(topics); n < 10 || topics[n-1] != "topic/99" || topics[0] != fmt.Sprintf("topic/%02d", 100-n) {
		t.Errorf("left: %v", topics)
	}
	if s.Bytes > 1000 || s.Messages != len(topics) || s.DroppedBytes != uint64(100-len(topics)) || s.DroppedAge != 0 {
		t.Errorf("stats: %+v", s)
	}
}

// A device whose clock was not set yet must not lose its messages when it is.
func TestMessagesExpireByAgeUnlessTheClockWasNotSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where it is the year 2000
		o := outbox.New(outbox.Config{Path: filepath.Join(t.TempDir(), "outbox.db"), MaxAge: time.Hour})
		defer o.Close()
		put(t, o, "before the clock was set")
		time.Sleep(27 * 365 * 24 * time.Hour)
		put(t, o, "old")
		time.Sleep(time.Hour + time.Second)
		put(t, o, "new")
		if got := next(t, o); !slices.Equal(got, []string{"before the clock was set", "old", "new"}) {
			t.Errorf("left: %v", got) // what is before them keeps the order
		}
		messages, _ := o.Next(time.Now(), 1, 1)
		if err := o.Acknowledge(messages[0]); err != nil {
			t.Fatal(err)
		}
		if got := next(t, o); !slices.Equal(got, []string{"new"}) {
			t.Errorf("left: %v", got)
		}
		if s := o.Stats(); s.DroppedAge != 1 || s.Messages != 1 {
			t.Errorf("stats: %+v", s)
		}
	})
}

// A clock that is far ahead, as one of a device without a battery may be when it starts, is set once
// the device is connected; until then it drops nothing that an earlier process has accepted.
func TestClockAheadDropsNothingWithoutAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(27 * 365 * 24 * time.Hour)
		c := outbox.Config{Path: filepath.Join(t.TempDir(), "outbox.db"), MaxAge: time.Hour}
		o := outbox.New(c)
		put(t, o, "stored")
		o.Close()
		time.Sleep(10 * 365 * 24 * time.Hour)
		o = outbox.New(c)
		defer o.Close()
		put(t, o, "later")
		if s := o.Stats(); s.DroppedAge != 0 || s.Messages != 2 {
			t.Errorf("stats: %+v", s)
		}
		if got := next(t, o); !slices.Equal(got, []string{"later"}) { // it is asked for once there is a connection
			t.Errorf("left: %v", got)
		}
	})
}

func TestSetAsideMessagesAreKeptAndBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	o := outbox.New(outbox.Config{Path: path})
	for i := range 105 {
		put(t, o, fmt.Sprint(i))
		messages, err := o.Next(time.Now(), 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.SetAside(messages[0]); err != nil {
			t.Fatal(err)
		}
	}
	if s := o.Stats(); s.SetAside != 100 || s.Messages != 0 || s.Acknowledged != 0 {
		t.Errorf("stats: %+v", s)
	}
	o.Close()
	if s := open(t, outbox.Config{Path: path}).Stats(); s.SetAside != 100 {
		t.Errorf("after reopening: %+v", s)
	}
}

// What the consumer is done with after it had to give way is counted once.
func TestDroppedMessagesAreNotSetAside(t *testing.T) {
	o := open(t, outbox.Config{MaxBytes: 100})
	put(t, o, "a")
	messages, err := o.Next(time.Now(), 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	put(t, o, "b", "c")
	if err := o.SetAside(messages[0]); err == nil {
		t.Error("set aside")
	}
	if s := o.Stats(); s.DroppedBytes != 1 || s.SetAside != 0 || s.Acknowledged != 0 || s.Messages != 2 {
		t.Errorf("stats: %+v", s)
	}
}

// Whatever happened to the file, it is kept, and the outbox works.
func TestDamagedFilesAreRenamed(t *testing.T) {
	fill := func(data []byte, from, to int) {
		for i := from; i < to; i++ {
			data[i] = 0xa5
		}
	}
	for name, damage := range map[string]func(whole []byte) []byte{
		"something else": func([]byte) []byte { return []byte(strings.Repeat("no database", 2000)) },
		"short":          func(whole []byte) []byte { return whole[:100] },
		"half":           func(whole []byte) []byte { return whole[:len(whole)/2] },
		"two pages":      func(whole []byte) []byte { return whole[:2*os.Getpagesize()] },
		"zeros":          func(whole []byte) []byte { return make([]byte, len(whole)) },
		"ids of pages, which are not read before a change": func(whole []byte) []byte {
			for page := 2 * os.Getpagesize(); page < len(whole); page += os.Getpagesize() {
				whole[page]++
			}
			return whole
		},
		"pages overwritten": func(whole []byte) []byte {
			fill(whole, 2*os.Getpagesize(), len(whole))
			return whole
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "outbox.db")
			o := outbox.New(outbox.Config{Path: path})
			for i := range 100 {
				put(t, o, fmt.Sprintf("topic/%d", i))
			}
			o.Close()
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damaged := damage(whole)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			o = open(t, outbox.Config{Path: path})
			put(t, o, "after")
			if got := next(t, o); !slices.Equal(got, []string{"after"}) {
				t.Errorf("%d messages", len(got))
			}
			kept, err := filepath.Glob(path + ".damaged-*")
			if err != nil || len(kept) != 1 {
				t.Fatal(kept, err)
			}
			if data, err := os.ReadFile(kept[0]); err != nil || string(data) != string(damaged) {
				t.Errorf("the file that was kept has %d bytes, %v", len(data), err)
			}
		})
	}
}

// Messages of another device, or of another thing name of this one, would be denied one by one.
func TestMessagesOfAnotherDeviceStayInTheirFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	for _, thing := range []string{"old", "new", "new"} {
		o := outbox.New(outbox.Config{Path: path, Accept: func(topic string) bool { return strings.HasPrefix(topic, thing) }})
		put(t, o, thing+"/topic")
		o.Close()
	}
	if got := next(t, open(t, outbox.Config{Path: path})); !slices.Equal(got, []string{"new/topic", "new/topic"}) {
		t.Errorf("left: %v", got)
	}
	kept, _ := filepath.Glob(path + ".*")
	if len(kept) != 1 {
		t.Fatalf("renamed: %v", kept)
	}
	if got := next(t, open(t, outbox.Config{Path: kept[0]})); !slices.Equal(got, []string{"old/topic"}) {
		t.Errorf("kept: %v", got)
	}
}

// What the consumer has of a file that turns out to be damaged says nothing of the one after it.
func TestAcknowledgementsOfADamagedFileRemoveNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	o := open(t, outbox.Config{Path: path})
	for range 3 {
		put(t, o, "old")
	}
	messages, err := o.Next(time.Now(), 3, 1)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for page := 2 * os.Getpagesize(); page < len(whole); page += os.Getpagesize() {
		whole[page]++
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, o, "new")
	if err := o.Acknowledge(messages[len(messages)-1]); err != nil {
		t.Fatal(err)
	}
	if got := next(t, o); !slices.Equal(got, []string{"new"}) {
		t.Errorf("left: %v", got)
	}
}

// An empty file is what a crash at the first start leaves.
func TestEmptyFileIsAnOutbox(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := open(t, outbox.Config{Path: path})
	put(t, o, "a")
	if kept, _ := filepath.Glob(path + ".*"); len(kept) > 0 {
		t.Errorf("renamed: %v", kept)
	}
}

// A place that cannot be written yet is tried again.
func TestOutboxRecoversWithItsDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // where the directory should be
		t.Fatal(err)
	}
	o := open(t, outbox.Config{Path: filepath.Join(dir, "outbox.db")})
	if err := o.Put("a", nil); err == nil {
		t.Fatal("stored nowhere")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	put(t, o, "b")
	if got := next(t, o); !slices.Equal(got, []string{"b"}) {
		t.Errorf("left: %v", got)
	}
}

// BenchmarkPut measures messages of 200 bytes that are put by many producers at once, and how often
// the disk is synced for them.
func BenchmarkPut(b *testing.B) {
	for _, producers := range []int{1, 16, 128} {
		b.Run(fmt.Sprint(producers), func(b *testing.B) {
			o := outbox.New(outbox.Config{Path: filepath.Join(b.TempDir(), "outbox.db")})
			defer o.Close()
			payload := make([]byte, 200)
			work := make(chan struct{})
			var working sync.WaitGroup
			for range producers {
				working.Go(func() {
					for range work {
						if err := o.Put("fleet/thing/up/telemetry", payload); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for b.Loop() {
				work <- struct{}{}
			}
			close(work)
			working.Wait()
			b.ReportMetric(float64(o.Stats().Syncs)/float64(b.N), "syncs/op")
		})
	}
}
