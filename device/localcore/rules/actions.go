package rules

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// An Action is what a rule does with a message: exactly one member is set.
type Action struct {
	Lambda    *Lambda    `json:"lambda,omitempty"`
	Republish *Republish `json:"republish,omitempty"`
	HTTP      *HTTP      `json:"http,omitempty"`
}

// Lambda invokes a function asynchronously.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/lambda-rule-action.html
type Lambda struct {
	FunctionARN string `json:"functionArn"`
}

// Republish publishes to another topic.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/republish-rule-action.html
type Republish struct {
	RoleARN string `json:"roleArn"`
	Topic   string `json:"topic"`
	QoS     int    `json:"qos"`
}

// ActionHeader is in the requests of HTTP actions. They have no signature, without which AWS IoT
// rejects them; so do the APIs of this account, by which a rule could cause itself.
const ActionHeader = "X-Iot-Core-Local-Action"

// HTTP sends an HTTP request, here to this machine only. A destination needs no confirmation.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/https-rule-action.html
type HTTP struct {
	URL             string   `json:"url"`
	ConfirmationURL string   `json:"confirmationUrl,omitempty"`
	Headers         []Header `json:"headers,omitempty"`
}

// A Header is one header of an HTTP action.
type Header struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// UnmarshalJSON rejects what is not emulated by its name.
func (a *Action) UnmarshalJSON(data []byte) error {
	type plain Action
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode((*plain)(a)); err != nil {
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return reject(InvalidRequest, "Action or parameter %s is not emulated; actions are lambda, republish and http.", name)
		}
		return err
	}
	return nil
}

type action struct {
	name, resource string // for the error action
	act            func(ctx context.Context, s *scope, payload []byte) error
}

func (a *action) perform(ctx context.Context, s *scope, payload []byte) (err error) {
	defer catch(&err)
	return a.act(ctx, s, payload)
}

// expand returns the text of a template, see parseTemplate.
func (s *scope) expand(template []expression) string {
	var out strings.Builder
	for _, part := range template {
		text, _ := toString(part(s))
		out.WriteString(text)
	}
	return out.String()
}

func (s *Service) compileAction(a Action, version string) *action {
	switch {
	case a.Lambda != nil && (a == Action{Lambda: a.Lambda}):
		return s.compileLambda(a.Lambda, version)
	case a.Republish != nil && (a == Action{Republish: a.Republish}):
		return s.compileRepublish(a.Republish, version)
	case a.HTTP != nil && (a == Action{HTTP: a.HTTP}):
		return compileHTTP(a.HTTP, version)
	}
	fail(InvalidRequest, "An action must be one of lambda, republish and http.")
	return nil
}

// compileLambda returns an action that invokes a function and does not wait for it: errors of the
// function itself are no failure of the action.
func (s *Service) compileLambda(a *Lambda, version string) *action {
	function := parseTemplate(a.FunctionARN, version)
	if !strings.Contains(a.FunctionARN, "${") && !s.config.HasFunction(a.FunctionARN) {
		fail(InvalidRequest, "Lambda function %q does not run here.", a.FunctionARN)
	}
	return &action{"LambdaAction", a.FunctionARN, func(ctx context.Context, sc *scope, payload []byte) error {
		arn := sc.expand(function)
		if !s.config.HasFunction(arn) {
			return fmt.Errorf("function %s does not run here", arn)
		}
		if !json.Valid(payload) {
			return errors.New("the payload is not JSON")
		}
		if !s.working.TryGo(func() error {
			if err := s.config.Invoke(ctx, arn, payload); err != nil && ctx.Err() == nil {
				s.config.Log.Warn("a function that a rule invoked failed", "function", arn, "error", err)
			}
			return nil
		}) {
			return errors.New("too many actions are under way")
		}
		return nil
	}}
}

func (s *Service) compileRepublish(a *Republish, version string) *action {
	to := parseTemplate(a.Topic, version)
	if a.Topic == "" || a.RoleARN == "" || a.QoS < 0 || a.QoS > 1 {
		fail(InvalidRequest, "A republish action needs a topic, a roleArn and a qos of 0 or 1.")
	}
	return &action{"RepublishAction", a.Topic, func(_ context.Context, sc *scope, payload []byte) error {
		topic := sc.expand(to)
		if reserved, ok := strings.CutPrefix(topic, "$$"); ok {
			topic = "$" + reserved
		} else if strings.HasPrefix(topic, "$") {
			return fmt.Errorf("topic %s begins with $; a reserved topic begins with $$", topic)
		}
		if sc.message.Hops >= maxHops {
			return fmt.Errorf("topic %s: the message was republished %d times, which looks like a loop", topic, maxHops)
		}
		return s.config.Publish(Message{Topic: topic, Payload: payload, Hops: sc.message.Hops + 1}, byte(a.QoS))
	}}
}

func compileHTTP(a *HTTP, version string) *action {
	address := parseTemplate(a.URL, version)
	values := make([][]expression, len(a.Headers))
	for i, h := range a.Headers {
		values[i] = parseTemplate(h.Value, version)
	}
	switch template := strings.Contains(a.URL, "${"); {
	case template && a.ConfirmationURL == "":
		fail(InvalidRequest, "A URL with substitution templates needs a confirmationUrl.")
	case !strings.HasPrefix(a.URL, a.ConfirmationURL):
		fail(InvalidRequest, "confirmationUrl %q is no prefix of the URL.", a.ConfirmationURL)
	case !template:
		checkLoopback(a.URL)
	}
	return &action{"HttpAction", a.URL, func(ctx context.Context, sc *scope, payload []byte) error {
		header := http.Header{"Content-Type": {"application/octet-stream"}}
		if json.Valid(payload) {
			header.Set("Content-Type", "application/json")
		}
		for i, h := range a.Headers {
			header.Set(h.Key, sc.expand(values[i]))
		}
		header.Set(ActionHeader, "http")
		return post(ctx, sc.expand(address), header, payload)
	}}
}

func checkLoopback(text string) {
	if u, err := url.Parse(text); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		if ip, _ := netip.ParseAddr(u.Hostname()); u.Hostname() == "localhost" || ip.IsLoopback() {
			return
		}
	}
	fail(InvalidRequest, "URL %q is not emulated: HTTP actions reach the loopback interface only.", text)
}

const (
	httpTimeout = 3 * time.Second // of all tries
	httpTries   = 3
)

// client follows no redirects, which could lead to other machines.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true}, // and uses no proxy
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// post sends a request, again if the server is busy or fails.
func post(ctx context.Context, address string, header http.Header, payload []byte) error {
	checkLoopback(address)
	ctx, cancel := context.WithTimeout(ctx, httpTimeout)
	defer cancel()
	for try := 1; ; try++ {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(payload))
		if err != nil {
			return err
		}
		r.Header = header.Clone()
		response, err := client.Do(r)
		if err != nil {
			return err
		}
		io.Copy(io.Discard, io.LimitReader(response.Body, 16<<10)) // its error shows in no result
		response.Body.Close()
		status := response.StatusCode
		if status < 300 {
			return nil
		}
		if try == httpTries || status != http.StatusTooManyRequests && status < 500 {
			return fmt.Errorf("POST %s: %s", address, response.Status)
		}
	}
}
