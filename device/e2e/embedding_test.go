package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What docs/embedding.md shows is a program outside this repository: it builds, and
// it runs.
func TestProgramOfTheEmbeddingPageBuildsAndRuns(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/embedding.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(language string) string {
		_, rest, ok := strings.Cut(string(page), "\n```"+language+"\n")
		text, _, ended := strings.Cut(rest, "\n```\n")
		if !ok || !ended {
			t.Fatalf("the page has no block of %s", language)
		}
		return text + "\n"
	}
	ours, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	// What go mod tidy would add, without asking a network.
	requirements := regexp.MustCompile(`(?ms)^require \(.*?^\)\n`).FindAllString(string(ours), -1)
	if len(requirements) == 0 {
		t.Fatal("device/go.mod requires nothing")
	}
	own := strings.ReplaceAll(block("text"), "../fleety/", filepath.ToSlash(repository(t))+"/")
	for _, r := range requirements {
		own += regexp.MustCompile(`(?m)^.*example\.com/fleety/.*\n`).ReplaceAllString(r, "")
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "go.mod"), own, 0o644)
	writeFile(t, filepath.Join(dir, "go.sum"), string(sums), 0o644)
	writeFile(t, filepath.Join(dir, "main.go"), block("go"), 0o644)
	offline := []string{"GOFLAGS=-mod=mod -trimpath"}
	inCopy(t, dir, offline, "go", "test", "-vet=all", ".") // go vet, with what it found in dependencies before
	inCopy(t, dir, offline, "go", "build", "-o", "sensor", ".")
	if unformatted := inCopy(t, dir, nil, "gofmt", "-l", "main.go"); unformatted != "" {
		t.Errorf("gofmt would change the program of the page")
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "sensor"))
	cmd.Env = append(os.Environ(), "HTTPS_PROXY=", "https_proxy=")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	want := "provisioned fleety_2974685\npublished over a connection of its own\npublished through the agent\n"
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}
