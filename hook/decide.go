package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/payload"
)

// maxLogged bounds, in bytes, what a device can add to one attribute of a log
// line. It is the longest client id that AWS IoT Core accepts.
const maxLogged = 128

// lookupWithin bounds all that the hook asks AWS for one decision, retries
// included. It leaves time to answer within [payload.AnswerWithin].
const lookupWithin = 3 * time.Second

// A registry knows which certificates things have, and by which command an
// operator deactivates one.
type registry interface {
	Certificates(ctx context.Context, thingName string) ([]admit.Certificate, error)
	Deactivation(certificateID string) string
}

// A decider answers AWS IoT Core and logs one line for every answer.
type decider struct {
	rules  admit.Rules
	things registry // nil: whether the thing is in use does not matter
	log    *slog.Logger
}

// decide never returns an error for what a device sent: AWS IoT Core would
// count it as a fault of the function and alarm the wrong people. An error
// tells that AWS could not be asked; the device is refused for it too.
func (d decider) decide(ctx context.Context, request payload.Request) (payload.Response, error) {
	verdict, err := d.judge(ctx, request)
	d.record(ctx, request, verdict, err)
	return payload.Response{AllowProvisioning: verdict.Admitted}, err
}

// judge asks AWS only about devices that the pure rules admit.
func (d decider) judge(ctx context.Context, request payload.Request) (admit.Verdict, error) {
	verdict := d.rules.Judge(request)
	if !verdict.Admitted || d.things == nil {
		return verdict, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupWithin)
	defer cancel()
	has, err := d.things.Certificates(ctx, thingName(request))
	if err != nil {
		return admit.Verdict{Reason: admit.ThingUnknown}, fmt.Errorf("%s: %w", admit.ThingUnknown, err)
	}
	return admit.JudgeThing(request, has), nil
}

// record logs a decision with what an operator needs to change it.
func (d decider) record(ctx context.Context, request payload.Request, verdict admit.Verdict, err error) {
	level, word := slog.LevelInfo, "admitted"
	if !verdict.Admitted {
		level, word = slog.LevelWarn, "refused"
	}
	line := []slog.Attr{
		slog.String("requestId", requestID(ctx)),
		slog.String("claimCertificateId", bounded(request.ClaimCertificateID)),
		slog.String("serialNumber", bounded(textOf(request.Parameters, payload.SerialNumber))),
		slog.String("clientId", bounded(request.ClientID)),
		slog.String("author", bounded(textOf(request.Parameters, payload.Author))),
		slog.String("verdict", word),
		slog.String("reason", string(verdict.Reason)),
	}
	switch {
	case err != nil:
		level = slog.LevelError
		line = append(line, slog.String("error", err.Error()))
	case verdict.Reason == admit.ThingTaken:
		line = append(line,
			slog.String("thingName", thingName(request)),
			slog.String("activeCertificateId", verdict.ActiveCertificateID),
			slog.String("remedy", "if this device may come in again, run: "+d.things.Deactivation(verdict.ActiveCertificateID)))
	}
	d.log.LogAttrs(ctx, level, "decision", line...)
}

// thingName is the thing that an admitted device becomes.
func thingName(request payload.Request) string {
	return payload.ThingName(textOf(request.Parameters, payload.SerialNumber))
}

func requestID(ctx context.Context) string {
	if c, ok := lambdacontext.FromContext(ctx); ok {
		return c.AwsRequestID
	}
	return ""
}

// textOf is the parameter as a string, or its JSON if it is something else.
func textOf(p payload.Parameters, name string) string {
	if s, _, ok := p.String(name); ok {
		return s
	}
	return string(p[name])
}

// bounded cuts s to maxLogged bytes and marks the cut. Half a character that
// the cut may leave is made valid by the JSON handler.
func bounded(s string) string {
	if len(s) <= maxLogged {
		return s
	}
	return s[:maxLogged] + "…"
}
