package localcore_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore"
)

// A presigned describes a request for MQTT over WebSocket.
type presigned struct {
	key, secret, service, region, path, token string
	at                                        time.Time
	origin                                    string
	subprotocols                              []string
	edit                                      *strings.Replacer // of the signed URL
}

// webSocketURL signs a request as AWS documents: the token is no part of it.
func (p presigned) webSocketURL(t *testing.T, s *localcore.Server) string {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.APIURL()+p.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	empty := sha256.Sum256(nil)
	signed, _, err := v4.NewSigner().PresignHTTP(t.Context(), aws.Credentials{AccessKeyID: p.key, SecretAccessKey: p.secret}, r,
		hex.EncodeToString(empty[:]), p.service, p.region, p.at)
	if err != nil {
		t.Fatal(err)
	}
	if p.token != "" {
		signed += "&X-Amz-Security-Token=" + url.QueryEscape(p.token)
	}
	if p.edit != nil {
		signed = p.edit.Replace(signed)
	}
	return "ws" + strings.TrimPrefix(signed, "http")
}

// dialWebSocket opens a WebSocket connection. The handshake's response says what became of it.
func dialWebSocket(t *testing.T, s *localcore.Server, adjust ...func(*presigned)) (*websocket.Conn, *http.Response) {
	t.Helper()
	p := presigned{
		key: localcore.AccessKeyID, secret: localcore.SecretAccessKey, service: "iotdevicegateway", region: "us-east-1",
		path: "/mqtt", at: time.Now(), subprotocols: []string{"mqtt"},
	}
	for _, f := range adjust {
		f(&p)
	}
	header := http.Header{}
	if p.origin != "" {
		header.Set("Origin", p.origin)
	}
	dialer := websocket.Dialer{Subprotocols: p.subprotocols, HandshakeTimeout: 10 * time.Second}
	conn, response, err := dialer.DialContext(t.Context(), p.webSocketURL(t, s), header)
	if response == nil {
		t.Fatal(err)
	}
	if conn != nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, response
}

// streamConn is a WebSocket connection as a raw client uses it.
type streamConn struct {
	*websocket.Conn
	frame io.Reader
}

func (c *streamConn) Read(p []byte) (int, error) {
	for {
		if c.frame == nil {
			var err error
			if _, c.frame, err = c.NextReader(); err != nil {
				return 0, err
			}
		}
		n, err := c.frame.Read(p)
		if err == io.EOF {
			c.frame, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *streamConn) Write(p []byte) (int, error) {
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}

func (c *streamConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// rawWebSocket returns a client that speaks MQTT packet by packet.
func rawWebSocket(t *testing.T, s *localcore.Server, version byte) *rawClient {
	t.Helper()
	conn, response := dialWebSocket(t, s)
	if conn == nil {
		t.Fatal(response.Status)
	}
	stream := &streamConn{Conn: conn}
	if err := stream.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &rawClient{t, stream, bufio.NewReader(stream), version}
}

var _ net.Conn = (*streamConn)(nil)

// https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html: MQTT
// over WebSocket with AWS credentials carries the same messages as MQTT over TLS.
func TestMQTTOverWebSocket(t *testing.T) {
	t.Parallel()
	for name, version := range map[string]byte{"3.1.1": 4, "5": 5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startFree(t, localcore.Config{})
			device := s.connect(t, version, "device")
			device.mustSubscribe(1, "down")
			browser := rawWebSocket(t, s.Server, version)
			browser.connect("browser", func(pk *packets.Packet) {
				pk.Connect.UsernameFlag, pk.Connect.Username = true, []byte("?SDK=JavaScript&Version=1") // metrics, which are ignored
			})
			browser.mustSubscribe(1, "up")
			device.publish("up", 1, strings.Repeat("x", 100_000)) // more than one buffer
			if m := browser.receive(packets.Publish); len(m.Payload) != 100_000 {
				t.Errorf("received %d bytes", len(m.Payload))
			}
			browser.publish("down", 0, "hello")
			device.receive(packets.Puback)
			if m := device.receive(packets.Publish); string(m.Payload) != "hello" {
				t.Errorf("received %q", m.Payload)
			}
			if status, answer := call(t, s.Server, "DELETE", "/connections/browser", ""); status != http.StatusOK {
				t.Errorf("%d %s", status, answer)
			}
			awaitDisconnect(t, s.Server, "browser", "API_INITIATED_DISCONNECT")
		})
	}
}

// [MQTT-6.0.0-2]: a packet may be in several frames, and a frame may hold several packets.
func TestWebSocketFramesAreNoPackets(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := rawWebSocket(t, s.Server, 4)
	connect := []byte{0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 1, 'a'}
	for _, b := range connect {
		c.write([]byte{b})
	}
	c.receive(packets.Connack)
	c.write([]byte{0xc0, 0, 0xc0, 0}) // two PINGREQ
	c.receive(packets.Pingresp)
	c.receive(packets.Pingresp)
	if err := c.conn.(*streamConn).WriteMessage(websocket.TextMessage, []byte{0xc0, 0}); err != nil { // [MQTT-6.0.0-1]
		t.Fatal(err)
	}
	awaitDisconnect(t, s.Server, "a", "CLIENT_ERROR")
}

// Each case is of https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html.
func TestWebSocketRequestMustBeSigned(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	for name, test := range map[string]struct {
		adjust func(*presigned)
		want   int
	}{
		"A signed request for MQTT over WebSocket is accepted":   {func(*presigned) {}, 101},
		"A security token is added after the request was signed": {func(p *presigned) { p.token = "a/b+c=" }, 101},
		"The signing name of the first device SDKs is accepted":  {func(p *presigned) { p.service = "iotdata" }, 101},
		"A request that credentials of the credentials provider signed is accepted": {func(p *presigned) {
			p.key, p.secret, p.token = "ASIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "SessionTokenOfIotCoreLocal"
		}, 101},
		"A request with temporary credentials but without their token is forbidden": {func(p *presigned) {
			p.key, p.secret = "ASIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
		}, 403},
		"A request that another secret key signed is forbidden":                          {func(p *presigned) { p.secret = "other" }, 403},
		"A request that an unknown access key signed is forbidden":                       {func(p *presigned) { p.key = "AKIAIOSFODNN7EXAMPLE" }, 403},
		"A request that is signed for another service is forbidden":                      {func(p *presigned) { p.service = "s3" }, 403},
		"A request that is signed for another Region is forbidden":                       {func(p *presigned) { p.region = "eu-west-1" }, 403},
		"A request whose signature has expired is forbidden":                             {func(p *presigned) { p.at = p.at.Add(-time.Hour) }, 403},
		"A request whose signature names how long it is valid is accepted for that long": {func(p *presigned) { p.at, p.path = p.at.Add(-time.Hour), "/mqtt?X-Amz-Expires=86400" }, 101},
		"A request that names a validity of more than a week is forbidden":               {func(p *presigned) { p.path = "/mqtt?X-Amz-Expires=604801" }, 403},
		"A request that names a validity which is no number is forbidden":                {func(p *presigned) { p.path = "/mqtt?X-Amz-Expires=1h" }, 403},
		"A request without the subprotocol mqtt is rejected":                             {func(p *presigned) { p.subprotocols = []string{"chat"} }, 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, response := dialWebSocket(t, s, test.adjust); response.StatusCode != test.want {
				t.Errorf("%s, want %d", response.Status, test.want)
			}
		})
	}
	for old, edited := range map[string]string{
		"X-Amz-SignedHeaders=host": "X-Amz-SignedHeaders=", "X-Amz-Date=": "X-Amz-Date=20000101T000000Z&X-Amz-Date=",
		"X-Amz-Algorithm=": "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Algorithm=", "X-Amz-Signature=": "X-Amz-Expires=300&X-Amz-Signature=",
		"&X-Amz-Signature=": "&other=1&X-Amz-Signature=", "%2Faws4_request": "%2Faws4",
	} {
		t.Run(edited, func(t *testing.T) {
			t.Parallel()
			edit := strings.NewReplacer(old, edited)
			if _, response := dialWebSocket(t, s, func(p *presigned) { p.edit = edit }); response.StatusCode != http.StatusForbidden {
				t.Errorf("changed after it was signed: %s", response.Status)
			}
		})
	}
	t.Run("unsigned", func(t *testing.T) {
		t.Parallel()
		if status, answer := call(t, s, "GET", "/mqtt", ""); status != http.StatusForbidden {
			t.Errorf("%d %s", status, answer)
		}
	})
}

