// Command notices prints the licences and notices of every module that is linked into the given
// binaries, of Go itself, and of the data of others in this repository, which most of those licences
// demand that a copy of the program comes with. It runs in the folder of the module that the
// binaries are built from.
//
//	usage: notices BINARY…
package main

import (
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "notices: error:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, binaries []string) error {
	if len(binaries) == 0 {
		return errors.New("name the binaries")
	}
	linked := map[string]bool{} // MODULE@VERSION
	goVersion := ""
	for _, path := range binaries {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return err
		}
		goVersion = info.GoVersion
		for _, m := range info.Deps {
			if m.Replace == nil { // what is replaced is in this repository
				linked[m.Path+"@"+m.Version] = true
			}
		}
	}
	goRoot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("finding Go: %w", err)
	}
	if err := write(out, "The Go standard library and runtime, "+goVersion, strings.TrimSpace(string(goRoot)), true); err != nil {
		return err
	}
	if err := write(out, "Data in this repository", ".", false); err != nil {
		return err
	}
	for _, module := range slices.Sorted(maps.Keys(linked)) {
		output, err := exec.Command("go", "mod", "download", "-json", module).Output()
		var m struct{ Dir string }
		if err := cmp.Or(err, json.Unmarshal(output, &m)); err != nil {
			return fmt.Errorf("finding %s: %w", module, err)
		}
		if err := write(out, module, m.Dir, false); err != nil {
			return err
		}
	}
	return nil
}

var (
	notice = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)(\.(md|txt|rst)|[-.][a-z0-9-]+)?$`)
	unused = regexp.MustCompile(`^(testdata|vendor|node_modules|examples?|_.*|\..*)$`)
)

// write prints the licence files of a folder and, unless only its top counts, of the folders in it:
// parts of a module can have licences of their own. A module without any licence must not be
// distributed, and is an error.
func write(out io.Writer, title, dir string, top bool) error {
	found := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != dir && (top || unused.MatchString(entry.Name())):
			return fs.SkipDir
		case !entry.Type().IsRegular() || !notice.MatchString(entry.Name()) || strings.HasSuffix(path, ".go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		found++
		_, err = fmt.Fprintf(out, "%s\n%s: %s\n\n%s\n\n", strings.Repeat("=", 78), title, filepath.ToSlash(name), strings.TrimSpace(string(text)))
		return err
	})
	if err == nil && found == 0 {
		err = errors.New("no licence file")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", title, err)
	}
	return nil
}
