// Package rules is the rules engine of AWS IoT Core: topic rules with the SQL of version
// 2016-03-23, and the actions Lambda, republish and HTTP. What it does not emulate, functions and
// actions included, is rejected when a rule is created. It handles no packets: the caller gives it
// the messages.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-rules.html,
// and the page of the API that has a method's name
package rules

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/records"
)

// A Message is an MQTT message that rules may match.
type Message struct {
	Topic   string
	Payload []byte
	// ClientID and Principal, a certificate id, are empty for a message that was not sent over
	// MQTT.
	ClientID, Principal string
	Hops                int // counts the republish actions that led to the message
}

// A Config says what the service depends on. All but Store must be set.
type Config struct {
	Account     string
	Publish     func(m Message, qos byte) error                           // publishes for republish actions, to this service too
	Thing       func(principal, clientID string) string                   // returns the name of the thing of a connection, empty without one
	HasFunction func(arn string) bool                                     // reports whether a Lambda function can be invoked
	Invoke      func(ctx context.Context, arn string, event []byte) error // invokes a Lambda function
	Shadow      func(thing, name string) (document []byte, ok bool)       // returns a thing's shadow document
	Store       records.Store                                             // nil for memory only
	Now         func() time.Time
	Log         *slog.Logger // of actions that fail and messages that no rule takes
}

const (
	maxQueued   = 1000 // messages that wait for the rules
	maxUnderWay = 1000 // actions that wait for functions and servers
	maxHops     = 10   // republish actions that one message can cause in a row
)

// A Service holds the topic rules of one account. What it rejects gives an [*Error]; any other error
// is of the store. It is safe for concurrent use.
type Service struct {
	config  Config
	queue   chan delivery
	working errgroup.Group // actions in the background, maxUnderWay at most

	mu    sync.RWMutex     // held while the store is written, so that what is read is stored
	rules map[string]*rule // by name
}

// A delivery is a message with the rules that it is for.
type delivery struct {
	message Message
	rules   []*rule
}

// A Rule is a topic rule.
type Rule struct {
	Name string `json:"ruleName"`
	Definition
	Created time.Time `json:"created"`
	Filter  string    `json:"-"` // the topic filter of FROM, empty without one
}

// A Definition is what CreateTopicRule is given.
type Definition struct {
	SQL         string   `json:"sql"`
	Description string   `json:"description,omitempty"`
	Actions     []Action `json:"actions"`
	Disabled    bool     `json:"ruleDisabled"`
	Version     string   `json:"awsIotSqlVersion"`
	ErrorAction *Action  `json:"errorAction,omitempty"`
}

type rule struct {
	Rule
	statement *statement
	actions   []*action
	onError   *action // nil without an error action
	slow      bool    // one of its actions leaves this process
}

// An Error rejects an operation.
type Error struct {
	Code    string // AWS's exception name without "Exception"
	Message string
}

// Error returns code and message in one line.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// The codes of errors.
const (
	InvalidRequest = "InvalidRequest"
	SQLParse       = "SqlParse"
	AlreadyExists  = "ResourceAlreadyExists"
	// Unauthorized is AWS's answer about a rule that does not exist.
	Unauthorized = "Unauthorized"
)

func reject(code, format string, args ...any) *Error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

// A failure is what fail and checkSize panic with.
type failure struct{ error }

// fail ends the compilation of a rule.
func fail(code, format string, args ...any) { panic(failure{reject(code, format, args...)}) }

// catch returns the error that a compilation or an evaluation ended with.
func catch(err *error) {
	switch r := recover().(type) {
	case nil:
	case failure:
		*err = r.error
	default:
		panic(r)
	}
}

