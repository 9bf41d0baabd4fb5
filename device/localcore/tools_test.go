package localcore_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
)

// call sends a request to the control API and returns status and body.
func call(t *testing.T, s *localcore.Server, method, path, body string, adjust ...func(*http.Request)) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.APIURL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range adjust {
		f(r)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(data)
}

func TestControlAPIReturnsTheEndpoint(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	status, answer := call(t, s, "GET", "/endpoint?endpointType=iot:Data-ATS", "")
	if status != 200 || !strings.Contains(answer, "localhost:") {
		t.Errorf("%d %s", status, answer)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_Publish.html:
// a message that is published over HTTPS reaches subscribers over MQTT.
func TestPublishOverHTTPReachesSubscribers(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 4, "a")
	c.mustSubscribe(1, "t/#")
	for _, topic := range []string{"t/1", "t//1", "t/../1"} { // none is redirected
		if status, answer := call(t, s.Server, "POST", "/topics/"+topic+"?qos=1", "hello"); status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
		if m := c.receive(packets.Publish); string(m.Payload) != "hello" || m.TopicName != topic || m.FixedHeader.Qos != 1 {
			t.Errorf("received %q on %s with QoS %d", m.Payload, m.TopicName, m.FixedHeader.Qos)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_GetRetainedMessage.html:
// a retained message can be read over HTTPS.
func TestRetainedMessageIsReadOverHTTP(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 4, "a")
	c.publish("t", 1, "kept", func(pk *packets.Packet) { pk.FixedHeader.Retain = true })
	c.receive(packets.Puback)
	c.alive()
	status, answer := call(t, s.Server, "GET", "/retainedMessage/t", "")
	if status != 200 || !strings.Contains(answer, "a2VwdA==") {
		t.Errorf("%d %s", status, answer)
	}
	status, answer = call(t, s.Server, "GET", "/retainedMessage", "")
	if status != 200 || strings.Contains(answer, "$SYS") || !strings.Contains(answer, `"t"`) {
		t.Errorf("%d %s", status, answer)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_DeleteConnection.html:
// DeleteConnection ends the connection of a client id.
func TestDeleteConnectionDisconnects(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	watcher := s.connect(t, 4, "watcher")
	watcher.mustSubscribe(0, "will")
	c := s.connect(t, 5, "a", func(pk *packets.Packet) {
		pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, "will", []byte("x")
	})
	if status, answer := call(t, s.Server, "DELETE", "/connections/a?cleanSession=true&preventWillMessage=true", ""); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	if got := c.receive(packets.Disconnect).ReasonCode; got != 0x98 {
		t.Errorf("DISCONNECT 0x%02x", got)
	}
	c.closed()
	awaitDisconnect(t, s.Server, "a", "API_INITIATED_DISCONNECT")
	if wills := watcher.settled(); len(wills) > 0 {
		t.Error("the will was sent")
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateKeysAndCertificate.html:
// a new certificate is INACTIVE unless setAsActive is given.
func TestCertificateMadeOverHTTPConnectsAfterActivation(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	status, answer := call(t, s, "POST", "/keys-and-certificate?setAsActive=true", "")
	var made struct {
		CertificateARN, CertificatePEM string
		KeyPair                        struct{ PrivateKey string }
	}
	if err := json.Unmarshal([]byte(answer), &made); err != nil || status != 200 {
		t.Fatalf("%d %v", status, err)
	}
	target, err := json.Marshal(map[string]string{"target": made.CertificateARN})
	if err != nil {
		t.Fatal(err)
	}
	if status, answer := call(t, s, "PUT", "/target-policies/"+localcore.ClaimPolicyName, string(target)); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	mustDial(t, s, "claim-http", tlsConfig(t, s, []byte(made.CertificatePEM), []byte(made.KeyPair.PrivateKey)))
}

func TestEventsAreFollowedOverHTTP(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	s.connect(t, 4, "before")
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", s.APIURL()+"/_local/events?past=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	s.connect(t, 4, "after")
	lines := bufio.NewScanner(response.Body)
	var connected []string
	for len(connected) < 2 && lines.Scan() {
		var e localcore.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.Type == localcore.Connected {
			connected = append(connected, e.ClientID)
		}
	}
	if diff := cmp.Diff([]string{"before", "after"}, connected); diff != "" {
		t.Error(diff)
	}
}

func TestFaultsAreSetOverHTTP(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	claim := dialClaim(t, s)
	status, answer := call(t, s, "PUT", "/_local/faults", `[{"operation":"CreateCertificateFromCsr","times":1,"reject":{"statusCode":500,"errorCode":"InternalFailure","errorMessage":"injected fault"}}]`)
	if status != 204 {
		t.Fatalf("%d %s", status, answer)
	}
	csr, _ := newCSR(t)
	request := awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: csr}
	if got := rejected(t, csrTopic, claim.ask(t, csrTopic, request)); got.ErrorMessage != "injected fault" {
		t.Errorf("rejected with %+v", got)
	}
	accepted[awsiot.CreateCertificateFromCSRResponse](t, csrTopic, claim.ask(t, csrTopic, request))
	for name, body := range map[string]string{
		"unknown field": `[{"explode":true}]`, "bad duration": `[{"delayReply":"soon"}]`, "no list": `{}`,
		"unknown operation": `[{"operation":"CreateCertificateFromCSR"}]`, "negative times": `[{"times":-1}]`, "more than a list": `[] []`,
	} {
		if status, _ := call(t, s, "PUT", "/_local/faults", body); status != 400 {
			t.Errorf("%s: status %d", name, status)
		}
	}
}

func TestTokensExpireOverHTTP(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	made := pending(t, dialClaim(t, s))
	status, answer := call(t, s, "POST", "/_local/expire-tokens", "")
	if status != 200 || !strings.Contains(answer, made.CertificateID) {
		t.Errorf("%d %s", status, answer)
	}
	// None is a list, too: programs go through it.
	if _, answer := call(t, s, "POST", "/_local/expire-tokens", ""); strings.TrimSpace(answer) != `{"certificateIds":[]}` {
		t.Errorf("nothing left to expire: %s", answer)
	}
}

func TestFidelityTableIsComplete(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	status, answer := call(t, s, "GET", "/_local/fidelity", "")
	var choices []localcore.Ambiguity
	if err := json.Unmarshal([]byte(answer), &choices); err != nil || status != 200 {
		t.Fatalf("%d %v", status, err)
	}
	if diff := cmp.Diff(localcore.Ambiguities(), choices); diff != "" {
		t.Error(diff)
	}
	ids := map[string]bool{}
	for _, c := range choices {
		if ids[c.ID] {
			t.Errorf("two choices are %s", c.ID)
		}
		ids[c.ID] = true
		if c.ID == "" || c.Question == "" || c.Answer == "" {
			t.Errorf("incomplete: %+v", c)
		}
	}
}

func TestWebPagesCannotReachTheAPI(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	for name, spoil := range map[string]func(*http.Request){
		"another host name": func(r *http.Request) { r.Host = "attacker.example" },
		"another origin":    func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
	} {
		for _, path := range []string{"/_local/expire-tokens", "/keys-and-certificate"} {
			if status, _ := call(t, s, "POST", path, "", spoil); status != 403 {
				t.Errorf("%s at %s: status %d", name, path, status)
			}
		}
	}
}

func TestAPICanBeLeftOut(t *testing.T) {
	t.Parallel()
	if url := start(t, localcore.Config{API: localcore.NoAPI}).APIURL(); url != "" {
		t.Errorf("API at %s", url)
	}
}

// In a container it must listen everywhere, and functions still reach it.
func TestAPIURLIsOnLoopbackWhereAllAddressesListen(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"0.0.0.0:0", ":0"} {
		s := start(t, localcore.Config{API: address, UnsafeAllowAnyAddress: true})
		url := s.APIURL()
		if !strings.HasPrefix(url, "http://127.0.0.1:") {
			t.Errorf("listening on %s: %s", address, url)
		}
		r, err := http.Get(url + "/things")
		if err != nil {
			t.Fatal(err)
		}
		if r.Body.Close(); r.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", url, r.Status)
		}
	}
}
