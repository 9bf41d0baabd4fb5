package conformance

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"golang.org/x/sync/errgroup"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

// Prefix begins the names of all that a run creates.
const Prefix = "conformance-"

const patience = 30 * time.Second // how long an answer may take

// A Config says which endpoint to check, and how. Endpoint is required, and for endpoints outside
// of AWS API.
type Config struct {
	Endpoint    string                  // HOST or HOST:PORT of MQTT over TLS
	API         string                  // the address of the REST APIs; empty means those of AWS in Region
	ALPNPort    int                     // a port that requires ALPN; 0 means 443 on AWS, and none elsewhere
	Roots       *x509.CertPool          // verify the endpoint; nil means those of the system
	Region      string                  // that of requests; empty means the endpoint's own, or us-east-1
	Credentials aws.CredentialsProvider // sign requests; nil means any, which AWS does not accept
	Role        string                  // the ARN of a role for provisioning templates and rules; checks that need one are skipped without it
	Checks      []Check                 // those to run
}

// Why a run can end before its first check.
var (
	ErrDenied      = errors.New("the endpoint does not accept the credentials")
	ErrUnreachable = errors.New("the endpoint cannot be reached")
)

type run struct {
	config             Config
	host, address, arn string
	planes             map[string]plane
	http               *http.Client
	shared             *tls.Certificate
	vars               map[string]string // of every script
	parallel           int               // checks at once
	quiet, settle      time.Duration     // how long to wait where no answer is expected, and until a change has an effect
}

// Run runs the checks and deletes what they made, also when ctx ends. The error is about the run,
// such as an endpoint that cannot be reached; what differs is in the report.
func Run(ctx context.Context, c Config) (*Report, error) {
	r := &run{config: c, parallel: 16, quiet: 200 * time.Millisecond, http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}}
	defer r.http.CloseIdleConnections()
	host, port, err := net.SplitHostPort(c.Endpoint)
	if err != nil {
		host, port = c.Endpoint, fmt.Sprint(session.DefaultPort)
	}
	r.host, r.address = host, net.JoinHostPort(host, port)
	e := awsiot.ParseEndpoint(host)
	r.config.Region = cmp.Or(c.Region, e.Region, "us-east-1")
	report := &Report{Endpoint: "other", Started: time.Now().UTC().Truncate(time.Second)}
	if e.AWS() {
		report.Endpoint = "aws"
		r.parallel, r.quiet, r.settle, r.config.ALPNPort = 4, 3*time.Second, 30*time.Second, cmp.Or(c.ALPNPort, 443)
	}
	if c.Credentials == nil {
		r.config.Credentials = anonymous
	}
	_, domain, ok := strings.Cut(e.Host, "."+e.Region+".")
	if c.API == "" && (!ok || e.Region == "") {
		return nil, fmt.Errorf("endpoint %s: it is not one of AWS, so its REST API must be named", host)
	}
	url := func(service string) string { return cmp.Or(c.API, "https://"+service+"."+e.Region+"."+domain) }
	r.planes = map[string]plane{
		"api": {"iot", url("iot")}, "data": {"iotdata", cmp.Or(c.API, "https://"+host)},
		"jobsdata": {"iot-jobs-data", url("data.jobs.iot")}, "tunnels": {"IoTSecuredTunneling", url("api.tunneling.iot")},
	}
	setup := r.newScript(Prefix + strings.ToLower(rand.Text()[:6]))
	if err := r.setUp(ctx, setup); err != nil {
		switch setup.last.status {
		case http.StatusUnauthorized, http.StatusForbidden:
			err = fmt.Errorf("%w: %w", ErrDenied, err)
		case 0:
			err = fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		r.clean(ctx, setup, report)
		for _, what := range report.LeftOver {
			err = fmt.Errorf("%w; could not delete %s", err, what)
		}
		return nil, fmt.Errorf("preparing the checks at %s: %w", cmp.Or(c.API, host), err)
	}
	defer r.clean(ctx, setup, report)
	report.Results = make([]Result, len(c.Checks))
	var group errgroup.Group
	group.SetLimit(r.parallel)
	for i, check := range c.Checks {
		group.Go(func() error {
			report.Results[i] = r.check(ctx, check, fmt.Sprint(setup.vars["p"], "-", i), report)
			return nil
		})
	}
	_ = group.Wait() // they return no errors
	report.Seconds = time.Since(report.Started).Seconds()
	return report, ctx.Err()
}

func (r *run) newScript(prefix string) *script {
	vars := map[string]string{"p": prefix, "rule": strings.ReplaceAll(prefix, "-", "_")}
	maps.Copy(vars, r.vars)
	return &script{run: r, vars: vars, principals: map[string]*tls.Certificate{}, clients: map[string]*client{}, tickets: tls.NewLRUClientSessionCache(1)}
}

