//go:build unix

package jobs

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

// A fileServer serves a file, and cuts off the first answers. It says, as an object store does
// whatever the client accepts, by what the file was compressed before it was stored.
type fileServer struct {
	content []byte
	cuts    atomic.Int32
	ranges  atomic.Int32 // requests for a part
}

func (s *fileServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Range") != "" {
		s.ranges.Add(1)
	}
	w.Header().Set("Content-Encoding", "gzip")
	if s.cuts.Add(-1) >= 0 {
		w = cutWriter{w}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.content))
}

// A cutWriter ends the connection after the first piece.
type cutWriter struct{ http.ResponseWriter }

func (w cutWriter) Write(p []byte) (int, error) {
	_, _ = w.ResponseWriter.Write(p[:min(len(p), 20000)])
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

func newDownloadBench(t *testing.T) (*bench, *fileServer, string) {
	t.Helper()
	b := newBench(t)
	b.config.Allow = []string{DownloadFile}
	b.config.Downloads = t.TempDir()
	files := &fileServer{content: make([]byte, 100000)}
	_, _ = rand.Read(files.content)
	server := httptest.NewServer(files)
	t.Cleanup(server.Close)
	return b, files, server.URL
}

// check compares the downloaded file.
func (b *bench) check(name string, want []byte) {
	b.Helper()
	got, err := os.ReadFile(filepath.Join(b.config.Downloads, name))
	if err != nil || !bytes.Equal(got, want) {
		b.Errorf("%s: %d bytes, %v", name, len(got), err)
	}
	if left, _ := filepath.Glob(filepath.Join(b.config.Downloads, "*.partial")); len(left) > 0 {
		b.Error("left", left)
	}
}

func digest(content []byte) string { return fmt.Sprintf("%x", sha256.Sum256(content)) }

func TestDownloadIsResumedAndVerified(t *testing.T) {
	t.Parallel()
	b, files, url := newDownloadBench(t)
	files.cuts.Store(2)
	b.create("j", runHandler(DownloadFile, url, filepath.Join(b.config.Downloads, "firmware"), digest(files.content)))
	b.powerOn()
	b.await("j", awsiot.JobSucceeded)
	b.check("firmware", files.content)
	if files.ranges.Load() != 2 {
		t.Errorf("%d requests for what was missing, want 2", files.ranges.Load())
	}
}

// What an earlier attempt left continues, also if it is whole, of another file or
// longer than the file.
func TestDownloadContinuesWhatIsThere(t *testing.T) {
	t.Parallel()
	for name, there := range map[string]func(content []byte) []byte{
		"a part":       func(content []byte) []byte { return content[:5000] },
		"all":          func(content []byte) []byte { return content },
		"another file": func(content []byte) []byte { return make([]byte, 5000) },
		"longer":       func(content []byte) []byte { return append(bytes.Clone(content), 1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, files, url := newDownloadBench(t)
			if err := os.WriteFile(filepath.Join(b.config.Downloads, "a.partial"), there(files.content), 0o600); err != nil {
				t.Fatal(err)
			}
			b.create("j", runHandler(DownloadFile, url, "a", digest(files.content)))
			b.powerOn()
			b.await("j", awsiot.JobSucceeded)
			b.check("a", files.content)
		})
	}
}

func TestDownloadWithoutDigestStartsAnew(t *testing.T) {
	t.Parallel()
	b, files, url := newDownloadBench(t)
	files.cuts.Store(1)
	b.create("j", runHandler(DownloadFile, url, "a"))
	b.powerOn()
	b.await("j", awsiot.JobSucceeded)
	b.check("a", files.content)
	if files.ranges.Load() != 0 {
		t.Error("a part was requested, which may be of another file")
	}
}

// A server that goes silent is left, and asked for the rest.
func TestDownloadThatStallsIsResumed(t *testing.T) {
	t.Parallel()
	b, files, _ := newDownloadBench(t)
	b.config.stallTimeout = 200 * time.Millisecond
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch requests.Add(1) {
		case 1: // before the head
		case 2: // in the middle
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(files.content[:50000])
			_ = http.NewResponseController(w).Flush()
		default:
			files.ServeHTTP(w, r)
			return
		}
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	b.create("j", runHandler(DownloadFile, server.URL, "a", digest(files.content)))
	b.powerOn()
	b.await("j", awsiot.JobSucceeded)
	b.check("a", files.content)
	if files.ranges.Load() == 0 {
		t.Error("what had arrived was requested again")
	}
}

// Where the end of the connection is that of the file, one that was cut short is requested again,
// but not one that is another.
func TestDownloadWithoutLengthIsRepeated(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sizes []int // of the answers
		want  awsiot.JobExecutionStatus
	}{
		"cut short":              {[]int{100, 200, 100000}, awsiot.JobSucceeded},
		"another file":           {[]int{100, 100}, awsiot.JobFailed},
		"cut short, and another": {[]int{100, 200, 200}, awsiot.JobFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, files, _ := newDownloadBench(t)
			var requests atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				conn, buffered, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				n := min(int(requests.Add(1)), len(test.sizes))
				_, _ = fmt.Fprintf(buffered, "HTTP/1.0 200 OK\r\n\r\n%s", files.content[:test.sizes[n-1]])
				_ = buffered.Flush()
			}))
			t.Cleanup(server.Close)
			b.create("j", runHandler(DownloadFile, server.URL, "a", digest(files.content)))
			b.powerOn()
			b.await("j", test.want)
			if test.want == awsiot.JobSucceeded {
				b.check("a", files.content)
			}
			if n := int(requests.Load()); n != len(test.sizes) {
				t.Errorf("%d requests, want %d", n, len(test.sizes))
			}
		})
	}
}

