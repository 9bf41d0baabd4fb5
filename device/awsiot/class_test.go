package awsiot_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"example.com/fleety/device/awsiot"
)

func TestErrorsAreClassed(t *testing.T) {
	t.Parallel()
	rejected := func(status int, code string) error {
		return fmt.Errorf("registering thing: %w", &awsiot.ErrorResponse{StatusCode: status, ErrorCode: code})
	}
	for name, tc := range map[string]struct {
		err  error
		want awsiot.Class
	}{
		"unknown":                  {errors.New("x"), awsiot.Failed},
		"canceled":                 {errors.Join(rejected(403, "AccessDenied"), context.Canceled), awsiot.Interrupted},
		"deadline":                 {fmt.Errorf("x: %w", context.DeadlineExceeded), awsiot.Temporary},
		"denied":                   {rejected(403, "AccessDenied"), awsiot.Denied},
		"invalid":                  {rejected(400, "InvalidParameters"), awsiot.Denied},
		"throttled, as the model":  {rejected(400, "Throttling"), awsiot.Temporary},
		"throttled, long name":     {rejected(400, "ThrottlingException"), awsiot.Temporary},
		"too many requests":        {rejected(400, "TooManyRequests"), awsiot.Temporary},
		"conflicting update":       {rejected(409, "ConflictingResourceUpdate"), awsiot.Temporary},
		"conflict of resources":    {rejected(409, "ResourceConflicts"), awsiot.Denied},
		"unknown code, status 503": {rejected(503, "Other"), awsiot.Temporary},
		"unknown code, status 429": {rejected(429, ""), awsiot.Temporary},
	} {
		if got := awsiot.ClassOf(tc.err); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestRejectionIsOneHarmlessLine(t *testing.T) {
	t.Parallel()
	e := &awsiot.ErrorResponse{StatusCode: 403, ErrorCode: "Access\nDenied", ErrorMessage: "a\r\nerror: forged\x1b[31m\u009b\u202e"}
	if text := e.Error(); strings.ContainsAny(text, "\r\n\x1b\u009b\u202e") {
		t.Errorf("%q", text)
	}
}
