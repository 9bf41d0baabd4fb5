package localcore_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"example.com/fleety/device/localcore"
)

// A script waits for the emulator, and reads the claim next: the API answers only when the files of
// this start are there, whatever a former start has left.
func TestHealthAnswersOnceCredentialsAreWritten(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "credentials")
	// Linux has all of 127.0.0.0/8: an address of this process's own, where the port is free.
	api := fmt.Sprintf("127.83.%d.%d:8480", os.Getpid()>>8&255, os.Getpid()&255)
	for range 2 {
		found := make(chan []byte, 1)
		go func() {
			for t.Context().Err() == nil {
				response, err := http.Get("http://" + api + "/_local/health")
				if err != nil {
					continue // not listening yet
				}
				response.Body.Close()
				claim, _ := os.ReadFile(filepath.Join(dir, "fleet-provisioning.certificate.pem"))
				found <- claim
				return
			}
		}()
		server, err := localcore.Start(t.Context(), localcore.Config{API: api, Credentials: dir})
		if err != nil {
			t.Fatal(err)
		}
		if claim := <-found; !bytes.Equal(claim, server.Claim().CertificatePEM) {
			t.Errorf("ready, with the claim\n%s", claim)
		}
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
