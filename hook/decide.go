package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"golang.org/x/sync/errgroup"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/payload"
)

// lookupWithin bounds all look-ups for one decision, retries included. It leaves time to answer
// within [payload.AnswerWithin].
const lookupWithin = 3 * time.Second

// attemptWithin bounds one attempt of a look-up. It leaves time for a second.
const attemptWithin = 2 * time.Second

// A thingRegistry knows the certificates of things and the things of certificates.
type thingRegistry interface {
	Certificates(ctx context.Context, thingName string) ([]admit.Certificate, error)
	Status(ctx context.Context, certificateID string) (admit.Status, error)
	Things(ctx context.Context, certificateARN string) ([]string, error)
	// Deactivation is the command by which an operator deactivates a certificate.
	Deactivation(certificateID string) string
}

// A serialRegistry knows which certificate each serial number was used by.
type serialRegistry interface {
	Mark(ctx context.Context, serialNumber string) (admit.Mark, error)
	Take(ctx context.Context, serialNumber, certificateID string, read admit.Mark, now time.Time) (bool, error)
}

// A decider answers AWS IoT Core and logs one line for every answer.
type decider struct {
	rules   admit.Rules
	things  thingRegistry  // nil: whether the thing is in use does not matter
	serials serialRegistry // nil: a serial number is admitted any number of times
	log     *slog.Logger
	now     func() time.Time
}

// decide never returns an error for what a device sent: AWS IoT Core would count it as a fault of
// the function and alarm the wrong people. An error says that a look-up failed. AWS IoT Core
// answers the device with AccessDenied for it too, so that only the log distinguishes the two.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html
func (d decider) decide(ctx context.Context, request payload.Request) (payload.Response, error) {
	verdict, err := d.evaluate(ctx, request)
	d.record(ctx, request, verdict, err)
	return payload.Response{AllowProvisioning: err == nil && verdict.Admitted}, err
}

// evaluate looks up only what concerns devices that the pure rules admit. The serial number is
// marked last, so that a device that is denied uses up none.
func (d decider) evaluate(ctx context.Context, request payload.Request) (admit.Verdict, error) {
	verdict := d.rules.EvaluateRequest(request)
	if !verdict.Admitted || d.things == nil {
		return verdict, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupWithin)
	defer cancel()
	facts, why, err := d.lookUp(ctx, request)
	if err != nil {
		return admit.Verdict{Reason: why}, fmt.Errorf("%s: %w", why, err)
	}
	verdict = d.rules.Evaluate(request, facts)
	if !verdict.Admitted || facts.Mark == nil || d.rules.ListedOnly && !facts.Mark.Listed {
		return verdict, nil // the last of these: a device rotates whose number was taken off the list
	}
	taken, err := d.serials.Take(ctx, serialNumber(request), request.CertificateID, *facts.Mark, facts.Now)
	switch {
	case err != nil:
		return admit.Verdict{Reason: admit.SerialRegistryFailed}, fmt.Errorf("%s: %w", admit.SerialRegistryFailed, err)
	case !taken:
		return admit.Verdict{Reason: admit.SerialPending}, nil
	}
	return verdict, nil
}

// lookUp requests all facts at once. The reason is that of an error.
func (d decider) lookUp(ctx context.Context, request payload.Request) (facts admit.Facts, why admit.Reason, err error) {
	facts.Now = d.now()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		facts.Certificates, err = d.things.Certificates(groupCtx, d.rules.ThingName(serialNumber(request)))
		return err
	})
	home, _, _ := strings.Cut(request.TemplateARN, ":provisioningtemplate/") // account and Region
	group.Go(func() (err error) {
		facts.Caller, err = d.things.Things(groupCtx, home+":cert/"+request.ClaimCertificateID)
		return err
	})
	var markErr error
	if d.serials != nil {
		group.Go(func() (err error) {
			var m admit.Mark
			if m, markErr = d.serials.Mark(groupCtx, serialNumber(request)); markErr != nil {
				return markErr
			}
			facts.Mark = &m
			if m.HeldBy == "" {
				return nil
			}
			m.Holder, err = d.things.Status(groupCtx, m.HeldBy)
			return err
		})
	}
	if err = group.Wait(); err != nil && errors.Is(err, markErr) {
		return facts, admit.SerialRegistryFailed, err
	}
	return facts, admit.ThingUnknown, err
}

// record logs a decision with what an operator needs to change it.
func (d decider) record(ctx context.Context, request payload.Request, verdict admit.Verdict, err error) {
	level, word := slog.LevelInfo, "admitted"
	switch {
	case err != nil:
		level, word = slog.LevelError, "failed"
	case !verdict.Admitted:
		level, word = slog.LevelWarn, "denied"
	}
	call, _ := lambdacontext.FromContext(ctx)
	line := []any{
		"requestId", cmp.Or(call, new(lambdacontext.LambdaContext)).AwsRequestID,
		"claimCertificateId", bounded(request.ClaimCertificateID),
		"certificateId", bounded(request.CertificateID),
		"serialNumber", bounded(serialNumber(request)),
		"clientId", bounded(request.ClientID),
		"author", bounded(textOf(request.Parameters, payload.Author)),
		"verdict", word,
		"reason", string(verdict.Reason),
	}
	if err != nil {
		line = append(line, "error", err.Error(), "remedy", "AWS IoT answers the device as if it were denied; the device tries again by itself once the look-up works")
	}
	if verdict.HeldBy != "" {
		line = append(line, "thingName", d.rules.ThingName(serialNumber(request)), "heldBy", verdict.HeldBy)
	}
	switch verdict.Reason {
	case admit.ThingTaken, admit.SerialUsed:
		line = append(line, "remedy", "to allow this device, run: "+d.things.Deactivation(verdict.HeldBy))
	case admit.ThingRevoked, admit.SerialRevoked:
		line = append(line, "remedy", "a revoked device is denied until its certificate is deleted: see docs/cloud.md")
	}
	d.log.Log(ctx, level, "decision", line...)
}

func serialNumber(request payload.Request) string {
	return textOf(request.Parameters, payload.SerialNumber)
}

// textOf is the parameter as a string, or its JSON if it is something else.
func textOf(p payload.Parameters, name string) string {
	if s, _, ok := p.String(name); ok {
		return s
	}
	return string(p[name])
}

// bounded cuts what a device can add to a line of the log to the length of the longest client id
// that AWS IoT Core accepts, and marks the cut. What would act on a terminal, and the JSON handler
// leaves as it is, is replaced, as is half a character that the cut may leave.
func bounded(s string) string {
	const longest = 128 // bytes
	if len(s) > longest {
		s = s[:longest] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r >= 0x7f && !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}
