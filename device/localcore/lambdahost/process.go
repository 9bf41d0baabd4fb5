package lambdahost

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/fleety/device/awsiot"
)

// errNotTaken marks an invocation whose process ended before it took it: the function has not seen
// the event.
var errNotTaken = errors.New("the event was not taken")

// stopWithin bounds what a dead process can leave behind: a child that still holds its output, a
// connection that is not closed.
const stopWithin = time.Second

// A process is one running copy of the function with the Runtime API server that is its alone.
type process struct {
	config  *Config
	closing <-chan struct{} // of the host
	cmd     *exec.Cmd
	file    os.FileInfo // of the executable; nil without one
	output  *output
	server  *http.Server

	ready  func()          // the first call closes asked
	asked  chan struct{}   // closed when the function first polled for work
	work   chan invocation // handed to the request that polls for work
	exited chan struct{}   // closed when the process has ended and its output was read
	done   chan struct{}   // closed when the server has ended too

	used bool // written and read by the one Invoke that holds the process

	mu      sync.Mutex
	current *invocation    // taken and not yet answered
	initErr *FunctionError // reported by the function
}

// launch starts the function's executable. The process is ready for work after awaitReady, and must
// be stopped.
func launch(c *Config, closing <-chan struct{}) (*process, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &process{
		config: c, closing: closing,
		output: &output{log: c.Log},
		asked:  make(chan struct{}),
		work:   make(chan invocation),
		exited: make(chan struct{}),
		done:   make(chan struct{}),
	}
	p.ready = sync.OnceFunc(func() { close(p.asked) })
	host := listener.Addr().String()
	secret := "/" + rand.Text()
	p.server = newRuntimeAPI(p, host, secret)
	p.file, _ = os.Stat(c.Path) // an error is that of the start too
	p.cmd = exec.Command(c.Path)
	p.cmd.Dir = filepath.Dir(c.Path)
	p.cmd.Env = environment(c, host+secret, cmp.Or(c.Endpoint, "http://"+host+secret+noEndpoint))
	p.cmd.Stdout = p.output.stream("stdout")
	p.cmd.Stderr = p.output.stream("stderr")
	p.cmd.WaitDelay = stopWithin
	ownGroup(p.cmd)

	started := make(chan error)
	go p.run(listener, started)
	return p, <-started
}

// run starts the process and stays with it to its end.
func (p *process) run(listener net.Listener, started chan<- error) {
	// Linux ties the parent-death signal to the thread that started the process, not to the
	// program: keep that thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	if err := p.cmd.Start(); err != nil {
		listener.Close()
		started <- err
		return
	}
	var serving sync.WaitGroup
	serving.Go(func() { p.server.Serve(listener) })
	started <- nil

	p.cmd.Wait() // how it ended is in p.cmd.ProcessState
	killGroup(p.cmd.Process)
	p.output.flush()
	close(p.exited)

	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	if p.server.Shutdown(ctx) != nil {
		p.server.Close()
	}
	serving.Wait()
	close(p.done)
}

// awaitReady waits until the function polls for work.
func (p *process) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, InitTimeout,
		fmt.Errorf("%w: it polled for no event within %v", ErrTimeout, InitTimeout))
	defer cancel()
	select {
	case <-p.asked:
		return nil
	case <-p.closing:
		return ErrClosed
	case <-p.exited:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.initErr != nil {
		return p.initErr
	}
	return p.exitError()
}

// invoke hands the event over and waits for the answer, within Config.Timeout. It does not stop the
// process.
func (p *process) invoke(ctx context.Context, event []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.config.Timeout,
		fmt.Errorf("%w after %v", ErrTimeout, p.config.Timeout))
	defer cancel()
	p.used = true
	inv := invocation{id: awsiot.NewUUID(), nonce: awsiot.NewUUID(), event: event, answer: make(chan answer, 1)}
	inv.deadline, _ = ctx.Deadline()
	select {
	case p.work <- inv:
	case <-p.closing:
		return nil, ErrClosed
	case <-p.exited:
		return nil, fmt.Errorf("%w: %w", errNotTaken, p.exitError())
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case a := <-inv.answer:
		return a.body, a.err
	case <-p.closing:
		return nil, ErrClosed
	case <-p.exited:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case a := <-inv.answer: // it answered, then ended
		return a.body, a.err
	default:
		return nil, p.exitError()
	}
}

