package lambdahost

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
)

// architectures are Go's names of the machines that an ELF file may be for.
var architectures = map[elf.Machine]string{
	elf.EM_386:       "386",
	elf.EM_X86_64:    "amd64",
	elf.EM_ARM:       "arm",
	elf.EM_AARCH64:   "arm64",
	elf.EM_LOONGARCH: "loong64",
	elf.EM_PPC64:     "ppc64",
	elf.EM_RISCV:     "riscv64",
	elf.EM_S390:      "s390x",
}

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

// checkBinary returns a *BinaryError when the file cannot run on this machine.
func checkBinary(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &BinaryError{path, "does not exist", "build it with make hook"}
	case err != nil:
		return fmt.Errorf("looking at the function: %w", err)
	case info.IsDir():
		return &BinaryError{path, "is a directory", "give the path of the executable in it, usually bootstrap"}
	case !info.Mode().IsRegular():
		return &BinaryError{path, "is not a regular file", ""}
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o111 == 0:
		return &BinaryError{path, "is not executable", "run chmod +x on it"}
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("looking at the function: %w", err)
	}
	defer f.Close()
	problem, remedy := checkFormat(f, runtime.GOOS, runtime.GOARCH)
	if problem != "" {
		return &BinaryError{path, problem, remedy}
	}
	return nil
}

// checkFormat looks at the executable's header. On Linux it admits ELF for
// the machine, and scripts; elsewhere it only rejects ELF.
func checkFormat(r io.ReaderAt, goos, goarch string) (problem, remedy string) {
	magic := make([]byte, len(elf.ELFMAG))
	n, _ := r.ReadAt(magic, 0) // a short file has a short magic
	isELF := string(magic[:n]) == elf.ELFMAG
	remedy = "build it with make hook HOOK_ARCH=" + goarch
	switch {
	case goos != "linux" && isELF:
		return "is built for linux, this machine runs " + goos, "build it for this machine with go build"
	case goos != "linux", bytes.HasPrefix(magic[:n], []byte("#!")):
		return "", ""
	case !isELF:
		return "is not a Linux executable", remedy
	}
	f, err := elf.NewFile(r)
	if err != nil {
		return "is a damaged executable: " + err.Error(), remedy
	}
	arch, known := architectures[f.Machine]
	if !known {
		arch = f.Machine.String()
	}
	if arch == "ppc64" && f.ByteOrder.String() == "LittleEndian" {
		arch = "ppc64le"
	}
	if arch != goarch {
		return fmt.Sprintf("is built for %s, this machine is %s", arch, goarch), remedy
	}
	return "", ""
}
