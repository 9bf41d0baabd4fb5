//go:build unix

package fleet

import (
	"fmt"
	"syscall"
	"time"
)

// checkFiles makes sure that the process may have need files open, raising its own limit if that is
// allowed.
func checkFiles(need int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil // there is no limit to read
	}
	if uint64(limit.Cur) >= uint64(need) {
		return nil
	}
	raised := limit
	raised.Cur, raised.Max = max(limit.Cur, uint64(need)), max(limit.Max, uint64(need))
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
		return fmt.Errorf("this many devices at once take %d open files, and this process may have %d: run \"ulimit -n %[1]d\" first (as a service, LimitNOFILE=%[1]d), or lower --concurrency or the number of devices", need, limit.Max)
	}
	return nil
}

// usage returns the CPU seconds that the process has used.
func usage() float64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()).Seconds()
}
