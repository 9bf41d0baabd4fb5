package broker

import (
	"strings"
	"testing"
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
			if got := matches(test.filter, test.topic); got != test.want {
				t.Errorf("%s matches %s: %v", test.filter, test.topic, got)
			}
		})
	}
}

// matches asks a tree with one subscription, which must be empty again without it.
func matches(filter, topic string) bool {
	var tree topicTree
	s := new(session)
	tree.add(s, subscription{Filter: filter})
	found := len(tree.match(topic)) > 0
	tree.remove(s, filter)
	if len(tree.root.children) > 0 {
		panic(filter + " was not removed")
	}
	return found
}

func FuzzFilterWithoutWildcardMatchesItselfOnly(f *testing.F) {
	f.Add("a/b", "a/b")
	f.Add("a//", "a/")
	f.Add("$aws/x", "$aws/x")
	f.Fuzz(func(t *testing.T, filter, topic string) {
		if strings.ContainsAny(filter+topic, "+#") || strings.HasPrefix(filter, sharePrefix) {
			t.Skip()
		}
		if got := matches(filter, topic); got != (filter == topic) {
			t.Errorf("%q matches %q: %v", filter, topic, got)
		}
	})
}

// The members of a group get messages at random, each as many as the others.
func TestSharedSubscriptionGivesEachMemberItsShare(t *testing.T) {
	var tree topicTree
	const members, messages = 5, 5000
	for range members {
		tree.add(new(session), subscription{Filter: "$share/g/t"})
	}
	got := map[*session]int{}
	for range messages {
		for _, m := range tree.match("t") {
			got[m.session]++
		}
	}
	for _, n := range got { // 1000 is to be expected, with a deviation of 28
		if len(got) != members || n < 700 || n > 1300 {
			t.Errorf("%d of %d messages for one of %d members", n, messages, len(got))
		}
	}
}
