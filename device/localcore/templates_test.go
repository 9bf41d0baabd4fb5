package localcore_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/policy"
)

// Whatever a policy file holds, its fault is at a place that the file has.
func FuzzFaultsArePlacedInTheFile(f *testing.F) {
	shipped, err := os.ReadFile(filepath.Join(templates, "claim_policy.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(shipped))
	f.Add(strings.Replace(string(shipped), "Allow", "Permit", 1))
	f.Add(`{"Version": "${AWS::Region}${AWS::AccountId}", "Statement": é`)
	f.Add("{\n${AWS::Partition}\xff ${TemplateName}\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		_, err := localcore.Config{}.ParsePolicy("policy.json", []byte(text))
		fault, ok := errors.AsType[*policy.SyntaxError](err)
		if !ok {
			return
		}
		lines := strings.Split(text, "\n")
		if fault.Line < 1 || fault.Line > len(lines) || fault.Column < 1 || fault.Column > utf8.RuneCountInString(lines[fault.Line-1])+1 {
			t.Errorf("%v in a file of %d lines", err, len(lines))
		}
	})
}
