//go:build !race

package cli_test

// raceEnabled makes the binaries report races too.
const raceEnabled = false
