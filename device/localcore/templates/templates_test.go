package templates

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestCopiesAreThoseOfTheRepository(t *testing.T) {
	const source = "../../../templates"
	originals, err := filepath.Glob(filepath.Join(source, "*.json"))
	if err != nil || len(originals) == 0 {
		t.Fatalf("%d files in %s, %v", len(originals), source, err)
	}
	copies, err := fs.Glob(FS, "*.json")
	if err != nil || len(copies) != len(originals) {
		t.Errorf("%d files are embedded, %d are in %s, %v: run go generate ./localcore/templates", len(copies), len(originals), source, err)
	}
	for _, name := range copies {
		embedded, _ := FS.ReadFile(name) // Glob found it
		if original, err := os.ReadFile(filepath.Join(source, name)); err != nil || string(original) != string(embedded) {
			t.Errorf("%s differs from %s, %v: run go generate ./localcore/templates", name, source, err)
		}
	}
}
