package localcore

import (
	"cmp"
	"encoding/base64"
	"net/http"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
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
	Lost int32 `json:"lost,omitempty"`
}

// An observer follows the messages that one filter selects.
type observer struct {
	filter   string
	messages chan *broker.Message
	lost     atomic.Int32
}

// showObservers hands a message to those whose filter selects it. It does not
// block.
func (s *Server) showObservers(m *broker.Message) {
	for key := range s.observers.Range {
		o := key.(*observer)
		if !awsiot.MatchFilter(o.filter, m.Topic) {
			continue
		}
		select {
		case o.messages <- m:
		default:
			o.lost.Add(1)
		}
	}
}

// serveMessages follows messages as a subscriber would that every policy
// allows. What goes to one connection only is not among them.
func (s *Server) serveMessages(w http.ResponseWriter, r *http.Request) {
	o := &observer{filter: cmp.Or(r.URL.Query().Get("filter"), "#"), messages: make(chan *broker.Message, waitingMessages)}
	s.observers.Store(o, nil)
	defer s.observers.Delete(o)
	stream(w, func() (any, error) {
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case m := <-o.messages:
			v := observedMessage{
				Time: m.Time.UTC(), Topic: m.Topic, ClientID: m.ClientID, QoS: m.QoS, Retain: m.Retain,
				Payload: string(m.Payload), Base64: !utf8.Valid(m.Payload), Lost: o.lost.Swap(0),
			}
			if v.Base64 {
				v.Payload = base64.StdEncoding.EncodeToString(m.Payload)
			}
			return v, nil
		}
	})
}
