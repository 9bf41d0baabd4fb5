package cli_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the scripts of testdata/script, one per behavior. Beyond testscript's own
// commands they have:
//
//	core [FLAG...]       start iot_core_local; its credentials go to certs/,
//	                     its log to core.log, and the device's environment
//	                     points to it; also sets $ALPN_PORT and $API
//	stopcore             stop it and demand a clean end
//	exits CODE CMD...    run a command and demand an exit code, and that a
//	                     failure writes nothing to stdout
//	reports CODE CMD...  the same for a command that reports findings
//	listen hang|close    a server that never answers, or closes at once; the
//	                     device's environment points to it
//	proxy PORT           an HTTP proxy that leads to this port, whatever was
//	                     asked for; the device's environment points to it
//	claim KIND           replace the claim in certs/: see [writeClaim]
//	mode FILE MODE       demand a file mode, in octal
//	files DIR NAME...    demand that certs/ or the like holds these files and, beside
//	                     what iot_core_local writes, no others
//	deactivate RECORD    deactivate the certificate of an identity record, as an
//	                     operator would
//	jsonlines FILE       demand that each line is a JSON object
//	foreignhook FILE     write a hook that is built for another machine
//	sawsecrets           demand that a private key and a token were on disk
//
// After every such command no secret that was ever on disk may be in any output.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", binDir+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("LANG", "C.UTF-8")
			env.Setenv("GORACE", os.Getenv("GORACE"))
			env.Setenv("HOOK", filepath.Join(binDir, "hook"))
			env.Setenv("TEMPLATES", templates)
			env.Values[worldKey{}] = &world{}
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"core": startServe, "stopcore": stopServe, "exits": exits, "reports": reports, "listen": listen, "proxy": proxy,
			"claim": claim, "mode": mode, "files": files, "deactivate": deactivate, "jsonlines": jsonLines, "foreignhook": foreignHook,
			"sawsecrets": sawSecrets,
		},
	})
}

// A world is what a script has made besides files.
type world struct {
	core    *exec.Cmd // the latest iot_core_local
	secrets secrets
}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

type worldKey struct{}

func startServe(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command(filepath.Join(racingDir, "iot_core_local"), append([]string{
		"serve", "--listen", "127.0.0.1:0", "--listen-alpn", "127.0.0.1:0", "--api", "127.0.0.1:0",
		"--templates", templates, "--hook", filepath.Join(binDir, "hook"), "--credentials", "certs",
		"--log-level", "debug", "--json",
	}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	log, err := os.OpenFile(ts.MkAbs("core.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer log.Close()
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		ts.Fatalf("iot_core_local did not become ready:\n%s", ts.ReadFile("core.log"))
	}
	var ready struct {
		Port, ALPNPort int
		API            string
	}
	ts.Check(json.Unmarshal(line, &ready))
	ts.Setenv("CORE_PORT", strconv.Itoa(ready.Port))
	ts.Setenv("ALPN_PORT", strconv.Itoa(ready.ALPNPort))
	ts.Setenv("API", ready.API)
	ts.Setenv("IOT_DEVICE_SERVER_PORT", strconv.Itoa(ready.Port))
	ts.Setenv("IOT_DEVICE_SERVER_ENDPOINT", "localhost")
	worldOf(ts).core = cmd
}

func stopServe(ts *testscript.TestScript, _ bool, _ []string) {
	cmd := worldOf(ts).core
	ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		ts.Fatalf("iot_core_local ended with %v:\n%s", err, ts.ReadFile("core.log"))
	}
}

// exits demands besides that a failure leaves stdout empty.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	reports(ts, false, args)
	if args[0] != "0" && ts.ReadFile("stdout") != "" {
		ts.Fatalf("a failure wrote to stdout: %q", ts.ReadFile("stdout"))
	}
}

func reports(ts *testscript.TestScript, _ bool, args []string) {
	want := must(strconv.Atoi(args[0]))
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		got = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	s := &worldOf(ts).secrets
	s.learn(ts.MkAbs("."))
	s.outputs = append(s.outputs, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	if core, err := os.ReadFile(ts.MkAbs("core.log")); err == nil {
		s.outputs = append(s.outputs, string(core))
	}
	if leak := s.leak(); leak != "" {
		ts.Fatalf("a secret is in an output:\n%s", leak)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func listen(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	var wg sync.WaitGroup
	wg.Go(func() { acceptInSilence(l, args[0] == "close") })
	ts.Defer(func() {
		l.Close()
		wg.Wait()
	})
	ts.Setenv("IOT_DEVICE_SERVER_ENDPOINT", "localhost")
	ts.Setenv("IOT_DEVICE_SERVER_PORT", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

// acceptInSilence accepts until the listener is closed. It closes connections at once, or at its
// own end.
func acceptInSilence(l net.Listener, atOnce bool) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if atOnce {
			conn.Close()
		} else {
			defer conn.Close()
		}
	}
}

func proxy(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tunnel(w, r, "127.0.0.1:"+args[0])
	})}
	go server.Serve(l)
	ts.Defer(func() { server.Close() })
	ts.Setenv("IOT_DEVICE_SERVER_PROXY", "http://"+l.Addr().String())
}

func tunnel(w http.ResponseWriter, r *http.Request, address string) {
	if r.Method != http.MethodConnect {
		http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
		return
	}
	to, err := net.Dial("tcp", address)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer to.Close()
	from, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer from.Close()
	fmt.Fprint(from, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		io.Copy(to, buffered)
		to.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(from, to)
}

func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

func files(ts *testscript.TestScript, _ bool, args []string) {
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	var got []string
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, "fleet-provisioning."), name == "root.ca.bundle.pem", name == "device.yaml", name == ".iot_core_local":
		default:
			got = append(got, name)
		}
	}
	if strings.Join(got, " ") != strings.Join(args[1:], " ") {
		ts.Fatalf("%s holds %q beside the claim, want %q", args[0], got, args[1:])
	}
}

func jsonLines(ts *testscript.TestScript, _ bool, args []string) {
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			ts.Fatalf("%q is not a JSON object: %v", line, err)
		}
	}
}

func deactivate(ts *testscript.TestScript, _ bool, args []string) {
	var record struct{ CertificateID string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &record))
	request, err := http.NewRequest(http.MethodPut, ts.Getenv("API")+"/certificates/"+record.CertificateID+"?newStatus=INACTIVE", nil)
	ts.Check(err)
	answer, err := http.DefaultClient.Do(request)
	ts.Check(err)
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		ts.Fatalf("deactivating %s: %s", record.CertificateID, answer.Status)
	}
}

// foreignHook writes a copy of the hook that claims to be for a processor that nobody has.
func foreignHook(ts *testscript.TestScript, _ bool, args []string) {
	elf, err := os.ReadFile(filepath.Join(binDir, "hook"))
	ts.Check(err)
	elf[18], elf[19] = 0xf3, 0x00 // e_machine: RISC-V
	syscall.ForkLock.RLock()      // a child that has the file open for writing keeps others from running it
	defer syscall.ForkLock.RUnlock()
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), elf, 0o700))
}