// The proxy of the connection is that of downloads, but for those from this machine.
func TestDownloadGoesThroughTheProxy(t *testing.T) {
	t.Parallel()
	b, files, url := newDownloadBench(t)
	var asked atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Method + " " + r.Host)
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(proxy.Close)
	b.config.Session = session.Options{Endpoint: "abc-ats.iot.eu-west-1.amazonaws.com", Proxy: proxy.URL}
	b.create("j", runHandler(DownloadFile, url, "a"))
	b.powerOn()
	b.await("j", awsiot.JobSucceeded)
	b.check("a", files.content)
	if got := asked.Load(); got != nil {
		t.Error("the proxy was asked for", got)
	}
	b.create("k", runHandler(DownloadFile, "https://files.example.com/a", "a"))
	for asked.Load() == nil {
		b.pause("the proxy")
	}
	if got := asked.Load(); got != "CONNECT files.example.com:443" {
		t.Error("the proxy was asked for", got)
	}
}

// The file belongs to the step's user. A folder gets it under its name in the URL.
func TestDownloadForAUserIntoAFolder(t *testing.T) {
	t.Parallel()
	own, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]awsiot.JobExecutionStatus{own.Username: awsiot.JobSucceeded, "nobody": awsiot.JobSucceeded, "no-such-user": awsiot.JobFailed} {
		if name != own.Username && os.Geteuid() != 0 {
			want = awsiot.JobFailed
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, files, url := newDownloadBench(t)
			folder := filepath.Join(b.config.Downloads, "folder")
			if err := os.Mkdir(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			b.create("j", fmt.Sprintf(`{"version":"1.0","steps":[{"action":{"name":"Download-File","type":"runHandler","input":{"handler":"download-file.sh","args":[%q,%q],"path":"default"},"runAsUser":%q}}]}`,
				url+"/some/file.bin?X-Amz-Expires=60", folder, name))
			b.powerOn()
			b.await("j", want)
			if want == awsiot.JobFailed {
				return
			}
			b.check("folder/file.bin", files.content)
			info, err := os.Stat(filepath.Join(folder, "file.bin"))
			if err != nil {
				t.Fatal(err)
			}
			if u, err := user.Lookup(name); err != nil || fmt.Sprint(info.Sys().(*syscall.Stat_t).Uid) != u.Uid {
				t.Error("the file is another user's:", err)
			}
		})
	}
}

