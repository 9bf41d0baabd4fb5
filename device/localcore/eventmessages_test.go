package localcore_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore"
)

// documentedEvents are the types of events whose messages AWS documents.
var documentedEvents = []types.EventType{
	types.EventTypeThing, types.EventTypeThingGroup, types.EventTypeThingType, types.EventTypeThingGroupMembership,
	types.EventTypeThingGroupHierarchy, types.EventTypeThingTypeAssociation, types.EventTypeJob, types.EventTypeJobExecution,
}

// enableEvents turns types of events on.
func enableEvents(t *testing.T, control *iot.Client, kinds ...types.EventType) {
	t.Helper()
	in := &iot.UpdateEventConfigurationsInput{EventConfigurations: map[string]types.Configuration{}}
	for _, kind := range kinds {
		in.EventConfigurations[string(kind)] = types.Configuration{Enabled: true}
	}
	if _, err := control.UpdateEventConfigurations(within(t), in); err != nil {
		t.Fatal(err)
	}
}

// An eventMessage is an event without what is new each time.
type eventMessage struct {
	Topic   string
	Payload map[string]any
}

// eventsOf returns the events that f publishes, once there are n of them. What differs from run to
// run is checked and taken out.
func eventsOf(t *testing.T, c *rawClient, n int, f func()) (all []eventMessage) {
	t.Helper()
	f()
	var messages []packets.Packet
	for range n {
		messages = append(messages, c.receive(packets.Publish))
	}
	for _, m := range append(messages, c.settled()...) {
		e := eventMessage{Topic: strings.TrimPrefix(m.TopicName, "$aws/events/")}
		if err := json.Unmarshal(m.Payload, &e.Payload); err != nil {
			t.Fatal(err)
		}
		for key, value := range e.Payload {
			switch text, number := aws.ToString(asText(value)), value; {
			case strings.HasSuffix(key, "Id") && key != "accountId" && key != "jobId":
				if key != "parentGroupId" && text == "" && key != "dynamicGroupMappingId" {
					t.Errorf("%s: %s is %v", e.Topic, key, value)
				}
				delete(e.Payload, key)
			case key == "rootToParentThingGroups":
				parents, _ := value.([]any)
				for _, parent := range parents {
					members := parent.(map[string]any)
					if members["groupId"] == "" {
						t.Errorf("%s: %s is %v", e.Topic, key, value)
					}
					members["groupId"] = "ID"
				}
			case key == "timestamp" || strings.HasSuffix(key, "At") || key == "deprecationDate" && number != nil:
				if n, _ := number.(float64); n < 1e9 {
					t.Errorf("%s: %s is %v", e.Topic, key, value)
				}
				delete(e.Payload, key)
			}
		}
		all = append(all, e)
	}
	return all
}

func asText(v any) *string {
	if text, ok := v.(string); ok {
		return &text
	}
	return nil
}

// object is the payload of an event of the registry.
func registryEvent(kind, operation string, members map[string]any) map[string]any {
	members["eventType"], members["operation"], members["accountId"] = kind+"_EVENT", operation, "123456789012"
	return members
}

