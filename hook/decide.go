package main

import (
	"context"
	"log/slog"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/payload"
)

// maxLogged bounds, in bytes, what a device can add to one attribute of a log
// line. It is the longest client id that AWS IoT Core accepts.
const maxLogged = 128

// A decider answers AWS IoT Core and logs one line for every answer.
type decider struct {
	rules admit.Rules
	log   *slog.Logger
}

// decide never returns an error for what a device sent: AWS IoT Core would
// count it as a fault of the function and alarm the wrong people.
func (d decider) decide(ctx context.Context, request payload.Request) (payload.Response, error) {
	verdict := d.rules.Judge(request)
	d.record(ctx, request, verdict)
	return payload.Response{AllowProvisioning: verdict.Admitted}, nil
}

func (d decider) record(ctx context.Context, request payload.Request, verdict admit.Verdict) {
	level, word := slog.LevelInfo, "admitted"
	if !verdict.Admitted {
		level, word = slog.LevelWarn, "refused"
	}
	d.log.LogAttrs(ctx, level, "decision",
		slog.String("requestId", requestID(ctx)),
		slog.String("claimCertificateId", bounded(request.ClaimCertificateID)),
		slog.String("serialNumber", bounded(textOf(request.Parameters, payload.SerialNumber))),
		slog.String("clientId", bounded(request.ClientID)),
		slog.String("author", bounded(textOf(request.Parameters, payload.Author))),
		slog.String("verdict", word),
		slog.String("reason", string(verdict.Reason)))
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
