package osfile_test

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"example.com/fleety/device/internal/osfile"
)

func TestReplaceWritesTheContentAndKeepsTheMode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	for i, text := range []string{"a long text", "short", ""} {
		if err := osfile.Replace(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Fatalf("%q, %v", got, err)
		}
		want := os.FileMode(0o600)
		if i > 0 {
			want = 0o400
		}
		if info, err := os.Stat(path); runtime.GOOS != "windows" && (err != nil || info.Mode().Perm() != want) {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if err := os.Chmod(path, 0o400); err != nil && runtime.GOOS != "windows" {
			t.Fatal(err)
		}
	}
}

// What processes that were killed have left is removed, and nothing else.
func TestReplaceRemovesWhatWasAbandoned(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	create := func(name string, age time.Duration) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	create(".file."+rand.Text(), 2*time.Hour)
	create(".file."+rand.Text(), -14*365*24*time.Hour) // by a clock that was ahead
	keep := []string{".file." + rand.Text(), ".other." + rand.Text(), ".file.backup", "file"}
	for i, name := range keep {
		create(name, time.Duration(2*min(i, 1))*time.Hour)
	}
	if err := osfile.Replace(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(keep) {
		t.Errorf("%v, %v; want %v", entries, err, keep)
	}
	for _, name := range keep {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

// What cannot be written leaves the old content, and no second file.
func TestFailureLeavesTheOldFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := osfile.Replace(path, []byte("new"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if err := osfile.Replace(filepath.Join(dir, "none", "file"), nil, 0o600); !os.IsNotExist(err) {
		t.Errorf("no folder: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestQuotedTextIsOneWordOfAShell(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there is no sh")
	}
	for _, text := range []string{"", "a/b-c_1.pem", "a b", "it's", "$HOME", "`id`", `a\b`, `"`, "~", "#a", "a;b&c|d", "*", "=ls", "ü", "a\nb", "'"} {
		out, err := exec.Command("sh", "-c", "printf %s,%s "+osfile.Quote(text)+" end").Output()
		if string(out) != text+",end" || err != nil {
			t.Errorf("%q becomes %q, %v", text, out, err)
		}
	}
	if got := osfile.Quote("certs/a-1.pem"); got != "certs/a-1.pem" {
		t.Errorf("a plain path becomes %s", got)
	}
}
