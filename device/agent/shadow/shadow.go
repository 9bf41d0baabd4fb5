// Package shadow keeps one Device Shadow of the device in step with AWS IoT: it gives the desired
// state to a file or a program of the user's, and sends what that program and others on the device
// report, also what they reported while the device was offline.
//
// AWS pages: https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-comms-device.html and
// https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-mqtt.html
package shadow

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/osfile"
	"example.com/fleety/device/session"
)

const (
	maxQueue  = 4 * awsiot.MaxShadowDocument // bytes of the changes that are not sent yet
	inboxSize = 64                           // messages that wait while the shadow is being stored
)

// Config says which shadow to keep. Dir is required.
type Config struct {
	Name    string        // of a named shadow, one of [awsiot.ShadowNames]; empty: the classic one
	File    string        // holds the desired state as a JSON object; empty: none
	Program string        // is called with the desired state; empty: none
	Dir     string        // of the shadow's state; it must exist
	Timeout time.Duration // how long the program may run. 0 means a minute
	Log     *slog.Logger  // nil discards
}

// A Shadow is a service of the agent. Its methods may be called concurrently.
type Shadow struct {
	config  Config
	inbox   chan session.Message
	changed chan struct{} // receives a value when there is something to send
	desired chan struct{} // receives a value when there may be a new desired state

	missed atomic.Bool            // messages were, and the state must be got again
	shown  atomic.Pointer[status] // of what mu guards, which is held while the state is stored

	mu     sync.Mutex
	state  state
	synced bool // the state is that of the service, or was in this process
	again  bool // the program is to be called even if it was for this desired state
	stale  bool // the state must be got again
	fault  string

	counting sync.Mutex
	counters map[string]uint64 // requests by result, ignored messages by reason
}

// A status is the shadow's part of /v1/status.
type status struct {
	Version int64  `json:"version"`
	Synced  bool   `json:"synced"`  // the document was got in this process
	Pending int    `json:"pending"` // changes that are not acknowledged
	Error   string `json:"error,omitempty"`
}

// A state is what survives a restart.
type state struct {
	Version int64  `json:"version"` // of Known; 0: AWS IoT has no such shadow
	Known   object `json:"known"`   // desired and reported, as AWS IoT has them
	// Queue are changes that AWS IoT has not acknowledged, each to be merged after the one before.
	Queue []object `json:"queue,omitempty"`
	// Applied is the desired state that the program was called with last, nil before the first call.
	Applied object `json:"applied"`
}

// The counters.
const (
	countAccepted  = "accepted"
	countConflict  = "conflict"  // 409
	countThrottled = "throttled" // 429
	countDropped   = "dropped"   // a change that AWS IoT will never accept: 400, 413
	countFailed    = "failed"
	countMalformed = "malformed" // a message
	countOld       = "old"       // a message with a version before the present one
	countForeign   = "foreign"   // a message of another thing
	countOverflow  = "overflow"  // a message, while too many waited
)

// New returns the shadow with the state that an earlier process has left. It is an error if AWS IoT
// does not allow the name.
func New(c Config) (*Shadow, error) {
	if c.Name != "" && !awsiot.ShadowNames.Valid(c.Name) {
		return nil, fmt.Errorf("shadow name %q: use %s", c.Name, awsiot.ShadowNames)
	}
	c.Timeout = cmp.Or(c.Timeout, time.Minute)
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	s := &Shadow{
		config:   c,
		inbox:    make(chan session.Message, inboxSize),
		changed:  make(chan struct{}, 1),
		desired:  make(chan struct{}, 1),
		stale:    true,
		counters: map[string]uint64{countMalformed: 0},
	}
	s.config.Log = c.Log.With("shadow", s.Name())
	data, err := os.ReadFile(s.path())
	if err == nil {
		err = awsiot.DecodeJSON(data, &s.state)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // AWS IoT has the document; what it lacks is what was not sent
		s.state = state{}
		kept, renaming := osfile.SetAside(s.path())
		s.config.Log.Error("the stored shadow cannot be read and is begun anew", "kept", kept, "error", errors.Join(err, renaming))
	}
	s.show()
	return s, nil
}

// Name returns "shadow", or "shadow/NAME" for a named one.
func (s *Shadow) Name() string {
	if s.config.Name == "" {
		return "shadow"
	}
	return "shadow/" + s.config.Name
}

