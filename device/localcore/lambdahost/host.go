// Package lambdahost runs a Lambda function's own binary, the `bootstrap` of
// an OS-only runtime, on this machine: it speaks the Lambda Runtime API to it
// over a loopback port, as the Lambda service does. The function cannot tell
// the difference, so the hook that is tested here is the hook that is deployed.
//
// It is not a sandbox: the function runs as the user who started it, with no
// limit of memory. Its environment is Lambda's, not the caller's, so that
// credentials of the shell do not reach it.
//
// AWS page: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
package lambdahost

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Defaults of a [Config].
const (
	DefaultTimeout = 3 * time.Second // Lambda's own
	DefaultRegion  = "us-east-1"
)

// MaxPayload is the greatest length of an event and of its answer, in bytes:
// the quota of a synchronous invocation.
// AWS page: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
const MaxPayload = 6 << 20

// A Config says which function to host and how. Only Path is required.
type Config struct {
	// Path is the function's executable, in Lambda named bootstrap.
	Path string
	// FunctionARN is what the function is told to be. Empty means a function
	// named after Path's folder entry, in account 123456789012.
	FunctionARN string
	// Region is AWS_REGION of the function. Empty means [DefaultRegion].
	Region string
	// Timeout bounds one invocation. Zero means [DefaultTimeout].
	Timeout time.Duration
	// Concurrency is how many processes may run at once, each with one
	// invocation at a time, as in Lambda. They are started on demand. Zero
	// means one per CPU that Go uses.
	Concurrency int
	// Env holds further variables, as NAME=value. They win over Lambda's.
	Env []string
	// Log receives each line that the function writes. Nil means discard.
	Log *slog.Logger
}

// Errors of [Host.Invoke] to test for with [errors.Is].
var (
	// ErrTimeout: the function did not answer within Config.Timeout. Its
	// process was killed; the next invocation starts another.
	ErrTimeout = errors.New("the function timed out")
	// ErrExited: the function's process ended before it answered. The error
	// is an [*ExitError].
	ErrExited = errors.New("the function exited")
	// ErrTooLarge: the event is longer than [MaxPayload].
	ErrTooLarge = errors.New("the event is too large")
	// ErrClosed: the host was closed.
	ErrClosed = errors.New("the Lambda host is closed")
)

// A Host runs one function. It is safe for concurrent use.
type Host struct {
	config Config
}

// Start checks that the function can run here, starts its first process and
// waits until that asks for work. ctx bounds the wait only; [Host.Close] ends
// what was started.
//
// The error is a [*BinaryError] when the file cannot run on this machine, an
// [*ExitError] when the process ended at once, a [*FunctionError] when it
// reported that its initialisation failed.
func Start(ctx context.Context, c Config) (*Host, error) { return nil, errors.New("not ready") }

// Invoke hands event, a JSON document, to the function and returns its answer.
//
// The error is a [*FunctionError] when the function answered with one, else
// one of [ErrTimeout], [ErrExited], [ErrTooLarge] and [ErrClosed], or ctx's
// own. When ctx ends, the process that held the event is killed.
func (h *Host) Invoke(ctx context.Context, event []byte) ([]byte, error) {
	return nil, errors.New("not ready")
}

// Close kills what runs and returns when no process and no goroutine is left.
// Invocations that are under way end with [ErrClosed]. Further calls do nothing.
func (h *Host) Close() error { return nil }
