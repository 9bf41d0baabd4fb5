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
