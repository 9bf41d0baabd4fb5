package lambdahost

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
)

// A BinaryError reports why a file cannot run as a function on this machine.
type BinaryError struct {
	Path    string
	Problem string // what is wrong with it
	Remedy  string // what to do; may be empty
}

func (e *BinaryError) Error() string {
	s := e.Path + " " + e.Problem
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// notForHere returns the error of a file that is made for another machine.
func notForHere(path, problem string) error {
	remedy := "build one for this machine with make local"
	if runtime.GOOS != "linux" {
		remedy = "build it for this machine with go build"
	}
	return &BinaryError{path, problem, remedy}
}

// checkBinary returns a *BinaryError when the file cannot run on this machine, as far as that is
// known before it is run: whatever is not of Go is left to the system.
func checkBinary(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return notForHere(path, "does not exist")
	case err != nil:
		return fmt.Errorf("looking at the function: %w", err)
	case info.IsDir():
		return &BinaryError{path, "is a directory", "give the path of the executable in it, usually bootstrap"}
	case !info.Mode().IsRegular():
		return &BinaryError{path, "is not a regular file", ""}
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o111 == 0:
		return &BinaryError{path, "is not executable", "run chmod +x on it"}
	}
	if built, err := buildinfo.ReadFile(path); err == nil {
		here := map[string]string{"GOOS": runtime.GOOS, "GOARCH": runtime.GOARCH}
		for _, setting := range built.Settings {
			if own := here[setting.Key]; own != "" && own != setting.Value {
				return notForHere(path, fmt.Sprintf("is built for %s, this machine is %s", setting.Value, own))
			}
		}
	}
	return nil
}
