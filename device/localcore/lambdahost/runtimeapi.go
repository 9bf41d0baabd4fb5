package lambdahost

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
)

const apiVersion = "/2018-06-01"

// noEndpoint is the path of the endpoint of AWS services of a function that has none.
const noEndpoint = "/aws"

// Headers of the Runtime API that are read and written, or read twice.
const (
	headerInvocationID = "Lambda-Runtime-Invocation-Id"
	headerErrorType    = "Lambda-Runtime-Function-Error-Type"
)

// An invocation is one event on its way through the function.
type invocation struct {
	id       string // request id
	nonce    string // invocation id
	event    []byte
	deadline time.Time
	answer   chan answer // takes one without blocking
}

type answer struct {
	body []byte
	err  error
}

// newRuntimeAPI returns the Runtime API server of the function of p, below the path secret. Host is
// what its clients call it.
func newRuntimeAPI(p *process, host, secret string) *http.Server {
	mux := http.NewServeMux()
	api := secret + apiVersion + "/runtime/"
	mux.HandleFunc("GET "+api+"invocation/next", p.serveNext)
	mux.HandleFunc("POST "+api+"invocation/{id}/response", p.serveResponse)
	mux.HandleFunc("POST "+api+"invocation/{id}/error", p.serveError)
	mux.HandleFunc("POST "+api+"init/error", p.serveInitError)
	mux.HandleFunc(secret+noEndpoint+"/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Amzn-ErrorType", "NoEndpointException")
		reject(w, http.StatusForbidden, "NoEndpointException", "the function has no endpoint of AWS services here")
	})
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// No function sends these headers; a web page cannot leave them out.
			if r.Host != host || r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
				reject(w, http.StatusForbidden, "Forbidden", "only the function itself may use its Runtime API")
				return
			}
			mux.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(p.config.Log.Handler(), slog.LevelDebug),
	}
}

// serveNext answers with the next event, however long that takes.
func (p *process) serveNext(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	busy := p.current != nil
	p.mu.Unlock()
	if busy {
		reject(w, http.StatusForbidden, "InvalidStateTransition", "the last event is not answered yet")
		return
	}
	p.ready()
	select {
	case inv := <-p.work:
		p.mu.Lock()
		p.current = &inv
		p.mu.Unlock()
		p.output.requestID.Store(inv.id)
		header := w.Header()
		header.Set("Content-Type", "application/json")
		header.Set("Lambda-Runtime-Aws-Request-Id", inv.id)
		header.Set(headerInvocationID, inv.nonce)
		header.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(inv.deadline.UnixMilli(), 10))
		header.Set("Lambda-Runtime-Invoked-Function-Arn", p.config.FunctionARN)
		var trace [20]byte
		rand.Read(trace[:]) // never fails
		header.Set("Lambda-Runtime-Trace-Id", fmt.Sprintf("Root=1-%08x-%x;Parent=%x;Sampled=0", time.Now().Unix(), trace[:12], trace[12:]))
		w.Write(inv.event)
	case <-p.exited:
	case <-r.Context().Done():
	}
}

// serveResponse takes the answer to an event. A function that streams reports a late failure in
// trailers.
func (p *process) serveResponse(w http.ResponseWriter, r *http.Request) {
	inv := p.finish(w, r)
	if inv == nil {
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxPayload))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		message := fmt.Sprintf("Response payload size exceeded maximum allowed payload size (%d bytes).", MaxPayload)
		inv.answer <- answer{err: &FunctionError{Type: "Function.ResponseSizeTooLarge", Message: message}}
		reject(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", message)
		return
	}
	if err != nil { // the function broke off; its end or the timeout follows
		reject(w, http.StatusBadRequest, "InvalidRequest", "reading the response: "+err.Error())
		return
	}
	if kind := r.Trailer.Get(headerErrorType); kind != "" {
		report := base64.NewDecoder(base64.StdEncoding, strings.NewReader(r.Trailer.Get("Lambda-Runtime-Function-Error-Body")))
		inv.answer <- answer{err: readFunctionError(kind, report)}
	} else {
		inv.answer <- answer{body: body}
	}
	w.WriteHeader(http.StatusAccepted)
}

// serveError takes the failure to handle an event.
func (p *process) serveError(w http.ResponseWriter, r *http.Request) {
	inv := p.finish(w, r)
	if inv == nil {
		return
	}
	inv.answer <- answer{err: readFunctionError(r.Header.Get(headerErrorType), http.MaxBytesReader(w, r.Body, MaxPayload))}
	w.WriteHeader(http.StatusAccepted)
}

// serveInitError takes the failure to get ready. The process ends after it.
func (p *process) serveInitError(w http.ResponseWriter, r *http.Request) {
	err := readFunctionError(r.Header.Get(headerErrorType), http.MaxBytesReader(w, r.Body, MaxPayload))
	p.mu.Lock()
	p.initErr = err
	p.mu.Unlock()
	w.WriteHeader(http.StatusAccepted)
}

// finish returns the invocation that r answers and makes room for the next. When r answers no
// invocation that waits, it rejects r and returns nil.
func (p *process) finish(w http.ResponseWriter, r *http.Request) *invocation {
	p.mu.Lock()
	defer p.mu.Unlock()
	inv := p.current
	if inv == nil || inv.id != r.PathValue("id") {
		reject(w, http.StatusBadRequest, "InvalidRequestID", "no event with this request id waits for an answer")
		return nil
	}
	// The echo is optional.
	if echo := r.Header.Get(headerInvocationID); echo != "" && echo != inv.nonce {
		reject(w, http.StatusBadRequest, "InvalidInvocationId", "the invocation id is not that of the event")
		return nil
	}
	p.current = nil
	return inv
}

// A FunctionError is a failure that the function itself reported: an error that its handler
// returned, a panic, or a failed initialisation.
type FunctionError struct {
	Type    string // the error's type as the function named it, such as errorString
	Message string
}

func (e *FunctionError) Error() string {
	return "the function failed: " + awsiot.Printable(strings.Trim(e.Type+": "+e.Message, ": "))
}

// readFunctionError reads the error document of the Runtime API. What it does not say is left to
// kind, the error type of the request's header.
func readFunctionError(kind string, report io.Reader) *FunctionError {
	var doc struct {
		ErrorMessage string `json:"errorMessage"`
		ErrorType    string `json:"errorType"`
	}
	if err := json.NewDecoder(report).Decode(&doc); err != nil {
		return &FunctionError{Type: kind, Message: "it sent an error report that cannot be read"}
	}
	return &FunctionError{Type: cmp.Or(doc.ErrorType, kind), Message: doc.ErrorMessage}
}

func reject(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"errorType": kind, "errorMessage": message})
}
