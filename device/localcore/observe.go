package localcore

import (
	"encoding/base64"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/rules"
)

// waitingMessages is how many messages wait for one observer; further ones are
// lost to it.
const waitingMessages = 256

// An observedMessage is a message as /_local/messages shows it.
type observedMessage struct {
	Time     time.Time `json:"time"`
	Topic    string    `json:"topic"`
	ClientID string    `json:"clientId,omitempty"` // empty if no client published it
	QoS      byte      `json:"qos"`
	Retain   bool      `json:"retain,omitempty"`
	// Payload is text, or, where it is not UTF-8, Base64.
	Payload string `json:"payload"`
	Base64  bool   `json:"base64,omitempty"`
	// Lost counts the messages that the observer was too slow for.
	Lost int `json:"lost,omitempty"`
}

// An observer follows the messages that one filter selects.
type observer struct {
	filter   string
	messages chan *broker.Message
	lost     atomic.Int32
}

// Observers are those who follow messages. The zero value has none. It is safe
// for concurrent use.
type observers struct {
	mu  sync.RWMutex
	all map[*observer]struct{} // under mu
}

// send hands a message to those whose filter selects it. It does not block.
func (o *observers) send(m *broker.Message) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	for one := range o.all {
		if !rules.MatchFilter(one.filter, m.Topic) {
			continue
		}
		select {
		case one.messages <- m:
		default:
			one.lost.Add(1)
		}
	}
}

// serveMessages follows messages as a subscriber would that every policy
// allows. What goes to one connection only is not among them.
func (s *Server) serveMessages(w http.ResponseWriter, r *http.Request) {
	one := &observer{filter: r.URL.Query().Get("filter"), messages: make(chan *broker.Message, waitingMessages)}
	if one.filter == "" {
		one.filter = "#"
	}
	s.observers.mu.Lock()
	if s.observers.all == nil {
		s.observers.all = map[*observer]struct{}{}
	}
	s.observers.all[one] = struct{}{}
	s.observers.mu.Unlock()
	defer func() {
		s.observers.mu.Lock()
		defer s.observers.mu.Unlock()
		delete(s.observers.all, one)
	}()
	stream(w, func() (any, error) {
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case m := <-one.messages:
			v := observedMessage{
				Time: m.Time.UTC(), Topic: m.Topic, ClientID: m.ClientID, QoS: m.QoS, Retain: m.Retain,
				Payload: string(m.Payload), Lost: int(one.lost.Swap(0)),
			}
			if v.Base64 = !utf8.Valid(m.Payload); v.Base64 {
				v.Payload = base64.StdEncoding.EncodeToString(m.Payload)
			}
			return v, nil
		}
	})
}
