package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"example.com/fleety/device/awsiot"
)

// A Client speaks the local API. Its methods may be called concurrently. Their error is an *[Error]
// where the agent answered.
type Client struct {
	http   http.Client
	socket string
}

// NewClient returns a client of the agent with that socket. It does not connect.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{http.Client{Transport: &http.Transport{DialContext: dial, IdleConnTimeout: idleTimeout / 2}}, socket}
}

// Close closes the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// An Error is an answer of the agent other than success: {"error": MESSAGE} with that status.
type Error struct {
	StatusCode int // 400: the request is wrong, 403: the device policy does not allow the topic, 408: it did not arrive in time, 413: the message is too large, 503: the agent cannot do it now
	Message    string
}

// Error returns what the agent answered.
func (e *Error) Error() string { return fmt.Sprintf("agent: %s (%d)", e.Message, e.StatusCode) }

// Class distinguishes requests that must change from those that may succeed later.
func (e *Error) Class() awsiot.Class {
	switch {
	case e.StatusCode == http.StatusForbidden:
		return awsiot.Denied
	case e.StatusCode < 500 && e.StatusCode != http.StatusRequestTimeout:
		return awsiot.Misconfigured
	}
	return awsiot.Temporary
}

// ErrNotRunning is wrapped when no agent answers at the socket.
var ErrNotRunning = errors.New("the agent is not running (iot_device run)")

// Publish returns when the agent has the message on stable storage.
func (c *Client) Publish(ctx context.Context, topic string, payload []byte) error {
	return c.PublishWithID(ctx, topic, payload, "")
}

// PublishWithID is Publish for a message that is a JSON object, to which the agent adds this member
// with an id. A message can arrive twice, with the same id. An empty member adds none.
func (c *Client) PublishWithID(ctx context.Context, topic string, payload []byte, member string) error {
	query := url.Values{"topic": {topic}, "id": {member}}
	_, err := c.request(ctx, http.MethodPost, "/v1/publish?"+query.Encode(), payload, nil)
	return err
}

// Rotate returns when the agent has replaced the key and the certificate of a thing, and the new
// ones are verified. The status of its error is 409 where it is the agent of another thing.
func (c *Client) Rotate(ctx context.Context, thing string) error {
	_, err := c.request(ctx, http.MethodPost, "/v1/rotate?thing="+url.QueryEscape(thing), nil, nil)
	return err
}

// Status returns what GET /v1/status answers.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	text, err := c.request(ctx, http.MethodGet, "/v1/status", nil, nil)
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	return s, err
}

// Subscribe calls receive for each message of a topic filter, as the line of JSON that the agent
// sends, until ctx or the connection to the agent ends, or receive returns an error. It calls ready
// when AWS IoT has acknowledged the subscription.
func (c *Client) Subscribe(ctx context.Context, filter string, ready func(), receive func(line json.RawMessage) error) error {
	_, err := c.request(ctx, http.MethodGet, "/v1/subscribe?filter="+url.QueryEscape(filter), nil, func(body io.Reader) error {
		ready()
		for lines := json.NewDecoder(body); ; {
			var line json.RawMessage
			if err := lines.Decode(&line); err != nil {
				return fmt.Errorf("receiving from the agent: %w", err)
			}
			var end struct{ Topic, Error string }
			if err := json.Unmarshal(line, &end); err == nil && end.Topic == "" {
				return &Error{http.StatusServiceUnavailable, end.Error}
			}
			if err := receive(line); err != nil {
				return err
			}
		}
	})
	return err
}

// Shadow returns a shadow that the agent keeps, as JSON; the empty name is the classic one.
func (c *Client) Shadow(ctx context.Context, name string) (json.RawMessage, error) {
	return c.request(ctx, http.MethodGet, "/v1/shadows/"+url.PathEscape(name), nil, nil)
}

// UpdateShadow merges a change, {"state": {"reported": {…}, "desired": {…}}}, into a shadow, and
// returns it as Shadow does when the change is on stable storage.
func (c *Client) UpdateShadow(ctx context.Context, name string, change []byte) (json.RawMessage, error) {
	return c.request(ctx, http.MethodPatch, "/v1/shadows/"+url.PathEscape(name), change, nil)
}

// Credentials returns temporary AWS credentials of a role alias, as for a credential_process.
func (c *Client) Credentials(ctx context.Context, roleAlias string) (json.RawMessage, error) {
	return c.request(ctx, http.MethodGet, "/v1/credentials?roleAlias="+url.QueryEscape(roleAlias), nil, nil)
}

// request sends a request, and has stream, if there is one, read the body of a successful answer.
func (c *Client) request(ctx context.Context, method, path string, body []byte, stream func(io.Reader) error) (document json.RawMessage, err error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(r)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: socket %s", ErrNotRunning, c.socket)
	}
	if err != nil {
		return nil, fmt.Errorf("asking the agent: %w", err)
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode != http.StatusOK:
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
		var e struct{ Error string }
		if json.Unmarshal(text, &e) != nil {
			e.Error = string(text)
		}
		return nil, &Error{answer.StatusCode, awsiot.Printable(e.Error)}
	case stream != nil:
		return nil, stream(answer.Body)
	}
	if document, err = io.ReadAll(answer.Body); err != nil { // to its end, so that the connection is used again
		return nil, fmt.Errorf("receiving from the agent: %w", err)
	}
	return document, nil
}
