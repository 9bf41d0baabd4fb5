package localcore_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/hook/payload"
)

// A device of eclipse/paho.golang, MQTT 5, is provisioned by claim.
func TestMQTT5ClientProvisions(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
	claim, answers := connect5(t, s, "claim-5", claimTLS(t, s))
	if _, err := claim.Subscribe(within(t), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{
		{Topic: csrTopic.Accepted(), QoS: 1}, {Topic: csrTopic.Rejected(), QoS: 1},
		{Topic: registerTopic.Accepted(), QoS: 1}, {Topic: registerTopic.Rejected(), QoS: 1},
	}}); err != nil {
		t.Fatal(err)
	}
	ask := func(topic awsiot.Topic, request, answer any) {
		t.Helper()
		data, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := claim.Publish(within(t), &paho.Publish{Topic: topic.String(), QoS: 1, Payload: data}); err != nil {
			t.Fatal(err)
		}
		select {
		case m := <-answers:
			if m.Topic != topic.Accepted() || m.QoS != 1 {
				t.Fatalf("answer on %s with QoS %d: %s", m.Topic, m.QoS, m.Payload)
			}
			if err := json.Unmarshal(m.Payload, answer); err != nil {
				t.Fatal(err)
			}
		case <-within(t).Done():
			t.Fatal("no answer")
		}
	}
	csr, key := newCSR(t)
	var made awsiot.CreateCertificateFromCSRResponse
	ask(csrTopic, awsiot.CreateCertificateFromCSRRequest{CertificateSigningRequest: csr}, &made)
	var done awsiot.RegisterThingResponse
	ask(registerTopic, awsiot.RegisterThingRequest{
		CertificateOwnershipToken: made.CertificateOwnershipToken,
		Parameters:                map[string]string{payload.SerialNumber: "2974685", payload.DeviceLocation: "USA"},
	}, &done)

	device, _ := connect5(t, s, done.ThingName, tlsConfig(t, s, []byte(made.CertificatePEM), key))
	if _, err := device.Publish(within(t), &paho.Publish{Topic: "fleet/" + done.ThingName, QoS: 1, Payload: []byte("born")}); err != nil {
		t.Error(err)
	}
	if r, err := device.Publish(within(t), &paho.Publish{Topic: "fleet/other", QoS: 1}); err == nil || r == nil || r.ReasonCode != 0x87 {
		t.Errorf("publishing elsewhere: %+v, %v", r, err)
	}
}

func connect5(t *testing.T, s *localcore.Server, id string, config *tls.Config) (*paho.Client, <-chan *paho.Publish) {
	t.Helper()
	_, port := s.Endpoint()
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), config)
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan *paho.Publish, 10)
	client := paho.NewClient(paho.ClientConfig{
		Conn: packets.NewThreadSafeConn(conn), // its pings would else split its other packets
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(m paho.PublishReceived) (bool, error) {
			received <- m.Packet
			return true, nil
		}},
	})
	ack, err := client.Connect(within(t), &paho.Connect{ClientID: id, CleanStart: true, KeepAlive: 60})
	if err != nil {
		t.Fatal(err)
	}
	if ack.Properties.MaximumQoS == nil || *ack.Properties.MaximumQoS != 1 {
		t.Error("Maximum QoS is not 1")
	}
	t.Cleanup(func() {
		_ = client.Disconnect(&paho.Disconnect{}) // the server may have closed already
		<-client.Done()
	})
	return client, received
}
