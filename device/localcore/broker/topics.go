package broker

import (
	"strings"
	"sync"
)

const sharePrefix = "$share/"

// A subscription is one filter of a session with its options. It is stored as
// JSON by these names.
type subscription struct {
	Filter            string // as subscribed, $share/GROUP/ included
	Qos               byte
	NoLocal           bool
	RetainAsPublished bool
}

// A topicTree finds the sessions that subscribed to a topic. The zero value has
// none. It is safe for concurrent use.
type topicTree struct {
	mu   sync.RWMutex
	root topicNode
}

// A topicNode is one level of the filters.
type topicNode struct {
	children    map[string]*topicNode // by level, + and # among them
	subscribers map[*session]subscription
	groups      map[string]map[*session]subscription // by the name of the share
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
	if group == "" {
		if n.subscribers == nil {
			n.subscribers = map[*session]subscription{}
		}
		n.subscribers[s] = sub
		return
	}
	if n.groups == nil {
		n.groups = map[string]map[*session]subscription{}
	}
	if n.groups[group] == nil {
		n.groups[group] = map[*session]subscription{}
	}
	n.groups[group][s] = sub
}

// remove removes a subscription, if it is there.
func (t *topicTree) remove(s *session, filter string) {
	group, filter := splitShare(filter)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.root.remove(s, group, filter)
}

// remove also removes levels that became empty.
func (n *topicNode) remove(s *session, group, filter string) {
	level, rest, more := strings.Cut(filter, "/")
	child := n.children[level]
	switch {
	case child == nil:
		return
	case more:
		child.remove(s, group, rest)
	case group == "":
		delete(child.subscribers, s)
	default:
		delete(child.groups[group], s)
		if len(child.groups[group]) == 0 {
			delete(child.groups, group)
		}
	}
	if len(child.children)+len(child.subscribers)+len(child.groups) == 0 {
		delete(n.children, level)
	}
}

// match returns the sessions that get a message of this topic, each once: all
// that subscribed, and one of each group. Of overlapping subscriptions of a
// session the highest QoS counts [MQTT-3.3.4-2].
func (t *topicTree) match(topic string) map[*session]subscription {
	found := map[*session]subscription{}
	t.mu.RLock()
	defer t.mu.RUnlock()
	t.root.match(topic, strings.HasPrefix(topic, "$"), found)
	return found
}

// match follows a topic. At the first level of a reserved topic no wildcard
// matches [MQTT-4.7.2-1]. Unlike MQTT, AWS does not match a/# to a.
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
	for s, sub := range n.subscribers {
		merge(s, sub)
	}
	for _, members := range n.groups {
		var chosen *session
		for s := range members { // in random order; one that is away only if all are
			if chosen = s; s.connected() {
				break
			}
		}
		merge(chosen, members[chosen])
	}
}

// validFilter reports whether each wildcard is a level of its own, # the last
// one, and a share has a name [MQTT-4.7.1] [MQTT-4.8.2].
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
