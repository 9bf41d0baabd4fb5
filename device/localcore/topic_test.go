package localcore_test

import (
	"strings"
	"testing"

	"example.com/fleety/device/localcore"
)

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: the
// wildcards + and # stand for whole levels, and match no topic that begins with
// $.
func TestFiltersMatchTopics(t *testing.T) {
	for name, test := range map[string]struct {
		filter, topic string
		want          bool
	}{
		"same":                      {"a/b", "a/b", true},
		"other":                     {"a/b", "a/c", false},
		"shorter":                   {"a/b", "a", false},
		"longer":                    {"a", "a/b", false},
		"one level":                 {"a/+", "a/b", true},
		"one level is not two":      {"a/+", "a/b/c", false},
		"one level may be empty":    {"a/+", "a/", true},
		"rest":                      {"a/#", "a/b/c", true},
		"rest is not the parent":    {"a/#", "a", false},
		"rest may be empty":         {"a/#", "a/", true},
		"everything":                {"#", "a/b", true},
		"everything but reserved":   {"#", "$aws/events/x", false},
		"level but not reserved":    {"+/events/x", "$aws/events/x", false},
		"reserved":                  {"$aws/events/#", "$aws/events/x", true},
		"shared":                    {"$share/g/a/+", "a/b", true},
		"shared rest is not parent": {"$share/g/a/#", "a", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := localcore.Matches(test.filter, test.topic); got != test.want {
				t.Errorf("%s matches %s: %v", test.filter, test.topic, got)
			}
		})
	}
}

func FuzzFilterWithoutWildcardMatchesItselfOnly(f *testing.F) {
	f.Add("a/b", "a/b")
	f.Add("a//", "a/")
	f.Add("$aws/x", "$aws/x")
	f.Fuzz(func(t *testing.T, filter, topic string) {
		if strings.ContainsAny(filter, "+#") || strings.HasPrefix(filter, "$share/") {
			t.Skip()
		}
		if got := localcore.Matches(filter, topic); got != (filter == topic) {
			t.Errorf("%q matches %q: %v", filter, topic, got)
		}
	})
}
