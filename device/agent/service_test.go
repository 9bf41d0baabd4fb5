package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/session"
)

// An echo is a service that publishes what it receives.
type echo struct {
	filter, topic string
	received      chan string
	fail          atomic.Bool // the first Serve fails
	present       atomic.Bool // the session, in the last Serve
	published     atomic.Uint64
	ended         chan struct{} // receives a value when Run ends
}

func newEcho(filter, topic string) *echo {
	return &echo{filter: filter, topic: topic, received: make(chan string, 100), ended: make(chan struct{}, 10)}
}

func (e *echo) Name() string { return "echo" }
func (e *echo) Filters(thing string) []string {
	return []string{"fleet/" + thing + "/down/" + e.filter}
}
func (e *echo) Status() any { return map[string]uint64{"published": e.published.Load()} }

func (e *echo) Run(ctx context.Context, _ string) {
	<-ctx.Done()
	e.ended <- struct{}{}
}

func (e *echo) Metrics(metric func(name, kind, help string, samples ...any)) {
	metric("echoes_total", "counter", "Echoes.", `{kind="loud"}`, e.published.Load())
}

func (e *echo) Deliver(m session.Message) bool {
	if !strings.Contains(m.Topic, "/down/echo") {
		return false
	}
	e.received <- string(m.Payload)
	return true
}

func (e *echo) Serve(ctx context.Context, conn session.Shared) error {
	e.present.Store(conn.SessionPresent())
	if e.fail.Swap(false) {
		return errors.New("it begins badly")
	}
	for {
		select {
		case text := <-e.received:
			if err := conn.Publish(ctx, "fleet/"+conn.ThingName()+"/"+e.topic, []byte(text)); err != nil {
				e.received <- text
				return err
			}
			e.published.Add(1)
		case <-ctx.Done():
			return nil
		}
	}
}

func send(t *testing.T, w *world, topic, text string) {
	t.Helper()
	answer, err := http.Post(w.APIURL()+"/topics/fleet/"+thing+"/"+topic+"?qos=1", "", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
}

func awaitPublished(t *testing.T, w *world, topic string) {
	t.Helper()
	if _, err := w.AwaitEvent(t.Context(), func(e localcore.Event) bool { return e.Type == event.Published && e.Topic == "fleet/"+thing+"/"+topic }); err != nil {
		t.Fatal(err)
	}
}

func serve(s agent.Service) []agent.ServiceConfig {
	return []agent.ServiceConfig{{Key: s.Name(), New: func() agent.Service { return s }}}
}

// A service has its subscriptions when it is called, is called again after an error, and shows in
// the status, the metrics and the local API.
func TestServiceUsesTheConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := newEcho("echo/+", "up/echo")
	e.fail.Store(true)
	w.config.Services = serve(e)
	w.config.Routes = map[string]http.Handler{"GET /v1/echo": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "echo") })}
	stop := w.run(t)
	if _, err := w.AwaitEvent(t.Context(), func(e localcore.Event) bool {
		return e.Type == event.Subscribed && e.Topic == "fleet/"+thing+"/down/echo/+"
	}); err != nil {
		t.Fatal(err)
	}
	send(t, w, "down/echo/1", "one")
	awaitPublished(t, w, "up/echo")
	s := w.await(t, func(s agent.Status) bool { return s.Services["echo"].(map[string]any)["published"] == 1.0 })
	if s.Subscribers != 0 {
		t.Errorf("status: %+v", s)
	}
	w.awaitMetrics(t, "iot_device_echoes_total{kind=\"loud\"} 1\n", "iot_device_service_errors_total{service=\"echo\"} 1\n", "iot_device_messages_unexpected_total 0\n")
	if text := w.get(t, "/v1/echo"); text != "echo" {
		t.Errorf("the service's route answers %q", text)
	}
	stop()
	<-e.ended
}

