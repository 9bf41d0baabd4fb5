package outbox

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// What the system cannot do now, such as to map or to lock the file, is no damage of it.
func TestFileThatTheSystemCannotMapStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	o := New(Config{Path: path})
	if err := o.Put("a", nil); err != nil {
		t.Fatal(err)
	}
	o.Close()
	if err := os.Truncate(path, 4<<30); err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_AS, &limit); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Setrlimit(syscall.RLIMIT_AS, &limit) })
	var pages uint64
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Sscan(string(statm), &pages)
	lower := limit
	lower.Cur = pages*uint64(os.Getpagesize()) + 1<<30
	if err := syscall.Setrlimit(syscall.RLIMIT_AS, &lower); err != nil {
		t.Fatal(err)
	}
	o = New(Config{Path: path})
	defer o.Close()
	if err := o.Put("b", nil); err == nil {
		t.Error("stored")
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_AS, &limit); err != nil {
		t.Fatal(err)
	}
	if messages, err := o.Next(time.Now(), 9, 9); len(messages) != 1 || err != nil {
		t.Errorf("%v, %v", messages, err)
	}
}
