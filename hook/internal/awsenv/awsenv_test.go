package awsenv_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"

	"example.com/fleety/hook/internal/awsenv"
)

func TestSilentConnectionLeavesTimeForAnother(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	closed := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 1 {
			<-closed
		}
		_, _ = io.WriteString(w, "{}")
	}))
	defer server.Close()
	defer close(closed)
	env := map[string]string{"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": server.URL}
	c := awsenv.Config(func(name string) string { return env[name] }, "IOT", 200*time.Millisecond)
	c.RetryMaxAttempts = 20 // on a busy machine the next can be slow too
	if _, err := iot.NewFromConfig(c).DescribeEndpoint(t.Context(), nil); err != nil || requests.Load() < 2 {
		t.Errorf("%d requests, error %v", requests.Load(), err)
	}
}
