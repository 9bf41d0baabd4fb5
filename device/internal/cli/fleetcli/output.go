package fleetcli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2/maybe"
	"github.com/spf13/pflag"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
)

// output are the flags of the report's destinations.
type output struct {
	json   bool
	report string
	html   string
}

func (o *output) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&o.json, "json", false, "print the report as one JSON object")
	flags.StringVar(&o.report, "report", "", "write the report as JSON to `FILE`")
	flags.StringVar(&o.html, "html", "", "write the report as an HTML page to `FILE`")
}

// A fileError is a file named on the command line that cannot be written or read.
type fileError struct {
	path string
	err  error
}

func (e *fileError) Error() string {
	err := e.err
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err // the file is named already
	}
	return fmt.Sprintf("file %s: %v", e.path, err)
}

func (e *fileError) Unwrap() error { return e.err }

// check checks before a long run that its report can be written.
func (o *output) check() error {
	for _, path := range []string{o.report, o.html} {
		if path == "" {
			continue
		}
		probe, err := os.CreateTemp(filepath.Dir(path), ".report-*")
		if err != nil {
			return &fileError{path, err}
		}
		probe.Close()
		os.Remove(probe.Name())
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return &fileError{path, fmt.Errorf("is a directory")}
		}
	}
	return nil
}

// write writes the report to its destinations.
func (o *output) write(console *cli.Console, r *fleet.Report) error {
	for path, write := range map[string]func(io.Writer) error{o.report: r.Write, o.html: r.HTML} {
		if path == "" {
			continue
		}
		var b bytes.Buffer
		err := write(&b)
		if err == nil {
			err = maybe.WriteFile(path, b.Bytes(), 0o644) // whole or, but on Windows, not at all
		}
		if err != nil {
			return &fileError{path, err}
		}
	}
	if o.json {
		return console.JSON(r)
	}
	return printReport(console, r)
}

// readFile reads a file that the command line names.
func readFile[T any](path string, read func(io.Reader) (T, error)) (v T, err error) {
	f, err := os.Open(path)
	if err != nil {
		return v, &fileError{path, err}
	}
	defer f.Close()
	if v, err = read(f); err != nil {
		return v, &fileError{path, err}
	}
	return v, nil
}
