package lambdahost

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// header returns the start of an ELF file for that machine.
func header(t *testing.T, machine elf.Machine) []byte {
	t.Helper()
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	h.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	h.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFormatIsThatOfTheMachine(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		file         []byte
		goos, goarch string
		problem      string
		remedy       string
	}{
		"its own":          {file: header(t, elf.EM_X86_64), goos: "linux", goarch: "amd64"},
		"arm64 on amd64":   {header(t, elf.EM_AARCH64), "linux", "amd64", "is built for arm64, this machine is amd64", "build it with make hook HOOK_ARCH=amd64"},
		"amd64 on arm64":   {header(t, elf.EM_X86_64), "linux", "arm64", "is built for amd64, this machine is arm64", "build it with make hook HOOK_ARCH=arm64"},
		"an odd machine":   {header(t, elf.EM_68K), "linux", "amd64", "is built for EM_68K, this machine is amd64", "build it with make hook HOOK_ARCH=amd64"},
		"linux on darwin":  {header(t, elf.EM_AARCH64), "darwin", "arm64", "is built for linux, this machine runs darwin", "build it for this machine with go build"},
		"other on darwin":  {file: []byte("\xcf\xfa\xed\xfe"), goos: "darwin", goarch: "arm64"},
		"a script":         {file: []byte("#!/bin/sh\n"), goos: "linux", goarch: "amd64"},
		"an empty file":    {nil, "linux", "amd64", "is not a Linux executable", "build it with make hook HOOK_ARCH=amd64"},
		"a ZIP file":       {[]byte("PK\x03\x04........"), "linux", "amd64", "is not a Linux executable", "build it with make hook HOOK_ARCH=amd64"},
		"a truncated file": {[]byte(elf.ELFMAG), "linux", "amd64", "is a damaged executable: EOF", "build it with make hook HOOK_ARCH=amd64"},
	} {
		t.Run(name, func(t *testing.T) {
			problem, remedy := checkFormat(bytes.NewReader(tc.file), tc.goos, tc.goarch)
			if problem != tc.problem || remedy != tc.remedy {
				t.Errorf("got %q, %q, want %q, %q", problem, remedy, tc.problem, tc.remedy)
			}
		})
	}
}

func TestStartRejectsWhatCannotRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("text"), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cases := map[string]string{
		filepath.Join(dir, "absent"): "does not exist; build it with make hook",
		dir:                          "is a directory; give the path of the executable in it, usually bootstrap",
	}
	if runtime.GOOS == "linux" {
		cases[write("plain", 0o644)] = "is not executable; run chmod +x on it"
		cases[write("text", 0o755)] = "is not a Linux executable; build it with make hook HOOK_ARCH=" + runtime.GOARCH
		cases[os.DevNull] = "is not a regular file"
	}
	for path, want := range cases {
		_, err := Start(t.Context(), Config{Path: path})
		if e, ok := errors.AsType[*BinaryError](err); !ok || e.Path != path || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: got %v, want an error that ends with %q", path, err, want)
		}
	}
}

func TestStartRejectsNegativeNumbers(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{{Timeout: -1}, {Concurrency: -1}} {
		if _, err := Start(t.Context(), c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

func FuzzCheckFormat(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Add([]byte("#!/bin/sh"))
	f.Fuzz(func(t *testing.T, file []byte) {
		if problem, _ := checkFormat(bytes.NewReader(file), "linux", "amd64"); strings.Contains(problem, "\n") {
			t.Errorf("more than one line: %q", problem)
		}
	})
}
