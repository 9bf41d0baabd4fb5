package registry

import (
	"crypto/sha256"
	"maps"
	"slices"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
)

// EventTypes are the types of events that UpdateEventConfigurations knows.
var EventTypes = []string{
	"CA_CERTIFICATE", "CERTIFICATE", "JOB", "JOB_EXECUTION", "POLICY", thingEvent, groupEvent, hierarchyEvent,
	membershipEvent, thingTypeEvent, associationEvent,
}

// The types of events that the registry itself emits.
const (
	thingEvent       = "THING"
	groupEvent       = "THING_GROUP"
	hierarchyEvent   = "THING_GROUP_HIERARCHY"
	membershipEvent  = "THING_GROUP_MEMBERSHIP"
	thingTypeEvent   = "THING_TYPE"
	associationEvent = "THING_TYPE_ASSOCIATION"
)

// undocumented are the types of events whose messages AWS does not document.
var undocumented = []string{"CA_CERTIFICATE", "CERTIFICATE", "POLICY"}

// An EventConfiguration says whether events of a type are published.
type EventConfiguration struct{ Enabled bool }

// EventConfigurations say which events are published.
type EventConfigurations struct {
	Enabled           map[string]bool // by type
	Created, Modified time.Time       // zero if nothing was ever configured
}

func (c EventConfigurations) clone() EventConfigurations {
	c.Enabled = maps.Clone(c.Enabled)
	return c
}

// UpdateEventConfigurations turns types of events on or off. Those whose messages
// AWS does not document cannot be turned on.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_UpdateEventConfigurations.html
func (r *Registry) UpdateEventConfigurations(changes map[string]EventConfiguration) error {
	return r.update(func(tx *transaction) error {
		c, _ := tx.eventConfigurations.get(theAccount)
		if c.Enabled == nil {
			c.Enabled, c.Created = map[string]bool{}, tx.now
		}
		c.Modified = tx.now
		for _, key := range slices.Sorted(maps.Keys(changes)) {
			switch {
			case !slices.Contains(EventTypes, key):
				return invalid("Event type %s must be one of %s.", awsiot.Clip(key), strings.Join(EventTypes, ", "))
			case changes[key].Enabled && slices.Contains(undocumented, key):
				return invalid("Events of type %s are not emulated: AWS does not document their messages.", key)
			}
			c.Enabled[key] = changes[key].Enabled
		}
		tx.eventConfigurations.put(theAccount, c)
		return nil
	})
}

// EventConfigurations returns which events are published; at first none.
func (r *Registry) EventConfigurations() EventConfigurations {
	c, _ := r.state().eventConfigurations.get(theAccount)
	return c
}

// An Event is what AWS IoT publishes of a change of the registry.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/registry-events.html
type Event struct {
	Topic   string         // below $aws/events/
	Payload map[string]any // without eventId and timestamp
}

// What an event reports. In its topic the word is in lower case.
const (
	created = "CREATED"
	updated = "UPDATED"
	deleted = "DELETED"
	added   = "ADDED"
	removed = "REMOVED"
)

