package scripttest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	claimScript = "create-keys-and-cert.sh"
	claimARN    = "arn:aws:iot:us-east-1:123456789012:cert/57c92eba56f4a8a5bf4d2bb4b2f5a9b5ea9ad4ecf0b5e7ec0f3fdd9d3ca32f10"
)

// claimFiles is what certs/ holds once the claim is there.
var claimFiles = map[string]string{
	"fleet-provisioning.certificate.pem": "certificate\n",
	"fleet-provisioning.private.key":     "private\n",
	"fleet-provisioning.public.key":      "public\n",
}

// fakeAWS is an aws command line that writes what the true one would. It notes its arguments, and
// who may read the key while only its first byte is there.
const fakeAWS = `#!/bin/sh
printf '%s\n' "$@" >"$FAKE/arguments"
while [ $# -gt 0 ]; do
	case $1 in
	--certificate-pem-outfile) echo certificate >"$2" ;;
	--public-key-outfile) echo public >"$2" ;;
	--private-key-outfile) printf p >"$2" && ls -l "$2" >"$FAKE/key" && echo rivate >>"$2" ;;
	esac
	shift
done
echo ` + claimARN + `
`

// fake puts a script into the place as its aws command line.
func (p *place) fake(t *testing.T, aws string) (notes string) {
	t.Helper()
	notes = t.TempDir()
	p.env = append(p.env, "FAKE="+notes)
	if err := os.WriteFile(filepath.Join(p.bin, "aws"), []byte(aws), 0o755); err != nil {
		t.Fatal(err)
	}
	return notes
}

func note(t *testing.T, notes, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(notes, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestClaimIsCreated(t *testing.T) {
	p := newPlace(t, "ls")
	notes := p.fake(t, fakeAWS)
	r := p.run(t, claimScript)
	if r.code != 0 || r.stdout != claimARN+"\n" {
		t.Fatalf("%+v", r)
	}
	p.hasCerts(t, claimFiles)
	if key := note(t, notes, "key"); !strings.HasPrefix(key, "-rw------- ") {
		t.Errorf("the private key began as %s", key)
	}
	for name, want := range map[string]os.FileMode{"certificate.pem": 0o644, "private.key": 0o600, "public.key": 0o644} {
		if got := p.mode(t, "fleet-provisioning."+name); got != want {
			t.Errorf("%s has mode %v, want %v", name, got, want)
		}
	}
	arguments := strings.Fields(note(t, notes, "arguments"))
	for i, argument := range arguments {
		if strings.HasPrefix(argument, p.root) {
			arguments[i] = filepath.Base(argument)
		}
	}
	want := strings.Fields("iot create-keys-and-certificate --set-as-active " +
		"--certificate-pem-outfile certificate.pem --private-key-outfile private.key --public-key-outfile public.key " +
		"--query certificateArn --output text")
	if diff := cmp.Diff(want, arguments); diff != "" {
		t.Errorf("arguments of aws differ (-want +got):\n%s", diff)
	}
}

func TestClaimIsNotOverwritten(t *testing.T) {
	for name := range claimFiles {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, "ls")
			notes := p.fake(t, fakeAWS)
			old := map[string]string{name: "an old one"}
			p.put(t, name, "an old one")

			p.run(t, claimScript).fails(t, 1, "--force")
			p.hasCerts(t, old)
			if _, err := os.Stat(filepath.Join(notes, "arguments")); err == nil {
				t.Error("a certificate was created before the refusal")
			}

			if r := p.run(t, claimScript, "--force"); r.code != 0 || r.stdout != claimARN+"\n" {
				t.Errorf("with --force: %+v", r)
			}
			p.hasCerts(t, claimFiles)
			if got := p.mode(t, "fleet-provisioning.private.key"); got != 0o600 {
				t.Errorf("the key has mode %v", got)
			}
		})
	}
}

// A container engine makes a folder of each file that it is to mount and that is not there.
func TestClaimIsNotPutIntoFolders(t *testing.T) {
	for name := range claimFiles {
		p := newPlace(t)
		notes := p.fake(t, fakeAWS)
		if err := os.Mkdir(p.path(filepath.Join("certs", name)), 0o755); err != nil {
			t.Fatal(err)
		}
		p.run(t, claimScript, "--force").fails(t, 1, name+" is a folder")
		if _, err := os.Stat(filepath.Join(notes, "arguments")); err == nil {
			t.Error("a certificate was created before the refusal")
		}
	}
}