// A page of another site could sign too: the credentials are no secret.
func TestWebSocketOfAnotherSiteIsForbidden(t *testing.T) {
	t.Parallel()
	for config, beyond := range map[*localcore.Config]int{{}: 403, {UnsafeAllowAnyAddress: true, API: "0.0.0.0:0"}: 101} {
		s := start(t, *config)
		for origin, want := range map[string]int{
			"http://localhost:3000": 101, "http://127.0.0.1": 101, "http://[::1]:3000": 101, "http://web:3000": beyond,
			"https://example.com": 403, "http://localhost.example.com": 403, "null": 403, "http://192.0.2.1": 403, "http://[2001:db8::1]": 403, "http://": 403,
		} {
			if _, response := dialWebSocket(t, s, func(p *presigned) { p.origin = origin }); response.StatusCode != want {
				t.Errorf("%+v: origin %s: %s, want %d", config, origin, response.Status, want)
			}
		}
	}
}

// The control API's port speaks HTTPS too: the clients of AWS know nothing else.
func TestControlAPISpeaksTLS(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: s.RootCAs()}}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.Replace(s.APIURL(), "http:", "https:", 1)+"/endpoint", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct{ EndpointAddress string }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.EndpointAddress == "" {
		t.Errorf("%+v, %v", answer, err)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html: AWS's
// own device SDK and MQTT.js connect over WebSocket, unchanged, in both versions of MQTT.
func TestJavaScriptClientsConnectOverWebSocket(t *testing.T) {
	t.Parallel()
	needDeviceSDK(t)
	for _, client := range []string{"sdk", "mqttjs"} {
		for _, protocol := range []string{"mqtt311", "mqtt5"} {
			t.Run(client+", "+protocol, func(t *testing.T) {
				s := start(t, localcore.Config{})
				api, err := url.Parse(s.APIURL())
				if err != nil {
					t.Fatal(err)
				}
				got := runDeviceSDK[map[string]any](t, "websocket.js", map[string]any{
					"client": client, "protocol": protocol, "endpoint": "localhost", "port": json.Number(api.Port()),
					"root": string(s.RootPEM()), "region": "us-east-1", "key": localcore.AccessKeyID, "secret": localcore.SecretAccessKey,
					"url": presigned{
						key: localcore.AccessKeyID, secret: localcore.SecretAccessKey, service: "iotdevicegateway", region: "us-east-1",
						path: "/mqtt", at: time.Now(),
					}.webSocketURL(t, s),
				})
				if diff := cmp.Diff(map[string]any{"topic": "chat", "payload": "hello"}, got); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}
