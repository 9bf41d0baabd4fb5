package conformance

import (
	"net"
	"testing"
	"testing/synctest"
)

// A server that takes nothing more from its connections does not hold a check for ever.
func TestWritingEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		logged := ""
		c := &client{conn: ours, log: func(format string, _ ...any) { logged += format }}
		if err := c.write([]byte("any")); err != nil || logged != "> not sent: %v" {
			t.Errorf("error %v, logged %q", err, logged)
		}
	})
}

func TestEmptySecretsHideNothing(t *testing.T) {
	t.Parallel()
	s := &script{run: &run{host: "host"}, vars: map[string]string{"p": "name", "run": "run"}}
	s.keepSecret(`{"privateKey": "", "PrivateKey": "k", "certificateOwnershipToken": ""}`)
	if got := s.redact("a k on host")[0]; got != "a REDACTED on ENDPOINT" {
		t.Errorf("got %q", got)
	}
}
