package session_test

import (
	"testing"

	"example.com/fleety/device/session"
)

func TestOnConnectReceivesWhatWasMeasured(t *testing.T) {
	s := serve(t, nil, broker(nil))
	o := s.options()
	var got []session.Stats
	o.OnConnect = func(stats session.Stats) { got = append(got, stats) }
	connect(t, o)
	if len(got) != 1 || got[0].RoundTrips() == 0 || got[0].Dial <= 0 || got[0].Handshake <= 0 || got[0].Connect <= 0 || got[0].BytesOut == 0 {
		t.Errorf("got %+v", got)
	}
}

// TestOnCloseReceivesWhatWasMeasured counts DISCONNECT, which leaves last.
func TestOnCloseReceivesWhatWasMeasured(t *testing.T) {
	s := serve(t, nil, broker(nil))
	o := s.options()
	var connected, closed session.Stats
	o.OnConnect = func(stats session.Stats) { connected = stats }
	o.OnClose = func(stats session.Stats) { closed = stats }
	if err := connect(t, o).Close(t.Context()); err != nil || closed.BytesOut <= connected.BytesOut || closed.BytesIn < connected.BytesIn {
		t.Errorf("%v, connected %+v, closed %+v", err, connected, closed)
	}
}
