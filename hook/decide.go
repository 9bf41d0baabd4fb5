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

// A list knows which serial numbers may come in, marks them as used, and knows
// by which command an operator releases one.
type list interface {
	Use(ctx context.Context, serialNumber, certificateID string) (admit.Listing, error)
	Releasing(serialNumber string) string
}

// A decider answers AWS IoT Core and logs one line for every answer.
type decider struct {
	rules   admit.Rules
	things  registry // nil: whether the thing is in use does not matter
	serials list     // nil: every serial number that the rules admit may come in
	log     *slog.Logger
}

// decide never returns an error for what a device sent: AWS IoT Core would
// count it as a fault of the function and alarm the wrong people. An error
// tells that AWS could not be asked; the device is refused for it too.
func (d decider) decide(ctx context.Context, request payload.Request) (payload.Response, error) {
	verdict, err := d.judge(ctx, request)
	d.record(ctx, request, verdict, err)
	return payload.Response{AllowProvisioning: verdict.Admitted}, err
}

// judge asks AWS only about devices that the pure rules admit. The list comes
// last, so that who is refused for another reason uses up no serial number.
func (d decider) judge(ctx context.Context, request payload.Request) (admit.Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupWithin)
	defer cancel()
	verdict := d.rules.Judge(request)
	if verdict.Admitted && d.things != nil {
		has, err := d.things.Certificates(ctx, thingName(request))
		if err != nil {
			return unknown(admit.ThingUnknown, err)
		}
		verdict = admit.JudgeThing(request, has)
	}
	if verdict.Admitted && d.serials != nil {
		listing, err := d.serials.Use(ctx, serialNumber(request), request.CertificateID)
		if err != nil {
			return unknown(admit.ListUnknown, err)
		}
		verdict = admit.JudgeListing(request, listing)
	}
	return verdict, nil
}

// unknown refuses whom AWS could not be asked about.
func unknown(why admit.Reason, err error) (admit.Verdict, error) {
	return admit.Verdict{Reason: why}, fmt.Errorf("%s: %w", why, err)
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
	if err != nil {
		level = slog.LevelError
		line = append(line, slog.String("error", err.Error()))
	}
	if verdict.HeldBy != "" {
		line = append(line,
			slog.String("thingName", thingName(request)),
			slog.String("heldBy", verdict.HeldBy),
			slog.String("remedy", "if this device may come in again, run: "+d.remedy(request, verdict)))
	}
	d.log.LogAttrs(ctx, level, "decision", line...)
}

// remedy is the command that takes away what stands in the device's way.
func (d decider) remedy(request payload.Request, verdict admit.Verdict) string {
	if verdict.Reason == admit.SerialUsed {
		return d.serials.Releasing(serialNumber(request))
	}
	return d.things.Deactivation(verdict.HeldBy)
}

// thingName is the thing that an admitted device becomes.
func thingName(request payload.Request) string { return payload.ThingName(serialNumber(request)) }

func serialNumber(request payload.Request) string {
	return textOf(request.Parameters, payload.SerialNumber)
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
