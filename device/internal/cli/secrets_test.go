package cli_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// secrets collects every private key and ownership token that was seen on disk, and every output.
type secrets struct {
	known        map[string]bool
	keys, tokens int // seen, to know that the search finds something
	outputs      []string
}

// learn looks for secrets in all files below dir: private keys in PEM, and what journals hold.
func (s *secrets) learn(dir string) {
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || entry.Name() == "core.log" {
			return nil
		}
		if data, err := os.ReadFile(path); err == nil {
			s.learnFrom(data)
		}
		return nil
	})
}

func (s *secrets) learnFrom(data []byte) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			s.keys++
			s.add(string(pem.EncodeToMemory(block)))
		}
	}
	if _, body, ok := bytes.Cut(data, []byte("\n")); ok {
		var journal struct{ KeyPEM, Token string }
		if json.Unmarshal(body, &journal) == nil {
			s.add(journal.KeyPEM)
			if journal.Token != "" {
				s.tokens++
				s.add(journal.Token)
			}
		}
	}
}

// add takes a secret apart into lines: part of a key is a leak too.
func (s *secrets) add(secret string) {
	if s.known == nil {
		s.known = map[string]bool{}
	}
	for line := range strings.Lines(secret) {
		line = strings.TrimSpace(line)
		// The first line of a key's body is the same for all keys of a kind.
		if len(line) >= 16 && !strings.HasPrefix(line, "-----") && !strings.HasPrefix(line, "MI") && !strings.HasPrefix(line, "MH") {
			s.known[line] = true
		}
	}
}

func sawSecrets(ts *testscript.TestScript, _ bool, _ []string) {
	if s := worldOf(ts).secrets; s.keys == 0 || s.tokens == 0 {
		ts.Fatalf("saw %d private keys and %d tokens on disk", s.keys, s.tokens)
	}
}

// leak returns an output with a secret, or nothing.
func (s *secrets) leak() string {
	for secret := range s.known {
		for _, output := range s.outputs {
			if strings.Contains(output, secret) {
				return output
			}
		}
	}
	return ""
}
