package agent_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/session"
)

// A network can be cut.
type network struct {
	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func (n *network) dial(ctx context.Context, kind, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, kind, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down {
		conn.Close()
		return nil, errors.New("network is unreachable")
	}
	n.conns = append(n.conns, conn)
	return conn, nil
}

func (n *network) set(down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = down
	for _, conn := range n.conns {
		conn.Close()
	}
	n.conns = nil
}

// Another client with the thing's name has the session while it has the client id: its subscriptions
// may be others then, and messages of the agent's services may have gone there.
func TestSessionThatAnotherClientHadIsSubscribedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	echo := newEcho("echo/+", "up/echo")
	w.config.Services = serve(echo)
	w.run(t)
	client := agent.NewClient(w.config.Socket)
	defer client.Close()
	ready, lines, ended := make(chan struct{}), make(chan string, 1), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer func() { cancel(); <-ended }()
	go func() {
		defer close(ended)
		client.Subscribe(ctx, "commands/+", func() { close(ready) }, func(line json.RawMessage) error {
			lines <- string(line)
			return nil
		})
	}()
	<-ready
	down := "fleet/" + thing + "/down/"
	await := func(times int) {
		subscribed := map[string]int{}
		if _, err := w.AwaitEvent(ctx, func(e localcore.Event) bool {
			if e.Type == event.Subscribed {
				subscribed[e.Topic]++
			}
			return subscribed[down+"commands/+"] >= times && subscribed[down+"echo/+"] >= times
		}); err != nil {
			t.Fatal(err)
		}
	}
	await(1)
	id, err := w.store.Load()
	if err != nil {
		t.Fatal(err)
	}
	o := w.config.Provision.Session
	o.ClientID, o.KeepSession = thing, true
	o.Certificate = func(context.Context) (*tls.Certificate, error) { return id.TLS(), nil }
	other, err := session.Connect(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Unsubscribe(ctx, down+"commands/+", down+"echo/+"); err != nil {
		t.Fatal(err)
	}
	other.Close(ctx)
	await(2)
	send(t, w, "down/commands/1", "afterwards")
	if line := <-lines; !strings.Contains(line, "afterwards") {
		t.Error(line)
	}
	if echo.present.Load() {
		t.Error("the service takes the session to be the one that it had")
	}
}

// A program receives a retained message whether others have subscribed to its topic before or not.
func TestEachSubscriberReceivesTheRetainedMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(t)
	answer, err := http.Post(w.APIURL()+"/topics/fleet/"+thing+"/down/config?qos=1&retain=true", "", strings.NewReader("retained"))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	client := agent.NewClient(w.config.Socket)
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var subscribing sync.WaitGroup
	defer func() { cancel(); subscribing.Wait() }()
	for range 3 {
		lines := make(chan string, 10)
		subscribing.Go(func() {
			client.Subscribe(ctx, "config", func() {}, func(line json.RawMessage) error {
				lines <- string(line)
				return nil
			})
		})
		if line := <-lines; !strings.Contains(line, "retained") {
			t.Error(line)
		}
	}
}

// What is published while the network is cut arrives later, since AWS IoT keeps the session;
// nothing is subscribed to again. A filter that a program of an earlier process had subscribed to
// is unsubscribed from.
func TestAgentKeepsItsSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := &network{}
	w.config.Provision.Session.DialContext = n.dial
	w.config.Services = serve(newEcho("echo/+", "up/echo"))
	ctx, cancel := context.WithCancel(t.Context())
	changes, followed := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(followed)
		w.Follow(ctx, func(e localcore.Event) bool {
			if (e.Type == event.Subscribed || e.Type == event.Unsubscribed) && strings.HasPrefix(e.Topic, "fleet/") {
				changes <- string(e.Type) + " " + e.Topic
			}
			return true
		})
	}()
	defer func() { cancel(); <-followed }()
	stop := w.run(t)
	down := "fleet/" + thing + "/down/"
	if change := <-changes; change != "subscribed "+down+"echo/+" {
		t.Fatal(change)
	}
	client := agent.NewClient(w.config.Socket)
	defer client.Close()
	ready, lines, ended := make(chan struct{}), make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		client.Subscribe(ctx, "commands/+", func() { close(ready) }, func(line json.RawMessage) error {
			lines <- string(line)
			return nil
		})
	}()
	<-ready
	if change := <-changes; change != "subscribed "+down+"commands/+" {
		t.Fatal(change)
	}
	n.set(true)
	w.await(t, func(s agent.Status) bool { return !s.Connected })
	send(t, w, "down/commands/1", "while away")
	send(t, w, "down/echo/1", "while away")
	n.set(false)
	if line := <-lines; !strings.Contains(line, "while away") {
		t.Error(line)
	}
	w.await(t, func(s agent.Status) bool { return s.Services["echo"].(map[string]any)["published"] == 1.0 })
	stop()
	<-ended
	w.run(t)
	got := []string{<-changes, <-changes}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"subscribed " + down + "echo/+", "unsubscribed " + down + "commands/+"}, got); diff != "" {
		t.Error(diff)
	}
}
