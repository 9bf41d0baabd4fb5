// Package dynamotest runs DynamoDB for tests: dynalite, a process of its own that npm ci installs
// in infra/.
package dynamotest

import (
	"bufio"
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"example.com/fleety/hook/internal/awsenv"
)

// Table is the name of the table that is there, with the partition key serialNumber.
const Table = "serials"

// Serve runs DynamoDB until the test ends. The configuration leads the AWS SDK there, with retries
// off.
func Serve(t testing.TB) aws.Config {
	t.Helper()
	if testing.Short() {
		t.Skip("Node.js takes seconds for DynamoDB")
	}
	module, err := exec.Command("go", "env", "GOMOD").Output() // go test runs in the package's folder
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(filepath.Dir(string(module)), "..")
	if _, err := os.Stat(filepath.Join(root, "infra", "node_modules", "dynalite")); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("dynalite is not installed: run npm ci in infra/")
		}
		t.Skip("dynalite is not installed: run npm ci in infra/")
	}
	node := exec.Command("node", filepath.Join(root, "scripts", "dynamodb.mjs"), Table)
	node.Stderr = os.Stderr
	stdin, inErr := node.StdinPipe() // its end is the end of the process
	stdout, outErr := node.StdoutPipe()
	if err := cmp.Or(inErr, outErr, node.Start()); err != nil {
		t.Fatalf("starting DynamoDB: %v", err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = node.Wait()
	})
	endpoint, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("starting DynamoDB: %v", err)
	}
	environment := map[string]string{
		"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": strings.TrimSpace(endpoint),
	}
	c := awsenv.Config(func(name string) string { return environment[name] }, "DYNAMODB", time.Minute)
	c.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	return c
}

// Items returns the string attributes of all items, by serial number.
func Items(t testing.TB, c aws.Config) map[string]map[string]string {
	t.Helper()
	answer, err := dynamodb.NewFromConfig(c).Scan(t.Context(), &dynamodb.ScanInput{TableName: aws.String(Table)})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string]string{}
	for _, item := range answer.Items {
		plain := map[string]string{}
		for name, value := range item {
			plain[name] = value.(*types.AttributeValueMemberS).Value
		}
		all[plain["serialNumber"]] = plain
	}
	return all
}
