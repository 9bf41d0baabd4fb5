package corecli

import (
	"testing"
	"time"

	"example.com/fleety/device/localcore"
)

func TestEventsAreDescribedInOneLine(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 67e6, time.Local)
	const certificate = "0123456789abcdef"
	for name, test := range map[string]struct {
		event localcore.Event
		want  string
	}{
		"of a client": {
			localcore.Event{Type: localcore.Published, ClientID: "a", CertificateID: certificate, Address: "127.0.0.1:9", Topic: "t/1"},
			"03:04:05.067 published          a t/1 (certificate 01234567…, from 127.0.0.1:9)",
		},
		"of a thing under another client id": {
			localcore.Event{Type: localcore.Connected, ClientID: "a", ThingName: "lamp"},
			"03:04:05.067 connected          a (thing lamp)",
		},
		"of a client without an id yet": {
			localcore.Event{Type: localcore.Rejected, Action: localcore.ActionTLS, Address: "127.0.0.1:9", Reason: "no certificate"},
			"03:04:05.067 rejected tls       127.0.0.1:9: no certificate",
		},
		"of a rejected registration": {
			localcore.Event{Type: localcore.Rejected, Action: localcore.ActionProvision, ClientID: "a", Operation: "RegisterThing", Code: "AccessDenied", Reason: "why"},
			"03:04:05.067 rejected provision a RegisterThing AccessDenied: why",
		},
		"of an unknown client": {localcore.Event{Type: localcore.Disconnected}, "03:04:05.067 disconnected       unknown client"},
	} {
		t.Run(name, func(t *testing.T) {
			test.event.Time = at
			if got := describe(test.event); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}
