package localcore

import (
	"fmt"
	"testing"

	"example.com/fleety/device/localcore/registry"
)

// Policies that no session has any more do not stay in memory.
func TestParsedPoliciesAreBounded(t *testing.T) {
	t.Parallel()
	var c documentCache
	for i := range 3 * maxDocuments {
		text := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Connect","Resource":"arn:aws:iot:us-east-1:123456789012:client/%d"}]}`, i)
		if policies := c.parse([]registry.PolicyDocument{{Name: "p", Document: text}}); len(policies) != 1 {
			t.Fatalf("policy %d was not parsed", i)
		}
		if len(c.byText) > maxDocuments {
			t.Fatalf("%d policies are kept after %d", len(c.byText), i+1)
		}
	}
}
