// Package lambdahost runs a Lambda function's own binary, the `bootstrap` of an OS-only runtime, on
// this machine: it speaks the Lambda Runtime API to it over a loopback port, as the Lambda service
// does, so that the hook that is tested here is the hook that is deployed.
//
// It is not a sandbox: the function runs as the user who started it, with no limit of memory. Its
// environment is Lambda's, not the caller's, so that credentials of the shell do not reach it; its
// calls of AWS services go to [Config.Endpoint] or fail. Other users and web pages cannot answer in
// its place: the Runtime API has a random path that only the function is given, and rejects browsers.
//
// AWS page: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
package lambdahost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Defaults of a [Config].
const (
	DefaultTimeout     = 3 * time.Second // Lambda's own
	DefaultRegion      = "us-east-1"
	DefaultConcurrency = 50
)

// InitTimeout is how long a process may take until it polls for its first event: the init phase of
// Lambda.
// AWS page: https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
const InitTimeout = 10 * time.Second

// MaxPayload is the greatest length of an event and of its answer, in bytes: the quota of a
// synchronous invocation.
// AWS page: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
const MaxPayload = 6 << 20

// A Config says which function to host and how. Only Path is required.
type Config struct {
	Path string // the function's executable, in Lambda named bootstrap
	// FunctionARN is the function's ARN. Empty means a function named after the last element of
	// Path, in account 123456789012.
	FunctionARN string
	Region      string // AWS_REGION of the function; empty means [DefaultRegion]
	// Endpoint is the URL that the function's calls of every AWS service go to, its
	// AWS_ENDPOINT_URL. It is on this machine. Empty means none: each call fails, none reaches AWS.
	Endpoint string
	Timeout  time.Duration // bounds one invocation; zero means [DefaultTimeout]
	// Concurrency is how many processes may run at once, each with one invocation at a time, as in
	// Lambda. They are started on demand. Zero means [DefaultConcurrency] more than Go uses CPUs.
	Concurrency int
	// Env holds further variables, as NAME=value. They override Lambda's. An
	// AWS_ENDPOINT_URL_SERVICE among them must be on this machine too.
	Env []string
	Log *slog.Logger // receives each line that the function writes; nil means discard
}

// Errors of [Host.Invoke] to test for with [errors.Is].
var (
	// ErrTimeout: the function did not answer within Config.Timeout. Its process was killed; the
	// next invocation starts another.
	ErrTimeout = errors.New("the function timed out")
	// ErrExited: the function's process ended before it answered. The error's text has how, and the
	// most informative line of its standard error.
	ErrExited = errors.New("the function exited")
	// ErrTooLarge: the event is longer than [MaxPayload].
	ErrTooLarge = errors.New("the event is too large")
	// ErrClosed: the host was closed.
	ErrClosed = errors.New("the Lambda host is closed")
)

// A Host runs one function. It is safe for concurrent use.
type Host struct {
	config Config

	slots   chan struct{} // one element per call of Invoke that has a process or starts one
	idle    chan *process // those that wait for work
	closing chan struct{} // closed by Close
	close   sync.Once
}

// Start checks that the function can run here, starts its first process and waits until that polls
// for work. ctx bounds the wait only; [Host.Close] ends what was started.
//
// The error is a [*BinaryError] when the file cannot run on this machine, [ErrExited] when the
// process ended at once, a [*FunctionError] when it reported that its initialization failed,
// [ErrTimeout] when it polled for no work within [InitTimeout].
func Start(ctx context.Context, c Config) (*Host, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := checkBinary(c.Path); err != nil {
		return nil, err
	}
	h := &Host{config: c, slots: make(chan struct{}, c.Concurrency), closing: make(chan struct{})}
	h.idle = make(chan *process, min(c.Concurrency, runtime.GOMAXPROCS(0)))
	p, err := h.launch(ctx)
	if err != nil {
		return nil, err
	}
	h.idle <- p
	return h, nil
}

func (c Config) withDefaults() (Config, error) {
	path, err := filepath.Abs(c.Path)
	if err != nil {
		return c, fmt.Errorf("locating the function: %w", err)
	}
	c.Path = path
	c.Region = cmp.Or(c.Region, DefaultRegion)
	c.FunctionARN = cmp.Or(c.FunctionARN, fmt.Sprintf("arn:aws:lambda:%s:123456789012:function:%s", c.Region, filepath.Base(path)))
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.Concurrency = cmp.Or(c.Concurrency, runtime.GOMAXPROCS(0)+DefaultConcurrency)
	if c.Timeout < 0 || c.Concurrency < 0 {
		return c, errors.New("hosting a function: timeout and concurrency cannot be negative")
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	return c, checkEndpoints(append([]string{"AWS_ENDPOINT_URL=" + c.Endpoint}, c.Env...))
}

// Invoke hands event, a JSON document, to the function and returns its answer. As after a
// deployment, an executable that has replaced the one at Config.Path is the function from then on.
//
// The error is a [*FunctionError] when the function answered with one, else one of [ErrTimeout],
// [ErrExited], [ErrTooLarge] and [ErrClosed], or ctx's own. When ctx ends, the process that held
// the event is killed.
func (h *Host) Invoke(ctx context.Context, event []byte) ([]byte, error) {
	if len(event) > MaxPayload {
		return nil, fmt.Errorf("invoking the function: %w: %d bytes, %d are allowed", ErrTooLarge, len(event), MaxPayload)
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for a free process of the function: %w", context.Cause(ctx))
	case <-h.closing:
		return nil, ErrClosed
	}
	for {
		var p *process
		var err error
		select {
		case p = <-h.idle:
		default:
			if len(h.slots) > runtime.GOMAXPROCS(0) { // most functions answer soon, others need processes
				select {
				case p = <-h.idle:
				case <-time.After(250 * time.Millisecond):
				}
			}
		}
		if p == nil {
			if p, err = h.launch(ctx); err != nil {
				return nil, err
			}
		} else if p.replaced() {
			p.stop()
			continue
		}
		fresh := !p.used
		answer, err := p.invoke(ctx, event)
		if _, answered := errors.AsType[*FunctionError](err); err == nil || answered {
			select {
			case h.idle <- p:
			default: // more than the CPUs need
				p.stop()
			}
			return answer, err
		}
		p.stop()
		if fresh || !errors.Is(err, errNotTaken) {
			return nil, err
		} // else it ended after its last answer, as after a panic
	}
}

// Close kills what runs and returns when no process and no goroutine is left. Invocations that are
// under way end with [ErrClosed]. Further calls do nothing.
func (h *Host) Close() error {
	h.close.Do(func() {
		close(h.closing)
		for range cap(h.slots) { // which the invocations leave
			h.slots <- struct{}{}
		}
		for len(h.idle) > 0 {
			(<-h.idle).stop()
		}
	})
	return nil
}

func (h *Host) launch(ctx context.Context) (*process, error) {
	p, err := launch(&h.config, h.closing) //nolint:contextcheck // the process outlives the call
	if err == nil {
		if err = p.awaitReady(ctx); err != nil {
			p.stop()
		}
	}
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return nil, notForHere(h.config.Path, "is not an executable of this machine")
	case errors.Is(err, fs.ErrNotExist):
		return nil, cmp.Or(checkBinary(h.config.Path), notForHere(h.config.Path, "names an interpreter or a loader that does not exist"))
	case err != nil:
		return nil, fmt.Errorf("running %s: %w", h.config.Path, err)
	}
	return p, nil
}
