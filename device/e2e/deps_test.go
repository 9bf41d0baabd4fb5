// Package e2e tests the built programs, and checks the architecture: which
// room may import which, and what the binaries link.
package e2e

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "example.com/fleety/"

// A room is a package that may import only some packages of ours, and why.
type room struct {
	may []string // "localcore/..." stands for all packages below
	why string
}

// The rooms, by their path below the module's.
var rooms = map[string]room{
	"hook/payload":                          {nil, "both ends of the hook share it, so it must not bring either end along"},
	"device/awsiot":                         {nil, "wire types are pinned to AWS's, not to our code"},
	"device/identity":                       {[]string{"device/awsiot", "device/internal/osfile"}, "keys and journal must work, and be tested, without a network"},
	"device/session":                        {[]string{"device/awsiot"}, "a connection knows nothing of what it is used for"},
	"device/identity/tpm":                   {[]string{"device/awsiot"}, "a key store is one more way to make a key"},
	"device/identity/internal/identitytest": {nil, "tests of key stores share it, and it knows a key as crypto.Signer alone"},
	"device/identity/pkcs11":                {[]string{"device/identity", "device/internal/osfile"}, "a key store is one more way to make a key"},
	"device/provision":                      {[]string{"device/awsiot", "device/identity", "device/session"}, "it is tested against localcore, which means something only while they share no more than wire types"},
	"device/internal/doctor":                {[]string{"device/internal/config", "device/internal/osfile", "device/internal/term", "device/provision", "device/identity", "device/session", "device/awsiot", "device/identity/tpm"}, "its table has the causes of every error of the device"},
	"device/agent":                          {[]string{"device/internal/osfile", "device/agent/outbox", "device/provision", "device/identity", "device/session", "device/awsiot"}, "it is tested against localcore, like provision"},
	"device/agent/program":                  {[]string{"device/internal/osfile"}, "it knows no service that runs programs"},
	"device/agent/credentials":              {[]string{"device/internal/osfile", "device/identity", "device/session", "device/awsiot"}, "it works without the agent too"},
	"device/agent/jobs":                     {[]string{"device/internal/osfile", "device/agent/program", "device/session", "device/awsiot"}, "it uses a connection and does not make it"},
	"device/agent/defender":                 {[]string{"device/session", "device/awsiot"}, "a service of the agent knows a connection, and not what else uses it"},
	"device/agent/shadow":                   {[]string{"device/internal/osfile", "device/agent/program", "device/session", "device/awsiot"}, "a service of the agent knows a connection, and not what else uses it"},
	"device/agent/outbox":                   {[]string{"device/internal/osfile"}, "it stores messages, and knows no connection"},
	"device/agent/tunnel":                   {[]string{"device/session", "device/awsiot"}, "a service of the agent knows a connection, and not what else uses it"},
	"device/fleet":                          {[]string{"device/provision", "device/identity", "device/session", "device/awsiot"}, "it measures the real device"},
	"device/fleet/controlplane":             {[]string{"device/fleet", "device/awsiot"}, "it works on what AWS IoT has of a fleet, and of the fleet alone links the AWS SDK"},
	"device/conformance":                    {[]string{"device/awsiot", "device/session"}, "it sees every endpoint from outside"},
	"device/localcore":                      {[]string{"device/localcore/...", "device/awsiot", "device/internal/osfile", "hook/payload"}, "it stands for AWS, which has none of our device's code; files are read alike everywhere"},
	"device/localcore/policy":               {[]string{"device/localcore/jsontree", "device/awsiot"}, "policies are evaluated without a broker"},

	"device/localcore/template":     {[]string{"device/localcore/jsontree", "device/awsiot"}, "templates are resolved without a registry"},
	"device/localcore/jsontree":     {nil, "it reads any JSON"},
	"device/localcore/event":        {nil, "every part of the emulator records events"},
	"device/localcore/broker":       {[]string{"device/localcore/event", "device/localcore/records", "device/awsiot"}, "it carries messages, whatever they are for, and asks others what is allowed"},
	"device/localcore/provisioning": {[]string{"device/localcore/event", "device/localcore/jsontree", "device/localcore/registry", "device/localcore/template", "device/localcore/ca", "device/localcore/lambdahost", "device/awsiot", "hook/payload"}, "it answers requests, however they travel"},
	"device/localcore/records":      {nil, "it stores any service's records"},
	"device/localcore/registry":     {[]string{"device/localcore/records", "device/localcore/template", "device/awsiot"}, "it stores what AWS stores and what a resolved template registers, and knows no protocol"},
	"device/localcore/lambdahost":   {[]string{"device/awsiot"}, "it hosts any Lambda function"},
	"device/localcore/ca":           {[]string{"device/awsiot", "device/internal/osfile"}, "it signs any key"},
	"device/localcore/assembly":     {[]string{"device/awsiot"}, "it reads what the CDK writes, and deploys nothing"},
	"device/localcore/shadow":       {[]string{"device/localcore/records", "device/awsiot"}, "it keeps shadows, however requests travel"},
	"device/localcore/console":      {nil, "it is a page over the API, and learns the rest from the server that serves it"},
	"device/localcore/jobs":         {[]string{"device/localcore/records", "device/awsiot"}, "it runs jobs, however requests travel"},
	"device/localcore/tunnel":       {[]string{"device/awsiot"}, "it forwards what goes through tunnels, however things are notified"},
	"device/localcore/rules":        {[]string{"device/localcore/records", "device/awsiot"}, "it evaluates messages, however they travel"},
	"device/localcore/controlapi":   {[]string{"device/localcore/registry", "device/localcore/provisioning", "device/localcore/policy", "device/localcore/ca", "device/localcore/broker", "device/localcore/shadow", "device/localcore/jobs", "device/localcore/rules", "device/localcore/tunnel", "device/localcore/jsontree", "device/awsiot"}, "it is a handler over the registry and the services"},

	"device/internal/osfile":        {nil, "it reads, replaces and locks any file"},
	"device/internal/term":          {nil, "everyone that speaks to a user imports it"},
	"device/internal/config":        {[]string{"device/awsiot", "device/identity/...", "device/internal/osfile"}, "settings are read before anything is made of them, and say where the identity is"},
	"device/internal/cli":           {[]string{"device/internal/term", "device/awsiot"}, "every binary links it, so it must not bring along what only one needs"},
	"device/internal/cli/devicecli": {[]string{"device/internal/...", "device/agent/...", "device/provision", "device/identity", "device/session", "device/awsiot", "hook/payload"}, "the device does not link the broker"},
	"device/internal/cli/corecli":   {[]string{"device/internal/...", "device/localcore/...", "device/conformance", "device/awsiot"}, "the emulator does not link the device"},
	"device/internal/cli/fleetcli":  {[]string{"device/internal/...", "device/fleet/...", "device/provision", "device/identity", "device/session", "device/awsiot", "hook/payload"}, "the fleet does not link the broker"},

	"device/internal/cli/manual": {[]string{"device/internal/..."}, "it renders the commands of every program, and no program links it"},

	"device/cmd/iot_device":     {[]string{"device/internal/cli", "device/internal/cli/devicecli", "device/internal/term"}, "a dozen lines"},
	"device/cmd/iot_core_local": {[]string{"device/internal/cli", "device/internal/cli/corecli", "device/internal/term"}, "a dozen lines"},
	"device/cmd/iot_fleet":      {[]string{"device/internal/cli", "device/internal/cli/fleetcli", "device/internal/term"}, "a dozen lines"},
}

