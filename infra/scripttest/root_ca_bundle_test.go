package scripttest

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const bundleScript = "create-root-ca-bundle.sh"

// roots are the authorities of AWS IoT Core: the file to download, the same file in Debian's
// package ca-certificates, and the subject's common name.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/server-authentication.html
var roots = []struct{ file, debian, name, fingerprint string }{
	{"AmazonRootCA1.pem", "Amazon_Root_CA_1.crt", "Amazon Root CA 1", "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e"},
	{"AmazonRootCA2.pem", "Amazon_Root_CA_2.crt", "Amazon Root CA 2", "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4"},
	{"AmazonRootCA3.pem", "Amazon_Root_CA_3.crt", "Amazon Root CA 3", "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4"},
	{"AmazonRootCA4.pem", "Amazon_Root_CA_4.crt", "Amazon Root CA 4", "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092"},
	{"SFSRootCAG2.pem", "Starfield_Services_Root_Certificate_Authority_-_G2.crt", "Starfield Services Root Certificate Authority - G2", "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5"},
}

// repository holds the genuine roots, by the names that they are downloaded under.
func repository(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, root := range roots {
		data, err := os.ReadFile(filepath.Join("/usr/share/ca-certificates/mozilla", root.debian))
		if err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Skipf("Debian's package ca-certificates is not installed: %v", err)
		}
		files[root.file] = string(data)
	}
	return files
}

// serve lets the script download from files instead of from Amazon.
func (p *place) serve(t *testing.T, files map[string]string) {
	t.Helper()
	p.serveHTTPS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, ok := files[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(content))
	}))
}

// serveHTTPS has the script download from a server whose certificate curl and wget trust.
func (p *place) serveHTTPS(t *testing.T, handler http.Handler) {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	authority, wgetrc := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "wgetrc")
	for name, content := range map[string]string{
		authority: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})),
		wgetrc:    "ca_certificate = " + authority + "\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.env = append(p.env, "ROOT_CA_BASE_URL="+server.URL, "CURL_CA_BUNDLE="+authority, "WGETRC="+wgetrc)
}

func TestBundleHoldsTheFiveRoots(t *testing.T) {
	for _, tool := range []string{"curl", "wget"} {
		t.Run("with "+tool, func(t *testing.T) {
			p := newPlace(t, tool)
			p.serve(t, repository(t))
			if r := p.run(t, bundleScript); r.code != 0 || r.stdout != "" {
				t.Fatalf("%+v", r)
			}
			files := p.certs(t)
			if len(files) != 1 {
				t.Errorf("certs/ holds more than the bundle: %v", files)
			}
			checkBundle(t, []byte(files["root.ca.bundle.pem"]))
			if mode := p.mode(t, "root.ca.bundle.pem"); mode != 0o644 {
				t.Errorf("bundle has mode %v", mode)
			}
		})
	}
}

// checkBundle reads the bundle as a TLS client does.
func checkBundle(t *testing.T, bundle []byte) {
	t.Helper()
	var want, got [][2]string
	for _, root := range roots {
		want = append(want, [2]string{root.name, root.fingerprint})
	}
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(certificate.Raw)
		got = append(got, [2]string{certificate.Subject.CommonName, hex.EncodeToString(sum[:])})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("roots differ (-want +got):\n%s", diff)
	}
}

func TestBundleIsReplacedWhole(t *testing.T) {
	p := newPlace(t, "curl")
	p.put(t, "root.ca.bundle.pem", "an old bundle")
	p.serve(t, repository(t))
	if r := p.run(t, bundleScript); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	checkBundle(t, []byte(p.certs(t)["root.ca.bundle.pem"]))
}

func TestBundleRejectsWhatIsNotTheRootAlone(t *testing.T) {
	genuine := repository(t)
	const file = "AmazonRootCA3.pem"
	body := genuine[file]
	const notOne = "is not one PEM certificate and nothing else"
	// PEM readers skip blanks before base64; base64 -d stops there.
	indented := strings.ReplaceAll(genuine["AmazonRootCA4.pem"], "\nM", "\n M")
	tests := map[string]struct {
		content string // empty: not found
		want    string
	}{
		"not found":             {"", "downloading https://"},
		"error page":            {"<html>Sign in to the Wi-Fi</html>", notOne},
		"another root":          {genuine["AmazonRootCA4.pem"], "is not Amazon Root CA 3"},
		"cut short":             {body[:len(body)/2], notOne},
		"one bit changed":       {strings.Replace(body, "MII", "MIJ", 1), "is not Amazon Root CA 3"},
		"another one behind it": {body + genuine["AmazonRootCA4.pem"], notOne},
		"another one before it": {genuine["AmazonRootCA4.pem"] + body, notOne},
		"another one, indented": {body + indented, notOne},
		"indented before it":    {indented + body, notOne},
		"another one inside it": {strings.Replace(body, "\n-----END", "\n"+genuine["AmazonRootCA4.pem"]+"-----END", 1), notOne},
		"base64 behind padding": {strings.Replace(body, "\n-----END", "\n=\nAAAA\n-----END", 1), notOne},
		"a blank in the base64": {strings.Replace(body, "MII", "MI I", 1), notOne},
		"text before":           {"subject=CN\n" + body, notOne},
		"text behind":           {body + "AAAA\n", notOne},
		"a PEM header":          {strings.Replace(body, "CERTIFICATE-----\n", "CERTIFICATE-----\nA: b\n\n", 1), notOne},
		"not base64":            {"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", notOne},
		"nothing":               {"\n", notOne},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, "curl")
			p.put(t, "root.ca.bundle.pem", "an old bundle")
			files := repository(t)
			delete(files, file)
			if test.content != "" {
				files[file] = test.content
			}
			p.serve(t, files)
			p.run(t, bundleScript).fails(t, 1, test.want)
			p.hasCerts(t, map[string]string{"root.ca.bundle.pem": "an old bundle"})
		})
	}
}

