// Package term wraps the standard streams: the result goes to standard output, everything else to
// standard error. It replaces or escapes the control characters of untrusted text.
package term

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"

	"golang.org/x/term"
)

// Streams are the standard streams of a command and its environment.
type Streams struct {
	In  io.Reader
	Out io.Writer // the result, and nothing else
	Err io.Writer // progress, warnings, hints, logs, errors

	Environ  []string // as [os.Environ]
	Terminal bool     // Err is a terminal that understands cursor movement
	Color    bool     // Err may be colored, as a terminal without NO_COLOR
}

// New returns streams over in, out and errw. Where the locale is not UTF-8, the symbols of this
// program become ASCII.
func New(in io.Reader, out, errw io.Writer, environ []string) Streams {
	s := Streams{In: in, Out: out, Err: errw, Environ: environ}
	s.Terminal = IsTerminal(errw) && s.Getenv("TERM") != "dumb"
	s.Color = s.Terminal && s.Getenv("NO_COLOR") == ""
	locale := strings.ToLower(cmp.Or(s.Getenv("LC_ALL"), s.Getenv("LC_CTYPE"), s.Getenv("LANG")))
	if !strings.Contains(locale, "utf-8") && !strings.Contains(locale, "utf8") {
		s.Out, s.Err = ascii{out}, ascii{errw}
	}
	return s
}

// IsTerminal reports whether a stream is a terminal.
func IsTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// ascii writes the symbols of this program in ASCII. Text of others is left as it is.
type ascii struct{ w io.Writer }

var symbols = strings.NewReplacer("✓", "+", "✗", "x", "·", "-", "…", "...", "\uFFFD", "?")

func (a ascii) Write(p []byte) (int, error) {
	if _, err := symbols.WriteString(a.w, string(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Getenv returns the value of an environment variable, the last one if it is there several times,
// as in a child process.
func (s Streams) Getenv(name string) string {
	for _, variable := range slices.Backward(s.Environ) {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return value
		}
	}
	return ""
}

// Clean makes text that came from outside (a server's message, a file's name) safe for a terminal
// and for logs of one line per entry: line breaks and tabs become spaces, other control characters
// and invalid bytes become U+FFFD.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\r', r == '\t':
			return ' '
		case commands(r):
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// Width is that of a terminal that nobody has made larger.
const Width = 80

// word is what Fold does not break: what stands in double quotes is one, so that a command can be
// copied.
var word = regexp.MustCompile(`("[^"]*"|\S)+`)

// Fold writes text in lines of Width columns at most, where its words allow that. They begin at a
// column; the first one has begun.
func Fold(b *strings.Builder, text string, column int) {
	at := column
	for i, word := range word.FindAllString(text, -1) {
		n := len([]rune(word))
		switch {
		case i == 0:
		case at+1+n > Width:
			b.WriteString("\n" + strings.Repeat(" ", column))
			at = column
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	b.WriteByte('\n')
}

// commands reports whether a character may do something else than show itself: control characters,
// and those that change the direction of text.
func commands(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }

// JSON returns a writer of JSON text that escapes what [Clean] replaces: JSON itself does so only
// with some of the control characters.
func JSON(w io.Writer) io.Writer { return jsonWriter{w} }

type jsonWriter struct{ w io.Writer }

func (j jsonWriter) Write(p []byte) (int, error) {
	var b strings.Builder
	for _, r := range string(p) {
		if r < 0x7f || !commands(r) {
			b.WriteRune(r)
			continue
		}
		for _, u := range utf16.AppendRune(nil, r) {
			fmt.Fprintf(&b, `\u%04x`, u)
		}
	}
	if _, err := io.WriteString(j.w, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}