// setUp makes the certificate that most checks use, learns the account, and connects once.
func (r *run) setUp(ctx context.Context, s *script) error {
	if err := s.principal(ctx, "All", false, `{"Effect":"Allow","Action":"iot:*","Resource":"*"}`); err != nil {
		return err
	}
	arn, err := awsiot.ParseARN(s.vars["Allarn"])
	if err != nil {
		return err
	}
	r.shared = s.principals["All"]
	r.arn = strings.TrimSuffix(s.vars["Allarn"], ":cert/"+s.vars["Allid"])
	r.vars = map[string]string{
		"allowAll": s.vars["Allpolicy"], "all": s.vars["Allid"], "allarn": s.vars["Allarn"], "run": s.vars["p"],
		"arn": r.arn, "partition": arn.Partition, "account": arn.Account, "region": arn.Region, "role": r.config.Role, "host": r.host, "alpnPort": fmt.Sprint(r.config.ALPNPort),
	}
	// Where no check can connect, none of them says anything about the endpoint.
	config, err := s.tlsConfig("All", nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", r.address)
	if err != nil {
		return fmt.Errorf("%w: connecting to %s: %w", ErrUnreachable, r.address, err)
	}
	return conn.Close()
}

// clean deletes what a script made, the last first, even after ctx has ended.
func (r *run) clean(ctx context.Context, s *script, report *Report) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	done := map[string]bool{}
	for _, u := range slices.Backward(s.undos) {
		if done[u.what] {
			continue
		}
		done[u.what] = true
		if err := u.run(ctx); err != nil {
			report.mu.Lock()
			report.LeftOver = append(report.LeftOver, fmt.Sprintf("%s: %v", u.what, err))
			report.mu.Unlock()
		}
	}
}

func (r *run) check(ctx context.Context, c Check, prefix string, report *Report) (result Result) {
	result = Result{Behavior: c.Behavior, Open: c.Open, Steps: c.Hash(), Verdict: Same}
	missing := map[string]bool{"role": r.config.Role == "", "alpn": r.config.ALPNPort == 0}
	if i := slices.IndexFunc(c.Needs, func(need string) bool { return missing[need] }); i >= 0 {
		result.Verdict, result.Got = Skipped, "needs "+c.Needs[i]
		return result
	}
	if ctx.Err() != nil {
		result.Verdict, result.Got = Skipped, "interrupted"
		return result
	}
	s := r.newScript(prefix)
	began := time.Now()
	running, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	err := s.runSteps(running, c)
	if ctx.Err() != nil {
		time.Sleep(r.quiet) // for answers that say what was made meanwhile
	}
	s.close()
	r.clean(ctx, s, report)
	result.Seconds = time.Since(began).Seconds()
	result.Transcript = s.redact(s.transcript...)
	result.Got = changing.ReplaceAllString(strings.Join(s.redact(s.recorded...), "; "), "VARIES")
	differs, ok := errors.AsType[*mismatch](err)
	switch {
	case ok:
		texts := s.redact(differs.want, differs.got)
		result.Verdict, result.Want, result.Got = Differs, texts[0], texts[1]
	case err != nil:
		result.Verdict, result.Got = Failed, s.redact(err.Error())[0]
	case c.Open != "":
		result.Verdict = Recorded
	}
	return result
}

func (s *script) runSteps(ctx context.Context, c Check) error {
	for range c.Repeat {
		for i, st := range c.steps {
			next := ""
			if i+1 < len(c.steps) {
				next = c.steps[i+1].text
			}
			if err := s.step(ctx, st.text, next); err != nil {
				return fmt.Errorf("%s:%d: %w", c.File, st.line, err)
			}
		}
		s.close()
		s.clients = map[string]*client{}
	}
	return nil
}

func (s *script) close() {
	for _, c := range s.connections {
		c.conn.Close()
	}
	s.running.Wait()
	for _, c := range s.connections { // what no step looked at was made nevertheless
		for _, packet := range c.received {
			s.seen(packet)
		}
	}
	s.connections = nil
}

var (
	secretNames = []string{"privateKey", "PrivateKey", "certificateOwnershipToken", "clientAccessToken", "sourceAccessToken", "destinationAccessToken", "secretAccessKey", "sessionToken"}
	// What differs from run to run in what is recorded.
	certificateInPEM = regexp.MustCompile(`(?s)-----BEGIN CERTIFICATE-----.*?(-----END CERTIFICATE-----(\\n|\n)?|$)`)
	changing         = regexp.MustCompile(`\b([0-9a-f]{64}|1[78][0-9]{8}([0-9]{3})?(\.[0-9]+)?)\b`)
	keyInPEM         = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`)
)

func (s *script) keepSecret(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range secretNames {
		s.secrets = append(s.secrets, valuesOf(text, name)...)
	}
	s.secrets = slices.DeleteFunc(s.secrets, func(secret string) bool { return secret == "" }) // which is everywhere
}

// redact takes secrets and the account out of lines.
func (s *script) redact(lines ...string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var replacements []string
	for _, secret := range s.secrets {
		replacements = append(replacements, secret, "REDACTED")
	}
	if account := s.vars["account"]; account != "" {
		replacements = append(replacements, account, "ACCOUNT")
	}
	names := strings.NewReplacer(append(replacements, s.run.host, "ENDPOINT", s.vars["p"], "NAME", s.vars["run"], "RUN")...)
	out := make([]string, len(lines))
	for i, line := range lines {
		line = certificateInPEM.ReplaceAllString(keyInPEM.ReplaceAllString(line, "REDACTED"), "CERTIFICATE")
		if out[i] = names.Replace(line); len(out[i]) > 600 {
			out[i] = out[i][:600] + "…"
		}
	}
	return out
}
