package localcore_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iotdataplane"
	"github.com/aws/aws-sdk-go-v2/service/iotdataplane/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore"
)

// code returns the error code of an API call, empty for success.
func code(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return ""
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_GetConnection.html:
// a connection shows its session and, on request, its addresses.
func TestGetConnectionDescribesAConnection(t *testing.T) {
	t.Parallel()
	s, ctx := startFree(t, localcore.Config{}), within(t)
	data := dataPlane(s.Server)
	before := time.Now().UnixMilli()
	c := s.connect(t, 5, "a/b", func(pk *packets.Packet) {
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 600, true
	})
	got, err := data.GetConnection(ctx, &iotdataplane.GetConnectionInput{ClientId: aws.String("a/b"), IncludeSocketInformation: true})
	if err != nil {
		t.Fatal(err)
	}
	_, port := s.Endpoint()
	if !got.Connected || got.CleanSession || got.SessionExpiry != 600 || got.KeepAliveDuration != 60 || got.ConnectedSince < before ||
		fmt.Sprintf("%s:%d", aws.ToString(got.SourceIp), got.SourcePort) != c.conn.LocalAddr().String() || int(got.TargetPort) != port {
		t.Errorf("connected: %+v", got)
	}
	c.conn.Close()
	awaitDisconnect(t, s.Server, "a/b", "CONNECTION_LOST")
	for got.Connected { // the event comes first
		if got, err = data.GetConnection(ctx, &iotdataplane.GetConnectionInput{ClientId: aws.String("a/b")}); err != nil {
			t.Fatal(err)
		}
	}
	if got.DisconnectedSince < before || aws.ToString(got.DisconnectReason) != "CONNECTION_LOST" || got.SourceIp != nil || got.ConnectedSince != 0 {
		t.Errorf("disconnected: %+v", got)
	}
	if _, err := data.GetConnection(ctx, &iotdataplane.GetConnectionInput{ClientId: aws.String("other")}); code(err) != "ResourceNotFoundException" {
		t.Error(err)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_GetConnection.html:
// what is known of a connection that has ended is forgotten after 30 minutes.
func TestEndedConnectionsAreForgotten(t *testing.T) {
	t.Parallel()
	clock := newClock()
	s, ctx := startFree(t, localcore.Config{Now: clock.Now}), within(t)
	c := s.connect(t, 4, "a")
	c.conn.Close()
	awaitDisconnect(t, s.Server, "a", "CONNECTION_LOST")
	data, in := dataPlane(s.Server), &iotdataplane.GetConnectionInput{ClientId: aws.String("a")}
	for connected := true; connected; { // the event comes first
		got, err := data.GetConnection(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		connected = got.Connected
	}
	clock.advance(31 * time.Minute)
	if _, err := data.GetConnection(ctx, in); code(err) != "ResourceNotFoundException" {
		t.Error(err)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_ListSubscriptions.html:
// the subscriptions of a session are listed while its client is away, 20 a page.
func TestListSubscriptionsPages(t *testing.T) {
	t.Parallel()
	s, ctx := startFree(t, localcore.Config{}), within(t)
	data := dataPlane(s.Server)
	c := s.connect(t, 4, "a", func(pk *packets.Packet) { pk.Connect.Clean = false })
	var want []types.SubscriptionSummary
	for i := range 25 {
		filter := fmt.Sprintf("t/%02d/#", i)
		c.mustSubscribe(byte(i%2), filter)
		want = append(want, types.SubscriptionSummary{TopicFilter: aws.String(filter), Qos: int32(i % 2)})
	}
	c.conn.Close()
	awaitDisconnect(t, s.Server, "a", "CONNECTION_LOST")
	first, err := data.ListSubscriptions(ctx, &iotdataplane.ListSubscriptionsInput{ClientId: aws.String("a")})
	if err != nil {
		t.Fatal(err)
	}
	second, err := data.ListSubscriptions(ctx, &iotdataplane.ListSubscriptionsInput{ClientId: aws.String("a"), NextToken: first.NextToken})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, append(first.Subscriptions, second.Subscriptions...), cmpopts.IgnoreUnexported(types.SubscriptionSummary{})); diff != "" || len(first.Subscriptions) != 20 || second.NextToken != nil {
		t.Errorf("%d in the first page\n%s", len(first.Subscriptions), diff)
	}
	if _, err := data.ListSubscriptions(ctx, &iotdataplane.ListSubscriptionsInput{ClientId: aws.String("a"), MaxResults: aws.Int32(201)}); code(err) != "InvalidRequestException" {
		t.Error(err)
	}
	if _, err := data.ListSubscriptions(ctx, &iotdataplane.ListSubscriptionsInput{ClientId: aws.String("other")}); code(err) != "ResourceNotFoundException" {
		t.Error(err)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/direct-messaging.html: a
// direct message reaches its client without a subscription, with its MQTT 5 properties, at QoS 0
// or, if it is to be confirmed, at QoS 1; it reaches nobody else, and no rule.
func TestSendDirectMessageNeedsNoSubscription(t *testing.T) {
	t.Parallel()
	s, ctx := startFree(t, localcore.Config{}), within(t)
	data := dataPlane(s.Server)
	c, other := s.connect(t, 5, "a"), s.connect(t, 5, "b")
	other.mustSubscribe(1, "#")
	in := &iotdataplane.SendDirectMessageInput{
		ClientId: aws.String("a"), Topic: aws.String("do/it"), Payload: []byte("now"), ContentType: aws.String("text/plain"),
		UserProperties: aws.String(`[{"a":"1"},{"b":"2"}]`), PayloadFormatIndicator: types.PayloadFormatIndicatorUtf8Data,
	}
	out, err := data.SendDirectMessage(ctx, in)
	if err != nil || aws.ToString(out.TraceId) == "" {
		t.Fatal(out, err)
	}
	m := c.receive(packets.Publish)
	if m.FixedHeader.Qos != 0 || m.TopicName != "do/it" || string(m.Payload) != "now" || m.Properties.ContentType != "text/plain" || len(m.Properties.User) != 2 {
		t.Errorf("received %+v", m)
	}
	in.Confirmation = true
	sent := make(chan error, 1)
	go func() {
		_, err := data.SendDirectMessage(ctx, in)
		sent <- err
	}()
	m = c.receive(packets.Publish)
	select {
	case err := <-sent:
		t.Fatalf("answered before the message was acknowledged: %v", err)
	default:
	}
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: m.PacketID})
	if err := <-sent; err != nil || m.FixedHeader.Qos != 1 {
		t.Errorf("QoS %d, %v", m.FixedHeader.Qos, err)
	}
	other.alive() // and has received nothing
}

// Each case is of https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_SendDirectMessage.html.
func TestSendDirectMessageIsRejected(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{}, `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":"iot:Connect","Resource":"*"},
		{"Effect":"Allow","Action":"iot:Receive","Resource":"arn:aws:iot:us-east-1:123456789012:topic/mine"}]}`)
	s.connect(t, 4, "a")
	data := dataPlane(s.Server)
	for name, test := range map[string]struct {
		adjust func(*iotdataplane.SendDirectMessageInput)
		want   string
	}{
		"A direct message to a client that is not connected is not found": {
			func(in *iotdataplane.SendDirectMessageInput) { in.ClientId = aws.String("b") }, "ResourceNotFoundException"},
		"A direct message that the receiver's policy does not allow is forbidden": {
			func(in *iotdataplane.SendDirectMessageInput) { in.Topic = aws.String("yours") }, "ForbiddenException"},
		"A direct message without a confirmation within the time-out is rejected": {
			func(in *iotdataplane.SendDirectMessageInput) { in.Confirmation, in.Timeout = true, 1 }, "GatewayTimeoutException"},
		"A direct message of more than 128 KB is too large": {
			func(in *iotdataplane.SendDirectMessageInput) { in.Payload = bytes.Repeat([]byte("x"), 128<<10+1) }, "RequestEntityTooLargeException"},
		"A direct message to a topic with a wildcard is invalid": {
			func(in *iotdataplane.SendDirectMessageInput) { in.Topic = aws.String("mine/#") }, "InvalidRequestException"},
		"A client id that begins with a dollar sign is invalid": {
			func(in *iotdataplane.SendDirectMessageInput) { in.ClientId = aws.String("$a") }, "InvalidRequestException"},
		"A time-out of more than 15 seconds is invalid": {
			func(in *iotdataplane.SendDirectMessageInput) { in.Timeout = 16 }, "InvalidRequestException"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := &iotdataplane.SendDirectMessageInput{ClientId: aws.String("a"), Topic: aws.String("mine"), Payload: []byte(strings.Repeat("x", 10))}
			test.adjust(in)
			if _, err := data.SendDirectMessage(within(t), in); code(err) != test.want {
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
}
