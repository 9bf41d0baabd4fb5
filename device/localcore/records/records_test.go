package records_test

import (
	"errors"
	"maps"
	"path/filepath"
	"testing"

	"example.com/fleety/device/localcore/records"
)

func open(t *testing.T, path string) *records.File {
	t.Helper()
	f, err := records.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func all(t *testing.T, s records.Store) map[string]string {
	t.Helper()
	out := map[string]string{}
	if err := s.Each(func(key string, value []byte) error { out[key] = string(value); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRecordsOutliveTheProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "services.db")
	f := open(t, path)
	for _, changes := range []map[string][]byte{{"a": []byte("1"), "b": []byte("2")}, {"a": nil, "c": []byte("3"), "none": nil}} {
		if err := f.Bucket("jobs").Save(changes); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, path)
	if got, want := all(t, f.Bucket("jobs")), map[string]string{"b": "2", "c": "3"}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := all(t, f.Bucket("rules")); len(got) != 0 {
		t.Errorf("another bucket has %v", got)
	}
	failed := errors.New("failed")
	if err := f.Bucket("jobs").Each(func(string, []byte) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
}

func TestChangesOfSeveralBucketsAreSavedTogetherOrNot(t *testing.T) {
	t.Parallel()
	f := open(t, filepath.Join(t.TempDir(), "services.db"))
	err := f.Save(map[string]map[string][]byte{"jobs": {"a": []byte("1")}, "rules": {"": []byte("a record needs a key")}})
	if err == nil {
		t.Fatal("a record without a key was saved")
	}
	if got := all(t, f.Bucket("jobs")); len(got) != 0 {
		t.Errorf("half of the changes was saved: %v", got)
	}
}

func TestNoFileKeepsNothing(t *testing.T) {
	t.Parallel()
	s := open(t, "").Bucket("jobs")
	if err := s.Save(map[string][]byte{"a": []byte("1")}); err != nil {
		t.Fatal(err)
	}
	if got := all(t, s); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

func TestFileOfAnotherProcessIsLocked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "services.db")
	open(t, path)
	if _, err := records.Open(path); !errors.Is(err, records.ErrLocked) {
		t.Errorf("got %v", err)
	}
}