// A service that AWS IoT denies a publish or a subscription cannot keep the device from being
// connected, nor a program's messages from being sent.
func TestServiceThatIsDeniedLeavesTheConnectionToOthers(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]*echo{
		"publish":   newEcho("echo/+", "elsewhere"),
		"subscribe": newEcho("", "up/echo"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.config.Services = serve(denied{e, name})
			w.run(t)
			e.received <- "text"
			w.awaitMetrics(t, "iot_device_service_errors_total{service=\"echo\"} 1\n")
			client := agent.NewClient(w.config.Socket)
			defer client.Close()
			if err := client.Publish(t.Context(), "telemetry", []byte("x")); err != nil {
				t.Fatal(err)
			}
			w.await(t, func(s agent.Status) bool { return s.Connected && s.Outbox.Messages == 0 && s.Outbox.SetAside == 0 })
			if metrics := w.get(t, "/metrics"); !strings.Contains(metrics, `iot_device_reconnects_total{cause="`+name+`"} 3`) {
				t.Errorf("the connection ended again:\n%s", metrics)
			}
		})
	}
}

// A denied service subscribes outside the device's topics, if that is what is denied.
type denied struct {
	*echo
	packet string
}

func (d denied) Filters(thing string) []string {
	if d.packet == "subscribe" {
		return []string{"fleet/another/down/#"}
	}
	return d.echo.Filters(thing)
}

// A parting service uses the local API when it is stopped, as a program of it may.
type parting struct {
	*echo
	socket string
	result chan error
}

func (p parting) Run(ctx context.Context, _ string) {
	<-ctx.Done()
	client := agent.NewClient(p.socket)
	defer client.Close()
	p.result <- client.Publish(context.WithoutCancel(ctx), "telemetry", []byte("x"))
}

func TestStoppedServicesEndBeforeTheLocalAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := parting{newEcho("echo/+", "up/echo"), w.config.Socket, make(chan error, 1)}
	w.config.Services = serve(p)
	stop := w.run(t)
	w.await(t, connected)
	stop()
	if err := <-p.result; err != nil {
		t.Error(err)
	}
}

// The configuration may change at any moment, also while the agent connects.
func TestConfigurationChangesWhileTheAgentConnects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	changes := make(chan agent.Config)
	w.config.Changes = changes
	w.run(t)
	for range 2 {
		first := w.await(t, connected)
		w.control(t, "DELETE", "/connections/"+thing, nil)
		for connectedAgain := false; !connectedAgain; {
			select {
			case changes <- w.config:
			case <-t.Context().Done():
				t.Fatal("the agent takes no changes")
			}
			w.await(t, func(s agent.Status) bool {
				connectedAgain = s.Connected && !s.ConnectedSince.Equal(first.ConnectedSince)
				return true
			})
		}
	}
}

// A program that subscribes again and again to what AWS IoT denies cannot keep the device from
// being connected either.
func TestProgramThatIsDeniedLeavesTheConnectionToOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(t)
	w.await(t, connected)
	client := agent.NewClient(w.config.Socket)
	defer client.Close()
	var policy struct{ PolicyDocument string }
	if err := json.Unmarshal([]byte(w.control(t, "GET", "/policies/GoIoTDevicePolicy", nil)), &policy); err != nil {
		t.Fatal(err)
	}
	policy.PolicyDocument = strings.Replace(policy.PolicyDocument, `"Statement": [`, `"Statement": [{"Effect":"Deny","Action":"iot:Subscribe","Resource":"arn:aws:iot:*:*:topicfilter/*/denied"},`, 1)
	w.control(t, "POST", "/policies/GoIoTDevicePolicy/version?setAsDefault=true", map[string]string{"policyDocument": policy.PolicyDocument})
	for range 6 {
		err := client.Subscribe(t.Context(), "denied", func() { t.Error("subscribed") }, func(json.RawMessage) error { return nil })
		if _, ok := errors.AsType[*agent.Error](err); !ok {
			t.Fatal(err)
		}
	}
	w.await(t, connected)
	if metrics := w.get(t, "/metrics"); !strings.Contains(metrics, `iot_device_reconnects_total{cause="subscribe"} 3`) {
		t.Errorf("the connection ended again:\n%s", metrics)
	}
}

// control requests something of the emulator's control plane.
func (w *world) control(t *testing.T, method, path string, in any) string {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, w.APIURL()+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %d %s, %v", method, path, answer.StatusCode, text, err)
	}
	return string(text)
}