// https://docs.aws.amazon.com/iot/latest/developerguide/registry-events.html: the
// registry publishes what happens to things, thing types and thing groups, once that is turned on.
func TestRegistryPublishesEvents(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	control, ctx := controlPlane(s.Server), within(t)
	c := s.connect(t, 4, "operator")
	c.mustSubscribe(1, "$aws/events/thing/#", "$aws/events/thingType/#", "$aws/events/thingTypeAssociation/#",
		"$aws/events/thingGroup/#", "$aws/events/thingGroupMembership/#", "$aws/events/thingGroupHierarchy/#")
	try := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	if got := eventsOf(t, c, 0, func() { try(control.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("silent")})) }); got != nil {
		t.Errorf("published before it was turned on: %+v", got)
	}
	enableEvents(t, control, documentedEvents...)
	none := map[string]any{}
	lamp := func(version float64, kind any, attributes map[string]any) map[string]any {
		return map[string]any{"thingName": "T", "versionNumber": version, "thingTypeName": kind, "attributes": attributes}
	}
	propagating := []any{map[string]any{"userPropertyKey": "k", "thingAttribute": "a"}}
	lampType := func(deprecated bool) map[string]any {
		m := map[string]any{"thingTypeName": "lamp", "isDeprecated": deprecated, "searchableAttributes": []any{"a"}, "description": "d", "propagatingAttributes": propagating}
		if !deprecated {
			m["deprecationDate"] = nil
		}
		return m
	}
	group := func(name string, version float64, parent any, parents any) map[string]any {
		return map[string]any{"thingGroupName": name, "versionNumber": version, "parentGroupName": parent, "description": nil, "rootToParentThingGroups": parents, "attributes": none}
	}
	association := func(operation string) map[string]any { // without account
		return map[string]any{"eventType": "THING_TYPE_ASSOCIATION_EVENT", "operation": operation, "thingName": "T", "thingTypeName": "lamp"}
	}
	membership := map[string]any{"groupArn": s.ARN("thinggroup/child"), "thingArn": s.ARN("thing/T")}
	hierarchy := map[string]any{"thingGroupName": "root", "childGroupName": "child"}
	root := []any{map[string]any{"groupId": "ID", "groupArn": s.ARN("thinggroup/root")}}
	for _, step := range []struct {
		name string
		do   func()
		want []eventMessage
	}{
		{"a type is created", func() {
			try(control.CreateThingType(ctx, &iot.CreateThingTypeInput{ThingTypeName: aws.String("lamp"), ThingTypeProperties: &types.ThingTypeProperties{
				ThingTypeDescription: aws.String("d"), SearchableAttributes: []string{"a"},
				Mqtt5Configuration: &types.Mqtt5Configuration{PropagatingAttributes: []types.PropagatingAttribute{
					{UserPropertyKey: aws.String("k"), ThingAttribute: aws.String("a")},
				}},
			}}))
		}, []eventMessage{{"thingType/lamp/created", registryEvent("THING_TYPE", "CREATED", lampType(false))}}},
		{"a thing is created", func() {
			try(control.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("T"), ThingTypeName: aws.String("lamp")}))
		}, []eventMessage{
			{"thing/T/created", registryEvent("THING", "CREATED", lamp(1, "lamp", none))},
			{"thingTypeAssociation/thing/T/thingType/lamp/added", association("ADDED")},
		}},
		{"a thing loses its type", func() {
			try(control.UpdateThing(ctx, &iot.UpdateThingInput{ThingName: aws.String("T"), RemoveThingType: true, AttributePayload: &types.AttributePayload{Attributes: map[string]string{"a": "1"}}}))
		}, []eventMessage{
			{"thing/T/updated", registryEvent("THING", "UPDATED", lamp(2, nil, map[string]any{"a": "1"}))},
			{"thingTypeAssociation/thing/T/thingType/lamp/removed", association("REMOVED")},
		}},
		{"a type is deprecated", func() {
			try(control.DeprecateThingType(ctx, &iot.DeprecateThingTypeInput{ThingTypeName: aws.String("lamp")}))
		}, []eventMessage{{"thingType/lamp/updated", registryEvent("THING_TYPE", "UPDATED", lampType(true))}}},
		{"a type is deleted", func() {
			try(control.DeleteThingType(ctx, &iot.DeleteThingTypeInput{ThingTypeName: aws.String("lamp")}))
		}, []eventMessage{{"thingType/lamp/deleted", registryEvent("THING_TYPE", "DELETED", lampType(true))}}},
		{"groups are created", func() {
			try(control.CreateThingGroup(ctx, &iot.CreateThingGroupInput{ThingGroupName: aws.String("root")}))
			try(control.CreateThingGroup(ctx, &iot.CreateThingGroupInput{ThingGroupName: aws.String("child"), ParentGroupName: aws.String("root")}))
		}, []eventMessage{
			{"thingGroup/root/created", registryEvent("THING_GROUP", "CREATED", group("root", 1, nil, nil))},
			{"thingGroup/child/created", registryEvent("THING_GROUP", "CREATED", group("child", 1, "root", root))},
			{"thingGroupHierarchy/thingGroup/root/childThingGroup/child/added", registryEvent("THING_GROUP_HIERARCHY", "ADDED", hierarchy)},
		}},
		{"a group is updated", func() {
			try(control.UpdateThingGroup(ctx, &iot.UpdateThingGroupInput{ThingGroupName: aws.String("root"), ThingGroupProperties: &types.ThingGroupProperties{}}))
		}, []eventMessage{{"thingGroup/root/updated", registryEvent("THING_GROUP", "UPDATED", group("root", 2, nil, nil))}}},
		{"a thing joins a group", func() {
			try(control.AddThingToThingGroup(ctx, &iot.AddThingToThingGroupInput{ThingName: aws.String("T"), ThingGroupName: aws.String("child")}))
		}, []eventMessage{{"thingGroupMembership/thingGroup/child/thing/T/added", registryEvent("THING_GROUP_MEMBERSHIP", "ADDED", membership)}}},
		{"a thing is deleted", func() {
			try(control.DeleteThing(ctx, &iot.DeleteThingInput{ThingName: aws.String("T")}))
		}, []eventMessage{
			{"thing/T/deleted", registryEvent("THING", "DELETED", lamp(2, nil, map[string]any{"a": "1"}))},
			{"thingGroupMembership/thingGroup/child/thing/T/removed", registryEvent("THING_GROUP_MEMBERSHIP", "REMOVED",
				map[string]any{"groupArn": s.ARN("thinggroup/child"), "thingArn": s.ARN("thing/T")})},
		}},
		{"a group is deleted", func() {
			try(control.DeleteThingGroup(ctx, &iot.DeleteThingGroupInput{ThingGroupName: aws.String("child")}))
		}, []eventMessage{
			{"thingGroup/child/deleted", registryEvent("THING_GROUP", "DELETED", group("child", 1, "root", root))},
			{"thingGroupHierarchy/thingGroup/root/childThingGroup/child/removed", registryEvent("THING_GROUP_HIERARCHY", "REMOVED", map[string]any{"thingGroupName": "root", "childGroupName": "child"})},
		}},
	} {
		if diff := cmp.Diff(step.want, eventsOf(t, c, len(step.want), step.do)); diff != "" {
			t.Errorf("%s:\n%s", step.name, diff)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/events-jobs.html: jobs
// publish that they end, job executions that they reach a terminal status, once that is turned on.
func TestJobsPublishEvents(t *testing.T) {
	t.Parallel()
	s := startWithThings(t, "T")
	control, ctx := controlPlane(s.Server), within(t)
	c := s.connect(t, 4, "operator")
	c.mustSubscribe(1, "$aws/events/job/#", "$aws/events/jobExecution/#")
	device := mustDial(t, s.Server, "T", s.tls)
	finish := func(id, status string) {
		t.Helper()
		device.subscribe(t, "$aws/things/T/jobs/"+id+"/update/accepted")
		if err := device.publish(t, "$aws/things/T/jobs/"+id+"/update", 1, `{"status":"`+status+`","statusDetails":{"a":"b"}}`); err != nil {
			t.Fatal(err)
		}
		device.next(t)
	}
	if got := eventsOf(t, c, 0, func() {
		s.createJob(t, "silent", "thing/T", "")
		if _, err := control.CancelJob(ctx, &iot.CancelJobInput{JobId: aws.String("silent")}); err != nil {
			t.Error(err)
		}
	}); got != nil {
		t.Errorf("published before it was turned on: %+v", got)
	}
	enableEvents(t, control, types.EventTypeJob, types.EventTypeJobExecution)
	job := func(id, operation, status string, more ...string) map[string]any {
		m := map[string]any{
			"eventType": "JOB", "operation": operation, "jobId": id, "status": status, "targetSelection": "SNAPSHOT",
			"targets": []any{s.ARN("thing/T")}, "description": "",
		}
		for _, comment := range more {
			m["comment"] = comment
		}
		return m
	}
	execution := func(id, operation, status string) map[string]any {
		return map[string]any{"eventType": "JOB_EXECUTION", "operation": operation, "jobId": id, "thingArn": s.ARN("thing/T"), "status": status}
	}
	rejected := execution("done", "rejected", "REJECTED")
	rejected["statusDetails"] = map[string]any{"a": "b"}
	completed := job("done", "completed", "COMPLETED")
	completed["jobProcessDetails"] = map[string]any{
		"numberOfCanceledThings": 0.0, "numberOfRejectedThings": 1.0, "numberOfFailedThings": 0.0, "numberOfRemovedThings": 0.0, "numberOfSucceededThings": 0.0,
	}
	if diff := cmp.Diff([]eventMessage{{"jobExecution/done/rejected", rejected}, {"job/done/completed", completed}}, eventsOf(t, c, 2, func() {
		s.createJob(t, "done", "thing/T", "")
		finish("done", "REJECTED")
	})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]eventMessage{
		{"job/off/cancellation_in_progress", job("off", "cancellation_in_progress", "CANCELLATION_IN_PROGRESS", "why")},
		{"jobExecution/off/canceled", execution("off", "canceled", "CANCELED")},
		{"job/off/canceled", job("off", "canceled", "CANCELED", "why")},
		{"job/off/deletion_in_progress", job("off", "deletion_in_progress", "DELETION_IN_PROGRESS", "why")},
		{"jobExecution/off/deleted", execution("off", "deleted", "DELETED")},
		{"job/off/deleted", job("off", "deleted", "DELETED", "why")},
	}, eventsOf(t, c, 6, func() {
		s.createJob(t, "off", "thing/T", "")
		if _, err := control.CancelJob(ctx, &iot.CancelJobInput{JobId: aws.String("off"), Comment: aws.String("why")}); err != nil {
			t.Error(err)
		}
		if _, err := control.DeleteJob(ctx, &iot.DeleteJobInput{JobId: aws.String("off")}); err != nil {
			t.Error(err)
		}
	})); diff != "" {
		t.Error(diff)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_DescribeEventConfigurations.html:
// every type of event is described, none is on at first, and a type keeps its setting until it is
// named again.
func TestEventConfigurationsAreKept(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{State: t.TempDir()})
	control, ctx := controlPlane(s.Server), within(t)
	enabled := func() (on []string) {
		t.Helper()
		out, err := control.DescribeEventConfigurations(ctx, &iot.DescribeEventConfigurationsInput{})
		if err != nil {
			t.Fatal(err)
		}
		if len(out.EventConfigurations) != len(types.EventTypeThing.Values()) {
			t.Errorf("%d types are described", len(out.EventConfigurations))
		}
		for _, kind := range types.EventTypeThing.Values() {
			if out.EventConfigurations[string(kind)].Enabled {
				on = append(on, string(kind))
			}
		}
		if (out.LastModifiedDate == nil) != (on == nil) {
			t.Errorf("last modified %v", out.LastModifiedDate)
		}
		return on
	}
	if on := enabled(); on != nil {
		t.Errorf("on at first: %q", on)
	}
	enableEvents(t, control, types.EventTypeThing)
	enableEvents(t, control, types.EventTypeJob)
	if diff := cmp.Diff([]string{"THING", "JOB"}, enabled()); diff != "" {
		t.Error(diff)
	}
	for _, kind := range []string{"POLICY", "CERTIFICATE", "CA_CERTIFICATE", "OTHER"} { // undocumented, or unknown
		_, err := control.UpdateEventConfigurations(ctx, &iot.UpdateEventConfigurationsInput{
			EventConfigurations: map[string]types.Configuration{kind: {Enabled: true}},
		})
		if code(err) != "InvalidRequestException" {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
