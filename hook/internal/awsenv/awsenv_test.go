package awsenv_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
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
	c := awsenv.Config(func(name string) string { return env[name] }, "IOT")
	client := c.HTTPClient.(*awshttp.BuildableClient)
	if timeout := client.GetTimeout(); timeout <= 0 || timeout > time.Second {
		t.Errorf("an attempt takes %v of the 3 s for all look-ups", timeout)
	}
	c.HTTPClient = client.WithTimeout(200 * time.Millisecond)
	if _, err := iot.NewFromConfig(c).DescribeEndpoint(t.Context(), nil); err != nil || requests.Load() < 2 {
		t.Errorf("%d requests, error %v", requests.Load(), err)
	}
}
