package broker

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"example.com/fleety/device/awsiot"
)

const sharePrefix = "$share/"

// A subscription is one filter of a session with its options. It is stored as JSON by these names.
type subscription struct {
	Filter            string // as subscribed, $share/GROUP/ included
	Qos               byte
	NoLocal           bool
	RetainAsPublished bool
}

// A topicTree finds the sessions that subscribed to a topic. The zero value has none. It is safe
// for concurrent use.
type topicTree struct {
	mu   sync.RWMutex
	root topicNode
}

// A topicNode is one level of the filters.
type topicNode struct {
	children    map[string]*topicNode // by level, + and # among them
	subscribers map[subscriber]subscription
}

// A subscriber is a session or, in a group, its membership of a shared subscription.
type subscriber struct {
	session *session
	group   string
}

// splitShare takes $share/GROUP/ from a filter; group is empty without it.
func splitShare(filter string) (group, rest string) {
	if shared, ok := strings.CutPrefix(filter, sharePrefix); ok {
		group, rest, _ = strings.Cut(shared, "/")
		return group, rest
	}
	return "", filter
}

// add adds or replaces a subscription.
func (t *topicTree) add(s *session, sub subscription) {
	group, filter := splitShare(sub.Filter)
	t.mu.Lock()
	defer t.mu.Unlock()
	n := &t.root
	for level := range strings.SplitSeq(filter, "/") {
		child := n.children[level]
		if child == nil {
			child = new(topicNode)
			if n.children == nil {
				n.children = map[string]*topicNode{}
			}
			n.children[level] = child
		}
		n = child
	}
	if n.subscribers == nil {
		n.subscribers = map[subscriber]subscription{}
	}
	n.subscribers[subscriber{s, group}] = sub
}

// remove removes a subscription, if it is there.
func (t *topicTree) remove(s *session, filter string) {
	group, filter := splitShare(filter)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.root.remove(subscriber{s, group}, filter)
}

// remove also removes levels that became empty.
func (n *topicNode) remove(s subscriber, filter string) {
	level, rest, more := strings.Cut(filter, "/")
	child := n.children[level]
	switch {
	case child == nil:
		return
	case more:
		child.remove(s, rest)
	default:
		delete(child.subscribers, s)
	}
	if len(child.children)+len(child.subscribers) == 0 {
		delete(n.children, level)
	}
}

// A match is a session that gets a message, and how.
type match struct {
	session *session
	subscription
}

// match returns the sessions that get a message of this topic, each once: all that subscribed, and
// one of each group. Of overlapping subscriptions of a session the highest QoS counts
// [MQTT-3.3.4-2].
func (t *topicTree) match(topic string) []match {
	t.mu.RLock()
	defer t.mu.RUnlock()
	found := t.root.match(topic, strings.HasPrefix(topic, "$"), nil)
	if len(found) < 2 {
		return found
	}
	slices.SortFunc(found, func(a, b match) int { return strings.Compare(a.session.clientID, b.session.clientID) })
	each := found[:1]
	for _, m := range found[1:] {
		if earlier := &each[len(each)-1]; earlier.session == m.session {
			earlier.Qos = max(earlier.Qos, m.Qos)
			earlier.NoLocal = earlier.NoLocal && m.NoLocal // the other one delivers it
			earlier.RetainAsPublished = earlier.RetainAsPublished || m.RetainAsPublished
		} else {
			each = append(each, m)
		}
	}
	return each
}

// match follows a topic. At the first level of a reserved topic no wildcard matches [MQTT-4.7.2-1].
// Unlike MQTT, AWS does not match a/# to a.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/topics.html
func (n *topicNode) match(topic string, reserved bool, found []match) []match {
	level, rest, more := strings.Cut(topic, "/")
	for _, key := range [...]string{level, "+"} {
		if child := n.children[key]; child != nil && (key == level || !reserved) {
			if more {
				found = child.match(rest, false, found)
			} else {
				found = child.collect(found)
			}
		}
	}
	if child := n.children["#"]; child != nil && !reserved {
		found = child.collect(found)
	}
	return found
}

func (n *topicNode) collect(found []match) []match {
	var members map[string][]*session // of each group
	for s, sub := range n.subscribers {
		if s.group == "" {
			found = append(found, match{s.session, sub})
			continue
		}
		if members == nil {
			members = map[string][]*session{}
		}
		members[s.group] = append(members[s.group], s.session)
	}
	for group, all := range members {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		s := all[max(0, slices.IndexFunc(all, func(s *session) bool { return s.conn.Load() != nil }))] // one that is away only if all are
		found = append(found, match{s, n.subscribers[subscriber{s, group}]})
	}
	return found
}

// validFilter reports whether a filter keeps the rules for wildcards, and a share has a name
// [MQTT-4.8.2].
func validFilter(filter string) bool {
	group, rest := splitShare(filter)
	named := group != "" && !strings.ContainsAny(group, "+#")
	return rest != "" && awsiot.ValidFilter(rest) && (named || !strings.HasPrefix(filter, sharePrefix))
}
