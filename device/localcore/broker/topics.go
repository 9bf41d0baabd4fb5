package broker

import (
	"strings"
	"sync"
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

// match returns the sessions that get a message of this topic, each once: all that subscribed, and
// one of each group. Of overlapping subscriptions of a session the highest QoS counts
// [MQTT-3.3.4-2].
func (t *topicTree) match(topic string) map[*session]subscription {
	found := map[*session]subscription{}
	t.mu.RLock()
	defer t.mu.RUnlock()
	t.root.match(topic, strings.HasPrefix(topic, "$"), found)
	return found
}

// match follows a topic. At the first level of a reserved topic no wildcard matches [MQTT-4.7.2-1].
// Unlike MQTT, AWS does not match a/# to a.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/topics.html
func (n *topicNode) match(topic string, reserved bool, found map[*session]subscription) {
	level, rest, more := strings.Cut(topic, "/")
	for _, key := range [...]string{level, "+"} {
		if child := n.children[key]; child != nil && (key == level || !reserved) {
			if more {
				child.match(rest, false, found)
			} else {
				child.collect(found)
			}
		}
	}
	if child := n.children["#"]; child != nil && !reserved {
		child.collect(found)
	}
}

func (n *topicNode) collect(found map[*session]subscription) {
	merge := func(s *session, sub subscription) {
		if earlier, ok := found[s]; ok {
			sub.Qos = max(sub.Qos, earlier.Qos)
			sub.NoLocal = sub.NoLocal && earlier.NoLocal // the other one delivers it
			sub.RetainAsPublished = sub.RetainAsPublished || earlier.RetainAsPublished
		}
		found[s] = sub
	}
	var chosen map[string]*session // of each group
	for s, sub := range n.subscribers {
		if s.group == "" {
			merge(s.session, sub)
			continue
		}
		if chosen == nil {
			chosen = map[string]*session{}
		}
		if one := chosen[s.group]; one == nil || one.conn.Load() == nil { // in random order; one that is away only if all are
			chosen[s.group] = s.session
		}
	}
	for group, s := range chosen {
		merge(s, n.subscribers[subscriber{s, group}])
	}
}

// validFilter reports whether each wildcard is a level of its own, # the last one, and a share has
// a name [MQTT-4.7.1] [MQTT-4.8.2].
func validFilter(filter string) bool {
	group, rest := splitShare(filter)
	if rest == "" || strings.ContainsAny(group, "+#") || strings.HasPrefix(filter, sharePrefix) && group == "" {
		return false
	}
	last := false
	for level := range strings.SplitSeq(rest, "/") {
		if last || len(level) > 1 && strings.ContainsAny(level, "+#") {
			return false
		}
		last = level == "#"
	}
	return true
}
