// Package conformance checks documented behaviors of AWS IoT Core from outside, against any
// endpoint: AWS itself, iot_core_local, or another emulator.
//
// The checks are scripts, in checks/*.txt; docs/conformance.md describes their language. They use
// raw MQTT packets over TLS and signed requests of the REST API, and no client of ours.
package conformance

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Check shows one behavior, or what an endpoint does at an open point.
type Check struct {
	Behavior string   // one sentence, that of its row in docs/fidelity.md
	Open     string   // the id of an open point, such as U12; what the endpoint does is recorded then, not compared
	Page     string   // the path of the AWS page below docs.aws.amazon.com, without .html, where no test of the emulator has the row
	Needs    []string // what not every endpoint offers: "role", one that AWS IoT may assume, and "alpn", a port that requires ALPN
	Repeat   int      // how many times the steps run; 1 is the default
	File     string   // where the check stands
	Line     int      // in File, from 1

	steps []step
}

// A step is one line of a script with what continues it.
type step struct {
	line int
	text string
}

// Hash identifies the steps. A transcript of other steps proves nothing.
func (c Check) Hash() string {
	h := sha256.New()
	for _, s := range c.steps {
		fmt.Fprintln(h, s.text)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

//go:embed checks/*.txt
var files embed.FS

// Checks returns all checks, in the order of their files.
func Checks() ([]Check, error) {
	names, _ := fs.Glob(files, "checks/*.txt") // the pattern is well-formed
	var all []Check
	for _, name := range names {
		text, _ := files.ReadFile(name) // Glob found it
		checks, err := parse(strings.TrimPrefix(name, "checks/"), string(text))
		if err != nil {
			return nil, err
		}
		all = append(all, checks...)
	}
	return all, nil
}

var (
	openPoint = regexp.MustCompile(`^([A-Z][0-9]+): `)
	argument  = regexp.MustCompile(`\$[1-9]`)
	repeated  = regexp.MustCompile(`\{([^{}*]{1,9})\*([0-9]+)\}`)
)

func parse(file, text string) (checks []Check, err error) {
	var lines []step
	for i, line := range strings.Split(text, "\n") {
		switch trimmed := strings.TrimSpace(line); {
		case trimmed == "" || strings.HasPrefix(line, "#"):
		case trimmed != strings.TrimLeft(line, " \t") || line[0] != ' ' && line[0] != '\t':
			lines = append(lines, step{i + 1, trimmed})
		case len(lines) == 0:
			return nil, fmt.Errorf("%s:%d: nothing to continue", file, i+1)
		default:
			lines[len(lines)-1].text += " " + trimmed
		}
	}
	var setup []step
	var needs []string
	macros := map[string][]string{}
	var c *Check
	for _, l := range lines {
		word, rest, _ := strings.Cut(l.text, " ")
		switch {
		case word == "==":
			checks = append(checks, Check{Behavior: rest, Needs: needs, Repeat: 1, File: file, Line: l.line, steps: slices.Clone(setup)})
			c = &checks[len(checks)-1]
			if m := openPoint.FindStringSubmatch(rest); m != nil {
				c.Open, c.Behavior = m[1], strings.TrimPrefix(rest, m[0])
			}
		case c == nil && word == "needs:":
			needs = strings.Fields(rest)
		case c == nil && word == "setup":
			setup, err = expand(setup, macros, step{l.line, rest})
		case c == nil && word == "def":
			name, body, _ := strings.Cut(rest, " ")
			macros[name] = append(macros[name], body)
		case c == nil:
			err = fmt.Errorf("%q stands before the first check", word)
		case word == "page:":
			c.Page = rest
		case word == "needs:":
			c.Needs = append(slices.Clip(needs), strings.Fields(rest)...)
		case word == "repeat:":
			c.Repeat, err = strconv.Atoi(rest)
		default:
			c.steps, err = expand(c.steps, macros, l)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, l.line, err)
		}
	}
	return checks, nil
}

// expand appends a step, or those of the macro that it names.
func expand(steps []step, macros map[string][]string, s step) ([]step, error) {
	word, rest, _ := strings.Cut(s.text, " ")
	body, ok := macros[word]
	if !ok {
		s.text = repeated.ReplaceAllStringFunc(s.text, func(m string) string {
			parts := repeated.FindStringSubmatch(m)
			n, _ := strconv.Atoi(parts[2]) // digits
			return strings.Repeat(parts[1], n)
		})
		return append(steps, s), nil
	}
	args := strings.Split(rest+" ", " | ")
	for _, line := range body {
		line = argument.ReplaceAllStringFunc(line, func(m string) string {
			if i := int(m[1] - '1'); i < len(args) {
				return strings.TrimSpace(args[i])
			}
			return ""
		})
		var err error
		if steps, err = expand(steps, macros, step{s.line, strings.TrimSpace(line)}); err != nil {
			return nil, err
		}
	}
	return steps, nil
}

// Cost says what checks request of an endpoint, as far as their scripts show, to the one who pays.
func Cost(checks []Check) string {
	var requests, connections, messages, jobs, tunnels int
	for _, charge := range []struct {
		steps *regexp.Regexp
		count *int
		each  int
	}{
		{regexp.MustCompile(`^(api|data|jobsdata|tunnels) `), &requests, 2}, // many create what must be deleted
		{regexp.MustCompile(`^(principal|thing) `), &requests, 12},
		{regexp.MustCompile(`^\S+ (try-)?connect\b`), &connections, 1},
		{regexp.MustCompile(`^\S+ (publish|try-publish|message)\b`), &messages, 1},
		{regexp.MustCompile(`^api PUT /jobs/[^/ ]+( |$)`), &jobs, 1}, // each is charged, like each tunnel
		{regexp.MustCompile(`^tunnels OpenTunnel\b`), &tunnels, 1},
	} {
		for _, check := range checks {
			for _, s := range check.steps {
				if charge.steps.MatchString(s.text) {
					*charge.count += charge.each * check.Repeat
				}
			}
		}
	}
	count := func(n int, noun string) string {
		if n != 1 {
			noun += "s"
		}
		return fmt.Sprintf("%d %s", n, noun)
	}
	return fmt.Sprintf("%s, with about %s of the REST API, %s, %s, %s and %s", count(len(checks), "check"), count(requests, "request"),
		count(connections, "connection"), count(messages, "message"), count(jobs, "job"), count(tunnels, "tunnel"))
}
