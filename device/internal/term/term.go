// Package term decides who sees which bytes: the result goes to standard
// output, everything else to standard error, and control characters that came
// from outside go nowhere.
package term

import (
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/term"
)

// Streams are the standard streams of a command and its environment.
type Streams struct {
	In  io.Reader
	Out io.Writer // the result, and nothing else
	Err io.Writer // progress, warnings, hints, logs, errors

	Environ []string // as [os.Environ]
	// Terminal tells that Err is a terminal that understands cursor movement.
	Terminal bool
	// Color tells that Err may be coloured: a terminal, and no NO_COLOR.
	Color bool
}

// New returns streams over in, out and errw.
func New(in io.Reader, out, errw io.Writer, environ []string) Streams {
	s := Streams{In: in, Out: out, Err: errw, Environ: environ}
	s.Terminal = isTerminal(errw) && s.Getenv("TERM") != "dumb"
	s.Color = s.Terminal && s.Getenv("NO_COLOR") == ""
	return s
}

// Getenv returns the value of an environment variable, the last one if it is
// there several times, as in a child process.
func (s Streams) Getenv(name string) string {
	for i := len(s.Environ) - 1; i >= 0; i-- {
		if n, value, ok := strings.Cut(s.Environ[i], "="); ok && n == name {
			return value
		}
	}
	return ""
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Clean makes text that came from outside (a server's message, a file's name)
// safe for a terminal and for logs of one line per entry: line breaks and tabs
// become spaces, other control characters and invalid bytes become U+FFFD.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\r', r == '\t':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r):
			return unicode.ReplacementChar
		}
		return r
	}, text)
}