func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	for line := range strings.Lines(goList(t, "-tags", "pkcs11", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"device/...", module+"hook/payload")) {
		fields := strings.Fields(line)
		name := strings.TrimPrefix(fields[0], module)
		if name == "device/e2e" {
			continue // only this test
		}
		t.Run(name, func(t *testing.T) {
			room, ok := rooms[name]
			if !ok {
				t.Fatalf("%s is not in the table of rooms: add it, with what it may import and why", name)
			}
			for _, imported := range fields[1:] {
				ours, ok := strings.CutPrefix(imported, module)
				if ok && !slices.ContainsFunc(room.may, func(pattern string) bool { return matches(pattern, ours) }) {
					t.Errorf("%s must not import %s: %s", name, ours, room.why)
				}
			}
		})
	}
}

func matches(pattern, name string) bool {
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == tree || strings.HasPrefix(name, tree+"/")
	}
	return name == pattern
}

func TestBinariesDoNotLinkWhatTheyDoNotNeed(t *testing.T) {
	tests := map[string]map[string]string{ // binary, forbidden prefix, reason
		"iot_device": {
			module + "device/localcore":      "the emulator stands for AWS and has no place on a device",
			"github.com/mochi-mqtt":          "a device has no broker",
			"github.com/aws/aws-sdk-go-v2":   "a device speaks MQTT to AWS IoT and nothing else",
			"testing":                        "it registers flags and belongs to tests",
			"github.com/HdrHistogram":        "only the fleet measures latencies",
			"github.com/aws/aws-lambda-go":   "the hook does not run on a device",
			"github.com/eclipse/paho.golang": "the device speaks MQTT 3.1.1",
		},
		"iot_core_local": {
			module + "device/agent":     "the emulator must not share the device's view of the exchange",
			module + "device/provision": "the emulator must not share the device's view of the exchange",
			module + "device/identity":  "the emulator must not share the device's view of the exchange",
			"testing":                   "it registers flags and belongs to tests",
		},
	}
	for binary, forbidden := range tests {
		t.Run(binary, func(t *testing.T) {
			for dep := range strings.FieldsSeq(goList(t, "-deps", module+"device/cmd/"+binary)) {
				for prefix, why := range forbidden {
					if dep == prefix || strings.HasPrefix(dep, prefix+"/") {
						t.Errorf("%s links %s: %s", binary, dep, why)
					}
				}
			}
		})
	}
}

// The tests of the fleet run on the emulator, which verifies signatures with the
// SDK's signer; the clients of services are what takes long to compile.
func TestFleetDoesNotCompileAWSSDK(t *testing.T) {
	for forbidden, args := range map[string][]string{
		"github.com/aws/":                       {"-deps", module + "device/fleet"},
		"github.com/aws/aws-sdk-go-v2/service/": {"-deps", "-test", module + "device/fleet"},
	} {
		for dep := range strings.FieldsSeq(goList(t, args...)) {
			if strings.HasPrefix(dep, forbidden) {
				t.Errorf("go list %s has %s: only fleet/controlplane needs the AWS SDK", strings.Join(args, " "), dep)
			}
		}
	}
}

func TestLocalcoreDoesNotImportTesting(t *testing.T) {
	for line := range strings.Lines(goList(t, "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"device/localcore/...")) {
		fields := strings.Fields(line)
		if slices.Contains(fields[1:], "testing") {
			t.Errorf("%s imports testing outside of tests: it ships in a binary of its own", fields[0])
		}
	}
}

func goList(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %v\n%s", err, e.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	return string(out)
}