func (s *Shadow) path() string {
	return filepath.Join(s.config.Dir, "shadow-"+strings.ReplaceAll(s.config.Name, ":", "%3A")+".json")
}

// save stores a state before it counts. The caller holds mu.
func (s *Shadow) save(st state) error {
	err := osfile.Replace(s.path(), awsiot.EncodeJSON(st), 0o600)
	if err == nil {
		s.state = st
		s.show()
	}
	return err
}

// show has the status say what is so now. The caller holds mu.
func (s *Shadow) show() {
	s.shown.Store(&status{s.state.Version, s.synced, len(s.state.Queue), s.fault})
}

// view returns the state with what is not sent yet over it. The caller holds mu.
func (st state) view() object {
	view := st.Known
	for _, change := range st.Queue {
		view = merge(view, change)
	}
	return view
}

// An Error rejects the change of a program.
type Error struct {
	StatusCode int // 400, 404, 409, 413 or 503
	Err        error
}

// Error returns the reason.
func (e *Error) Error() string { return e.Err.Error() }

// Update merges a change, {"state": {"reported": {…}, "desired": {…}}}, into the shadow. It returns
// when the change is on stable storage; it is sent when there is a connection. A "version" in it
// must be the present one. The error is an [*Error].
func (s *Shadow) Update(payload []byte) error {
	var d awsiot.ShadowDocument
	if !utf8.Valid(payload) || awsiot.DecodeJSON(payload, &d) != nil || d.State == nil {
		return &Error{400, errors.New(`want one JSON object {"state": {"reported": {…}, "desired": {…}}}`)}
	}
	change, err := sections(d.State)
	switch {
	case errors.Is(err, errTooLarge):
		return &Error{413, err}
	case err != nil || len(change) != len(d.State) || len(change) == 0:
		return &Error{400, errors.New(`"state" has the objects "reported" and "desired", or one of them`)}
	case !storable(change, awsiot.MaxShadowLevels+1):
		return &Error{400, errors.New("AWS IoT accepts 8 levels of objects, and no null in an array")}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.Version != nil && *d.Version != s.state.Version {
		return &Error{409, fmt.Errorf("the shadow has version %d", s.state.Version)}
	}
	return s.enqueue(s.state, change)
}

// enqueue stores a state with one more change. The first change of the queue may be on its way to
// AWS IoT; it stays as it is. The caller holds mu.
func (s *Shadow) enqueue(st state, change object) error {
	st.Queue = slices.Clone(st.Queue)
	if last := len(st.Queue) - 1; last > 0 {
		if both, ok := combine(st.Queue[last], change); ok {
			st.Queue, change = st.Queue[:last], both
		}
	}
	st.Queue = append(st.Queue, change)
	if len(awsiot.EncodeJSON(st.view())) > awsiot.MaxShadowDocument {
		return &Error{413, errTooLarge}
	}
	if len(awsiot.EncodeJSON(st.Queue)) > maxQueue {
		return &Error{503, errors.New("too many changes wait for a connection")}
	}
	if err := s.save(st); err != nil {
		return &Error{503, fmt.Errorf("storing the shadow: %w", err)}
	}
	signal(s.changed)
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A Document is a shadow as programs see it, in the form of AWS IoT's GetThingShadow.
type Document struct {
	State   map[string]any `json:"state"` // desired and reported, where there are such
	Version int64          `json:"version"`
	Pending bool           `json:"pending"` // the state has changes that AWS IoT has not acknowledged
}

// Document returns the shadow: what AWS IoT is known to have, with what is not sent yet.
func (s *Shadow) Document() Document {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Document{merge(s.state.view(), nil), s.state.Version, len(s.state.Queue) > 0}
}

// Status is the shadow's part of /v1/status.
func (s *Shadow) Status() any { return s.shown.Load() }

// Metrics reports the counters.
func (s *Shadow) Metrics(metric func(name, kind, help string, samples ...any)) {
	s.counting.Lock()
	defer s.counting.Unlock()
	metric("shadow_results_total", "counter", "Requests to the Device Shadow service, by result, and messages that were ignored, by reason.",
		fmt.Sprintf("{shadow=%q,result=%%q}", s.config.Name), s.counters)
}

// fail notes what went wrong last, for the status, and logs it.
func (s *Shadow) fail(what string, err error) {
	text := fmt.Sprintf("%s: %v", what, err)
	s.config.Log.Error(what, "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = awsiot.Printable(text)
	s.show()
}
