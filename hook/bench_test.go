package main

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// maxZip is what the hook may be, in bytes, as Lambda fetches it for a cold start.
const maxZip = 4 << 20

// zipped returns the size of a file in a zip archive, at the best compression.
func zipped(t testing.TB, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	w.RegisterCompressor(zip.Deflate, func(to io.Writer) (io.WriteCloser, error) { return flate.NewWriter(to, flate.BestCompression) })
	file, err := w.Create("bootstrap")
	if err == nil {
		_, err = file.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return archive.Len()
}

func TestZipStaysSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and compresses the functions")
	}
	for _, name := range []string{".", "./cmd/retire"} {
		if size := zipped(t, buildFunction(t, "..", "arm64", name)); size > maxZip {
			t.Errorf("the zip of %s has %d bytes, more than %d", name, size, maxZip)
		}
	}
}

// serveThings answers as AWS IoT does for a thing with one certificate that is not active, within
// the same machine.
func serveThings(b *testing.B) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/certificates/") {
			_, _ = io.WriteString(w, `{"certificateDescription":{"status":"INACTIVE"}}`)
			return
		}
		if r.URL.Path == "/principals/things" {
			_, _ = io.WriteString(w, `{"things":[]}`)
			return
		}
		_, _ = io.WriteString(w, `{"principals":["arn:aws:iot:us-east-1:123456789012:cert/old"]}`)
	}))
	b.Cleanup(server.Close)
	return server.URL
}

// environments are the hook's, with and without its questions to AWS IoT.
func environments(b *testing.B) map[string][]string {
	return map[string][]string{
		"rules alone":      {"EXISTING_THINGS=allow"},
		"asking about one": {"AWS_ENDPOINT_URL_IOT=" + serveThings(b), "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"},
	}
}

// BenchmarkFirstAnswer is the time from exec to the first answer, the part of a cold start that is
// ours: aim 8 ms. It also reports the size of the hook as it is deployed: aim 4 MB zipped.
func BenchmarkFirstAnswer(b *testing.B) {
	binary := buildHook(b, "..", runtime.GOARCH)
	deployed := buildHook(b, "..", "arm64")
	size, err := os.Stat(deployed)
	if err != nil {
		b.Fatal(err)
	}
	for name, env := range environments(b) {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				api := startRuntimeAPI(b)
				began := time.Now()
				stop := startHook(b, binary, api, env...)
				api.invoke(b, string(event(`{"serialNumber":"2974685"}`)))
				took = append(took, time.Since(began))
				stop()
			}
			slices.Sort(took)
			b.ReportMetric(0, "ns/op") // it would count the end of the process too
			b.ReportMetric(float64(took[0].Microseconds())/1e3, "ms-fastest")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "ms-median")
			b.ReportMetric(float64(size.Size())/1e6, "MB-binary")
			b.ReportMetric(float64(zipped(b, deployed))/1e6, "MB-zip")
		})
	}
}

// BenchmarkInvocation is the time of one invocation of a warm process, the Runtime API included,
// and the process's greatest resident memory.
func BenchmarkInvocation(b *testing.B) {
	binary := buildHook(b, "..", runtime.GOARCH)
	for name, env := range environments(b) {
		b.Run(name, func(b *testing.B) {
			api := startRuntimeAPI(b)
			hook := exec.CommandContext(b.Context(), binary)
			hook.Env = append(env, "AWS_LAMBDA_RUNTIME_API="+strings.TrimPrefix(api.URL, "http://"))
			if err := hook.Start(); err != nil {
				b.Fatal(err)
			}
			defer api.Close()
			defer func() { _ = hook.Process.Kill(); _ = hook.Wait() }()
			body := string(event(`{"serialNumber":"2974685"}`))
			for b.Loop() {
				api.invoke(b, body)
			}
			b.ReportMetric(peakMemory(b, hook.Process.Pid), "MB-peak")
		})
	}
}

// peakMemory is in units of 10⁶ bytes.
func peakMemory(b *testing.B, pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Skip("needs /proc: ", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kibibytes float64
	if _, err := fmt.Sscan(rest, &kibibytes); err != nil {
		b.Fatal(err)
	}
	return kibibytes * 1024 / 1e6
}
