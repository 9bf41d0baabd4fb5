package identity

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// put writes a record, or what is left of one.
func put(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDamageOfAnotherDeviceDoesNotMatter(t *testing.T) {
	tests := map[string]struct{ serial, file, content string }{
		"its serial ends like ours":              {"2974685", "fleety_12974685.json", `{"formatVersion": 1, "serialN`},
		"it is empty":                            {"2974685", "fleety_12974685.json", ""},
		"it has zeros":                           {"2974685", "fleety_12974685.json", "\x00\x00\x00\x00"},
		"its serial has a separator before ours": {"85", "fleety_29-85.json", `{"formatVersion": 1, "thingName": "fleety_29-85", "serialNumber": "29-85", "cert`},
		"it is of a later version":               {"85", "fleety_29-85.json", `{"formatVersion": 9, "serialNumber": "29-85"}`},
		"it is no record at all":                 {"2974685", "package.json", `{"name": "x"}`},
		"it has our serial in another field":     {"85", "fleety_29.json", `{"formatVersion": 9, "author": "85", "serialNumber": "29"}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, test.file, []byte(test.content))
			s, err := NewStore(Config{SerialNumber: test.serial, Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Load(); !errors.Is(err, ErrNone) {
				t.Errorf("Load() error = %v", err)
			}
			if err := provision(t, s, newCloud(t), run{thing: "fleety_" + test.serial}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Load(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDamagedIdentityIsNotAbsent(t *testing.T) {
	tests := map[string]struct{ file, content, thing string }{
		"torn":                               {"unit7.json", `{"formatVersion": 1, "thingName": "unit7", "serialNumber": "2974685", "cert`, ""},
		"of a later version":                 {"unit7.json", `{"formatVersion": 9, "serialNumber":"2974685"}`, ""},
		"of another thing":                   {"unit7.json", `{"formatVersion": 1, "thingName": "unit8", "serialNumber": "2974685", "certificateId": "x"}`, ""},
		"empty, under the expected name":     {"unit7.json", "", "unit7"},
		"zeros, under the serial's name":     {"fleety_2974685.json", "\x00\x00", ""},
		"empty, under the serial alone":      {"2974685.json", "", ""},
		"empty, under a name of its own":     {"shared~2974685.json", "", ""},
		"torn, with the prefix of another":   {"fleety_12974685.json", `{"serialNumber": "2974685", `, ""},
		"the same serial, but no thing name": {"unit7.json", `{"formatVersion": 1, "serialNumber": "2974685"}`, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := put(t, dir, test.file, []byte(test.content))
			s, err := NewStore(Config{SerialNumber: serial, ThingName: test.thing, Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Load()
			if broken, ok := errors.AsType[*FileError](err); !ok || !errors.Is(err, ErrBroken) || broken.Path != path {
				t.Errorf("Load() error = %v", err)
			}
			if st := s.Status(); st.State != Damaged || len(st.Problems) != 1 {
				t.Errorf("status %+v", st)
			}
		})
	}
}

// TestRecordThatReplacesAnotherWins has both in the directory, as a power cut once left them.
func TestRecordThatReplacesAnotherWins(t *testing.T) {
	for _, thing := range []string{"a_" + serial, "unit_" + serial} {
		t.Run(thing, func(t *testing.T) {
			dir := t.TempDir()
			s, c := realStore(t, dir), newCloud(t)
			clock := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
			s.config.Now = func() time.Time { return clock }
			if err := provision(t, s, c, run{}); err != nil {
				t.Fatal(err)
			}
			old := contents(t, dir)
			clock = clock.Add(-time.Hour) // the clock says nothing
			if err := provision(t, s, c, run{replace: true, thing: thing}); err != nil {
				t.Fatal(err)
			}
			for path, content := range old {
				put(t, dir, filepath.Base(path), []byte(content))
			}
			if id, err := s.Load(); err != nil || id.Record.ThingName != thing {
				t.Errorf("identity %+v, %v", id, err)
			}
		})
	}
}
