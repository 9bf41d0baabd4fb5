package main

import (
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot/types"
)

// A certificate is one that a thing has.
type certificate struct {
	id, arn  string
	status   types.CertificateStatus
	created  time.Time
	modified time.Time // when its status changed last
	things   int       // how many things have it
}

// A policy says which certificates are retired. It is pure.
type policy struct {
	claims []string      // ids, never retired
	grace  time.Duration // from deactivation to deletion; 0: never
}

// An action is what is done to one certificate.
type action string

const (
	keep       action = ""
	deactivate action = "deactivate"
	remove     action = "delete"
)

// actions decides for each certificate of a thing, in their order, after one of
// them was proved to work: it published a message.
//
// Only certificates that are older than the proved one are retired. A message of
// the old certificate, delivered late or twice, or sent by a device that was
// interrupted before it took its new one into use, therefore retires nothing that
// came after it. Revoked certificates stay: they keep a claim from the thing.
func (p policy) actions(proved string, all []certificate, now time.Time) []action {
	actions := make([]action, len(all))
	i := slices.IndexFunc(all, func(c certificate) bool { return c.id == proved })
	if i < 0 || all[i].status != types.CertificateStatusActive || slices.Contains(p.claims, proved) {
		return actions
	}
	for j, c := range all {
		if !c.created.Before(all[i].created) || c.things != 1 || slices.Contains(p.claims, c.id) {
			continue
		}
		switch c.status {
		case types.CertificateStatusActive:
			actions[j] = deactivate
		case types.CertificateStatusInactive:
			if p.grace > 0 && now.Sub(c.modified) >= p.grace {
				actions[j] = remove
			}
		}
	}
	return actions
}
