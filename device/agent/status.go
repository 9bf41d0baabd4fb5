package agent

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"example.com/fleety/device/agent/outbox"
	"example.com/fleety/device/identity"
)

// A state is what the agent knows of itself.
type state struct {
	identity         *identity.Identity
	connectedSince   time.Time // zero while it is not connected
	connectedTotal   time.Duration
	lastError        string
	reconnects       map[string]uint64 // by cause
	setAside         uint64
	rotations        uint64
	rotationsFailed  uint64
	serviceErrors    map[string]uint64 // by service
	unexpected       uint64            // messages for which there is no service and no program
	rotateNext       time.Time         // when a rotation that failed is tried again
	rotationRequests []chan<- error    // receive the result of the next rotation, which begins at once
}

func (a *agent) update(change func(*state)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.state)
}

func (a *agent) runningServices() []*runningService {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.services
}

// A Status is the answer to GET /v1/status. Its JSON keys are part of the API.
type Status struct {
	ThingName      string         `json:"thingName"`
	ProcessID      int            `json:"processId"`
	Connected      bool           `json:"connected"`
	ConnectedSince time.Time      `json:"connectedSince,omitzero"`
	LastError      string         `json:"lastError,omitempty"` // why it is not connected
	CertificateID  string         `json:"certificateId"`
	NotAfter       time.Time      `json:"notAfter"`
	RotationDue    time.Time      `json:"rotationDue"`
	Outbox         outbox.Stats   `json:"outbox"`
	Subscribers    int            `json:"subscribers"`
	Services       map[string]any `json:"services,omitempty"` // what a [Service] says of itself, by its name
}

func (a *agent) status() Status {
	out := a.outbox.Stats()
	out.Oldest = out.Oldest.UTC()
	a.subscriptions.mu.Lock()
	subscribers := len(a.subscriptions.subscribers)
	a.subscriptions.mu.Unlock()
	services := map[string]any{}
	for _, s := range a.runningServices() {
		if r, ok := s.service.(interface{ Status() any }); ok {
			services[s.service.Name()] = r.Status()
		}
	}
	a.mu.Lock()
	s := a.state
	a.mu.Unlock()
	return Status{
		ThingName:      a.thing,
		ProcessID:      os.Getpid(),
		Connected:      !s.connectedSince.IsZero(),
		ConnectedSince: s.connectedSince.UTC(),
		LastError:      s.lastError,
		CertificateID:  s.identity.Record.CertificateID,
		NotAfter:       s.identity.Certificate.NotAfter.UTC(),
		RotationDue:    a.rotationDue(s.identity).UTC(),
		Outbox:         out,
		Subscribers:    subscribers,
		Services:       services,
	}
}

// metrics returns the counts in the text format of Prometheus.
// https://prometheus.io/docs/instrumenting/exposition_formats/
func (a *agent) metrics() []byte {
	lines := map[string]string{} // by head: services may have one name of a metric
	metric := func(name, kind, help string, samples ...any) {
		head := fmt.Sprintf("# HELP iot_device_%[1]s %[3]s\n# TYPE iot_device_%[1]s %[2]s\n", name, kind, help)
		lines[head] += "" // it is served without samples, too
		for i := 0; i < len(samples); i += 2 {
			labels, counts := samples[i].(string), samples[i+1]
			if counts, several := counts.(map[string]uint64); several {
				for _, value := range slices.Sorted(maps.Keys(counts)) {
					lines[head] += fmt.Sprintf("iot_device_%s"+labels+" %d\n", name, value, counts[value])
				}
				continue
			}
			lines[head] += fmt.Sprintf("iot_device_%s%s %v\n", name, labels, counts)
		}
	}
	for _, s := range a.runningServices() {
		if r, ok := s.service.(interface {
			Metrics(func(name, kind, help string, samples ...any))
		}); ok {
			r.Metrics(metric)
		}
	}
	now := time.Now()
	out := a.outbox.Stats()
	a.subscriptions.mu.Lock()
	subscribers, received, slow := len(a.subscriptions.subscribers), a.subscriptions.received, a.subscriptions.droppedSlow
	a.subscriptions.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := &a.state
	connected, total := 0, s.connectedTotal
	if !s.connectedSince.IsZero() {
		connected, total = 1, total+now.Sub(s.connectedSince)
	}
	age := func(since time.Time) float64 { return max(0, now.Sub(cmp.Or(since, now)).Seconds()) } // the clock may have been set back since, or is not set yet
	metric("connected", "gauge", "1 while the device is connected to AWS IoT.", "", connected)
	metric("connected_seconds_total", "counter", "Time for which the device was connected.", "", total.Seconds())
	metric("reconnects_total", "counter", "Connections that failed or were lost, by cause.", "{cause=%q}", s.reconnects)
	metric("outbox_messages", "gauge", "Messages that AWS IoT has not acknowledged.", "", out.Messages)
	metric("outbox_bytes", "gauge", "Bytes of these messages.", "", out.Bytes)
	metric("outbox_oldest_seconds", "gauge", "Age of the oldest of these messages.", "", age(out.Oldest))
	metric("outbox_syncs_total", "counter", "Commits to stable storage.", "", out.Syncs)
	metric("messages_stored_total", "counter", "Messages accepted from programs.", "", out.Stored)
	metric("messages_acknowledged_total", "counter", "Messages acknowledged by AWS IoT.", "", out.Acknowledged)
	metric("messages_dropped_total", "counter", "Messages dropped from the outbox, by the bound that they exceeded.", `{bound="bytes"}`, out.DroppedBytes, `{bound="age"}`, out.DroppedAge)
	metric("messages_set_aside_total", "counter", "Messages that ended the connection three times in a row.", "", s.setAside)
	metric("messages_received_total", "counter", "Messages received from AWS IoT.", "", received)
	metric("messages_unexpected_total", "counter", "Messages received that no service or program had asked for.", "", s.unexpected)
	metric("service_errors_total", "counter", "Failures of services, by service.", "{service=%q}", s.serviceErrors)
	metric("subscribers", "gauge", "Programs that subscribe.", "", subscribers)
	metric("subscribers_dropped_total", "counter", "Subscribers dropped because they were slow.", "", slow)
	metric("rotations_total", "counter", "Replacements of key and certificate, by result.", `{result="done"}`, s.rotations, `{result="failed"}`, s.rotationsFailed)
	metric("certificate_age_seconds", "gauge", "Time since the certificate became valid.", "", age(s.identity.Certificate.NotBefore))
	metric("certificate_not_before_seconds", "gauge", "When the certificate became valid, as Unix time.", "", s.identity.Certificate.NotBefore.Unix())
	metric("certificate_not_after_seconds", "gauge", "When the certificate expires, as Unix time.", "", s.identity.Certificate.NotAfter.Unix())
	var b bytes.Buffer
	for _, head := range slices.Sorted(maps.Keys(lines)) {
		b.WriteString(head + lines[head])
	}
	return b.Bytes()
}
