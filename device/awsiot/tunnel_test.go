package awsiot_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
)

// The bytes are those that protoc's encoder makes of AWS's message schema.
func TestTunnelMessagesHaveAWSsForm(t *testing.T) {
	t.Parallel()
	for want, m := range map[string]awsiot.TunnelMessage{
		"0004" + "0802" + "1001":                                                {Type: awsiot.TunnelStreamStart, StreamID: 1},
		"000c" + "0802" + "1001" + "2a0473736831" + "3801":                      {Type: awsiot.TunnelStreamStart, StreamID: 1, ServiceID: "ssh1", ConnectionID: 1},
		"0014" + "0801" + "10ac02" + "22026869" + "2a0353534" + "838ffffffff0f": {Type: awsiot.TunnelData, StreamID: 300, Payload: []byte("hi"), ServiceID: "SSH", ConnectionID: 1<<32 - 1},
		"000e" + "0805" + "320473736831" + "320473736832":                       {Type: awsiot.TunnelServiceIDs, ServiceIDs: []string{"ssh1", "ssh2"}},
		"000f" + "0803" + "10ffffffffffffffffff01" + "1801":                     {Type: awsiot.TunnelStreamReset, StreamID: -1, Ignorable: true},
	} {
		encoded := awsiot.AppendTunnelMessage([]byte("before"), m)
		if got := hex.EncodeToString(encoded[6:]); got != want {
			t.Errorf("%+v is encoded as %s, want %s", m, got, want)
		}
		got, rest, complete, err := awsiot.CutTunnelMessage(append(encoded[6:], "rest"...))
		if diff := cmp.Diff(m, got); err != nil || !complete || string(rest) != "rest" || diff != "" {
			t.Errorf("%s: %v, %t, rest %q\n%s", want, err, complete, rest, diff)
		}
		for n := range len(encoded) - 6 {
			if _, rest, complete, err := awsiot.CutTunnelMessage(encoded[6:][:n]); complete || err != nil || len(rest) != n {
				t.Errorf("%d bytes of %s: %t, %v", n, want, complete, err)
			}
		}
	}
}

func TestMalformedTunnelMessagesAreErrors(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("00", awsiot.MaxTunnelPayload+1)
	for _, message := range []string{
		"08", "0880", "08ffffffffffffffffffff01", "00", "0001", "0b", "0c", "0e", "0f", // numbers, field 0, groups, no wire type
		"22", "2205ff", "22ffffffffffffffffff01", "2a01ff", "3202c0af", // lengths, text that is not UTF-8
		"41", "4100", "450000", // cut fields that are unknown
		"2281f803" + large,
	} {
		data, err := hex.DecodeString(message)
		if err != nil {
			t.Fatal(err)
		}
		if m, _, complete, err := awsiot.CutTunnelMessage(append([]byte{byte(len(data) >> 8), byte(len(data))}, data...)); err == nil || complete {
			t.Errorf("%.40s is read as %+v", message, m)
		}
	}
}

// A field that AWS's schema does not have is seen, whatever its wire type.
func TestExtendedTunnelMessagesAreSeen(t *testing.T) {
	t.Parallel()
	for _, field := range []string{"4001", "42026869", "410000000000000000", "4500000000", "0a00", "2001"} {
		data, _ := hex.DecodeString("0000" + "0801" + field)
		data[1] = byte(len(data) - 2)
		if m, _, _, err := awsiot.CutTunnelMessage(data); err != nil || !m.Extended || m.Type != awsiot.TunnelData {
			t.Errorf("%s: %+v, %v", field, m, err)
		}
	}
}

func TestTunnelAccessTokenIsNotPrinted(t *testing.T) {
	t.Parallel()
	n := awsiot.TunnelNotification{ClientAccessToken: "AQGA-token"}
	if text := fmt.Sprintf("%v %+v %#v %s", n, n, n, n.ClientAccessToken); strings.Contains(text, "AQGA") {
		t.Error(text)
	}
}

func FuzzTunnelMessage(f *testing.F) {
	f.Add(awsiot.AppendTunnelMessage(nil, awsiot.TunnelMessage{Type: awsiot.TunnelData, StreamID: 1, Payload: []byte("x"), ServiceID: "SSH", ConnectionID: 7}))
	f.Add(awsiot.AppendTunnelMessage(nil, awsiot.TunnelMessage{Type: awsiot.TunnelServiceIDs, ServiceIDs: []string{"a", ""}}))
	f.Add([]byte{0, 3, 0x0d, 1, 2})
	f.Fuzz(func(t *testing.T, data []byte) {
		for {
			m, rest, complete, err := awsiot.CutTunnelMessage(data)
			if err != nil || !complete {
				return
			}
			if len(rest) >= len(data) {
				t.Fatal("nothing was cut")
			}
			data = rest
			if m.Extended {
				continue
			}
			again, rest, complete, err := awsiot.CutTunnelMessage(awsiot.AppendTunnelMessage(nil, m))
			if err != nil || !complete || len(rest) > 0 || again.Type != m.Type || again.StreamID != m.StreamID ||
				!bytes.Equal(again.Payload, m.Payload) || again.ServiceID != m.ServiceID || !cmp.Equal(again.ServiceIDs, m.ServiceIDs) ||
				again.ConnectionID != m.ConnectionID || again.Ignorable != m.Ignorable {
				t.Fatalf("%+v is read again as %+v, %v", m, again, err)
			}
		}
	})
}