// The fingerprints protect the bundle; https keeps a network from even choosing what the script
// reads.
func TestBundleDownloadsByHTTPSAlone(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s was asked for without TLS", r.URL)
		http.NotFound(w, r)
	}))
	defer plain.Close()
	for _, tool := range []string{"curl", "wget"} {
		t.Run("redirected, with "+tool, func(t *testing.T) {
			p := newPlace(t, tool)
			p.serveHTTPS(t, http.RedirectHandler(plain.URL, http.StatusFound))
			p.run(t, bundleScript).fails(t, 1, "downloading https://")
			p.hasCerts(t, map[string]string{})
		})
		t.Run("asked to, with "+tool, func(t *testing.T) {
			p := newPlace(t, tool)
			p.env = append(p.env, "ROOT_CA_BASE_URL="+plain.URL)
			p.run(t, bundleScript).fails(t, 1, "https://")
			p.hasCerts(t, map[string]string{})
		})
	}
}

func TestBundleTakesLineEndsOfWindows(t *testing.T) {
	p := newPlace(t, "curl")
	files := repository(t)
	for name, content := range files {
		files[name] = strings.ReplaceAll(content, "\n", "\r\n")
	}
	p.serve(t, files)
	if r := p.run(t, bundleScript); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	checkBundle(t, []byte(p.certs(t)["root.ca.bundle.pem"]))
}

func TestBundleNamesWhatIsMissing(t *testing.T) {
	t.Run("tool", func(t *testing.T) {
		p := newPlace(t)
		p.run(t, bundleScript).fails(t, 1, "neither curl nor wget is installed")
		p.hasCerts(t, map[string]string{})
	})
	t.Run("wget of BusyBox", func(t *testing.T) {
		p := newPlace(t)
		p.tool(t, filepath.Join("bin", "wget"), "echo 'Usage: wget [-cqS] [--spider] [-O FILE]' >&2; exit 1")
		p.run(t, bundleScript).fails(t, 1, "install curl or GNU wget")
		p.hasCerts(t, map[string]string{})
	})
	t.Run("SHA-256", func(t *testing.T) {
		p := newPlace(t, "curl")
		if err := os.Remove(filepath.Join(p.bin, "sha256sum")); err != nil {
			t.Fatal(err)
		}
		p.run(t, bundleScript).fails(t, 1, "neither sha256sum nor shasum is installed")
		p.hasCerts(t, map[string]string{})
	})
	for _, tool := range []string{"curl", "wget"} {
		t.Run("network with "+tool, func(t *testing.T) {
			server := httptest.NewTLSServer(http.NotFoundHandler())
			server.Close() // nothing listens there any more
			p := newPlace(t, tool)
			p.env = append(p.env, "ROOT_CA_BASE_URL="+server.URL)
			p.run(t, bundleScript).fails(t, 1, "is there a network")
			p.hasCerts(t, map[string]string{})
		})
	}
	t.Run("a folder in the place of the file", func(t *testing.T) {
		p := newPlace(t, "curl")
		if err := os.Mkdir(p.path("certs/root.ca.bundle.pem"), 0o755); err != nil {
			t.Fatal(err)
		}
		p.run(t, bundleScript).fails(t, 1, "root.ca.bundle.pem is a folder")
	})
	t.Run("folder", func(t *testing.T) {
		p := newPlace(t, "curl")
		if err := os.Remove(p.path("certs")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p.path("certs"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		p.run(t, bundleScript).fails(t, 1, "cannot make the folder")
	})
}

func TestBundleMakesItsFolder(t *testing.T) {
	p := newPlace(t, "curl")
	if err := os.Remove(p.path("certs")); err != nil {
		t.Fatal(err)
	}
	p.serve(t, repository(t))
	if r := p.run(t, bundleScript); r.code != 0 {
		t.Fatalf("%+v", r)
	}
}

func TestBundleInterruptedLeavesNothing(t *testing.T) {
	for signal, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143, syscall.SIGHUP: 129} {
		t.Run(signal.String(), func(t *testing.T) {
			p := newPlace(t, "curl")
			asked := make(chan struct{})
			p.serveHTTPS(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				close(asked)
				<-r.Context().Done() // the client was interrupted
			}))
			if got := p.interrupt(t, signal, asked, bundleScript); got != code {
				t.Errorf("exit code %d, want %d", got, code)
			}
			p.hasCerts(t, map[string]string{})
		})
	}
}
