package session

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"time"
)

// maxResponse bounds a response to Get, in bytes.
const maxResponse = 64 << 10

// Get sends a GET request over a connection of its own, which is made like that
// of a session: proxy, TLS and certificate are the options'. The response's body
// is in memory and need not be closed. The error is an [*Error].
func Get(ctx context.Context, o Options, path string, header http.Header) (*http.Response, error) {
	o.https = true
	p, err := Prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	ctx, cancel := p.o.limit(ctx)
	defer cancel()
	if err := p.finishHandshake(ctx); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { p.conn.SetDeadline(time.Unix(1, 0)) })()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.o.address()+path, nil)
	if err != nil {
		return nil, p.fail(StageOptions, err)
	}
	r.Header, r.Close = header, true
	writeErr := r.Write(p.conn) // what can be read may say more
	response, err := http.ReadResponse(bufio.NewReader(io.LimitReader(p.conn, maxResponse)), r)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(response.Body)
	} else if _, alert := receivedAlert(err); writeErr != nil && !alert {
		err = writeErr
	}
	if err != nil {
		return nil, p.fail(StageRequest, withCause(ctx, err))
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}
