package session_test

import (
	"testing"

	"example.com/fleety/device/session"
)

func TestOnConnectIsToldWhatTheConnectionTook(t *testing.T) {
	s := serve(t, nil, broker(nil))
	o := s.options()
	var told []session.Stats
	o.OnConnect = func(stats session.Stats) { told = append(told, stats) }
	connect(t, o)
	if len(told) != 1 || told[0].RoundTrips() == 0 || told[0].Dial <= 0 || told[0].Handshake <= 0 || told[0].Connect <= 0 || told[0].BytesOut == 0 {
		t.Errorf("told %+v", told)
	}
}
