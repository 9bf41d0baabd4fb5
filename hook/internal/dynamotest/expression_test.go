package dynamotest

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCondition(t *testing.T) {
	item := map[string]string{"a": "1"}
	tests := map[string]struct {
		expression string
		want       bool
	}{
		"none":              {"", true},
		"exists":            {"attribute_exists(a)", true},
		"does not exist":    {"attribute_exists(b)", false},
		"not exists":        {"attribute_not_exists(b)", true},
		"equal":             {"a = :one", true},
		"not equal":         {"a = :two", false},
		"absent not equal":  {"b = :one", false},
		"or before and":     {"attribute_exists(b) AND (attribute_exists(a) OR a = :one)", false},
		"and binds tighter": {"attribute_exists(a) OR attribute_exists(b) AND attribute_exists(b)", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := condition(test.expression, item, map[string]string{":one": "1", ":two": "2"})
			if got != test.want || err != nil {
				t.Errorf("condition(%q) = %t, %v, want %t", test.expression, got, err, test.want)
			}
		})
	}
}

func TestUpdate(t *testing.T) {
	item := map[string]string{"a": "1", "b": "1"}
	for _, expression := range []string{"SET b = if_not_exists(b, :two), c = if_not_exists(c, :two)", "REMOVE a, x"} {
		if err := update(expression, item, map[string]string{":two": "2"}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(map[string]string{"b": "1", "c": "2"}, item); diff != "" {
		t.Errorf("item differs (-want +got):\n%s", diff)
	}
}

func TestMalformedExpressions(t *testing.T) {
	for _, expression := range []string{"attribute_exists(a", "a = :missing", "a", "a = :one b", "a # :one", "()"} {
		if _, err := condition(expression, nil, map[string]string{":one": "1"}); err == nil {
			t.Errorf("condition(%q) has no error", expression)
		}
	}
	for _, expression := range []string{"", "DELETE a", "SET a", "SET a = :missing", "SET a = if_not_exists(a)"} {
		if err := update(expression, map[string]string{}, nil); err == nil {
			t.Errorf("update(%q) has no error", expression)
		}
	}
}