// Open returns the service with the rules in the store. [Service.Run] evaluates the messages.
func Open(c Config) (*Service, error) {
	c.Store = cmp.Or(c.Store, records.None)
	s := &Service{config: c, queue: make(chan delivery, maxQueued), rules: map[string]*rule{}}
	s.working.SetLimit(maxUnderWay)
	err := c.Store.Each(func(name string, value []byte) error {
		var stored Rule
		if err := json.Unmarshal(value, &stored); err != nil {
			return err
		}
		r, err := s.compile(stored)
		if err != nil {
			c.Log.Warn("a stored rule is disabled: it cannot run here", "rule", name, "error", err)
			stored.Disabled = true
			r = &rule{Rule: stored}
		}
		s.rules[name] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the topic rules: %w", err)
	}
	return s, nil
}

var (
	namePattern = regexp.MustCompile(`^[a-zA-Z0-9_]{1,128}$`)
	versions    = []string{"2015-10-08", latest}
)

const (
	maxActions = 10
	latest     = "2016-03-23" // version of the SQL
)

// compile checks a rule and makes it ready to run.
func (s *Service) compile(r Rule) (out *rule, err error) {
	defer catch(&err)
	r.Version = cmp.Or(r.Version, versions[0]) // AWS's default
	switch {
	case !namePattern.MatchString(r.Name):
		fail(InvalidRequest, "Rule name %q must have 1 to 128 letters, digits or underscores.", r.Name)
	case !slices.Contains(versions, r.Version):
		fail(InvalidRequest, "awsIotSqlVersion %q is not emulated; these are: %s.", r.Version, strings.Join(versions, ", "))
	case len(r.Actions) > maxActions:
		fail(InvalidRequest, "A rule has %d actions at most.", maxActions)
	}
	statement := parseStatement(r.SQL, r.Version)
	r.Filter = statement.filter
	out = &rule{Rule: r, statement: statement}
	for _, a := range r.Actions {
		out.actions, out.slow = append(out.actions, s.compileAction(a, r.Version)), out.slow || a.HTTP != nil
	}
	if r.ErrorAction != nil {
		out.onError, out.slow = s.compileAction(*r.ErrorAction, r.Version), out.slow || r.ErrorAction.HTTP != nil
	}
	return out, nil
}

// CreateTopicRule creates a rule.
func (s *Service) CreateTopicRule(name string, d Definition) error {
	r, err := s.compile(Rule{Name: name, Definition: d, Created: s.config.Now()})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rules[name] != nil {
		return reject(AlreadyExists, "Rule %s already exists.", name)
	}
	return s.keep(name, r)
}

// ReplaceTopicRule replaces a rule.
func (s *Service) ReplaceTopicRule(name string, d Definition) error {
	return s.alter(name, func(r *Rule) { r.Definition = d })
}

// SetDisabled disables or enables a rule.
func (s *Service) SetDisabled(name string, disabled bool) error {
	return s.alter(name, func(r *Rule) { r.Disabled = disabled })
}

// DeleteTopicRule deletes a rule.
func (s *Service) DeleteTopicRule(name string) error { return s.alter(name, nil) }

// alter changes a rule, or deletes it if f is nil.
func (s *Service) alter(name string, f func(*Rule)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed, err := s.find(name)
	if err != nil {
		return err
	}
	if f == nil {
		return s.keep(name, nil)
	}
	f(&changed)
	r, err := s.compile(changed)
	if err != nil {
		return err
	}
	return s.keep(name, r)
}

// TopicRule returns a rule.
func (s *Service) TopicRule(name string) (Rule, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.find(name)
}

// TopicRules returns all rules, in any order.
func (s *Service) TopicRules() (all []Rule) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, r := range s.rules {
		all = append(all, r.Rule)
	}
	return all
}

func (s *Service) find(name string) (Rule, error) {
	if r := s.rules[name]; r != nil {
		return r.Rule, nil
	}
	return Rule{}, reject(Unauthorized, "Access to topic rule '%s' was denied", name)
}

// keep stores a rule, or removes it for nil; the lock is held.
func (s *Service) keep(name string, r *rule) error {
	var value []byte
	if r != nil {
		value = awsiot.EncodeJSON(r.Rule)
	}
	if err := s.config.Store.Save(map[string][]byte{name: value}); err != nil {
		return fmt.Errorf("storing rule %s: %w", name, err)
	}
	if s.rules[name] = r; r == nil {
		delete(s.rules, name)
	}
	return nil
}

