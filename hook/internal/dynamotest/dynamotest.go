// Package dynamotest is as much of DynamoDB as the tests of this module need:
// PutItem and UpdateItem over DynamoDB's JSON protocol, with condition and update
// expressions evaluated, each request atomic. It knows string attributes only,
// and one table with one partition key. It is no substitute for a run against
// DynamoDB itself.
//
// AWS page: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.LowLevelAPI.html
package dynamotest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// A Table is one table, served over HTTP. It is safe for concurrent use.
type Table struct {
	name, key string
	server    *httptest.Server

	mu     sync.Mutex
	items  map[string]map[string]string
	called map[string]int // by operation
	broken string         // the error code of every answer, if not empty
}

// Serve serves an empty table until the test ends.
func Serve(t testing.TB, name, key string) *Table {
	table := &Table{name: name, key: key, items: map[string]map[string]string{}, called: map[string]int{}}
	table.server = httptest.NewServer(http.HandlerFunc(table.serve))
	t.Cleanup(table.server.Close)
	return table
}

// URL is the endpoint.
func (t *Table) URL() string { return t.server.URL }

// Config leads the AWS SDK to the table, with retries off.
func (t *Table) Config() aws.Config {
	return aws.Config{
		Region:       "us-east-1",
		BaseEndpoint: &t.server.URL,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "id", SecretAccessKey: "secret"}, nil
		}),
		Retryer: func() aws.Retryer { return aws.NopRetryer{} },
	}
}

// Break makes every further request fail with this error code.
func (t *Table) Break(code string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broken = code
}

// Items returns a copy of all items, by key.
func (t *Table) Items() map[string]map[string]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := map[string]map[string]string{}
	for key, item := range t.items {
		all[key] = maps.Clone(item)
	}
	return all
}

// Called returns how often each operation was called.
func (t *Table) Called() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.called)
}

// attributes are an item on the wire.
type attributes map[string]struct{ S string }

func (a attributes) strings() map[string]string {
	plain := map[string]string{}
	for name, value := range a {
		plain[name] = value.S
	}
	return plain
}

func wire(item map[string]string) map[string]any {
	out := map[string]any{}
	for name, value := range item {
		out[name] = map[string]string{"S": value}
	}
	return out
}

type request struct {
	TableName                           string
	Key, Item                           attributes
	ConditionExpression                 string
	UpdateExpression                    string
	ExpressionAttributeValues           attributes
	ReturnValuesOnConditionCheckFailure string
}

// An apiError is an answer of failure.
type apiError struct {
	code string
	item map[string]string // of a condition that failed, if asked for
}

func (t *Table) serve(w http.ResponseWriter, r *http.Request) {
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), "DynamoDB_20120810.")
	var q request
	failure := &apiError{code: "SerializationException"}
	if json.NewDecoder(r.Body).Decode(&q) == nil {
		failure = t.do(operation, q)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	if failure == nil {
		fmt.Fprint(w, "{}")
		return
	}
	w.WriteHeader(http.StatusBadRequest)
	answer := map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#" + failure.code, "message": "no"}
	if failure.item != nil {
		answer["Item"] = wire(failure.item)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (t *Table) do(operation string, q request) *apiError {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.called[operation]++
	switch {
	case t.broken != "":
		return &apiError{code: t.broken}
	case q.TableName != t.name:
		return &apiError{code: "ResourceNotFoundException"}
	}
	given := q.Key
	if operation == "PutItem" {
		given = q.Item
	}
	key, ok := given[t.key]
	if !ok || key.S == "" {
		return &apiError{code: "ValidationException"}
	}
	values := q.ExpressionAttributeValues.strings()
	old := t.items[key.S]
	holds, err := condition(q.ConditionExpression, old, values)
	if err != nil {
		return &apiError{code: "ValidationException"}
	}
	if !holds {
		failure := &apiError{code: "ConditionalCheckFailedException"}
		if q.ReturnValuesOnConditionCheckFailure == "ALL_OLD" {
			failure.item = old
		}
		return failure
	}
	changed := maps.Clone(given.strings())
	switch operation {
	case "PutItem":
	case "UpdateItem":
		maps.Copy(changed, old)
		if err := update(q.UpdateExpression, changed, values); err != nil {
			return &apiError{code: "ValidationException"}
		}
	default:
		return &apiError{code: "UnknownOperationException"}
	}
	t.items[key.S] = changed
	return nil
}
