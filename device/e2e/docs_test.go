package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/cli/corecli"
	"example.com/fleety/device/internal/cli/devicecli"
	"example.com/fleety/device/internal/cli/fleetcli"
)

// readPages returns the repository's pages, by their path in it.
func readPages(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		names, err := filepath.Glob(filepath.Join("../..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			pages[strings.TrimPrefix(filepath.ToSlash(name), "../../")] = string(text)
		}
	}
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "docs/cloud.md"} {
		if pages[name] == "" {
			t.Fatalf("%s was not found", name)
		}
	}
	return pages
}

var (
	inlineCode = regexp.MustCompile("`[^`]+`")
	linkTarget = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading    = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
)

// code returns what a page shows as code: the lines of its blocks, where a
// backslash continues a line, and what stands inline.
func code(page string) (blocks, inline []string) {
	for i, part := range strings.Split(page, "```") {
		if i%2 == 1 {
			_, lines, _ := strings.Cut(part, "\n") // the first names the language
			blocks = append(blocks, strings.Split(strings.ReplaceAll(lines, "\\\n", " "), "\n")...)
			continue
		}
		for _, span := range inlineCode.FindAllString(part, -1) {
			inline = append(inline, strings.ReplaceAll(strings.Trim(span, "`"), "\n", " "))
		}
	}
	return blocks, inline
}

// prose is a page without its blocks of code.
func prose(page string) (text string) {
	for i, part := range strings.Split(page, "```") {
		if i%2 == 0 {
			text += part
		}
	}
	return text
}

// anchors are those that GitHub gives the headings of a page.
func anchors(page string) (anchors []string) {
	for _, h := range heading.FindAllStringSubmatch(prose(page), -1) {
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, h[1])
		for n := 1; slices.Contains(anchors, anchor); n++ {
			anchor = fmt.Sprintf("%s-%d", strings.TrimSuffix(anchor, fmt.Sprintf("-%d", n-1)), n)
		}
		anchors = append(anchors, anchor)
	}
	return anchors
}

func TestLinksResolve(t *testing.T) {
	t.Parallel()
	pages, links := readPages(t), 0
	for name, page := range pages {
		for _, link := range linkTarget.FindAllStringSubmatch(prose(page), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			links++
			file, anchor, _ := strings.Cut(link[1], "#")
			target := name
			if file != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(name), file))
				if _, err := os.Stat(filepath.Join("../..", target)); err != nil {
					t.Errorf("%s: link to %s: %v", name, link[1], err)
				}
			}
			if anchor != "" && !slices.Contains(anchors(pages[target]), anchor) {
				t.Errorf("%s: link to %s: %s has no such heading", name, link[1], target)
			}
		}
	}
	if links < 20 {
		t.Errorf("found only %d links", links)
	}
}

// What a program can request of the emulator, and what it receives, is in its page.
func TestPageOfTheEmulatorHasEveryEventAndEndpoint(t *testing.T) {
	t.Parallel()
	page := readPages(t)["docs/local-core.md"]
	for name, pattern := range map[string]string{
		"event/event.go": `(?m)^\t\w+ +(?:Type|Action) += "(\w+)"`,
		"local.go":       `"[A-Z]+ (/_local/[a-z-]+)"`,
	} {
		source, err := os.ReadFile(filepath.Join("../localcore", name))
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(pattern).FindAllStringSubmatch(string(source), -1)
		if len(found) < 10 {
			t.Errorf("%s has %d", name, len(found))
		}
		for _, f := range found {
			if !regexp.MustCompile("`(GET |POST |PUT )?" + regexp.QuoteMeta(f[1]) + "[`?]").MatchString(page) {
				t.Errorf("docs/local-core.md does not have %s of %s", f[1], name)
			}
		}
	}
}

