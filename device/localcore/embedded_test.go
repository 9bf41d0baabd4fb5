package localcore

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestCopiesAreThoseOfTheRepository(t *testing.T) {
	const source = "../../templates"
	originals, err := filepath.Glob(filepath.Join(source, "*.json"))
	if err != nil || len(originals) == 0 {
		t.Fatalf("%d files in %s, %v", len(originals), source, err)
	}
	copies, err := fs.Glob(embeddedTemplates, "templates/*.json")
	if err != nil || len(copies) != len(originals) {
		t.Errorf("%d files are embedded, %d are in %s, %v: run go generate ./localcore", len(copies), len(originals), source, err)
	}
	for _, name := range copies {
		embedded, _ := embeddedTemplates.ReadFile(name) // Glob found it
		if original, err := os.ReadFile(filepath.Join(source, filepath.Base(name))); err != nil || string(original) != string(embedded) {
			t.Errorf("%s differs from %s, %v: run go generate ./localcore", name, source, err)
		}
	}
}
