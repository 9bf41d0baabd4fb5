//go:build !race

package cli_test

// raceEnabled makes the hook report races too.
const raceEnabled = false
