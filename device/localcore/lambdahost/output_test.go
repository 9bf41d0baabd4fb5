package lambdahost

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

// A recorder keeps the messages of the records.
type recorder struct {
	slog.Handler
	messages []string
}

func (r *recorder) Handle(_ context.Context, record slog.Record) error {
	r.messages = append(r.messages, record.Message)
	return nil
}

func (r *recorder) Enabled(context.Context, slog.Level) bool { return true }

func TestOutputIsCutIntoLines(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxLine)
	for name, tc := range map[string]struct{ writes, want []string }{
		"whole lines":        {[]string{"a\nb\n"}, []string{"a", "b"}},
		"a line in pieces":   {[]string{"a", "b", "\n"}, []string{"ab"}},
		"no newline":         {[]string{"a\nb"}, []string{"a", "b"}},
		"empty lines":        {[]string{"\n\r\na\r\n\n"}, []string{"a"}},
		"the longest":        {[]string{long + "\n"}, []string{long}},
		"longer":             {[]string{long + "yy\nz\n"}, []string{long, "yy", "z"}},
		"longer, in pieces":  {[]string{"y", long, "z"}, []string{"y" + long[1:], "xz"}},
		"JSON, not a record": {[]string{"{\"a\":1}\n{\"msg\":2}\n{\n[\n"}, []string{`{"a":1}`, `{"msg":2}`, "{", "["}},
		"other message key":  {[]string{`{"message":"m"}`}, []string{"m"}},
		"JSON with no level": {[]string{`{"msg":"m","level":7}`}, []string{"m"}},
	} {
		t.Run(name, func(t *testing.T) {
			var r recorder
			o := &output{log: slog.New(&r)}
			s := o.stream("stdout")
			for _, w := range tc.writes {
				if n, err := s.Write([]byte(w)); n != len(w) || err != nil {
					t.Fatalf("wrote %d, %v", n, err)
				}
			}
			o.flush()
			if diff := cmp.Diff(tc.want, r.messages); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNumbersOfALineKeepTheirDigits(t *testing.T) {
	t.Parallel()
	_, message, attrs := readLine(`{"msg":"m","took":12345678901234567890}`)
	if got := fmt.Sprint(attrs["took"]); message != "m" || got != "12345678901234567890" {
		t.Errorf("message %q, number %s", message, got)
	}
}

func TestFunctionErrorHasTypeAndMessage(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]FunctionError{
		"the function failed: Kind: words": {Type: "Kind", Message: "words"},
		"the function failed: Kind":        {Type: "Kind"},
		"the function failed: words":       {Message: "words"},
	} {
		if e.Error() != want {
			t.Errorf("got %q, want %q", e.Error(), want)
		}
	}
}

// A function's text stays in the line that it stands in, and shows its control and direction
// characters.
func TestFunctionCannotForgeLines(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"fine\nERROR forged", "\x1b[2K", "\u009b31m", "\u202egnp.exe"} {
		for _, err := range []error{
			&FunctionError{Type: text}, &FunctionError{Type: "Kind", Message: text},
			exitError("exit status 1", []string{text}),
		} {
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q is not one printable line", err.Error())
			}
		}
	}
}

func TestStderrSummaryIsThePanic(t *testing.T) {
	t.Parallel()
	e := exitError("exit status 2", []string{"starting", "panic: boom", "goroutine 1 [running]:", "main.main()"})
	if want := "the function exited: exit status 2; standard error: panic: boom"; e.Error() != want {
		t.Errorf("got  %q\nwant %q", e, want)
	}
}

func FuzzOutput(f *testing.F) {
	f.Add("{\"level\":\"ERROR\",\"msg\":\"m\",\"requestId\":null}\n{", 3)
	f.Add("null\n\r\n{}", 1)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		cut = min(max(cut, 0), len(text))
		var r recorder
		o := &output{log: slog.New(&r)}
		s := o.stream("stderr")
		s.Write([]byte(text[:cut]))
		s.Write([]byte(text[cut:]))
		o.flush()
		if len(text) > maxLine || strings.Contains(text, "{") {
			return // it only must not panic
		}
		var want []string
		for line := range strings.SplitSeq(text, "\n") {
			if line = strings.TrimRight(line, "\r"); line != "" {
				want = append(want, line)
			}
		}
		if diff := cmp.Diff(want, r.messages); diff != "" {
			t.Error(diff)
		}
	})
}
