package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// The commands that the pages show to users of the emulator work as they are written, but for its
// port and the id of a certificate.
func TestCommandsOfThePagesWork(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("the AWS command line takes a second for each command")
	}
	server, dir := startEmulator(t)
	if code, _, stderr := runDevice(t, dir, "bootstrap"); code != 0 {
		t.Fatalf("bootstrap: exit code %d\n%s", code, stderr)
	}
	certificates, err := server.Registry().ListThingPrincipals("fleety_2974685")
	if err != nil || len(certificates) != 1 {
		t.Fatalf("certificates %v, %v", certificates, err)
	}
	_, port := server.Endpoint()
	adapt := strings.NewReplacer(
		"certs/local/devices/", filepath.Join(dir, "certs")+"/", "certs/local/", filepath.Join(dir, "certs")+"/",
		"localhost:8883", fmt.Sprintf("localhost:%d", port),
		"http://127.0.0.1:8480", server.APIURL(),
		"--certificate-id ID", "--certificate-id "+certificates[0].CertificateID,
		"./iot_core_local", filepath.Join(binDir, "iot_core_local"),
	)
	for page, tools := range map[string][]string{
		"README.md":          {"aws"},
		"docs/local-core.md": {"aws", "curl", "./iot_core_local explain"},
	} {
		for _, tool := range tools {
			t.Run(page+", "+tool, func(t *testing.T) {
				if program := adapt.Replace(strings.Fields(tool)[0]); !isInstalled(program) {
					if os.Getenv("CI") != "" {
						t.Fatalf("%s is not installed", program)
					}
					t.Skipf("%s is not installed", program)
				}
				if err := server.Registry().UpdateCertificate(certificates[0].CertificateID, registry.Active); err != nil { // a page may deactivate it
					t.Fatal(err)
				}
				commands := shown(t, page, tool)
				if len(commands) == 0 {
					t.Fatal("the page shows none")
				}
				for _, command := range commands {
					cmd := exec.CommandContext(t.Context(), "sh", "-c", adapt.Replace(command))
					cmd.Dir, cmd.Env = filepath.Join(deviceDir, ".."), awsEnvironment(t, server.APIURL())
					out, err := cmd.CombinedOutput()
					if denied := cmd.ProcessState.ExitCode() == 3 && strings.Contains(readPage(t, page), string(out)); err != nil && !denied {
						t.Errorf("%s: %v\n%s", command, err, out)
					}
				}
			})
		}
	}
}

func isInstalled(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

func readPage(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deviceDir, "..", page))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// shown returns the commands of a tool in the page's blocks of shell.
func shown(t *testing.T, page, tool string) (commands []string) {
	t.Helper()
	for i, block := range strings.Split(readPage(t, page), "```") {
		if i%2 == 0 || !strings.HasPrefix(block, "sh\n") {
			continue
		}
		for line := range strings.Lines(block) {
			if strings.HasPrefix(line, tool+" ") || strings.HasPrefix(line, tool+"-") {
				commands = append(commands, strings.TrimSpace(line))
			}
		}
	}
	return commands
}

// awsEnvironment keeps the AWS command line from any real account.
func awsEnvironment(t *testing.T, api string) []string {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") })
	return append(env, "AWS_ENDPOINT_URL="+api, "AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any", "AWS_DEFAULT_REGION=us-east-1",
		"AWS_PAGER=", "AWS_MAX_ATTEMPTS=1", "AWS_CONFIG_FILE="+none, "AWS_SHARED_CREDENTIALS_FILE="+none)
}

// The blocks of docs/programs.md work as they are written, with its statement in
// the device policy, whether an agent runs or not.
func TestBlocksOfTheProgramsPageWork(t *testing.T) {
	t.Parallel()
	tool(t, "aws", "awscli")
	server, dir := startEmulator(t)
	if code, _, stderr := runDevice(t, dir, "bootstrap"); code != 0 {
		t.Fatalf("bootstrap: exit code %d\n%s", code, stderr)
	}
	short, err := os.MkdirTemp("", "fleety") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	socket := filepath.Join(short, "sock")
	agent := startDevice(t, dir, "run", "--set", "agent.socket="+socket, "--set", "server.credentialsEndpoint="+credentialsEndpoint(server))
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	})
	awaitEvent(t, server, func(e localcore.Event) bool { return e.Type == localcore.Connected && e.ClientID == thing })
	adapt := strings.NewReplacer(
		"/run/iot_device/api.sock", socket, "/etc/mosquitto/conf.d/", short+"/", "/etc/greengrass/", short+"/", "/etc/aws", short+"/aws",
		"export greengrass-lite", "export greengrass-lite --set server.endpoint=a-ats.iot.us-east-1.amazonaws.com",
	)
	ran := 0
	for i, block := range strings.Split(readPage(t, "docs/programs.md"), "```") {
		if statement, ok := strings.CutPrefix(block, "json\n"); ok && i%2 == 1 && strings.Contains(statement, "AssumeRoleWithCertificate") {
			addStatement(t, server, statement)
		}
		script, ok := strings.CutPrefix(block, "sh\n")
		if !ok || i%2 == 0 {
			continue
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", adapt.Replace(script))
		cmd.Dir = dir
		cmd.Env = append(awsEnvironment(t, server.APIURL()), "PATH="+binDir+":"+os.Getenv("PATH"),
			"IOT_DEVICE_AGENT_SOCKET="+socket, "IOT_DEVICE_SERVER_CREDENTIALSENDPOINT="+credentialsEndpoint(server))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s%v\n%s", script, err, out)
		}
		ran++
	}
	if ran < 5 {
		t.Errorf("the page has %d blocks", ran)
	}
	for _, name := range []string{"aws-iot.conf", "aws-iot-device-client.conf", "config.yaml"} {
		if info, err := os.Stat(filepath.Join(short, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// addStatement adds a statement of a page to the device policy, as a deployment of the stack does.
func addStatement(t *testing.T, server *localcore.Server, statement string) {
	t.Helper()
	r := server.Registry()
	p, err := r.GetPolicy(localcore.DevicePolicyName)
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Version   string
		Statement []json.RawMessage
	}
	if err := json.Unmarshal([]byte(p.Default().Document), &document); err != nil {
		t.Fatal(err)
	}
	statement = strings.NewReplacer("${AWS::Partition}", "aws", "${AWS::Region}", "us-east-1", "${AWS::AccountId}", "123456789012").Replace(statement)
	document.Statement = append(document.Statement, json.RawMessage(statement))
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreatePolicyVersion(localcore.DevicePolicyName, string(text), true); err != nil {
		t.Fatal(err)
	}
}