// exitError is called after exited: nothing is written any more.
func (p *process) exitError() error { return exitError(p.cmd.ProcessState.String(), p.output.stderr) }

// exitError is [ErrExited] with how the process ended, "signal: killed" for instance, and the most
// informative one of the last lines of its standard error: the first of a Go panic, which its stack
// trace follows, else the last line.
func exitError(status string, stderr []string) error {
	for _, line := range slices.Backward(stderr) {
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			stderr = []string{line}
			break
		}
	}
	if len(stderr) == 0 {
		return fmt.Errorf("%w: %s", ErrExited, status)
	}
	return fmt.Errorf("%w: %s; standard error: %s", ErrExited, status, awsiot.Printable(stderr[len(stderr)-1]))
}

// replaced reports whether there is another executable now than the one that was started. None at
// all, as while one is built, is no other.
func (p *process) replaced() bool {
	info, err := os.Stat(p.config.Path)
	return err == nil && (!os.SameFile(info, p.file) || !info.ModTime().Equal(p.file.ModTime()))
}

// stop kills the process and those that it started, and returns when nothing of it is left.
func (p *process) stop() {
	select {
	case <-p.exited:
	default:
		killGroup(p.cmd.Process)
	}
	<-p.done
}

// onThisMachine reports whether ip is one of this machine's interfaces.
func onThisMachine(ip net.IP) bool {
	addresses, _ := net.InterfaceAddrs() // without them, loopback counts alone
	return ip.IsLoopback() || slices.ContainsFunc(addresses, func(a net.Addr) bool {
		network, ok := a.(*net.IPNet)
		return ok && network.IP.Equal(ip)
	})
}

// checkEndpoints returns an error for a variable by which the function's calls of an AWS service
// would leave this machine.
func checkEndpoints(env []string) error {
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		switch {
		case name == "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS":
			return fmt.Errorf("hosting a function: %s would have it call AWS itself", name)
		case !strings.HasPrefix(name, "AWS_ENDPOINT_URL") || value == "":
			continue
		}
		u, err := url.Parse(value)
		if err != nil {
			return fmt.Errorf("hosting a function: %s is not a URL: %w", name, err)
		}
		if u.Hostname() != "localhost" && !onThisMachine(net.ParseIP(u.Hostname())) {
			return fmt.Errorf("hosting a function: %s is at %s, not on this machine", name, u.Host)
		}
	}
	return nil
}

// environment returns the variables that Lambda sets for a function on an OS-only runtime, and then
// those of the caller. Nothing is inherited: the credentials are plainly not real, the files and
// the metadata service that AWS SDKs would read others from are switched off, and endpoint gets
// their calls.
//
// AWS page: https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
func environment(c *Config, api, endpoint string) []string {
	dir := filepath.Dir(c.Path)
	name := c.FunctionARN[strings.LastIndex(c.FunctionARN, ":")+1:]
	return append([]string{
		"AWS_LAMBDA_RUNTIME_API=" + api,
		"_HANDLER=" + filepath.Base(c.Path),
		"AWS_REGION=" + c.Region,
		"AWS_DEFAULT_REGION=" + c.Region,
		"AWS_LAMBDA_FUNCTION_NAME=" + name,
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128",
		"AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + name,
		"AWS_LAMBDA_LOG_STREAM_NAME=local",
		"AWS_ACCESS_KEY_ID=local",
		"AWS_SECRET_ACCESS_KEY=local",
		"AWS_SESSION_TOKEN=local",
		"AWS_ENDPOINT_URL=" + endpoint,
		"AWS_CONFIG_FILE=" + os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
		"AWS_EC2_METADATA_DISABLED=true",
		"LAMBDA_TASK_ROOT=" + dir,
		"LAMBDA_RUNTIME_DIR=" + dir,
		"PATH=/usr/local/bin:/usr/bin:/bin:/opt/bin",
		"LANG=en_US.UTF-8",
		"TZ=:UTC",
	}, c.Env...)
}