func TestClaimFailureSaysWhatToDoAndLeavesNothing(t *testing.T) {
	// What the true aws command line says, and how it exits.
	says := func(message string) string {
		return fakeAWS + "echo; echo " + `"` + message + `" >&2; exit 255` + "\n"
	}
	tests := map[string]struct{ aws, want string }{
		"no credentials":      {says("Unable to locate credentials. You can configure credentials by running aws configure."), "there are no AWS credentials"},
		"no such profile":     {says("The config profile (fleet) could not be found"), "there are no AWS credentials"},
		"no Region":           {says("You must specify a region. You can also configure your region by running aws configure."), "there is no AWS Region"},
		"expired credentials": {says("An error occurred (ExpiredTokenException) when calling the CreateKeysAndCertificate operation"), "renew them"},
		"no right":            {says("An error occurred (AccessDeniedException) when calling the CreateKeysAndCertificate operation: User is not authorized"), "do not allow iot:CreateKeysAndCertificate"},
		"no network":          {says("Could not connect to the endpoint URL: https://iot.us-east-1.amazonaws.com/keys-and-certificate"), "AWS cannot be reached"},
		"something else":      {says("Segmentation fault"), "its message is above"},
		"no answer":           {"#!/bin/sh\n", "instead of an ARN"},
		"no files":            {"#!/bin/sh\necho " + claimARN + "\n", "deactivate and delete that certificate"},
		"one file missing":    {strings.Replace(fakeAWS, "echo public", ": public", 1), "did not write its public.key"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, "ls")
			p.fake(t, test.aws)
			p.put(t, "root.ca.bundle.pem", "roots")
			p.run(t, claimScript).fails(t, 1, test.want)
			p.hasCerts(t, map[string]string{"root.ca.bundle.pem": "roots"})
		})
	}
	t.Run("with --force the old claim stays", func(t *testing.T) {
		p := newPlace(t, "ls")
		p.fake(t, says("Unable to locate credentials"))
		for name := range claimFiles {
			p.put(t, name, claimFiles[name])
		}
		p.run(t, claimScript, "--force").fails(t, 1, "there are no AWS credentials")
		p.hasCerts(t, claimFiles)
	})
	t.Run("no aws command line", func(t *testing.T) {
		p := newPlace(t)
		p.run(t, claimScript).fails(t, 1, "the aws command line is not installed")
		p.hasCerts(t, map[string]string{})
	})
}

// TestClaimWithTheRealCommandLine runs the true aws command line against an endpoint that answers
// as AWS IoT does.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_CreateKeysAndCertificate.html
func TestClaimWithTheRealCommandLine(t *testing.T) {
	requests := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r.Method + " " + r.URL.RequestURI()
		_, _ = io.WriteString(w, `{"certificateArn":"`+claimARN+`","certificateId":"57c9","certificatePem":"certificate\n",`+
			`"keyPair":{"PublicKey":"public\n","PrivateKey":"private\n"}}`)
	}))
	defer server.Close()
	p := newPlace(t, "aws")
	p.env = []string{"PATH=" + os.Getenv("PATH"), "AWS_ENDPOINT_URL=" + server.URL, "AWS_DEFAULT_REGION=us-east-1",
		"AWS_ACCESS_KEY_ID=id", "AWS_SECRET_ACCESS_KEY=secret", "AWS_MAX_ATTEMPTS=1"}
	if r := p.run(t, claimScript); r.code != 0 || r.stdout != claimARN+"\n" {
		t.Fatalf("%+v", r)
	}
	if got, want := <-requests, "POST /keys-and-certificate?setAsActive=true"; got != want {
		t.Errorf("the request was %s, want %s", got, want)
	}
	p.hasCerts(t, claimFiles)
	if got := p.mode(t, "fleet-provisioning.private.key"); got != 0o600 {
		t.Errorf("the key has mode %v", got)
	}
}