func TestFilesAndTargetsThatThePagesNameExist(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	file := regexp.MustCompile(`^(device|hook|infra|templates|scripts|docs|\.ci|\.github)/[\w./-]*$`)
	output := regexp.MustCompile(`(^|/)(dist|cdk\.out)(/|$)`)
	target := regexp.MustCompile(`^make ([a-z][a-z0-9-]*)`)
	found := 0
	for name, page := range readPages(t) {
		blocks, inline := code(page)
		for _, text := range append(blocks, inline...) {
			if file.MatchString(text) && !output.MatchString(text) {
				found++
				if _, err := os.Stat(filepath.Join("../..", text)); err != nil && name != "CHANGELOG.md" {
					t.Errorf("%s names %s: %v", name, text, err)
				}
			}
			if m := target.FindStringSubmatch(text); m != nil {
				found++
				if !strings.Contains(string(makefile), "\n"+m[1]+":") {
					t.Errorf("%s: there is no make %s", name, m[1])
				}
			}
		}
	}
	if found < 60 {
		t.Errorf("found only %d", found)
	}
}

// words splits a command as a shell does, up to what ends it: an operator or a
// comment.
func words(command string) (words []string) {
	word, quote, begun := "", rune(0), false
	end := func() {
		if begun {
			words = append(words, word)
		}
		word, begun = "", false
	}
	for _, c := range command {
		switch {
		case quote == 0 && strings.ContainsRune("|&;)<>", c), quote == 0 && c == '#' && !begun:
			end()
			return words
		case quote == 0 && unicode.IsSpace(c):
			end()
		case quote == 0 && (c == '"' || c == '\''):
			quote, begun = c, true
		case c == quote:
			quote = 0
		default:
			word, begun = word+string(c), true
		}
	}
	end()
	return words
}

// parse reports why a command line of a program is none.
func parse(root *cobra.Command, args []string, complete bool) error {
	help := args[0] == "help"
	if help {
		args = args[1:]
	}
	cmd, rest, err := root.Find(args)
	switch {
	case err != nil:
		return err
	case cmd == root && !strings.HasPrefix(args[0], "-"):
		return fmt.Errorf("there is no command %s", args[0])
	case help:
		return nil
	}
	if err := cmd.ParseFlags(rest); err != nil || !complete {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// Each command in the pages, and in the examples of the programs' own help, is
// one that the program has, with flags that it has.
func TestCommandsInPagesAndHelpParse(t *testing.T) {
	t.Parallel()
	programs := map[string]func() *cobra.Command{
		"iot_device":     func() *cobra.Command { return cli.Tree(devicecli.Program()) },
		"iot_core_local": func() *cobra.Command { return cli.Tree(corecli.Program()) },
		"iot_fleet":      func() *cobra.Command { return cli.Tree(fleetcli.Program()) },
	}
	command := regexp.MustCompile(`^(?:.*(?:[ =(/]|\$ ))?(iot_device|iot_core_local|iot_fleet) ([a-z-].*)$`)
	found := 0
	check := func(where, text string, complete bool) {
		m := command.FindStringSubmatch(strings.ReplaceAll(text, "$((JOB_COMPLETION_INDEX + 1))", "1"))
		if m == nil || strings.HasPrefix(strings.TrimSpace(text), "#") {
			return
		}
		found++
		if err := parse(programs[m[1]](), words(m[2]), complete); err != nil {
			t.Errorf("%s: %s %s: %v", where, m[1], m[2], err)
		}
	}
	for name, page := range readPages(t) {
		if name == "CHANGELOG.md" { // it names what is gone, too
			continue
		}
		blocks, inline := code(page)
		for _, line := range blocks {
			check(name, line, true)
		}
		for _, span := range inline {
			check(name, span, false)
		}
	}
	var examples func(*cobra.Command)
	examples = func(cmd *cobra.Command) {
		for line := range strings.Lines(strings.ReplaceAll(cmd.Example, "\\\n", " ")) {
			check(cmd.CommandPath()+" --help", strings.TrimSpace(line), true)
		}
		for _, sub := range cmd.Commands() {
			examples(sub)
		}
	}
	for _, tree := range programs {
		examples(tree())
	}
	if found < 80 {
		t.Errorf("found only %d commands", found)
	}
}
