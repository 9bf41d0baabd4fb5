package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/internal/awsenv"
	"example.com/fleety/hook/serials"
	"example.com/fleety/hook/things"
)

// configured makes a decider of the environment.
func configured(getenv func(string) string, log *slog.Logger) (decider, error) {
	d := decider{rules: admit.Rules{SerialPrefix: getenv("SERIAL_PREFIX"), ThingPrefix: getenv("THING_PREFIX")}, log: log, now: time.Now}
	if locations := getenv("DEVICE_LOCATIONS"); locations != "" {
		if err := json.Unmarshal([]byte(locations), &d.rules.Locations); err != nil {
			return d, fmt.Errorf("DEVICE_LOCATIONS is %.100q, want a JSON list of strings: %w", locations, err)
		}
	}
	table, rotation := getenv("SERIAL_TABLE"), getenv("ROTATION")
	for _, choice := range []struct {
		name, normal, other string
		isOther             *bool
	}{
		{"EXISTING_THINGS", "refuse", "allow", &d.rules.TakeExisting},
		{"ROTATION", "allow", "deny", &d.rules.NoRotation},
		{"SERIAL_REGISTRY", "once", "listed", &d.rules.ListedOnly},
	} {
		value := cmp.Or(getenv(choice.name), choice.normal)
		if *choice.isOther = value == choice.other; !*choice.isOther && value != choice.normal {
			return d, fmt.Errorf("%s is %.100q, want %s or %s", choice.name, value, choice.normal, choice.other)
		}
	}
	if d.rules.ListedOnly && table == "" {
		return d, fmt.Errorf("SERIAL_REGISTRY is listed, but SERIAL_TABLE names no table")
	}
	if table != "" {
		d.serials = serials.New(awsenv.Config(getenv, "DYNAMODB"), table)
	}
	if !d.rules.TakeExisting || table != "" || rotation == "allow" {
		d.things = things.New(awsenv.Config(getenv, "IOT"))
	}
	return d, nil
}
