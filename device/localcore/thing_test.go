package localcore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// ownThing lets a client connect and publish as its thing only.
const ownThing = `{"Version":"2012-10-17","Statement":[
	{"Effect":"Allow","Action":"iot:Connect","Resource":"*"},
	{"Effect":"Allow","Action":"iot:Publish","Resource":"arn:aws:iot:us-east-1:123456789012:topic/${iot:Connection.Thing.ThingName}"}]}`

func TestAwaitThingFindsAThingOfTheControlAPI(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	found := make(chan error, 1)
	go func() {
		thing, err := s.AwaitThing(within(t), "later")
		if err == nil && thing.Name != "later" {
			err = fmt.Errorf("it is %q", thing.Name)
		}
		found <- err
	}()
	if status, answer := call(t, s, "POST", "/things/later", "{}"); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	if err := <-found; err != nil {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.AwaitThing(ended, "never"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// attach makes a thing and attaches the certificate.
func (f free) attach(t *testing.T, thing string, kind registry.PrincipalType) {
	t.Helper()
	if _, err := f.Registry().CreateThing(registry.Thing{Name: thing}); err != nil {
		t.Fatal(err)
	}
	if err := f.Registry().AttachThingPrincipal(thing, f.id, kind); err != nil {
		t.Fatal(err)
	}
}

// mayPublish reports whether a client may publish to a topic.
func (f free) mayPublish(t *testing.T, client, topic string) bool {
	t.Helper()
	c := f.connect(t, 5, client)
	c.publish(topic, 1, "x")
	return c.receive(packets.Puback).ReasonCode == 0
}

// https://docs.aws.amazon.com/iot/latest/developerguide/thing-policy-variables.html:
// thing variables resolve if the client id is the thing's name.
func TestThingVariablesNeedTheThingsNameAsClientID(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{}, ownThing)
	s.attach(t, "mine", registry.NonExclusive)
	if !s.mayPublish(t, "mine", "mine") {
		t.Error("the thing may not use its topic")
	}
	if s.mayPublish(t, "other", "mine") || s.mayPublish(t, "other", "other") {
		t.Error("another client id has thing variables")
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/exclusive-thing.html:
// the variables of an exclusive thing resolve under any client id.
func TestExclusiveThingAppliesToAnyClientID(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{}, ownThing)
	s.attach(t, "mine", registry.Exclusive)
	if !s.mayPublish(t, "any", "mine") {
		t.Error("the exclusive thing does not count")
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/thing-groups.html:
// policies of a thing's groups count if the client id is the thing's name.
func TestPoliciesOfTheThingsGroupsCount(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{}, ownThing)
	s.attach(t, "mine", registry.NonExclusive)
	r := s.Registry()
	if _, err := r.CreateThingGroup(registry.ThingGroup{Name: "parent"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreateThingGroup(registry.ThingGroup{Name: "child", Parent: "parent"}); err != nil {
		t.Fatal(err)
	}
	if err := r.AddThingToThingGroup("mine", "child"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreatePolicy("group", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Publish","Resource":"arn:aws:iot:us-east-1:123456789012:topic/group"}]}`); err != nil {
		t.Fatal(err)
	}
	if err := r.AttachPolicy("group", registry.ThingGroupTarget("parent")); err != nil {
		t.Fatal(err)
	}
	if !s.mayPublish(t, "mine", "group") {
		t.Error("the group's policy does not count")
	}
	if s.mayPublish(t, "other", "group") {
		t.Error("the group's policy counts for another client id")
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html:
// thingName is there for exclusively attached things only.
func TestLifecycleEventNamesExclusiveThingsOnly(t *testing.T) {
	t.Parallel()
	for kind, want := range map[registry.PrincipalType]any{registry.Exclusive: "mine", registry.NonExclusive: nil} {
		t.Run(string(kind), func(t *testing.T) {
			s := startFree(t, localcore.Config{})
			watcher := s.connect(t, 4, "watcher")
			watcher.mustSubscribe(0, "$aws/events/presence/connected/mine")
			s.attach(t, "mine", kind)
			s.connect(t, 4, "mine")
			var e map[string]any
			if err := json.Unmarshal(watcher.receive(packets.Publish).Payload, &e); err != nil {
				t.Fatal(err)
			}
			if e["thingName"] != want {
				t.Errorf("thingName is %v", e["thingName"])
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html:
// a rejected CONNECT is published under $aws/events/presence/connect_failed/.
func TestRejectedConnectIsALifecycleEvent(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{}, `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":["iot:Connect"],"Resource":"arn:aws:iot:us-east-1:123456789012:client/watcher"},
		{"Effect":"Allow","Action":["iot:Subscribe","iot:Receive"],"Resource":"*"}]}`)
	watcher := s.connect(t, 4, "watcher")
	watcher.mustSubscribe(0, "$aws/events/presence/connect_failed/+")
	connectRaw(t, s.Server, 5, "intruder", s.tls)
	m := watcher.receive(packets.Publish)
	var e map[string]any
	if err := json.Unmarshal(m.Payload, &e); err != nil {
		t.Fatal(err)
	}
	if m.TopicName != "$aws/events/presence/connect_failed/intruder" || e["connectFailureReason"] != "AUTHORIZATION_FAILED" {
		t.Errorf("%s: %s", m.TopicName, m.Payload)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: a shared
// subscription gives each message to one client of its group.
func TestSharedSubscriptionGivesEachMessageToOneOfTheGroup(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		s := startFree(t, localcore.Config{})
		a, b := s.connect(t, version, "a"), s.connect(t, version, "b")
		a.mustSubscribe(1, "$share/g/t")
		b.mustSubscribe(1, "$share/g/t")
		p := s.connect(t, version, "p")
		p.publish("t", 1, "x")
		p.receive(packets.Puback)
		p.alive() // fan-out follows the PUBACK
		got := len(a.settled()) + len(b.settled())
		if got != 1 {
			t.Errorf("%d of the group got the message", got)
		}
	})
}
