package scripttest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMakeRunsNothingOfWhatItIsGiven: the ARN and the options may come from somebody else's message
// or pipeline.
func TestMakeRunsNothingOfWhatItIsGiven(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is not installed")
	}
	makefile, err := os.ReadFile(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, hostile := range []string{
		"x; touch pwned; false #", "'; touch pwned; '", `"; touch pwned; "`, "$(touch pwned)", "`touch pwned`", "$(shell touch pwned)",
		"$$(touch pwned)", "x && touch pwned", "x | touch pwned", "x\ntouch pwned", "${x:-$(touch pwned)}", "*",
	} {
		for target, want := range map[string][]string{
			"deploy":   {"deploy.sh", hostile, "-c"},
			"destroy":  {"deploy.sh", "--destroy", hostile, "-c"},
			"rehearse": {"rehearse.sh"},
			"synth":    {"npx", "--no-install", "cdk", "synth", "-c", "certificateArn=" + hostile, "-c"},
		} {
			t.Run(target+" "+hostile, func(t *testing.T) {
				t.Parallel()
				root := t.TempDir()
				// Stands for each program: writes its arguments and the environment's ARN, one a
				// line.
				recorder := "#!/bin/sh\nfor a in \"${0##*/}\" \"$@\"; do printf '%s\\0' \"$a\"; done >\"$RECORD\"\nprintf %s \"$CERTIFICATE_ARN\" >\"$RECORD.arn\"\n"
				for name, content := range map[string]string{
					"Makefile": string(makefile), "scripts/deploy.sh": recorder, "scripts/rehearse.sh": recorder, "bin/npx": recorder,
					"infra/package.json": "{}", "infra/package-lock.json": "{}", "infra/node_modules/x": "",
				} {
					path := filepath.Join(root, name)
					if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				record := filepath.Join(t.TempDir(), "record")
				options := "-c alarmEmail=" + hostile
				command := exec.CommandContext(t.Context(), "make", "-o", "infra/node_modules", "-o", "device", "-o", "local", target,
					"CERTIFICATE_ARN="+hostile, "CDK_ARGS="+options)
				command.Dir = root
				command.Env = append(os.Environ(), "PATH="+filepath.Join(root, "bin")+":"+os.Getenv("PATH"), "RECORD="+record, "MAKEFLAGS=")
				output, err := command.CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, output)
				}
				for _, dir := range []string{root, filepath.Join(root, "infra")} {
					if _, err := os.Stat(filepath.Join(dir, "pwned")); err == nil {
						t.Error("it ran what it was given")
					}
				}
				arguments, err := os.ReadFile(record)
				if err != nil {
					t.Fatal(err)
				}
				got := strings.Split(strings.TrimSuffix(string(arguments), "\x00"), "\x00")
				if len(want) > 1 {
					want = append(want, strings.Fields(options)[1:]...) // split at white space, and nothing else
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("arguments differ (-want +got):\n%s", diff)
				}
				if arn, _ := os.ReadFile(record + ".arn"); string(arn) != hostile {
					t.Errorf("CERTIFICATE_ARN is %q", arn)
				}
			})
		}
	}
}
