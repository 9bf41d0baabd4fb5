package localcore_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
)

// A lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func TestNoSecretIsLoggedOrKeptAsEvent(t *testing.T) {
	t.Parallel()
	var out lockedBuffer
	s := start(t, localcore.Config{
		Templates: templates, HookFunc: allowEvery,
		Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug - 4})),
	})
	claim := dialClaim(t, s)
	made := accepted[awsiot.CreateKeysAndCertificateResponse](t, createTopic, claim.ask(t, createTopic, nil))
	token := made.CertificateOwnershipToken
	rejected(t, registerTopic, claim.ask(t, registerTopic, registration(token, "has a space")))
	rejected(t, registerTopic, claim.ask(t, registerTopic, registration(token+"x", "2974685")))
	rejected(t, registerTopic, claim.ask(t, registerTopic, string(token)))
	accepted[awsiot.RegisterThingResponse](t, registerTopic, claim.ask(t, registerTopic, registration(token, "2974685")))
	// A denied publish with secrets in it must not show them either.
	claim.Publish("forbidden", 1, false, string(token)+string(made.PrivateKey))
	awaitRejection(t, s, localcore.ActionPublish, "forbidden")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if !strings.Contains(text, "forbidden") {
		t.Fatal("nothing was logged")
	}
	secrets := map[string]string{
		"token":      string(token),
		"device key": strings.Split(string(made.PrivateKey), "\n")[1],
		"claim key":  strings.Split(string(s.Claim().PrivateKeyPEM), "\n")[1],
	}
	for name, secret := range secrets {
		if strings.Contains(text, secret) {
			t.Errorf("the log shows the %s", name)
		}
	}
}

func TestCredentialIsPrintedWithoutItsKey(t *testing.T) {
	t.Parallel()
	c := localcore.Credential{CertificateID: "abc", PrivateKeyPEM: []byte("secret")}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, c); strings.Contains(text, "secret") || strings.Contains(text, "115, 101") || strings.Contains(text, "0x73") {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}
