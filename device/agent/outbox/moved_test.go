package outbox_test

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"example.com/fleety/device/agent/outbox"
)

// A message that is stored is in the file that the next process opens, also where the file was
// removed, its directory replaced, or another file system mounted there.
func TestMessagesAreStoredWhereTheNextProcessFindsThem(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file cannot be moved")
	}
	for name, there := range map[string][]string{"nothing there": nil, "another outbox there": {"a", "b", "c"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "state")
			c := outbox.Config{Path: filepath.Join(dir, "outbox.db")}
			o := outbox.New(c)
			put(t, o, "1", "2", "3", "4")
			batch, err := o.Next(time.Now(), 2, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(dir, dir+".moved"); err != nil {
				t.Fatal(err)
			}
			if there != nil {
				other := outbox.New(c)
				put(t, other, there...)
				other.Close()
			}
			if err := o.Put("5", nil); err == nil {
				t.Error("a message is stored in a file that nobody finds")
			}
			if err := o.Acknowledge(batch[1]); err != nil {
				t.Fatal(err)
			}
			if got := next(t, o); !slices.Equal(got, []string{"3", "4"}) {
				t.Errorf("of the file that was moved: %v", got)
			}
			batch, _ = o.Next(time.Now(), 2, 1<<20)
			if err := o.Acknowledge(batch[1]); err != nil {
				t.Fatal(err)
			}
			put(t, o, "6")
			want := append(slices.Clone(there), "6")
			if got := next(t, o); !slices.Equal(got, want) {
				t.Errorf("then: %v, want %v", got, want)
			}
			o.Close()
			if got := next(t, open(t, c)); !slices.Equal(got, want) {
				t.Errorf("in the next process: %v, want %v", got, want)
			}
		})
	}
}

// A file that turns out to be damaged after it was moved is not what is at its path.
func TestDamagedFileThatWasMovedLeavesTheOneInItsPlace(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file cannot be moved")
	}
	dir := filepath.Join(t.TempDir(), "state")
	c := outbox.Config{Path: filepath.Join(dir, "outbox.db")}
	o := outbox.New(c)
	put(t, o, "1")
	if err := os.Rename(dir, dir+".moved"); err != nil {
		t.Fatal(err)
	}
	other := outbox.New(c)
	put(t, other, "a")
	other.Close()
	if err := os.Truncate(filepath.Join(dir+".moved", "outbox.db"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Next(time.Now(), 1, 1); err == nil {
		t.Error("a file without its pages is read")
	}
	if got := next(t, o); !slices.Equal(got, []string{"a"}) {
		t.Errorf("%v", got)
	}
	if kept, _ := filepath.Glob(c.Path + ".damaged-*"); kept != nil {
		t.Errorf("renamed: %v", kept)
	}
}