// A download that runs out of time says what was wrong.
func TestDownloadSaysWhyItWasTriedAgain(t *testing.T) {
	t.Parallel()
	timeout := errors.New("timeout")
	ctx, cancel := context.WithCancelCause(t.Context())
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 2 {
			cancel(timeout)
		}
		w.WriteHeader(http.StatusBadGateway)
	}))
	t.Cleanup(server.Close)
	err := New(Config{}).download(ctx, Settings{Downloads: t.TempDir()}, &step{args: []string{server.URL, "a"}})
	if !errors.Is(err, timeout) || !strings.Contains(err.Error(), "502") {
		t.Error(err)
	}
}

// What a server says besides the file is not kept in memory without end.
func TestDownloadWithManyHeadersFails(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 2 {
			cancel()
		}
		w.Header().Set("X", strings.Repeat("x", 1<<20))
	}))
	t.Cleanup(server.Close)
	err := New(Config{}).download(ctx, Settings{Downloads: t.TempDir()}, &step{args: []string{server.URL, "a"}})
	if err == nil || !strings.Contains(err.Error(), "headers exceeded") {
		t.Error(err)
	}
}

func TestDownloadThatIsNotAllowedFails(t *testing.T) {
	t.Parallel()
	elsewhere := t.TempDir()
	redirect := httptest.NewServer(http.RedirectHandler("http://192.0.2.1/secret?token=secret", http.StatusFound))
	t.Cleanup(redirect.Close)
	circle := httptest.NewServer(http.RedirectHandler("/", http.StatusFound))
	t.Cleanup(circle.Close)
	missing := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(missing.Close)
	for name, args := range map[string][]string{
		"plain HTTP":         {"http://192.0.2.1/a", "a"},
		"redirected to HTTP": {redirect.URL, "a"},
		"redirected anew":    {circle.URL, "a"},
		"FTP":                {"ftp://localhost/a", "a"},
		"no URL":             {"https://[", "a"},
		"not found":          {missing.URL, "a"},
		"outside":            {"", filepath.Join(elsewhere, "a")},
		"above":              {"", "../a"},
		"through a link":     {"", "link/a"},
		"no file":            {""},
		"wrong digest":       {"", "a", digest(nil)},
		"not a digest":       {"", "a", "1234"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _, url := newDownloadBench(t)
			if err := os.Symlink(elsewhere, filepath.Join(b.config.Downloads, "link")); err != nil {
				t.Fatal(err)
			}
			if args[0] == "" {
				args[0] = url
			}
			b.create("j", runHandler(DownloadFile, args...))
			b.powerOn()
			e := b.await("j", awsiot.JobFailed)
			if strings.Contains(e.StatusDetails["reason"], "secret") {
				t.Error("the reason has the URL:", e.StatusDetails)
			}
			if found, _ := filepath.Glob(filepath.Join(b.config.Downloads, "a*")); len(found) > 0 {
				t.Error("the folder of downloads has", found)
			}
			if found, _ := os.ReadDir(elsewhere); len(found) > 0 {
				t.Error("the folder elsewhere has", found)
			}
		})
	}
}

func TestDownloadNeedsTheSignatureOfTheConfiguredKey(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		key  string
		args func(content []byte) []string
		want awsiot.JobExecutionStatus
	}{
		"signed":                  {key, func(content []byte) []string { return []string{digest(content), sign(private, content)} }, awsiot.JobSucceeded},
		"signed by another":       {key, func(content []byte) []string { return []string{digest(content), sign(stranger, content)} }, awsiot.JobFailed},
		"signed for another file": {key, func(content []byte) []string { return []string{digest(content), sign(private, content[1:])} }, awsiot.JobFailed},
		"not signed":              {key, func(content []byte) []string { return []string{digest(content)} }, awsiot.JobFailed},
		"without either":          {key, func([]byte) []string { return nil }, awsiot.JobFailed},
		"no key":                  {key + "x", func(content []byte) []string { return []string{digest(content), sign(private, content)} }, awsiot.JobFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, files, url := newDownloadBench(t)
			b.config.PublicKey = test.key
			b.create("j", runHandler(DownloadFile, append([]string{url, "a"}, test.args(files.content)...)...))
			b.powerOn()
			b.await("j", test.want)
		})
	}
}

func sign(key ed25519.PrivateKey, content []byte) string {
	sum := sha256.Sum256(content)
	return base64.StdEncoding.EncodeToString(ed25519.Sign(key, sum[:]))
}
