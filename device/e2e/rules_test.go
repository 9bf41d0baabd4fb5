package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/device/localcore/registry"
)

// The birth message of a device that has rotated makes the rule of the stack
// invoke its function, which deactivates the former certificate: the device, the
// SQL and the function are those of production.
func TestRuleOfTheStackRetiresRotatedCertificates(t *testing.T) {
	t.Parallel()
	function := lambdahost.Config{Path: build(t, retire)}
	s := &site{binary: build(t, shipped), dir: t.TempDir(), cloud: startCloud(t, func(c *localcore.Config) {
		c.API, c.Functions = "", map[string]lambdahost.Config{"retire": function}
	})}
	synthesized, err := os.ReadFile(filepath.Join("..", "..", "infra", "stack", "testdata", "template.golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	sql := regexp.MustCompile(`"Sql": "(.*)"`).FindSubmatch(synthesized)
	if sql == nil {
		t.Fatal("the stack has no rule")
	}
	rule, err := json.Marshal(map[string]any{
		"awsIotSqlVersion": "2016-03-23",
		"sql":              string(sql[1]),
		"actions":          []any{map[string]any{"lambda": map[string]any{"functionArn": "arn:aws:lambda:us-east-1:123456789012:function:retire"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	created, err := http.Post(s.cloud.APIURL()+"/rules/BirthMessages", "application/json", strings.NewReader(string(rule)))
	if err != nil {
		t.Fatal(err)
	}
	created.Body.Close()
	if created.StatusCode != http.StatusOK {
		t.Fatal(created.Status)
	}
	d := s.device(t, "device")
	first := d.mustRun(t)
	if o := d.rotate(t); o.code != 0 {
		t.Fatalf("exit %d\n%s", o.code, o.stderr)
	}
	for {
		if c, _ := s.cloud.Registry().CertificateByID(first.result.CertificateID); c.Status == registry.Inactive {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("the former certificate is still active")
		}
	}
}
