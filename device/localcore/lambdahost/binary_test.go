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
	"syscall"
	"testing"
)

// other is an architecture with a name as long as that of this machine's.
var other = map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]

func TestProgramOfAnotherMachineIsRejectedWithItsName(t *testing.T) {
	t.Parallel()
	if other == "" {
		t.Skip("this machine is neither amd64 nor arm64")
	}
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(t.TempDir(), "bootstrap")
	program = bytes.ReplaceAll(program, []byte("GOARCH="+runtime.GOARCH), []byte("GOARCH="+other))
	if err := os.WriteFile(foreign, program, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Config{Path: foreign})
	if e, ok := errors.AsType[*BinaryError](err); !ok || !strings.Contains(e.Problem, other) || !strings.Contains(e.Remedy, "for this machine") {
		t.Errorf("error %v", err)
	}
}

// header returns the start of an ELF file for that machine.
func header(t *testing.T, machine elf.Machine) string {
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
	return b.String()
}

func TestStartRejectsWhatCannotRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		syscall.ForkLock.RLock() // a child that has a file open for writing keeps others from running it
		defer syscall.ForkLock.RUnlock()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cases := map[string]string{
		filepath.Join(dir, "absent"): "does not exist; build one for this machine with make local",
		dir:                          "is a directory; give the path of the executable in it, usually bootstrap",
	}
	if runtime.GOOS == "linux" {
		cases[write("plain", "text", 0o644)] = "is not executable; run chmod +x on it"
		for name, text := range map[string]string{
			"text": "text", "empty": "", "zip": "PK\x03\x04........", "truncated": elf.ELFMAG, "odd": header(t, elf.EM_68K),
		} {
			cases[write(name, text, 0o755)] = "is not an executable of this machine; build one for this machine with make local"
		}
		cases[write("interpreted", "#!/nowhere/sh\r\n", 0o755)] = "names an interpreter or a loader that does not exist; build one for this machine with make local"
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
