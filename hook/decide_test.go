package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/hook/payload"
)

// event is the hook's event with the given parameters, written as JSON.
func event(parameters string) []byte {
	return []byte(`{"claimCertificateId":"57c92e","certificateId":"9f2b1c","certificatePem":"",` +
		`"templateArn":"arn:aws:iot:us-east-1:123456789012:provisioningtemplate/GoFleetProvisioningTemplate",` +
		`"clientId":"claim-1","parameters":` + parameters + `}`)
}

// invoke has the Lambda library decode the event, as in production, and returns the answer with the
// lines that were logged.
func invoke(t *testing.T, event []byte) (answer []byte, logged string) {
	t.Helper()
	answer, logged, err := decider{}.invoke(t, event)
	if err != nil {
		t.Fatalf("answering %s: %v", event, err)
	}
	return answer, logged
}

func (d decider) invoke(t *testing.T, event []byte) (answer []byte, logged string, err error) {
	t.Helper()
	var log bytes.Buffer
	d.log = slog.New(slog.NewJSONHandler(&log, nil))
	if d.now == nil {
		d.now = time.Now
	}
	ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "request-1"})
	answer, err = lambda.NewHandler(d.decide).Invoke(ctx, event)
	return answer, log.String(), err
}

func TestDecideAnswersAndLogs(t *testing.T) {
	tests := map[string]struct {
		parameters string
		answer     string
		line       map[string]any
	}{
		"admitted": {
			parameters: `{"serialNumber":"2974685","deviceLocation":"USA","author":"Wilford Brimley"}`,
			answer:     `{"allowProvisioning":true,"parameterOverrides":{}}`,
			line: map[string]any{"level": "INFO", "serialNumber": "2974685", "author": "Wilford Brimley",
				"verdict": "admitted", "reason": "admitted"},
		},
		"denied": {
			parameters: `{"serialNumber":"1234567"}`,
			answer:     `{"allowProvisioning":false,"parameterOverrides":{}}`,
			line: map[string]any{"level": "WARN", "serialNumber": "1234567", "author": "",
				"verdict": "denied", "reason": "serial number does not begin with the prefix of this fleet"},
		},
		"not a string": {
			parameters: `{"serialNumber":2974685,"author":["a"]}`,
			answer:     `{"allowProvisioning":false,"parameterOverrides":{}}`,
			line: map[string]any{"level": "WARN", "serialNumber": "2974685", "author": `["a"]`,
				"verdict": "denied", "reason": "serial number is not a string"},
		},
		"parameters not an object": {
			parameters: `[]`,
			answer:     `{"allowProvisioning":false,"parameterOverrides":{}}`,
			line: map[string]any{"level": "WARN", "serialNumber": "", "author": "",
				"verdict": "denied", "reason": "serial number is missing"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			answer, logged := invoke(t, event(test.parameters))
			if got := strings.TrimSpace(string(answer)); got != test.answer {
				t.Errorf("answer %s, want %s", got, test.answer)
			}
			test.line["msg"] = "decision"
			test.line["requestId"] = "request-1"
			test.line["claimCertificateId"] = "57c92e"
			test.line["certificateId"] = "9f2b1c"
			test.line["clientId"] = "claim-1"
			if diff := cmp.Diff(test.line, onlyLine(t, logged)); diff != "" {
				t.Errorf("log line differs (-want +got):\n%s", diff)
			}
		})
	}
}

// onlyLine decodes a log of exactly one line, without its time.
func onlyLine(t *testing.T, log string) map[string]any {
	t.Helper()
	if strings.Count(log, "\n") != 1 {
		t.Fatalf("log has not exactly one line:\n%s", log)
	}
	line := map[string]any{}
	if err := json.Unmarshal([]byte(log), &line); err != nil {
		t.Fatalf("log line %s: %v", log, err)
	}
	delete(line, "time")
	return line
}

func TestLogBoundsWhatADeviceSends(t *testing.T) {
	long := strings.Repeat("\n", 100_000)
	event, err := json.Marshal(payload.Request{
		ClaimCertificateID: long,
		CertificateID:      long,
		ClientID:           long,
		Parameters:         payload.ParametersOf(map[string]string{payload.SerialNumber: long, payload.Author: long}),
	})
	if err != nil {
		t.Fatal(err)
	}
	_, logged := invoke(t, event)
	line := onlyLine(t, logged)
	for _, name := range []string{"claimCertificateId", "certificateId", "clientId", "serialNumber", "author"} {
		if got, want := line[name], long[:128]+"…"; got != want {
			t.Errorf("%s was logged as %q, want %q", name, got, want)
		}
	}
}

// An operator reads the log in a terminal.
func TestLogHasNothingThatActsOnATerminal(t *testing.T) {
	const hostile = "a\x1b[2J\x7f\u009b2J\u202eb\u2066\u200bc é日\n"
	event, err := json.Marshal(payload.Request{
		ClientID:   "claim-" + hostile,
		Parameters: payload.ParametersOf(map[string]string{payload.SerialNumber: hostile, payload.Author: hostile}),
	})
	if err != nil {
		t.Fatal(err)
	}
	_, logged := invoke(t, event)
	for _, r := range strings.TrimSuffix(logged, "\n") {
		if !unicode.IsPrint(r) {
			t.Errorf("%U in %q", r, logged)
		}
	}
	if line := onlyLine(t, logged); !strings.Contains(fmt.Sprint(line["author"]), "é日") {
		t.Errorf("author was logged as %q", line["author"])
	}
}

func FuzzDecide(f *testing.F) {
	f.Add([]byte(`{"serialNumber":"2974685"}`))
	f.Add([]byte(`{"serialNumber":"297468\u0000","author":"\ud800"}`))
	f.Add([]byte(`{"serialNumber":{"a":[1]},"author":7}`))
	handler := lambda.NewHandler(decider{log: slog.New(slog.NewJSONHandler(io.Discard, nil))}.decide)
	f.Fuzz(func(t *testing.T, parameters []byte) {
		if !json.Valid(parameters) {
			return
		}
		answer, err := handler.Invoke(t.Context(), event(string(parameters)))
		if err != nil {
			t.Fatalf("parameters %s: %v", parameters, err)
		}
		if !bytes.HasSuffix(bytes.TrimSpace(answer), []byte(`"parameterOverrides":{}}`)) {
			t.Errorf("parameters %s: answer %s has no object for parameterOverrides", parameters, answer)
		}
	})
}