// Publish gives a message to the rules whose FROM matches its topic. It does not wait for them.
func (s *Service) Publish(m Message) {
	var matching []*rule
	s.mu.RLock()
	for _, r := range s.rules {
		if !r.Disabled && r.Filter != "" && awsiot.MatchFilter(r.Filter, m.Topic) {
			matching = append(matching, r)
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(matching, func(a, b *rule) int { return cmp.Compare(a.Name, b.Name) })
	if len(matching) > 0 {
		s.enqueue(delivery{m, matching})
	}
}

// Ingest gives a message to one rule, past the broker: its topic begins with $aws/rules/NAME/,
// which the rule does not see.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-basic-ingest.html
func (s *Service) Ingest(m Message) {
	var name string
	name, m.Topic, _ = strings.Cut(strings.TrimPrefix(m.Topic, awsiot.IngestPrefix), "/")
	s.mu.RLock()
	r := s.rules[name]
	s.mu.RUnlock()
	if r == nil || r.Disabled {
		s.config.Log.Warn("no enabled rule of this name for a Basic Ingest message", "rule", name, "client", m.ClientID)
		return
	}
	s.enqueue(delivery{m, []*rule{r}})
}

func (s *Service) enqueue(d delivery) {
	select {
	case s.queue <- d:
	default:
		s.config.Log.Warn("discarded a message for the rules: too many are waiting", "topic", d.message.Topic)
	}
}

// Run evaluates the messages in their order until ctx ends, and returns when the last action has
// ended.
func (s *Service) Run(ctx context.Context) {
	defer func() { _ = s.working.Wait() }() // they return no errors
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-s.queue:
			payload, trace := decode(d.message.Payload), ""
			if d.message.ClientID != "" {
				trace = awsiot.NewUUID()
			}
			for _, r := range d.rules {
				s.run(ctx, r, &scope{service: s, message: &d.message, version: r.Version, trace: trace, payload: payload})
			}
		}
	}
}

// A failedAction is an action that failed, as the error action reports it.
type failedAction struct {
	Action   string `json:"failedAction"`
	Resource string `json:"failedResource"`
	Message  string `json:"errorMessage"`
}

// run evaluates a rule and performs its actions, in the background if one of them leaves this
// process. It performs the error action once for all failures.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/rule-error-handling.html
func (s *Service) run(ctx context.Context, r *rule, sc *scope) {
	payload, ok, err := r.statement.run(sc)
	if !ok && err == nil {
		return
	}
	perform := func() {
		var failures []failedAction
		if err != nil {
			failures = []failedAction{{"RuleEvaluation", r.Name, err.Error()}}
		} else {
			for _, a := range r.actions {
				if err := a.perform(ctx, sc, payload); err != nil {
					failures = append(failures, failedAction{a.name, a.resource, err.Error()})
				}
			}
		}
		for _, f := range failures {
			s.config.Log.Warn("a rule action failed", "rule", r.Name, "topic", sc.message.Topic, "action", f.Action, "resource", f.Resource, "reason", f.Message)
		}
		if r.onError == nil || len(failures) == 0 {
			return
		}
		event := encode(map[string]any{
			"ruleName": r.Name, "topic": sc.message.Topic, "cloudwatchTraceId": cmp.Or(sc.trace, awsiot.NewUUID()), "failures": failures,
			"clientId": cmp.Or(sc.message.ClientID, "n/a"), "base64OriginalPayload": sc.message.Payload,
		})
		if err := r.onError.perform(ctx, sc, event); err != nil {
			s.config.Log.Warn("an error action failed", "rule", r.Name, "error", err)
		}
	}
	if !r.slow {
		perform()
	} else if !s.working.TryGo(func() error { perform(); return nil }) {
		s.config.Log.Warn("discarded a message for a rule: too many actions are under way", "rule", r.Name, "topic", sc.message.Topic)
	}
}