// events returns the events of the transaction that are to be published.
func (tx *transaction) events() (out []Event) {
	configured, ok := tx.eventConfigurations.get(theAccount)
	if !ok {
		return nil
	}
	emit := func(kind, operation, topic string, payload map[string]any) {
		if !configured.Enabled[kind] {
			return
		}
		payload["eventType"], payload["operation"] = kind+"_EVENT", operation
		if kind != associationEvent { // whose message has no account
			payload["accountId"] = tx.options.Account
		}
		out = append(out, Event{topic + "/" + strings.ToLower(operation), payload})
	}
	each(tx.before.types, tx.types, func(name string, operation string, _, t ThingType) {
		payload := map[string]any{
			"thingTypeId": t.ID, "thingTypeName": name, "isDeprecated": t.Deprecated, "deprecationDate": nil,
			"searchableAttributes":  slices.Concat([]string{}, t.SearchableAttributes),
			"propagatingAttributes": slices.Concat([]PropagatingAttribute{}, t.Propagating), "description": t.Description,
		}
		if t.Deprecated {
			payload["deprecationDate"] = t.DeprecatedAt.UnixMilli()
		}
		emit(thingTypeEvent, operation, "thingType/"+name, payload)
	})
	each(tx.before.groups, tx.groups, func(name string, operation string, _, g ThingGroup) {
		var parents []map[string]string
		for up := g; up.Parent != ""; {
			up, _ = tx.groups.get(up.Parent)
			parents = append(parents, map[string]string{"groupId": up.ID, "groupArn": tx.options.ARN("thinggroup/" + up.Name)})
		}
		slices.Reverse(parents)
		parent, _ := tx.groups.get(g.Parent)
		emit(groupEvent, operation, "thingGroup/"+name, map[string]any{
			"thingGroupId": g.ID, "thingGroupName": name, "versionNumber": g.Version, "parentGroupName": orNull(g.Parent),
			"parentGroupId": orNull(parent.ID), "description": orNull(g.Description), "rootToParentThingGroups": parents,
			"attributes": g.Attributes, "dynamicGroupMappingId": nil,
		})
		if g.Parent == "" || operation == updated {
			return
		}
		operation = map[string]string{created: added, deleted: removed}[operation]
		emit(hierarchyEvent, operation, "thingGroupHierarchy/thingGroup/"+g.Parent+"/childThingGroup/"+name, map[string]any{
			"thingGroupId": parent.ID, "thingGroupName": g.Parent, "childGroupId": g.ID, "childGroupName": name,
		})
	})
	each(tx.before.things, tx.things, func(name string, operation string, old, t Thing) {
		if operation != updated || old.Version != t.Version {
			emit(thingEvent, operation, "thing/"+name, map[string]any{
				"thingId": t.ID, "thingName": name, "versionNumber": t.Version, "thingTypeName": orNull(t.Type), "attributes": t.Attributes,
			})
		}
		associate := func(thingType, operation string) {
			if thingType != "" {
				emit(associationEvent, operation, "thingTypeAssociation/thing/"+name+"/thingType/"+thingType, map[string]any{
					"thingId": t.ID, "thingName": name, "thingTypeName": thingType,
				})
			}
		}
		former, current := old.Type, t.Type
		if operation == deleted {
			current = ""
		}
		if former != current {
			associate(former, removed)
			associate(current, added)
		}
	})
	each(tx.before.thingGroups.pairs, tx.thingGroups.pairs, func(pair string, operation string, _, _ struct{}) {
		thing, group, _ := strings.Cut(pair, separator)
		t, g := lately(tx.before.things, tx.things, thing), lately(tx.before.groups, tx.groups, group)
		sum := sha256.Sum256([]byte(t.ID + g.ID))
		operation = map[string]string{created: added, deleted: removed}[operation]
		emit(membershipEvent, operation, "thingGroupMembership/thingGroup/"+group+"/thing/"+thing, map[string]any{
			"groupArn": tx.options.ARN("thinggroup/" + group), "groupId": g.ID, "thingArn": tx.options.ARN("thing/" + thing),
			"thingId": t.ID, "membershipId": awsiot.UUID([16]byte(sum[:16])),
		})
	})
	return out
}

// each calls f for each row that a transaction changed, in the order of their keys, with the record
// before and now; of one that is deleted both are the former.
func each[V any](before, now *table[V], f func(key, operation string, old, now V)) {
	for _, key := range slices.Sorted(maps.Keys(now.touched)) {
		old, existed := before.get(key)
		record, exists := now.get(key)
		switch {
		case existed && exists:
			f(key, updated, old, record)
		case existed:
			f(key, deleted, old, old)
		case exists:
			f(key, created, old, record)
		}
	}
}

// lately returns a record that the transaction may have deleted.
func lately[V any](before, now *table[V], key string) V {
	record, ok := now.get(key)
	if !ok {
		record, _ = before.get(key)
	}
	return record
}

func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}
